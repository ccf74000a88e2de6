"""The downloads that run, each in a process of its own, and who waits for them. Belongs to the daemon's event loop.

    follow(name) ─┐
    follow(name) ─┼─▶ one task per name ── events ──▶ every follower
                  │        │ spawns `python -m localllm.store.pull`, reads its lines
                  └─ the last follower leaves ──▶ the task is cancelled ──▶ the process is killed, its file stays

What a download needs from the store is asked here, what it brings is registered here: a name is visible once its files
are whole, verified and read as a model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec

from localllm.creating import CreateEvent
from localllm.errors import HubError, LocalllmError
from localllm.failures import failed_from
from localllm.generation import Failed
from localllm.pulling import Pulled, PullEvent, PullProgress, PullRequest, PullStatus

logger = logging.getLogger(__name__)

SUCCESS = PullStatus("success")
# A registry's texts come in one line: image.MAX_TEXT_BYTES, which JSON may write six times as long.
_LINE_BYTES = 8 * 2**20
# -P: `-m` would otherwise look for modules in the folder the daemon happens to stand in.
_COMMAND = (sys.executable, "-P", "-m", "localllm.store.pull")
_decoder: msgspec.json.Decoder[PullEvent] = msgspec.json.Decoder(PullEvent)
Download = Callable[[PullRequest], AsyncGenerator[PullEvent, None]]


async def download(request: PullRequest, command: Sequence[str] = _COMMAND) -> AsyncGenerator[PullEvent, None]:
    """The events of one download. Closing the generator kills its process."""
    # Nobody is told which other programs run here, as huggingface_hub would by default.
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1", **os.environ}
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, env=environment, limit=_LINE_BYTES, start_new_session=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        async for line in process.stdout:
            event = _decoder.decode(line)
            yield event
            if isinstance(event, (Pulled, Failed)):
                return
        code = await process.wait()
        raise HubError(
            f"the download's process ended without a word ({code})", hint="the daemon's log has its last lines"
        )
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


class _Pull:
    """One download and its followers. What they have not taken yet lies in their lists; progress replaces progress."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.followers: list[Follower] = []
        self.told: list[PullEvent] = []

    def tell(self, event: PullEvent) -> None:
        _append(self.told, event)
        for follower in self.followers:
            follower.add(event)


class Follower:
    """One client's view of a pull."""

    def __init__(self, told: Sequence[PullEvent]) -> None:
        self._pending = list(told)
        self._wake = asyncio.Event()

    def add(self, event: PullEvent) -> None:
        _append(self._pending, event)
        self._wake.set()

    async def take(self) -> list[PullEvent]:
        """All events that are there, at least one."""
        while not self._pending:
            self._wake.clear()
            await self._wake.wait()
        batch, self._pending = self._pending, []
        return batch


def _append(events: list[PullEvent], event: PullEvent) -> None:
    last = events[-1] if events else None
    if isinstance(event, PullProgress) and isinstance(last, PullProgress) and last.digest == event.digest:
        events.pop()
    events.append(event)


def is_last(event: PullEvent | CreateEvent) -> bool:
    """Whether a pull, or a create, ends with this event."""
    return event == SUCCESS or isinstance(event, Failed)


def _key(name: str, request: PullRequest) -> str:
    """What two pulls that share one download have in common."""
    return f"{name} {request.choice}".lower()


class Pulls:
    """Every pull of this daemon. `register` makes a name stand for what was downloaded for it.

    `check` raises what would keep it from that, before anything is downloaded.
    """

    def __init__(
        self,
        register: Callable[[str, Pulled], Awaitable[None]],
        check: Callable[[str], Awaitable[None]] = lambda name: asyncio.sleep(0),
        download: Download = download,
    ) -> None:
        self._register = register
        self._check = check
        self._download = download
        self._running: dict[str, _Pull] = {}

    async def follow(self, name: str, request: PullRequest) -> AsyncGenerator[PullEvent, None]:
        """Start a pull of `name`, or join the one that runs. The last event is SUCCESS or Failed.

        Closing the generator leaves the pull, which stops when nobody follows it.
        """
        key = _key(name, request)
        pull = self._running.get(key)
        if pull is None:
            pull = self._running[key] = _Pull()
            pull.task = asyncio.create_task(self._run(name, request, pull))
        follower = Follower(pull.told)
        pull.followers.append(follower)
        try:
            while True:
                for event in await follower.take():
                    yield event
                    if is_last(event):
                        return
        finally:
            pull.followers.remove(follower)
            if not pull.followers:
                await self._stop(key, pull)

    async def _stop(self, key: str, pull: _Pull) -> None:
        self._forget(key, pull)  # from now on a new pull of the name must not join this one
        if pull.task is not None and not pull.task.done():
            pull.task.cancel()
            await asyncio.wait((pull.task,))

    async def _run(self, name: str, request: PullRequest, pull: _Pull) -> None:
        try:
            await self._check(name)
            async with aclosing(self._download(request)) as events:
                async for event in events:
                    if isinstance(event, Pulled):
                        pull.tell(PullStatus("writing manifest"))
                        await self._register(name, event)
                        pull.tell(SUCCESS)
                        logger.info("pulled %s from %s@%s", name, event.repository, event.commit)
                    else:
                        pull.tell(event)
        except LocalllmError as error:
            pull.tell(failed_from(error, tells_folders=True))
        finally:
            self._forget(_key(name, request), pull)

    def _forget(self, key: str, pull: _Pull) -> None:
        if self._running.get(key) is pull:
            del self._running[key]
