"""How events become writes, seen from the ASGI side: what is there at once goes out at once, in one piece."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_scheduler import FakePlanner, FakeScheduler, FakeStore

from localllm.config import load_settings
from localllm.dialects.ollama_encode import OllamaEncoder
from localllm.generation import ContentDelta, Finished
from localllm.server.activity import Activity
from localllm.server.progress import Progress
from localllm.server.pulls import Pulls
from localllm.server.services import Clock, Services
from localllm.server.streaming import AnswerResponse

NOW_NS = 1_767_323_045_000_000_000


async def writes_of(events) -> list[bytes]:
    """The bodies an answer sends for what an async generator gives."""
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    with ThreadPoolExecutor(1) as store_thread:
        services = Services(
            load_settings({}),
            FakeStore(),
            FakeScheduler(),
            FakePlanner(),
            store_thread,
            Clock(lambda: 0.0, lambda: NOW_NS),
            str,
            Activity(lambda: 0.0),
            Pulls(FakeStore().register),
        )
        answer = AnswerResponse(events, OllamaEncoder("generate", "m"), services, Progress(None), is_stream=True)
        await answer({}, receive, send)
    assert ["http.response.start"] == [message["type"] for message in sent if "body" not in message]
    return [message["body"] for message in sent if "body" in message]


async def letters(text: str, pause):
    for letter in text:
        yield ContentDelta(letter)
        await pause()
    yield Finished("stop")


async def no_pause():
    """Returns without giving way: the next event is there at once."""


async def step():
    """Long enough for everything else to run once, as an engine's step is."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("pause", "lines_per_write"), [(no_pause, [4]), (step, [1, 1, 1, 1])])
def test_one_write_holds_all_events_that_are_there_and_waits_for_none(pause, lines_per_write):
    writes = asyncio.run(writes_of(letters("abc", pause)))
    assert lines_per_write == [write.count(b"\n") for write in writes]
