"""Templates in the manner of GLM-4: tools stand in a turn, and a call is a turn's metadata and its text."""

from __future__ import annotations

import itertools
import json
from datetime import datetime

import pytest
from random_answers import answers

from localllm.chat.formats import detect
from localllm.chat.parser import OutputParser
from localllm.chat.syntax import Channels
from localllm.chat.template import ChatTemplate
from localllm.generation import (
    ContentDelta,
    GenerationRequest,
    Message,
    Options,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
)

TOOLS_IN_A_TURN = """\
{%- for m in messages -%}
{%- for t in m['tools'] or [] %}({{ t.function.name }}){% endfor -%}
{%- if m.content %}<|{{ m.role }}|>{{ m.metadata }}{{ '\\n' ~ m.content }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}"""
TOOLS_BEFORE_THEM = """\
{%- for t in tools or [] %}({{ t.function.name }}){% endfor -%}
{%- for m in messages %}<|{{ m.role }}|>{{ m.get('metadata', '') }}{{ '\\n' ~ m.content }}{% endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}"""
SCHEMA = {
    "type": "object",
    "properties": {"at": {"enum": ["here", "there"]}},
    "required": ["at"],
    "additionalProperties": False,
}
LOOK = Tool("look", json.dumps({"type": "function", "function": {"name": "look", "parameters": SCHEMA}}))
CALL = '{"at": "here"}'
both = pytest.mark.parametrize("source", [TOOLS_IN_A_TURN, TOOLS_BEFORE_THEM])


def opened(source: str) -> ChatTemplate:
    return ChatTemplate(source, today=lambda: datetime(2031, 2, 3))


@both
def test_a_call_is_written_as_metadata_and_text_and_its_result_as_an_observation(source):
    calls = (ToolCall("1", "look", CALL), ToolCall("2", "other", "{}"))
    turns = [Message("user", "Q"), Message("assistant", "T", tool_calls=calls)]
    results = [Message("tool", "a", tool_call_id="1"), Message("tool", "b", tool_call_id="2")]
    shown = opened(source).render([*turns, *results], [LOOK])
    first = f"<|assistant|>look\n{CALL}<|observation|>\na"
    told = f"<|assistant|>\nT{first}<|assistant|>other\n{{}}<|observation|>\nb<|assistant|>"
    assert f"(look)<|user|>\nQ{told}" == shown


@both
def test_its_answers_are_messages_that_begin_with_a_name_or_none(source):
    found = detect(opened(source))
    assert Channels("<|assistant|>", "\n", (), text="", recipient="") == found.channels
    assert ("completion", "tools") == found.capabilities
    assert not found.parallel_calls


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\nIt is {so}:\n\nyes", ("It is {so}:\n\nyes", [])),
        (f"look\n{CALL}", ("", [("look", CALL)])),
        (f"nobody\n{CALL}", (f"nobody\n{CALL}", [])),
        ("look\nat this", ("look\nat this", [])),
        ("\nlook\n{}", ("look\n{}", [])),
        (f"\nI look.<|assistant|>look\n{CALL}", ("I look.", [("look", CALL)])),
        ("Yes", ("Yes", [])),
    ],
)
def test_an_answer_is_a_text_or_a_call_however_it_is_cut(answer, expected):
    found = detect(opened(TOOLS_IN_A_TURN))
    for pieces in ([answer], list(answer), *([answer[:at], answer[at:]] for at in range(1, len(answer)))):
        numbers = itertools.count()
        parser = OutputParser(found, [LOOK], prompt="<|assistant|>", new_call_id=lambda: f"call_{next(numbers)}")  # noqa: B023
        events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
        text = "".join(event.text for event in events if isinstance(event, ContentDelta))
        calls = [event for event in events if isinstance(event, ToolCallDelta)]
        names = [event.name for event in calls if event.name]
        arguments = "".join(event.arguments for event in calls)
        assert expected == (text, [(name, arguments) for name in names])


@both
@pytest.mark.parametrize("marks", [(), ("<|assistant|>",)])
def test_a_demanded_call_follows_its_schema(source, marks):
    request = GenerationRequest(
        "m", messages=(Message("user", "Q"),), tools=(LOOK,), tool_choice=ToolChoice("required"), options=Options()
    )
    for said in answers(request, source, marks=marks):
        ((name, arguments),) = said.calls
        assert ("tool_calls", "look", "") == (said.reason, name, said.content)
        assert json.loads(arguments)["at"] in ("here", "there")
