"""Break lines between words while text streams to a terminal.

Text is shown as it comes; when a word turns out not to fit, the part already shown is erased and the word starts the
next line. Pure: text in, what to write to the terminal out.
"""

from __future__ import annotations

import unicodedata


class WordWrapper:
    """Lines of at most `columns` cells. Feed it pieces in order; it remembers the line and the word being written."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._line_cells = 0
        self._word = ""
        self._word_cells = 0

    def feed(self, text: str) -> str:
        """What to write for this piece."""
        return "".join(self._step(character) for character in text)

    def _step(self, character: str) -> str:
        if character == "\n":
            self._line_cells = 0
            self._forget_word()
            return character
        if character.isspace():
            self._forget_word()
            if self._line_cells >= self._columns:  # the space that would start a line is the line break
                self._line_cells = 0
                return "\n"
            self._line_cells += 1
            return character
        return self._letter(character)

    def _letter(self, character: str) -> str:
        cells = cell_width(character)
        prefix = ""
        if self._line_cells + cells > self._columns:
            prefix = self._break()
        self._line_cells += cells
        if cells == 2:  # scripts of wide characters break between any two of them
            self._forget_word()
        else:
            self._word += character
            self._word_cells += cells
        return prefix + character

    def _break(self) -> str:
        if not self._word or self._word_cells >= self._columns:  # nothing to carry over, or it fits no line
            self._line_cells = 0
            self._forget_word()
            return "\n"
        self._line_cells = self._word_cells
        return f"\x1b[{self._word_cells}D\x1b[K\n{self._word}"

    def _forget_word(self) -> None:
        self._word = ""
        self._word_cells = 0


def cell_width(character: str) -> int:
    """Terminal cells of a character: 2 for wide ones, 0 for combining marks, else 1."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
