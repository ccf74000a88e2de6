"""The parent's side of a runner's life: start it, say hello, carry frames, keep its last log lines, end it, reap it.

Knows nothing of requests (runner/handle) nor of what the child computes (runner/worker). One object owns one child, its
pipe pair and its log; all of it runs on the daemon's event loop.

    starting ──Hello, right version──▶ up ──stop()──▶ closing ──exit──▶ dead (reaped, `on_death` called once)
        │                              │ crash, kill(), a bad frame         ▲
        └── no Hello, wrong version ───┴────────────────────────────────────┘

The child's ends of the pipes are inherited by that child alone (every descriptor Python opens is close-on-exec): the
pipe closes when the daemon dies by whatever cause, and a runner exits when its pipe closes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from localllm.errors import LoadError
from localllm.runner import protocol
from localllm.runner.child import signal_child, start_child
from localllm.runner.death import Death, death_from, died_while

HELLO_TIMEOUT_SECONDS = 30.0
# A worker ends when its pipe closes; one that does not is asked by SIGTERM, then ended by SIGKILL.
CLOSE_SECONDS = 3.0
TERMINATE_SECONDS = 2.0
# What a dead child wrote is still in its pipes; a grandchild that holds them open must not delay the news for long.
LAST_WORDS_SECONDS = 1.0
LOG_LINES = 50
LOG_LINE_BYTES = 2000
_HEADER_BYTES = 4

log = logging.getLogger(__name__)

OnMessage = Callable[[protocol.FromRunner], None]
OnDeath = Callable[[Death], None]


def worker_command() -> tuple[str, ...]:
    """The program of a real runner. `-P`: a folder the user happens to stand in must not supply modules."""
    return (sys.executable, "-P", "-m", "localllm.runner.worker")


async def start_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    label: str,
    hello_timeout_seconds: float = HELLO_TIMEOUT_SECONDS,
) -> RunnerProcess:
    """Start `command` with `--read-fd N --write-fd M` appended and wait for its Hello.

    `label` names the model in log lines. Raises LoadError when the program cannot be started, dies, keeps silent, or
    speaks another version of the protocol; no child is left then, nor when the caller is cancelled.
    """
    child_read, parent_write = os.pipe()
    parent_read, child_write = os.pipe()
    child: Process | None = None
    try:
        pipes = ("--read-fd", str(child_read), "--write-fd", str(child_write))
        child = await start_child((*command, *pipes), environment, (child_read, child_write))
    except OSError as error:
        raise LoadError(f"the model's process cannot be started: {error.strerror}") from error
    finally:
        # Without a child, also when the caller was cancelled, nobody else would close the daemon's ends.
        unused = (
            (child_read, child_write) if child is not None else (child_read, child_write, parent_read, parent_write)
        )
        for descriptor in unused:
            os.close(descriptor)
    process = RunnerProcess(child, label)
    is_up = False
    try:
        await process.open(parent_read, parent_write)
        await process.greet(hello_timeout_seconds)
        is_up = True
    finally:
        if not is_up:
            process.kill()
            await process.dead()
    return process


class RunnerProcess:
    """A running child. `last_activity` is the loop's time when it last sent a frame or printed something."""

    def __init__(self, child: Process, label: str) -> None:
        loop = asyncio.get_running_loop()
        self.last_activity = loop.time()
        self._child = child
        self._label = label
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._hello: asyncio.Future[protocol.FromRunner] = loop.create_future()
        self._death: asyncio.Future[Death] = loop.create_future()
        self._early: list[protocol.FromRunner] = []
        self._on_message: OnMessage | None = None
        self._on_death: OnDeath | None = None
        self._frames = _FrameReader(self._deliver, self._refuse)
        self._writing = _FrameWriter()
        self._reader: asyncio.ReadTransport | None = None
        self._writer: asyncio.WriteTransport | None = None
        self._log_task = asyncio.create_task(self._read_log())
        self._watch_task = asyncio.create_task(self._watch())

    @property
    def process_id(self) -> int:
        return self._child.pid

    @property
    def last_lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    async def open(self, read_fd: int, write_fd: int) -> None:
        """Take over the daemon's ends of the pipe pair."""
        loop = asyncio.get_running_loop()
        self._reader, _ = await loop.connect_read_pipe(lambda: self._frames, os.fdopen(read_fd, "rb", buffering=0))
        self._writer, _ = await loop.connect_write_pipe(lambda: self._writing, os.fdopen(write_fd, "wb", buffering=0))
        self._frames.closed.add_done_callback(lambda _: self._end_soon())

    async def greet(self, timeout_seconds: float) -> None:
        """Wait for Hello in the right version. Raises LoadError."""
        await asyncio.wait((self._hello, self._death), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._hello.done():
            hello = self._hello.result()
            version = hello.protocol_version if isinstance(hello, protocol.Hello) else None
            if version == protocol.PROTOCOL_VERSION:
                return
            speaks = "no protocol of ours" if version is None else f"protocol {version}"
            raise LoadError(
                f"the model's process speaks {speaks}, and this daemon speaks protocol {protocol.PROTOCOL_VERSION}",
                hint="localllm was updated while its daemon ran: restart the daemon",
            )
        if self._death.done():
            raise LoadError(died_while("starting", self._death.result()))
        raise LoadError(f"the model's process did not start within {timeout_seconds:g} s")

    def listen(self, on_message: OnMessage, on_death: OnDeath) -> None:
        """Hand over every frame and, once, the death; both also when they came before this call."""
        self._on_message, self._on_death = on_message, on_death
        for message in self._early:
            on_message(message)
        self._early.clear()
        if self._death.done():
            on_death(self._death.result())

    def send(self, message: protocol.ToRunner) -> None:
        """Write a frame without waiting; dropped when the child is gone. Raises FrameError for one too large."""
        frame = protocol.encode(message)
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame)

    async def drain(self) -> None:
        """Wait while too much unread data is buffered for the child."""
        await self._writing.may_write.wait()

    def kill(self) -> None:
        """End the child at once; the death is reported when it is reaped."""
        signal_child(self._child, signal.SIGKILL)

    async def stop(self) -> Death:
        """Close the pipe, then SIGTERM, then SIGKILL; returns when the child is reaped."""
        self._close_writer()
        for seconds, signal_number in ((CLOSE_SECONDS, signal.SIGTERM), (TERMINATE_SECONDS, signal.SIGKILL)):
            done, _ = await asyncio.wait((self._death,), timeout=seconds)
            if done:
                break
            log.warning("%s: process %d is still there, sending %s", self._label, self.process_id, signal_number.name)
            signal_child(self._child, signal_number)
        return await self.dead()

    async def dead(self) -> Death:
        """Wait until the child has ended and is reaped."""
        return await asyncio.shield(self._death)

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _deliver(self, message: protocol.FromRunner) -> None:
        self.last_activity = asyncio.get_running_loop().time()
        if not self._hello.done():
            self._hello.set_result(message)
        elif self._on_message is None:
            self._early.append(message)
        else:
            self._on_message(message)

    def _refuse(self, error: protocol.FrameError) -> None:
        log.error("%s: process %d sent what is no frame (%s); it is ended", self._label, self.process_id, error)
        self.kill()

    def _end_soon(self) -> None:
        """The child closed its pipe: it is about to exit, or it is of no use any more."""
        if not self._death.done():
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.kill)

    async def _watch(self) -> None:
        return_code = await self._child.wait()
        pending = {self._log_task, self._frames.closed} if self._reader is not None else {self._log_task}
        await asyncio.wait(pending, timeout=LAST_WORDS_SECONDS)
        self._log_task.cancel()
        self._close_writer()
        self._writing.may_write.set()
        if self._reader is not None:
            self._reader.close()
        death = death_from(return_code, self.last_lines)
        self._death.set_result(death)
        if return_code == 0:
            log.info("%s: process %d ended", self._label, self.process_id)
        else:
            words = "; ".join(self.last_lines[-3:]) or "nothing"
            log.warning("%s: process %d ended (%s); its last words: %s",
                        self._label, self.process_id, death.cause, words)  # fmt: skip
        if self._on_death is not None:
            self._on_death(death)

    async def _read_log(self) -> None:
        assert self._child.stdout is not None
        rest = b""
        while chunk := await self._child.stdout.read(65536):
            self.last_activity = asyncio.get_running_loop().time()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._keep(line)
            if len(rest) > LOG_LINE_BYTES:
                self._keep(rest)
                rest = b""
        self._keep(rest)

    def _keep(self, line: bytes) -> None:
        # What a model file holds may be printed: control characters must not reach a terminal that shows the log.
        text = "".join(
            character if character.isprintable() else "\ufffd"
            for character in line[:LOG_LINE_BYTES].decode("utf-8", "replace").replace("\t", " ").rstrip()
        )
        if text:
            self._lines.append(text)
            log.info("%s: %s", self._label, text)


class _FrameReader(asyncio.Protocol):
    """Cuts the bytes of a pipe into frames, all that are there at each read. `closed` is done at end of file."""

    def __init__(self, deliver: OnMessage, refuse: Callable[[protocol.FrameError], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deliver = deliver
        self._refuse = refuse
        self._buffer = bytearray()
        self._is_broken = False

    def data_received(self, data: bytes) -> None:
        if self._is_broken:
            return
        self._buffer += data
        try:
            for body in self._bodies():
                self._deliver(protocol.decode_from_runner(body))
        except protocol.FrameError as error:
            self._is_broken = True
            self._buffer.clear()
            self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _bodies(self) -> Iterator[bytes]:
        """The bodies of all whole frames; what was read before a bad one still counts."""
        buffer, start = self._buffer, 0
        try:
            while len(buffer) - start >= _HEADER_BYTES:
                body_start = start + _HEADER_BYTES
                end = body_start + protocol.frame_length(bytes(buffer[start:body_start]))
                if len(buffer) < end:
                    break
                start = end
                yield bytes(buffer[body_start:end])
        finally:
            del buffer[:start]


class _FrameWriter(asyncio.BaseProtocol):
    """Flow control of the pipe to the child."""

    def __init__(self) -> None:
        self.may_write = asyncio.Event()
        self.may_write.set()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.may_write.set()
