"""How long a body may take: no standstill, and a pace; whatever has come is never too late."""

from __future__ import annotations

import asyncio
import math

import pytest

from localllm.errors import PayloadTooLargeError, SlowBodyError
from localllm.server.bodies import LEAST_BYTES_PER_SECOND, deadline, limited


@pytest.mark.parametrize(
    ("now", "seen_bytes", "until"),
    [
        (100.0, 0, 110.0),  # nothing has come: as long as a standstill may be
        (105.0, 0, 110.0),  # and no longer, however often it is looked at
        (105.0, 1, 110.001),  # a byte buys a millisecond
        (105.0, 20_000, 115.0),  # who was fast may stand still once more
        (500.0, 400_000, 510.0),
        (500.0, 390_500, 500.5),
    ],
)
def test_a_deadline_is_the_earlier_of_a_standstill_and_the_pace(now, seen_bytes, until):
    assert math.isclose(until, deadline(now, 100.0, seen_bytes, body_seconds=10.0))
    assert 1000 == LEAST_BYTES_PER_SECOND


def receiving(*messages):
    """What an HTTP server gives, piece by piece; a number is a wait, and after the last there is nothing for ever."""
    waiting = list(messages)

    async def receive():
        while waiting and isinstance(waiting[0], float):
            await asyncio.sleep(waiting.pop(0))
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


def piece(size: int, *, more: bool = True) -> dict:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


async def everything(receive, count: int) -> list[int]:
    return [len((await receive())["body"]) for _ in range(count)]


def test_a_body_that_comes_in_time_is_passed_on_and_what_comes_after_it_may_take_for_ever():
    async def scenario():
        receive = limited(receiving(piece(3), 0.02, piece(2, more=False), 0.2, {"type": "http.disconnect"}), 5, 0.1)
        assert [3, 2] == await everything(receive, 2)
        assert "http.disconnect" == (await receive())["type"]  # later than any limit of the body's

    asyncio.run(scenario())


def test_a_body_that_stands_still_or_is_too_large_is_refused():
    async def scenario():
        with pytest.raises(SlowBodyError):
            await everything(limited(receiving(piece(1), 5.0, piece(1)), math.inf, 0.05), 2)
        with pytest.raises(PayloadTooLargeError):
            await everything(limited(receiving(piece(3), piece(3)), 5, 1.0), 2)

    asyncio.run(scenario())


def test_a_body_without_limits_is_waited_for():
    async def scenario():
        receive = limited(receiving(0.05, piece(10, more=False)), math.inf, math.inf)
        assert [10] == await everything(receive, 1)

    asyncio.run(scenario())
