"""The bodies of requests while they come: how large one may get, and how slowly it may come.

A body must not stand still for `body_seconds`, nor come slower than LEAST_BYTES_PER_SECOND once these have passed: who
sends a byte now and then holds nothing for long, and a slow upload that makes progress goes on. What has come already
is never too late, so that a slow disk is not blamed on the client.
"""

from __future__ import annotations

import asyncio
import math

from starlette.types import Message, Receive

from localllm.errors import PayloadTooLargeError, SlowBodyError

LEAST_BYTES_PER_SECOND = 1000


def limited(receive: Receive, most_bytes: float, body_seconds: float) -> Receive:
    """`receive` with these limits; it raises PayloadTooLargeError and SlowBodyError. Infinity is no limit."""
    loop = asyncio.get_running_loop()
    begun_at = loop.time()
    seen_bytes = 0
    is_complete = False

    async def receive_limited() -> Message:
        nonlocal seen_bytes, is_complete
        if is_complete:  # what comes now is the news that the client is gone
            return await receive()
        message = await _in_time(receive, deadline(loop.time(), begun_at, seen_bytes, body_seconds), body_seconds)
        if message["type"] == "http.request":
            seen_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if seen_bytes > most_bytes:
                raise PayloadTooLargeError(int(most_bytes))
        return message

    return receive_limited


def deadline(now: float, begun_at: float, seen_bytes: int, body_seconds: float) -> float:
    """Until when more of a body must come."""
    return min(now + body_seconds, begun_at + body_seconds + seen_bytes / LEAST_BYTES_PER_SECOND)


async def _in_time(receive: Receive, until: float, body_seconds: float) -> Message:
    if math.isinf(until):
        return await receive()
    try:
        async with asyncio.timeout_at(until):
            return await receive()
    except TimeoutError:
        raise SlowBodyError(
            f"the body of the request stood still for {body_seconds:g} s, or came slower than 1 kB a second",
            hint="send it again over a better connection, or raise LOCALLLM_BODY_TIMEOUT",
        ) from None
