"""Which files a path names that stands behind FROM: a GGUF, the parts of one, or the one GGUF of a folder.

A folder with safetensors and without a GGUF is another thing: it is converted (safetensors.py, convert.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from localllm.errors import ModelFileError, UnsupportedError
from localllm.store.safetensors import PICKLES, is_safetensors_folder

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.ASCII | re.IGNORECASE)
_PROJECTOR = re.compile(r"mmproj", re.IGNORECASE)
_SHOWN = 8
_CONVERT = (
    "save it as safetensors where you trust it, or pull a GGUF that somebody converted: localllm search WORD, "
    "localllm pull hf.co/OWNER/REPO"
)


def is_path(text: str) -> bool:
    """Whether FROM's value is meant as a path: no model name looks like that."""
    return text.startswith((".", "/", "~", "\\")) or "\\" in text or text.lower().endswith((".gguf", ".safetensors"))


def is_to_be_converted(path: Path) -> bool:
    """Whether `path` is a folder with a model in safetensors, and no GGUF of it."""
    return path.is_dir() and is_safetensors_folder(path) and not _models_in(path)


def model_files(path: Path) -> tuple[Path, ...]:
    """The file or, in order, the parts that make the model at `path`.

    Raises ModelFileError when there is none or more than one, UnsupportedError for weights that are no GGUF.
    """
    if path.is_dir():
        return model_files(_the_one_of(path))
    if path.suffix.lower() == ".safetensors":
        raise UnsupportedError(
            f"{path} is a part of a model: its folder says what it is and how it reads text",
            hint=f"name the folder: {path.parent}",
        )
    if path.suffix.lower() in PICKLES:
        raise UnsupportedError(f"{path} is no GGUF but a pickle, which may run code when it is read", hint=_CONVERT)
    match = _PART.fullmatch(path.name)
    if match is None or not path.exists():
        return (path,)
    count = int(match["count"])
    parts = [path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelFileError(
            f"{path} is one of {count} parts, and {_listed(missing)} {'is' if len(missing) == 1 else 'are'} not there",
            hint="put all parts into one folder",
        )
    return tuple(parts)


def _the_one_of(folder: Path) -> Path:
    """The only model in a folder; of a split one the first part."""
    models = _models_in(folder)
    firsts = [name for name in models if (match := _PART.fullmatch(name)) is None or int(match["number"]) == 1]
    if len(firsts) == 1:
        return folder / firsts[0]
    if firsts:
        raise ModelFileError(f"{folder} holds several models: {_listed(firsts)}", hint="name one of the files")
    if pickle := next((path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICKLES), None):
        raise UnsupportedError(
            f"{folder} holds no GGUF but {pickle.name}, a pickle, which may run code when it is read", hint=_CONVERT
        )
    hint = "name a .gguf file, or a folder with one or with a model in safetensors"
    raise ModelFileError(f"{folder} holds no GGUF file", hint=hint)


def _models_in(folder: Path) -> list[str]:
    """The GGUF files of a folder, but for projectors."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [name for name in names if name.lower().endswith(".gguf") and not _PROJECTOR.search(name)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
