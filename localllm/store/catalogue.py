"""The short names that can be pulled: a Modelfile each, whose FROM is a repository on the hub. Reads; pulls nothing.

    <bundled_dir>/llama3.2/
    ├── 3b.Modelfile          FROM hf.co/OWNER/REPO:QUANT, and what its authors recommend
    └── latest.Modelfile      FROM llama3.2:3b: the same under another tag

The first comment of a Modelfile is the line that `localllm search` shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm import modelfile
from localllm.errors import InvalidNameError, ModelFileError
from localllm.modelfile import Modelfile
from localllm.store.names import Name, parse_name

_SUFFIX = ".Modelfile"
_ALIASES = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One short name: what it stands for on the hub, what its Modelfile says besides, and a line about it."""

    name: Name
    source: Name
    settings: Modelfile
    about: str


def find_entry(folder: Path, name: Name) -> Entry | None:
    """The entry of a local name; None when it is in no catalogue. Raises ModelFileError for one that is wrong."""
    wanted = name
    for _ in range(_ALIASES):
        path = folder / wanted.model.lower() / f"{wanted.tag.lower()}{_SUFFIX}"
        try:
            text = modelfile.decode(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
        settings = modelfile.parse(text)
        source = _source(path, settings)
        if source.is_hub:
            return Entry(name, source, settings, _about(text))
        wanted = source
    raise ModelFileError(f"{path}: FROM leads in a circle")


def entries(folder: Path) -> Iterator[Entry]:
    """Every entry, in order of name."""
    for path in sorted(folder.glob(f"*/*{_SUFFIX}")):
        entry = find_entry(folder, Name(path.parent.name, path.name.removesuffix(_SUFFIX)))
        if entry is not None:
            yield entry


def _source(path: Path, settings: Modelfile) -> Name:
    try:
        source = parse_name(settings.bases[0])
    except InvalidNameError as error:
        raise ModelFileError(f"{path}: FROM: {error}") from error
    if not source.is_hub and not source.is_local:
        raise ModelFileError(f"{path}: FROM must name a repository on the hub, or another short name")
    return source


def _about(text: str) -> str:
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
