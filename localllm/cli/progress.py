"""Bars for downloads on a terminal (rich), on stderr. A context manager; rate and time left are computed here."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from localllm.cli.output import Screen
from localllm.client import PullLine


class Bars:
    """One bar per file."""

    def __init__(self, screen: Screen) -> None:
        console = Console(file=screen.stderr, no_color=not screen.color, highlight=False)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(TextColumn("{task.description}"), *columns, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._clean = screen.clean

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(self._clean(text), markup=False)

    def progress(self, line: PullLine) -> None:
        """Move a file's bar; what was there before this pull is no speed."""
        key = line.digest or ""
        if key not in self._tasks:
            name = escape(self._clean(line.file or line.status))
            self._tasks[key] = self._progress.add_task(name, total=line.total, completed=line.completed)
        self._progress.update(self._tasks[key], completed=line.completed)
