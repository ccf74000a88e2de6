"""Which files in the hub's cache localllm downloaded itself. Written by a download, read by `du` and `gc`.

    <cache>/.locks/localllm/<oid>.json      {"device": …, "inode": …, "size_bytes": …, "modified_ns": …}

The cache is shared with other tools, and a file of theirs must never be taken for one of ours: an entry counts only as
long as the blob of that name is still the very file that was written then.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec

_FOLDER = Path(".locks") / "localllm"


class _Entry(msgspec.Struct, frozen=True):
    device: int
    inode: int
    size_bytes: int
    modified_ns: int


_decoder = msgspec.json.Decoder(_Entry)


def record(cache_dir: Path, blob: Path) -> None:
    """Note that `blob` was downloaded by us. Without the note, which a full disk may prevent, it just stays."""
    folder = cache_dir / _FOLDER
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, text = tempfile.mkstemp(prefix=".", dir=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(_entry(blob.stat())))
        Path(text).replace(_path(cache_dir, blob))


def is_ours(cache_dir: Path, blob: Path) -> bool:
    """Whether we downloaded this file, and nobody has written it again."""
    try:
        return _decoder.decode(_path(cache_dir, blob).read_bytes()) == _entry(blob.stat())
    except (OSError, msgspec.MsgspecError):  # nothing noted, or cut off by a full disk
        return False


def forget(cache_dir: Path, blob: Path) -> None:
    """Take the note of a blob that was removed away."""
    with contextlib.suppress(OSError):
        _path(cache_dir, blob).unlink()


def _path(cache_dir: Path, blob: Path) -> Path:
    return cache_dir / _FOLDER / f"{blob.name}.json"


def _entry(status: os.stat_result) -> _Entry:
    return _Entry(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
