"""The version, in one place: the wheel, `localllm --version`, `/api/version` and the runner protocol read it."""

__version__ = "0.1.0"
