"""The account of requests: how many run, since when none did, and whether new ones are taken.

    open ──close()──▶ closing (new requests are refused; those that run go on) ──fail_all()──▶ nothing runs

Belongs to the daemon's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from localllm.errors import LocalllmError, ShuttingDownError


class Failable(Protocol):
    """A running answer that can be ended with an error."""

    def fail(self, error: LocalllmError) -> None: ...


class Activity:
    """Counts requests and knows the answers that are being generated. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._running = 0
        self._is_open = True
        self._quiet_since = monotonic()
        self._answers: set[Failable] = set()
        self._nothing_runs = asyncio.Event()
        self._nothing_runs.set()

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def running(self) -> int:
        """How many requests run now."""
        return self._running

    def quiet_seconds(self) -> float:
        """Seconds since the last request ended; 0 while one runs."""
        return 0.0 if self._running else self._monotonic() - self._quiet_since

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around each request."""
        self._running += 1
        self._nothing_runs.clear()
        try:
            yield
        finally:
            self._running -= 1
            self._quiet_since = self._monotonic()
            if not self._running:
                self._nothing_runs.set()

    @contextmanager
    def answer(self, answer: Failable) -> Iterator[None]:
        """Around each answer that is being generated."""
        self._answers.add(answer)
        try:
            yield
        finally:
            self._answers.discard(answer)

    def close(self) -> None:
        """Take no new requests."""
        self._is_open = False

    def fail_all(self, error: LocalllmError) -> None:
        """End every answer that is being generated with `error`."""
        for answer in tuple(self._answers):
            answer.fail(error)

    async def wait_until_nothing_runs(self, seconds: float) -> bool:
        """Wait for the last request, at most `seconds`; returns whether none runs."""
        try:
            async with asyncio.timeout(seconds):
                await self._nothing_runs.wait()
        except TimeoutError:
            return False
        return True

    def check_open(self) -> None:
        """Raises ShuttingDownError once no new requests are taken."""
        if not self._is_open:
            raise ShuttingDownError
