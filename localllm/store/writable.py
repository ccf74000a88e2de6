"""Whether a folder can be written to, asked before hours of downloading or quantizing and not after them."""

from __future__ import annotations

import tempfile
from pathlib import Path


def try_writing(folder: Path) -> None:
    """Raises OSError where no file could be made in `folder`, which need not be there yet; leaves nothing behind.

    Asked by doing it: permissions, a disk that is mounted read-only and a file in the place of a folder all refuse.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass
