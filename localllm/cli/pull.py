"""`pull`: gets models from elsewhere; and the pull that `run` does for a name that is not there yet.

A terminal shows one bar per file; a pipe gets plain lines. All of it goes to stderr: stdout says which name is ready.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import closing
from typing import Annotated, Protocol

import typer

from localllm.cli.daemonize import connect
from localllm.cli.output import Screen, screen_of
from localllm.client import Client, PullLine
from localllm.config import load_settings
from localllm.sizes import parse_size, size_text

_NAMES = "A short name, hf.co/OWNER/REPO[:QUANT or FILE], or ollama.com/library/NAME[:TAG]"
_PLAIN_SECONDS = 5.0
_QUIET = frozenset(
    ("pulling manifest", "verifying sha256 digest", "parsing GGUF", "checking adapters", "writing manifest", "success")
)


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_NAMES)],
    limit_rate: Annotated[
        str | None, typer.Option("--limit-rate", metavar="RATE", help='At most so many bytes per second, such as "5M"')
    ] = None,
    quant: Annotated[
        str, typer.Option("--quant", metavar="QUANT", help='Which quant, such as Q8_0; "auto" is the largest that fits')
    ] = "",
) -> None:
    """Download a model from Hugging Face or Ollama's registry; what is there already is not downloaded."""
    limit = 0
    if limit_rate is not None:
        try:
            limit = parse_size(limit_rate)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--limit-rate") from error
    screen = screen_of(os.environ)
    with connect(load_settings(os.environ), screen) as client:
        pull_model(client, model, screen, limit, quant)
    screen.out(screen.clean(f"pulled '{model}'\n"))


def pull_model(client: Client, name: str, screen: Screen, limit_bytes_per_second: int = 0, quant: str = "") -> None:
    """Download a model and show how it goes. Raises what the daemon says; Ctrl-C stops the download."""
    with closing(client.pull(name, limit_bytes_per_second, quant)) as lines:
        try:
            show_lines(lines, screen)
        except KeyboardInterrupt:
            screen.say("stopped; the same command goes on where it stopped")
            raise


class Display(Protocol):
    """Where progress is shown."""

    def say(self, text: str) -> None: ...
    def progress(self, line: PullLine) -> None: ...


def show_lines(lines: Iterable[PullLine], screen: Screen) -> None:
    """Show how something goes, as bars on a terminal and as lines in a pipe."""
    if screen.stderr_is_terminal and screen.moves_cursor:
        # Imported here: rich takes 50 ms, and a pipe has no use for it.
        from localllm.cli.progress import Bars

        with Bars(screen) as bars:
            follow(lines, bars)
    else:
        follow(lines, PlainLines(screen))


def follow(lines: Iterable[PullLine], display: Display) -> None:
    """Show every line; what everyone expects to happen is not worth one."""
    for line in lines:
        if line.digest is not None:
            display.progress(line)
        elif line.status not in _QUIET:
            display.say(line.status)


class PlainLines:
    """Progress as lines: one when a file starts, one when it is there, and one now and then in between."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._told: dict[str, tuple[float, int]] = {}

    def say(self, text: str) -> None:
        """One line."""
        self._screen.say(self._screen.clean(text))

    def progress(self, line: PullLine) -> None:
        """How far a file is, if that was not told a moment ago."""
        now, key = time.monotonic(), line.digest or ""
        is_whole = line.completed >= line.total
        told_at, told_bytes = self._told.get(key, (now, -1))
        if told_bytes == line.total or (told_bytes >= 0 and not is_whole and now - told_at < _PLAIN_SECONDS):
            return
        self._told[key] = (now, line.completed)
        text = f"{line.file or line.status}: {size_text(line.completed)} of {size_text(line.total)}"
        if told_bytes >= 0 and now > told_at:
            rate = (line.completed - told_bytes) / (now - told_at)
            text += f", {size_text(int(rate))}/s"
            if rate > 0 and not is_whole:
                text += f", {(line.total - line.completed) / rate:.0f} s left"
        self.say(text)
