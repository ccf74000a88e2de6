"""The HTTP side of one generated answer: events in, bytes out, and an end whatever happens.

    events ──pump──▶ pending ──writer──▶ send()        all events that are there go out in one write
    receive() ──watch──▶ client gone ──▶ the writer stops ──▶ the pump is cancelled ──▶ the request is cancelled

Headers wait for the first event, so that an error keeps its status; but not longer than `early_headers_seconds`, since
some clients give up when nothing comes: after that an error goes into the stream. What the events mean is not known
here (dialects/), nor where they come from (generate).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from localllm.dialects.framing import JSON_MEDIA_TYPE, Encoder
from localllm.errors import LocalllmError
from localllm.failures import failed_from
from localllm.generation import AnswerEvent, Failed, Finished, OfChoice, PromptProgress
from localllm.server.progress import Progress
from localllm.server.replies import INTERNAL, error_headers
from localllm.server.services import Services

WATCH_AFTER_SECONDS = 0.01

logger = logging.getLogger(__name__)


class _ClientGoneError(Exception):
    """The client closed its connection; nobody reads what would be written."""


class AnswerResponse:
    """An ASGI response; use once."""

    def __init__(
        self,
        events: AsyncGenerator[AnswerEvent, None],
        encoder: Encoder,
        services: Services,
        progress: Progress,
        *,
        is_stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._events = events
        self._encoder = encoder
        self._progress = progress
        self._is_stream = is_stream
        self._headers = headers or {}
        self._time_ns = services.clock.time_ns
        self._activity = services.activity
        self._early_headers_seconds = services.early_headers_seconds
        self._ping_seconds = services.ping_seconds
        self._spoken_at = 0.0
        self._is_silent = False
        self._silence: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._pending: list[AnswerEvent] = []
        self._wake = asyncio.Event()
        self._pumped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_client_gone = False
        self._error: LocalllmError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Returns when the last byte is written or the client is gone; the request has ended by then."""
        pump = asyncio.create_task(self._pump())
        pump.add_done_callback(self._pump_ended)
        # Most short answers are over before it is worth asking whether the client is still there.
        watch = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._begin_watch, receive)
        try:
            with self._activity.answer(self), self._progress.time_limit(self.fail):
                await (self._write_stream(send) if self._is_stream else self._write_whole(send))
        except _ClientGoneError:
            logger.info("the client left before its answer was complete")
        else:
            # Let the lease end in its own time: a cancelled request would be told to the runner again.
            if self._error is None:
                await self._pumped
        finally:
            if self._silence is not None:
                self._silence.cancel()
            watch.cancel()
            if self._watching is not None:
                self._watching.cancel()
            if not pump.done():
                pump.cancel()
                await asyncio.wait((pump,))

    def fail(self, error: LocalllmError) -> None:
        """End the answer with `error`, whatever has been written."""
        if self._error is None:
            self._error = error
            self._put(failed_from(error))

    async def _pump(self) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                self._put(event)

    def _pump_ended(self, pump: asyncio.Task[None]) -> None:
        if not self._pumped.done():
            self._pumped.set_result(None)
        if pump.cancelled():
            return
        error = pump.exception()
        if isinstance(error, LocalllmError):
            self.fail(error)
            return
        if error is not None:
            logger.error("a request failed in a way nobody foresaw", exc_info=error)
        self._put(INTERNAL)  # never read after an event that ends the answer; without one no stream may just stop

    def _begin_watch(self, receive: Receive) -> None:
        self._watching = asyncio.create_task(self._watch(receive))

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_client_gone = True
        self._wake.set()

    def _put(self, event: AnswerEvent) -> None:
        self._pending.append(event)
        if self._is_stream or isinstance(event, (Finished, Failed)):
            self._wake.set()

    async def _take(self) -> list[AnswerEvent]:
        """All events that are there, up to the first that ends the answer; none only after a long silence."""
        while not self._pending and not self._is_client_gone and not self._is_silent:
            self._wake.clear()
            await self._wake.wait()
        if self._is_client_gone:
            raise _ClientGoneError
        batch, self._pending = self._pending, []
        for index, event in enumerate(batch):
            if isinstance(event, (Finished, Failed)):
                return batch[: index + 1]
        return batch

    async def _write_stream(self, send: Send) -> None:
        batch: list[AnswerEvent] = []
        try:
            async with asyncio.timeout(self._early_headers_seconds):
                batch = await self._take()
        except TimeoutError:  # still queued or loading: the headers tell the client to be patient
            pass
        if batch and isinstance(batch[-1], Failed) and all(map(_is_progress, batch[:-1])):
            await self._write_error(batch[-1], send)
            return
        await self._start(send, 200, self._encoder.media_type)
        self._spoken_at = asyncio.get_running_loop().time()
        self._look_for_silence()
        chunk, time_ns = self._encoder.chunk, self._time_ns
        is_over = False
        while True:
            now_ns = time_ns()
            data = b"".join([chunk(event, now_ns) for event in batch])
            if self._is_silent:
                self._is_silent, data = False, data or self._encoder.ping()
            is_over = bool(batch) and isinstance(batch[-1], (Finished, Failed))
            if data or is_over:
                await self._say(data, send, more=not is_over)
            if is_over:
                return
            batch = await self._take()

    def _look_for_silence(self) -> None:
        """Wake the writer whenever the client has heard nothing for long, as while its prompt is computed.

        One timer that looks when it is due costs a token nothing, unlike one that is set anew for each.
        """
        if self._ping_seconds == math.inf:
            return
        loop = asyncio.get_running_loop()
        due, now = self._spoken_at + self._ping_seconds, loop.time()
        if now >= due:
            self._is_silent, due = True, now + self._ping_seconds
            self._wake.set()
        self._silence = loop.call_at(due, self._look_for_silence)

    async def _say(self, data: bytes, send: Send, *, more: bool) -> None:
        self._spoken_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": data, "more_body": more})

    async def _write_whole(self, send: Send) -> None:
        events: list[AnswerEvent] = []
        while not events or not isinstance(events[-1], (Finished, Failed)):
            events += await self._take()
        last = events[-1]
        if isinstance(last, Failed):
            await self._write_error(last, send)
            return
        await self._write_body(send, 200, self._encoder.whole(events, self._time_ns()), last)

    async def _write_error(self, failed: Failed, send: Send) -> None:
        await self._write_body(send, failed.status, self._encoder.error(failed))

    async def _write_body(self, send: Send, status: int, body: bytes, finished: Finished | None = None) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self._start(send, status, JSON_MEDIA_TYPE, length, finished=finished)
        await send({"type": "http.response.body", "body": body})

    async def _start(
        self,
        send: Send,
        status: int,
        media_type: str,
        *more: tuple[bytes, bytes],
        finished: Finished | None = None,
    ) -> None:
        headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-cache"), *more]
        headers += self._progress.headers(finished)
        more_headers = {**self._headers, **error_headers(self._error)}
        headers += [(name.encode(), value.encode()) for name, value in more_headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})


def _is_progress(event: AnswerEvent) -> bool:
    """Whether an error may still have its status after this: the client has been told nothing."""
    return isinstance(event.event if isinstance(event, OfChoice) else event, PromptProgress)
