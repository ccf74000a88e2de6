"""llama.cpp's own converter of safetensors: which release of it, where it lies, whether it is there, what it needs.

The source of the engine on PyPI holds it, in the state that fits the engine. It is fetched once (fetch_converter.py):

    <cache_dir>/converter/
    ├── llama_cpp_python-0.3.36-832db0699007/    convert_hf_to_gguf.py, what it imports, and contents.json
    ├── llama_cpp_python-0.3.36.tar.gz           only where somebody without a network has put it
    └── .lock, .unfinished-<random>/             who fetches it; what is being fetched and unpacked

The pinned sha256 is the archive's; contents.json has those of the files that were unpacked, which are looked at before
each use. This module touches no network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shlex
import sys
from pathlib import Path

import msgspec

from localllm.creating import ConverterPlace, ConverterRelease
from localllm.errors import UnsupportedError

RELEASE = ConverterRelease(
    project="llama-cpp-python",
    archive="llama_cpp_python-0.3.36.tar.gz",
    size_bytes=76_589_250,
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    root="llama_cpp_python-0.3.36/vendor/llama.cpp",
    wanted=r"LICENSE|convert_(hf|lora)_to_gguf\.py|conversion/\w+\.py|gguf-py/(LICENSE|gguf/(\w+\.py|py\.typed))"
    r"|models/templates/[\w.-]+\.jinja",
    script="convert_hf_to_gguf.py",
    adapter_script="convert_lora_to_gguf.py",
    libraries=("torch", "transformers", "sentencepiece", "google.protobuf", "safetensors", "yaml", "tqdm"),
    packages=(
        "protobuf>=4.21", "pyyaml>=5.1", "safetensors>=0.4.3", "sentencepiece>=0.1.98,<0.3", "torch>=2.6",
        "tqdm>=4.27", "transformers>=5.20",
    ),
)  # fmt: skip
CONTENTS = "contents.json"
_HOW_MUCH = (
    "(on Linux PyPI's torch brings CUDA along: 3 GB to download, 6 GB on the disk; with --extra-index-url "
    "https://download.pytorch.org/whl/cpu it is 0.3 GB and 1.2 GB)"
)
_contents: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])


def converters_dir(cache_dir: str) -> Path:
    """Where converters lie."""
    return Path(cache_dir) / "converter"


def converter_dir(place: ConverterPlace) -> Path:
    """Where this converter lies or will lie."""
    release = place.release
    return converters_dir(place.cache_dir) / f"{release.archive.removesuffix('.tar.gz')}-{release.sha256[:12]}"


def is_whole(folder: Path) -> bool:
    """Whether every file is there as it was unpacked."""
    try:
        contents = _contents.decode((folder / CONTENTS).read_bytes())
        return bool(contents) and all(digest_of(folder / name) == digest for name, digest in contents.items())
    except (OSError, msgspec.MsgspecError):
        return False


def digest_of(file: Path) -> str:
    """The sha256 of a small file, in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def refuse_missing_libraries(release: ConverterRelease) -> None:
    """Raises UnsupportedError, with the command that installs them, when libraries are not there."""
    missing = [name for name in release.libraries if not _is_there(name)]
    if missing:
        command = shlex.join([sys.executable, "-m", "pip", "install", *release.packages])
        raise UnsupportedError(
            f"safetensors are converted with libraries that are not installed: {', '.join(missing)}",
            hint=f"{command} {_HOW_MUCH}; or pull a GGUF that somebody converted: localllm search WORD",
        )


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
