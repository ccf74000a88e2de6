"""Paths in texts: those of this machine taken out of what is said to clients, and those that are no text."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LAST = r"[^\s/'\":,;()]+"
# A folder's name may hold blanks, as long as a slash follows it at once.
_FOLDER = rf"{_LAST}(?: {_LAST})*"
# Neither the path of a URL or of a name (hf.co/…) nor a route of ours.
_PATH = re.compile(rf"(?<![\w.:/~-])~?(?!/(?:api|v1)/)(?:/{_FOLDER})+/({_LAST})")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:\\(?:[^\\'\":,;()\n]+\\)*([^\s\\'\":,;()]+)")


def readable(path: Path) -> str:
    """`path` as text that can be written everywhere: bytes of it that are no UTF-8 are spelled out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def without_folders(text: str) -> str:
    """`text` with every absolute path cut to its last part."""
    return _WINDOWS_PATH.sub(r"\1", _PATH.sub(r"\1", text))
