"""Run `localllm` as people do: a process of its own, with its own home, against an address a test chose."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

LOCALLLM = (sys.executable, "-m", "localllm")


def cli_environment(home: Path, address: str, **more: str) -> dict[str, str]:
    """An environment with nothing of the person's own in it."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LOCALLLM_HOME": str(home),
        "LOCALLLM_HOST": address,
        "LANG": "C.UTF-8",
        **more,
    }


def run_cli(
    *arguments: str,
    environment: Mapping[str, str],
    stdin: str = "",
    seconds: float = 30,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, with `stdin` piped in; it starts in `folder`, or where the tests do."""
    return subprocess.run(
        [*LOCALLLM, *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=folder,
    )
