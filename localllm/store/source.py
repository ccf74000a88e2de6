"""The seam between a download and where it comes from: what download.py asks of the hub, and of a registry.

A Source knows how to open a file's bytes from any place on, and where the file belongs on this machine. It neither
retries nor verifies: download.py does both, for every source alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from localllm.errors import HubError
from localllm.store.repository import HubFile, Repository

STALL_SECONDS = 30.0
_LOOKS = 4
T = TypeVar("T")
_RANGE = re.compile(r"bytes (\d+)-")


class SourceBusyError(HubError):
    """The source or the network failed in a way that may pass. `retry_after_seconds` is what it asks for, or None."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Opened:
    """A file's bytes from `start` on; not always the start that was asked for: a server may ignore it."""

    start: int
    pieces: Iterator[bytes]


class Source(Protocol):
    """Where files come from. `title` names it in a sentence; `moved_by` is the variable that moves `cache_dir`."""

    @property
    def title(self) -> str: ...
    @property
    def moved_by(self) -> str: ...
    @property
    def cache_dir(self) -> Path: ...

    def open(
        self, repository: Repository, file: HubFile, start: int, piece_bytes: int
    ) -> AbstractContextManager[Opened]:
        """The bytes of `file` from `start` on. Raises SourceBusyError for what may pass, else HubError's kinds."""

    def find(self, repository: Repository, file: HubFile) -> Path | None:
        """The file's path when it is there whole."""

    def blob(self, repository: Repository, file: HubFile) -> Path:
        """Where the whole file is, or will be."""

    def link(self, repository: Repository, file: HubFile) -> Path:
        """The path by which the finished blob is used."""

    def lock(self, repository: Repository, file: HubFile, seconds: float | None) -> AbstractContextManager[None]:
        """Hold off other processes that download this file. Raises TimeoutError when one still does in time."""


def patiently(ask: Callable[[], T], sleep: Callable[[float], None]) -> T:
    """What `ask` answers, with a few more tries when the source is busy."""
    for attempt in range(_LOOKS - 1):
        try:
            return ask()
        except SourceBusyError as error:
            sleep(min(10.0, error.retry_after_seconds or 0.5 * 2**attempt))
    return ask()


def first_byte(status: int, content_range: str) -> int:
    """Where in the file an answer's body starts, from its status and its Content-Range header."""
    found = _RANGE.match(content_range)
    return int(found[1]) if status == 206 and found else 0


def is_passing(status: int) -> bool:
    """Whether the same request may be answered otherwise in a while."""
    return status in (408, 429) or status >= 500


def seconds_to_wait(retry_after: str) -> float | None:
    """What a Retry-After header asks for; None for a date, which nobody sends here, and for nonsense."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
