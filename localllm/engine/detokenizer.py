"""Bytes of tokens to text that can be sent: no broken UTF-8, nothing past a stop string.

One object per sequence. Text is held back only while it could still be the beginning of a stop string, or an unfinished
UTF-8 character; `flush` gives what is left when the sequence ends.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that may be sent, and the stop string that ended it, if one did."""

    text: str
    stop: str | None = None


class Detokenizer:
    """Turn a sequence's token bytes into text, piece by piece. `characters` counts all of it, held back or not."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(text for text in stop if text)
        self._longest = max((len(text) for text in self._stop), default=0)
        self._held = ""
        self.characters = 0

    def feed(self, data: bytes) -> Piece:
        """Add a token's bytes. After a piece with `stop` nothing more may be fed."""
        return self._advance(self._decoder.decode(data), is_last=False)

    def flush(self) -> Piece:
        """The rest: an unfinished character becomes U+FFFD, a half stop string is ordinary text."""
        return self._advance(self._decoder.decode(b"", final=True), is_last=True)

    def _advance(self, text: str, *, is_last: bool) -> Piece:
        self.characters += len(text)
        if not self._stop:
            return Piece(text)
        text = self._held + text
        # The stop string that is complete first wins, and of two that end together the longer: whatever the chunks.
        found = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in self._stop if stop in text]
        if found:
            _, start, stop = min(found)
            self._held = ""
            return Piece(text[:start], stop=stop)
        keep = 0 if is_last else self._possible_stop_length(text)
        self._held = text[len(text) - keep :]
        return Piece(text[: len(text) - keep])

    def _possible_stop_length(self, text: str) -> int:
        """The length of the longest end of `text` that some stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
