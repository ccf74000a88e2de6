"""How long the templates take to render a conversation of 60,000 tokens."""

from __future__ import annotations

import gc
import json
import time
from datetime import datetime

import pytest
from chat_templates import upstream_templates

from localllm.chat.template import ChatTemplate
from localllm.generation import Message, Tool, ToolCall

# What is done for each message costs most, so those that do most.
SLOWEST = ["Kimi-K3", "google-gemma-4-31B-it", "Cohere2MoE", "deepseek-ai-DeepSeek-V3.2"]
# 50 ms, in times of `yardstick`: 10 ms on an idle core of a server of 2023, more where cores are shared.
LIMIT = 5.0
CHARACTERS = 240_000  # 60,000 tokens and more
TEXT = "The quick brown fox jumps over the lazy dog, and then it goes home. " * 10
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"at": {}}}}
TOOLS = (Tool("look", json.dumps({"type": "function", "function": FUNCTION})),) * 12


def long_conversation() -> list[Message]:
    turns: list[Message] = []
    while sum(len(turn.content) for turn in turns) < CHARACTERS:
        call = ToolCall(f"call_abcd{len(turns):05}", "look", json.dumps({"at": TEXT[:200], "times": len(turns)}))
        turns += [
            Message("user", TEXT),
            Message("assistant", tool_calls=(call,)),
            Message("tool", TEXT, tool_name="look", tool_call_id=call.id),
            Message("assistant", TEXT),
        ]
    return [*turns, Message("user", "And now?")]


def yardstick() -> float:
    """How long this machine takes, just now, for things like those that a template does."""
    begun = time.thread_time()
    values = {"a": 1}
    for number in range(100_000):
        values.get("a")
        str(number)
    return time.thread_time() - begun


def seconds_of(template: ChatTemplate, turns: list[Message]) -> float:
    begun = time.thread_time()
    assert len(template.render(turns, TOOLS)) > CHARACTERS
    return time.thread_time() - begun


@pytest.mark.parametrize("name", SLOWEST)
def test_a_long_conversation_is_rendered_in_a_twentieth_of_a_second(name):
    template = ChatTemplate(upstream_templates()[name], bos_token="<s>", today=lambda: datetime(2031, 2, 3))
    turns = long_conversation()
    seconds_of(template, turns)
    gc.collect()
    gc.freeze()  # as the runner does with what it has loaded
    try:
        assert min(seconds_of(template, turns) / yardstick() for _ in range(12)) < LIMIT
    finally:
        gc.unfreeze()
