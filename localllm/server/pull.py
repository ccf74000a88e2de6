"""POST /api/pull: decode, ask the store what the name stands for, follow the download, write its events.

A client that leaves ends the download, if nobody else follows it. A daemon that stops ends it as well; the partial file
stays, and the next pull goes on there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.dialects.framing import JSON_MEDIA_TYPE, NDJSON_MEDIA_TYPE
from localllm.dialects.ollama_pull import Progress, decode_pull, encode_event
from localllm.errors import LocalllmError
from localllm.failures import failed_from
from localllm.generation import Failed
from localllm.placement.quant import Quant, largest_quant
from localllm.placement.wishes import wishes_from
from localllm.pulling import AUTO_QUANT, LOOKING, PullEvent, PullRequest, PullStatus
from localllm.server.activity import Activity
from localllm.server.plan import peeked
from localllm.server.pulls import SUCCESS, is_last
from localllm.server.replies import INTERNAL, told_headers
from localllm.server.services import Services
from localllm.store.names import parse_name

logger = logging.getLogger(__name__)


async def ollama_pull(services: Services, request: Request) -> ASGIApp:
    """POST /api/pull."""
    body = decode_pull(await request.body())
    wanted = await services.in_store(services.store.pull_request, body.name, body.quant)
    if wanted is not None:
        wanted = msgspec.structs.replace(wanted, limit_bytes_per_second=body.limit_bytes_per_second)
    events = _events(services, body.name, wanted)
    return PullResponse(events, services.activity, is_stream=body.is_stream, ignored=body.ignored)


async def _events(services: Services, name: str, wanted: PullRequest | None) -> AsyncGenerator[PullEvent, None]:
    if wanted is None:  # agents pull what they do not find in the list by the very name they were given
        if not (await services.find(name)).is_bundled:
            yield PullStatus(f"{name} was made here: there is nothing to download")
        yield SUCCESS
        return
    chooses = wanted.choice.lower() == AUTO_QUANT
    if chooses:
        yield LOOKING
        try:
            wanted, why = await _chosen(services, wanted)
        except LocalllmError as error:
            yield failed_from(error, tells_folders=True)
            return
        yield PullStatus(why)
    async with aclosing(services.pulls.follow(str(parse_name(name)), wanted)) as events:
        async for event in events:
            if not (chooses and event == LOOKING):  # which was said
                yield event


async def _chosen(services: Services, wanted: PullRequest) -> tuple[PullRequest, str]:
    """The request for the quant that is best for this machine, and why it is. Raises LocalllmErrors."""
    found = await peeked(msgspec.structs.replace(wanted, choice=""))
    wishes = wishes_from(services.settings, found.options, embeds=found.is_embedding_model)
    room = await services.planner.room(found.estimate, wishes)
    usual = Quant(found.quant, found.size_bytes)
    others = [Quant(other.label, other.size_bytes) for other in found.others]
    quant, why = await asyncio.to_thread(largest_quant, found.estimate, usual, others, room, wishes)
    return msgspec.structs.replace(wanted, choice=quant.label), why


class PullResponse:
    """An ASGI response: the events of a pull or a create as lines, or the last alone.

    A header names the fields of the request that are `ignored`.
    """

    def __init__(
        self,
        events: AsyncGenerator[Progress, None],
        activity: Activity,
        *,
        is_stream: bool,
        ignored: tuple[str, ...] = (),
    ) -> None:
        self._events = events
        self._activity = activity
        self._is_stream = is_stream
        self._told = [(name.encode(), value.encode()) for name, value in told_headers(ignored).items()]
        self._failed: asyncio.Future[Failed] = asyncio.get_running_loop().create_future()
        self._has_ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; returns once the last byte is written, or the client is gone, and this client's part has ended."""
        writer = asyncio.create_task(self._write(send))
        watch = asyncio.create_task(_wait_until_gone(receive))
        try:
            with self._activity.answer(self):
                await asyncio.wait((writer, watch, self._failed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_gone = watch.done()
            watch.cancel()
            if not self._has_ended:  # after its last word it only tidies up, and whoever has all may go
                writer.cancel()
            await asyncio.wait((writer, watch))
        if writer.cancelled():
            if not is_gone and self._failed.done():
                await self._end_with(self._failed.result(), send)
            else:
                logger.info("the client left before its pull was complete")
        elif error := writer.exception():
            logger.error("a pull failed in a way nobody foresaw", exc_info=error)
            await self._end_with(INTERNAL, send)

    def fail(self, error: LocalllmError) -> None:
        """End the answer with `error`, whatever has been written."""
        if not self._failed.done():
            self._failed.set_result(failed_from(error, tells_folders=True))

    async def _write(self, send: Send) -> None:
        if self._is_stream:
            # At once, as Ollama does: what fails later is told in the stream, and clients read it there.
            await self._start(send, 200, NDJSON_MEDIA_TYPE)
        async with aclosing(self._events) as events:
            async for event in events:
                if is_last(event):
                    await self._write_last(event, send)
                elif self._is_stream and (line := encode_event(event)):
                    await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})

    async def _write_last(self, event: Progress, send: Send) -> None:
        if isinstance(event, Failed):
            await self._end_with(event, send)
            return
        await self._write_end(encode_event(event), 200, send)

    async def _end_with(self, failed: Failed, send: Send) -> None:
        await self._write_end(encode_event(failed), failed.status, send)

    async def _write_end(self, body: bytes, status: int, send: Send) -> None:
        self._has_ended = True
        if not self._is_stream:
            await self._start(send, status, JSON_MEDIA_TYPE)
        line_break = b"\n" if self._is_stream else b""
        await send({"type": "http.response.body", "body": body + line_break})

    async def _start(self, send: Send, status: int, media_type: str) -> None:
        headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-cache"), *self._told]
        await send({"type": "http.response.start", "status": status, "headers": headers})


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
