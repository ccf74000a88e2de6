"""The seam between a download and where it comes from: what download.py asks of the hub, and of a registry.

A Source knows how to open a file's bytes from any place on, and where the file belongs on this machine. It neither
retries nor verifies: download.py does both, for every source alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from localllm.store.answers import Place, SourceBusyError
from localllm.store.repository import HubFile, Repository

STALL_SECONDS = 30.0
GOES_ON = "check the network and the proxy; the same command goes on where this one stopped"
_LOOKS = 4
_SHORTEST_SECONDS, _LONGEST_UNTOLD_SECONDS, _LONGEST_SECONDS = 0.5, 10.0, 60.0
_TOLD_SECONDS = 2.0  # shorter ones come with every connection that breaks
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opened:
    """A file's bytes, and which they are; not always those that were asked for: a server may ignore it."""

    place: Place
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


def refuse_other(place: Place, file: HubFile, title: str) -> None:
    """Raises SourceBusyError for an answer that is not of `file`: an error's page, say, in a proxy's 200."""
    if place.whole_bytes is not None and place.whole_bytes != file.size_bytes:
        said = f"of {place.whole_bytes} bytes, and {file.name} has {file.size_bytes}"
        raise SourceBusyError(f"{title} or a proxy sends a file {said}", hint=GOES_ON)


def patiently(ask: Callable[[], T], sleep: Callable[[float], None], tell: Callable[[str], None] | None = None) -> T:
    """What `ask` answers, with a few more tries when the source is busy.

    `tell` hears of long waits; where nobody does, they are shorter than the source asks for.
    """
    for attempt in range(_LOOKS - 1):
        try:
            return ask()
        except SourceBusyError as error:
            wait(error, attempt, sleep, tell)
    return ask()


def wait(
    error: SourceBusyError, attempt: int, sleep: Callable[[float], None], tell: Callable[[str], None] | None
) -> None:
    """Wait as long as the source asks for, else longer with each attempt (the first is 0), and say so."""
    asked = error.retry_after_seconds
    seconds = 0.5 * 2**attempt if asked is None else max(_SHORTEST_SECONDS, asked)
    seconds = min(_LONGEST_SECONDS if tell else _LONGEST_UNTOLD_SECONDS, seconds)
    if tell and seconds >= _TOLD_SECONDS:
        tell(f"{error.message}: trying again in {seconds:.0f} s")
    sleep(seconds)
