"""Texts without the folders of this machine: what is said to clients names files, never where they lie."""

from __future__ import annotations

import re

_LAST = r"[^\s/'\":,;()]+"
# A folder's name may hold blanks, as long as a slash follows it at once.
_FOLDER = rf"{_LAST}(?: {_LAST})*"
# Neither the path of a URL or of a name (hf.co/…) nor a route of ours.
_PATH = re.compile(rf"(?<![\w.:/~-])~?(?!/(?:api|v1)/)(?:/{_FOLDER})+/({_LAST})")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:\\(?:[^\\'\":,;()\n]+\\)*([^\s\\'\":,;()]+)")


def without_folders(text: str) -> str:
    """`text` with every absolute path cut to its last part."""
    return _WINDOWS_PATH.sub(r"\1", _PATH.sub(r"\1", text))
