"""GGUF headers read before, kept as long as their file is the same. Owned by one Store; nothing is shared or global."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import ModelFileError
from localllm.gguf import Header, read_header

_KEPT = 16


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file as it was at one moment: another size or time of change is another file."""

    path: Path
    size_bytes: int
    modified_ns: int


def fingerprint(path: Path) -> Fingerprint:
    """Look at the file. Raises ModelFileError when it is not there or not allowed to be seen."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError(f"{path} does not exist", hint="check the path") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    return Fingerprint(path, status.st_size, status.st_mtime_ns)


def projector_header(path: Path | None) -> Header | None:
    """The header of a model's projector; None without one, and when its file is gone: the model does without."""
    try:
        return read_header(path) if path is not None else None
    except ModelFileError:
        return None


class Headers:
    """The last headers that were asked for. The oldest is forgotten when there are too many."""

    def __init__(self) -> None:
        self._known: OrderedDict[Fingerprint, Header] = OrderedDict()

    def read(self, path: Path) -> tuple[Fingerprint, Header]:
        """The header of the file and the file it was read from. Raises ModelFileError as gguf.read_header does."""
        seen = fingerprint(path)
        header = self._known.get(seen)
        if header is None:
            header = read_header(path)
            if header.file_size_bytes != seen.size_bytes:
                raise ModelFileError(f"{path} changes while it is read", hint="wait until it is written")
            self._known[seen] = header
        self._known.move_to_end(seen)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return seen, header
