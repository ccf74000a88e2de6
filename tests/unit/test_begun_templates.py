"""Answers that go on from the conversation's last message, in the templates of known models."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from chat_templates import upstream_templates

from localllm.chat.templates import Template, open_template
from localllm.generation import Message, ToolCall

QUESTION = Message("user", "Is it far?")
BEGUN = Message("assistant", "It is not")
CALL = Message("assistant", tool_calls=(ToolCall("a1b2c3d4e", "distance", '{"to":"Rome"}'),))
RESULT = Message("tool", "12 km", tool_name="distance", tool_call_id="a1b2c3d4e")
HAS_NO_TOOLS = {"google-gemma-2-2b-it"}


def opened(source: str) -> Template:
    return open_template(source, bos_token="<s>", eos_token="</s>", today=lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("think", [None, True, False])
def test_every_known_template_ends_with_the_answer_that_is_begun(think: bool | None) -> None:
    for name, source in upstream_templates().items():
        template = opened(source)
        for talk in ([QUESTION, BEGUN], *([] if name in HAS_NO_TOOLS else [[QUESTION, CALL, RESULT, BEGUN]])):
            prompt = template.render(talk, think=think, continue_final_message=True)
            assert (name, BEGUN.content) == (name, prompt[-len(BEGUN.content) :])
