"""A place in a text that is read on from there."""

from __future__ import annotations

import re

BLANKS = re.compile(r"\s*")


class Cursor:
    """The text there is, and where in it reading stands."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0

    def _take(self, length: int) -> str:
        piece = self._text[self._at : self._at + length]
        self._at += length
        return piece

    def _take_leading_blanks(self) -> str:
        blanks = BLANKS.match(self._text, self._at)
        return self._take(blanks.end() - self._at) if blanks else ""

    def _starts_partially(self, marker: str) -> bool:
        """Whether all the text there is begins this marker."""
        return len(self._text) - self._at < len(marker) and marker.startswith(self._text[self._at :])
