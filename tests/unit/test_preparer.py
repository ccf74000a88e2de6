"""The thread that prepares requests: what takes long and is not the template's fault is over before its time counts."""

from __future__ import annotations

import os
import queue
from datetime import UTC, datetime

import pytest

from localllm.engine.fake import FakeBackend
from localllm.generation import GenerationRequest, Message, ResponseFormat, Tool
from localllm.runner import protocol
from localllm.runner.conversation import Conversations, Sources
from localllm.runner.preparer import Pipe, Preparer

WEATHER = Tool("get_weather", '{"type":"function","function":{"name":"get_weather"}}')
READY = protocol.LoadProgress(1.0)


def messages_about(**fields: object) -> list[type]:
    """What a preparer says about one request, in kinds; making ready says READY."""
    from_daemon, _ = os.pipe()
    from_child, to_daemon = os.pipe()
    pipe = Pipe(from_daemon, to_daemon)
    sources = Sources(lambda: 1, lambda: "call", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    work: queue.SimpleQueue = queue.SimpleQueue()
    inbox: queue.SimpleQueue = queue.SimpleQueue()
    conversations = Conversations(FakeBackend(), None, sources)
    Preparer(pipe, conversations, inbox, work, lambda: pipe.send(READY)).start()
    request = GenerationRequest("m", messages=(Message("user", "hi"),), **fields)
    work.put(protocol.Generate(1, request))
    inbox.get(timeout=10)
    said: list[object] = []
    with os.fdopen(from_child, "rb") as answers:
        while not isinstance(said[-1] if said else None, protocol.RenderEnded):
            said.append(protocol.decode_from_runner(answers.read(protocol.frame_length(answers.read(4)))))
    return [type(message) for message in said]


@pytest.mark.parametrize("fields", [{"tools": (WEATHER,)}, {"response_format": ResponseFormat("json_object")}])
def test_what_held_answers_need_is_built_before_the_templates_time_begins(fields):
    wanted = [protocol.LoadProgress, protocol.RenderStarted, protocol.RenderEnded]
    assert wanted == messages_about(**fields)


def test_a_free_answer_needs_none_of_it():
    assert [protocol.RenderStarted, protocol.RenderEnded] == messages_about()
