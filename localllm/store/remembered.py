"""Models that were found before, each with what was looked at for it: as long as that is the same, so is the answer.

To ask costs a stat of each file and reads nothing. So the daemon's event loop may ask, beside the thread that owns the
store and keeps here what it finds: an entry is replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from localllm.store.manifest import Part
from localllm.store.model import Model

_KEPT = 2048

Mark = tuple[int, int, int]  # inode, size, time of change


class _Entry(NamedTuple):
    model: Model
    marks: tuple[tuple[Path, Mark | None], ...]
    files: tuple[Part, ...]


class Remembered:
    """By the name that was asked for, as it was written."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def keep(self, name: str, model: Model, marks: Iterable[tuple[Path, Mark | None]], files: Iterable[Part]) -> None:
        """`marks` are of the files that say what the name is, taken before they were read; `files` are the model's."""
        if len(self._entries) >= _KEPT:
            self._entries.clear()
        self._entries[name] = _Entry(model, tuple(marks), tuple(files))

    def unchanged(self, name: str) -> Model | None:
        """The model of that name if all is as it was when it was found; None when it has to be found again."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        same = all(mark_of(path) == mark for path, mark in entry.marks) and all(map(_is_registered, entry.files))
        return entry.model if same else None


def mark_of(path: Path) -> Mark | None:
    """What changes when a file does; None of one that is not there, or that reading will complain about."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_registered(part: Part) -> bool:
    mark = mark_of(Path(part.file))
    return mark is not None and mark[1:] == (part.size_bytes, part.modified_ns)
