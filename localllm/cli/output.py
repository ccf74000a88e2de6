"""Where words go: stdout is data, stderr is everything else; colour and control characters only as the terminal asks.

A `Screen` is made once per command from the process's streams; nothing else in cli/ writes to them. Text that comes out
of a model or its file goes through `Screen.clean`, since it could otherwise steer the terminal.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

import msgspec

from localllm.errors import LocalllmError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_SPINNER_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPINNER_DELAY_SECONDS = 0.4
_SPINNER_STEP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Screen:
    """The two output streams of a command, and what their other ends can show. `columns` is the terminal's width."""

    stdout: TextIO
    stderr: TextIO
    stdout_is_terminal: bool
    stderr_is_terminal: bool
    color: bool
    moves_cursor: bool
    columns: int

    def out(self, text: str) -> None:
        """Write data now, as it is."""
        self.stdout.write(text)
        self.stdout.flush()

    def say(self, text: str) -> None:
        """Write a line for the person, not for the pipe."""
        self.stderr.write(f"{text}\n")
        self.stderr.flush()

    def warn(self, text: str, hint: str | None = None) -> None:
        """Write a warning for the person."""
        self.say(f"Warning: {text}" + (f"\nhint: {hint}" if hint else ""))

    def clean(self, text: str) -> str:
        """`text` without control characters when a terminal would obey them."""
        return _CONTROL.sub("", text) if self.stdout_is_terminal else text

    def dim(self, text: str) -> str:
        """`text` less prominent where colour is wanted."""
        return f"{_DIM}{text}{_PLAIN}" if self.color and text else text

    def bold(self, text: str) -> str:
        """`text` more prominent where colour is wanted."""
        return f"{_BOLD}{text}{_PLAIN}" if self.color and text else text

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]], folds: str = "") -> None:
        """Write rows under their headers, aligned; the same columns on a terminal and in a pipe.

        On a terminal that is too narrow the column under `folds`, else the first, takes several lines.
        """
        cells = [[self.clean(" ".join(cell.splitlines())) for cell in row] for row in rows]
        if self.stdout_is_terminal:
            self._rich_table(headers, cells, folds or headers[0])
        else:
            self.out("".join(f"{line}\n" for line in aligned_lines([headers, *cells])))

    def json(self, value: object) -> None:
        """Write a value as indented JSON."""
        self.out(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")

    def _rich_table(self, headers: Sequence[str], cells: Iterable[Sequence[str]], folds: str) -> None:
        # Imported here: rich takes 50 ms, and a pipe has no use for it.
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 4, 0, 0), header_style="bold" if self.color else "")
        for header in headers:
            table.add_column(header, no_wrap=header != folds, overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=self.stdout, no_color=not self.color, highlight=False).print(table)


def screen_of(environment: Mapping[str, str]) -> Screen:
    """The screen of this process. `NO_COLOR` (no-color.org) turns styles off, TERM=dumb also what moves."""
    for stream in (sys.stdout, sys.stderr):
        # A locale without UTF-8 must not turn an answer into a UnicodeEncodeError.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    is_terminal = sys.stdout.isatty()
    moves_cursor = environment.get("TERM") != "dumb"
    return Screen(
        stdout=sys.stdout,
        stderr=sys.stderr,
        stdout_is_terminal=is_terminal,
        stderr_is_terminal=sys.stderr.isatty(),
        color=is_terminal and moves_cursor and not environment.get("NO_COLOR"),
        moves_cursor=moves_cursor,
        columns=shutil.get_terminal_size().columns,
    )


def aligned_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns start at the same place; no line ends in spaces, and no row takes two."""
    if not rows:
        return []
    rows = [[" ".join(cell.splitlines()) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def error_text(error: LocalllmError) -> str:
    """An error as people read it: the message, and after an empty line what to do next."""
    return f"Error: {error.message}" + (f"\n\nhint: {error.hint}" if error.hint else "")


class Spinner:
    """A line on stderr that moves while something takes long; silent when stderr is no terminal. A context manager."""

    def __init__(self, screen: Screen, text: str) -> None:
        self._screen = screen
        self._text = text
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def __enter__(self) -> Spinner:
        if self._screen.stderr_is_terminal and self._screen.moves_cursor:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _spin(self) -> None:
        if self._is_over.wait(_SPINNER_DELAY_SECONDS):
            return
        step = 0
        while not self._is_over.wait(_SPINNER_STEP_SECONDS):
            self._write(f"\r{_SPINNER_FRAMES[step % len(_SPINNER_FRAMES)]} {self._text}")
            step += 1
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._screen.stderr.write(text)
        self._screen.stderr.flush()
