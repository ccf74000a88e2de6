"""What every known template writes is parsed back: calls, thinking and text, however the text is cut into pieces."""

from __future__ import annotations

import itertools
import json
import random
import re
from datetime import datetime
from pathlib import Path

import pytest
from chat_templates import upstream_templates

from localllm.chat.formats import OutputFormat, detect
from localllm.chat.parser import OutputParser
from localllm.chat.probes import place_behind
from localllm.chat.syntax import CallSyntax, Syntax, common_length, whole_tags
from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError
from localllm.generation import ContentDelta, Event, Message, ThinkingDelta, Tool, ToolCall, ToolCallDelta
from localllm.store.model import Facts, capabilities_of

GOLDEN = Path(__file__).parent.parent / "golden" / "template_formats.json"
FORMATS: dict[str, dict[str, object]] = json.loads(GOLDEN.read_text())

# Cases that cannot be read back, and why.
LOSSES: dict[str, dict[str, str]] = {
    "LFM2.5-8B-A1B": {"code": "its template writes quotes into Python's texts as they are"},
    "MiniMax-M3": {"nested": "its template leaves null out"},
    "NVIDIA-Nemotron-Nano-v2": dict.fromkeys(
        ["text and a call", "text", "thinking", "thinking, text and a call"],
        "its template writes answers behind an open <think>",
    ),
    "openai-gpt-oss-120b": dict.fromkeys(
        ["text and a call", "thinking, text and a call"], "its template writes text before a call as thinking"
    ),
}
# Command R+ wants a schema of each object property and array item that these tools do not have.
REFUSES = {"CohereForAI-c4ai-command-r-plus-tool_use"}
SORTS_ARGUMENTS = {"google-gemma-4-31B-it", "google-gemma-4-31B-it-interleaved"}
# End-of-generation tokens of their vocabularies: no model writes what its template writes behind them.
TURN_ENDS = ("<SPECIAL_12>", "<|tool_response>", "<｜hy_eos:opensource｜>", "<｜end▁of▁sentence｜>")

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "rate": {"type": "number"},
        "on": {"type": "boolean"},
        "tags": {"type": "array", "items": {}},
        "more": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def tool(name: str) -> Tool:
    function = {"name": name, "description": f"Does {name}.", "parameters": SCHEMA}
    return Tool(name, json.dumps({"type": "function", "function": function}))


TOOLS = (tool("do_it"), tool("do_more"))
NAMES = frozenset(one.name for one in TOOLS)
QUESTION = Message("user", "Zquestion?")
CODE = 'if a < b and "x" != \'y\':\n    print(f"{a}\\n")  # </b> é 漢字 🙂'
CASES: dict[str, Message] = {
    "a call": Message("assistant", tool_calls=(ToolCall("abcd12345", "do_it", '{"text": "Zürich", "count": 3}'),)),
    "no arguments": Message("assistant", tool_calls=(ToolCall("abcd12345", "do_it", "{}"),)),
    "order": Message(
        "assistant", tool_calls=(ToolCall("abcd12345", "do_it", '{"rate": 0.5, "count": 3, "text": "3"}'),)
    ),
    "code": Message("assistant", tool_calls=(ToolCall("abcd12345", "do_it", json.dumps({"text": CODE, "on": False})),)),
    "nested": Message(
        "assistant",
        tool_calls=(ToolCall("abcd12345", "do_it", '{"tags": [1, "a", [true, null]], "more": {"k": {"l": "m"}}}'),),
    ),
    "two calls": Message(
        "assistant",
        tool_calls=(
            ToolCall("abcd12345", "do_it", '{"text": "a"}'),
            ToolCall("efgh67890", "do_more", '{"count": 1}'),
        ),
    ),
    "text and a call": Message(
        "assistant", "I will look.", tool_calls=(ToolCall("abcd12345", "do_it", '{"text": "a b"}'),)
    ),
    "text": Message("assistant", "It is < 5 [or so] {really}."),
    "thinking": Message("assistant", "It is.", thinking="I think {so} < far.\nYes."),
    "thinking, text and a call": Message(
        "assistant", "I will look.", "Let me see.", (ToolCall("abcd12345", "do_it", '{"text": "a\\nb"}'),)
    ),
    "thinking and a call": Message(
        "assistant", thinking="Let me see.", tool_calls=(ToolCall("abcd12345", "do_it", '{"text": "a"}'),)
    ),
}


def opened(name: str) -> ChatTemplate:
    source = upstream_templates()[name]
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", today=lambda: datetime(2031, 2, 3))


def written(template: ChatTemplate, found: OutputFormat, reply: Message) -> tuple[str, str, bool] | None:
    """What the model would have generated for `reply`, what stands before it, and whether that is thinking already.

    None when the template refuses.
    """

    def show(*turns: Message, prompts: bool = False) -> str:
        turns = (QUESTION, *turns)
        return template.render(turns, TOOLS, think=reply.thinking is not None, add_generation_prompt=prompts)

    try:
        prompt, full, plain = show(prompts=True), show(reply), show(Message("assistant", "Zanswer"))
    except TemplateError:
        return None
    place = place_behind(prompt, full)
    if place is None:  # tools that are shown before the last turn only, if that is the user's
        place = place_behind(template.render([QUESTION], think=reply.thinking is not None), full)
    begin = whole_tags(full, common_length(prompt, full)) if place is None else place
    end = whole_tags(full, len(full) - common_length(full[begin:][::-1], plain[::-1]))
    text = full[begin:end]
    for tag in TURN_ENDS:
        text = text.partition(tag)[0]
    return text, full[:begin], _is_open(text, prompt, reply, found)


def _is_open(text: str, prompt: str, reply: Message, found: OutputFormat) -> bool:
    """Whether the model is inside thinking where this text begins, although it does not stand before it."""
    if found.thinking is None:
        return False
    # Behind a prompt that opens thinking, a model that does not think begins with the end of it.
    if text.startswith(found.thinking.end):
        return not found.thinking.ends_alone
    thinks = bool(reply.thinking) and reply.thinking in text and found.thinking.start not in text
    return thinks and found.opens_thinking(prompt)


def as_detokenized(text: str, found: OutputFormat) -> str:
    """The engine drops the text of control tokens that are not preserved, as <|START_RESPONSE|> is not."""
    return re.sub(r"<\|\w+\|>", lambda tag: tag.group() if tag.group() in found.markers else "", text)


def normal(arguments: str, is_sorted: bool) -> str:
    return json.dumps(json.loads(arguments), sort_keys=is_sorted)


def parsed(
    found: OutputFormat, pieces: list[str], prompt: str, opens: bool, is_sorted: bool, *, early: bool
) -> list[tuple[str, ...]]:
    numbers = itertools.count()
    parser = OutputParser(
        found,
        TOOLS,
        prompt=prompt,
        prompt_opens_thinking=opens,
        early=NAMES if early else frozenset(),
        new_call_id=lambda: f"call_{next(numbers)}",
    )
    events: list[Event] = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    assert not parser.has_unfinished_call
    said = {"thinking": "", "content": ""}
    calls: list[tuple[str, str]] = []
    for event in events:
        match event:
            case ThinkingDelta(text):
                said["thinking"] += text
            case ContentDelta(text):
                said["content"] += text
            case ToolCallDelta(_, _, str(name), _):
                calls.append((name, ""))
            case ToolCallDelta(_, _, _, arguments):
                calls[-1] = (calls[-1][0], calls[-1][1] + arguments)
    return [
        ("thinking", said["thinking"].strip()),
        ("content", said["content"].strip()),
        *((name, normal(arguments, is_sorted)) for name, arguments in calls),
    ]


def expected(reply: Message, text: str, is_sorted: bool) -> list[tuple[str, ...]]:
    """What stands in the text: some templates leave thinking out, or text beside a call, or the calls."""
    thinking = reply.thinking if reply.thinking and reply.thinking in text else ""
    content = reply.content if reply.content in text else ""
    calls = [call for call in reply.tool_calls if call.name in text]
    return [
        ("thinking", thinking),
        ("content", content),
        *((call.name, normal(call.arguments, is_sorted)) for call in calls),
    ]


def names() -> list[str]:
    try:
        return sorted(upstream_templates())
    except pytest.skip.Exception:
        return []  # test_render_conformance says why


def cases_of(name: str, found: OutputFormat) -> dict[str, Message]:
    """The replies that this model can give."""
    if name in REFUSES:
        return {}
    return {
        case: reply
        for case, reply in CASES.items()
        if (found.calls or not reply.tool_calls)
        and (found.parallel_calls or len(reply.tool_calls) < 2)
        and (found.thinking or not reply.thinking)
        and case not in LOSSES.get(name, ())
    }


def described(found: OutputFormat) -> dict[str, object]:
    """A format as the reviewed table has it."""
    return {
        "capabilities": [*found.capabilities, *(["parallel"] if found.calls and found.parallel_calls else [])],
        "calls": _names_of(found.calls),
        "call_starts": list(found.calls.starts) if found.calls else [],
        "thinking": [found.thinking.start, found.thinking.end] if found.thinking else None,
        "text": [found.answer.start, *found.answer.ends] if found.answer else None,
        "channels": [found.channels.text, found.channels.thinking, found.channels.recipient]
        if found.channels
        else None,
    }


def _names_of(calls: Syntax | None) -> str | None:
    """The kind of its syntax; Llama 3.1 and 3.3 write calls of the tools they were trained on in another one, too."""
    parts = [calls, calls.other if isinstance(calls, CallSyntax) else None]
    return " or ".join(type(part).__name__ for part in parts if part) or None


def test_the_table_has_every_template():
    assert sorted(upstream_templates()) == sorted(FORMATS)
    assert {*LOSSES, *REFUSES, *SORTS_ARGUMENTS} <= set(FORMATS)


@pytest.mark.parametrize("name", names())
def test_the_format_of_a_template_is_the_reviewed_one(name):
    assert FORMATS[name] == described(detect(opened(name)))


@pytest.mark.parametrize("name", ["meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"])
def test_a_call_of_a_tool_that_llama_was_trained_on_is_parsed_back(name):
    template, call = opened(name), ToolCall("1", "do_it", '{"text": "Zürich (é), it is", "more": "x"}')
    turns = [QUESTION, Message("assistant", tool_calls=(call,))]
    shown = template.render(turns, TOOLS, add_generation_prompt=False, variables={"builtin_tools": ["do_it"]})
    text = shown[shown.index("<|python_tag|>") :].removesuffix("<|eom_id|>")
    assert text.startswith("<|python_tag|>do_it.call(")
    for pieces in ([text], list(text), *([text[:at], text[at:]] for at in range(1, len(text)))):
        said = parsed(detect(template), pieces, "", False, False, early=False)
        assert [("thinking", ""), ("content", ""), ("do_it", normal(call.arguments, False))] == said


# SmolLM3 (in this edition), Gemma 2, Phi 3.5 and RWKV have no calls in the table: their templates write none at all.
# Programs behind <|python_tag|> are test_programs' business.
# Llama's calls of built-in tools hold texts between quotes that its template does not escape: one with a quote in it is
# read only where the model escapes it.
# Their templates show calls, and no tools: what a client says of its tools in words may still be answered with calls.
CALLS_WITHOUT_TOOLS = {
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
}


def test_the_capabilities_that_the_daemon_tells_without_running_a_template_are_the_same():
    told = {name: set(capabilities_of(Facts(), source)) for name, source in upstream_templates().items()}
    found = {name: {*FORMATS[name]["capabilities"]} - {"parallel"} for name in told}
    assert {name: found[name] | ({"tools"} if name in CALLS_WITHOUT_TOOLS else set()) for name in found} == told


@pytest.mark.parametrize("name", names())
def test_what_a_template_writes_is_parsed_back(name):
    template = opened(name)
    found = detect(template)
    chance = random.Random(name)
    is_sorted = name in SORTS_ARGUMENTS
    cases = cases_of(name, found)
    sample = chance.choice(sorted(cases)) if cases else None
    for case, reply in cases.items():
        answer = written(template, found, reply)
        assert answer is not None, case
        raw, prompt, opens = answer
        for text in {raw, as_detokenized(raw, found)}:
            cuts = sorted(chance.sample(range(len(text) + 1), min(5, len(text))))
            pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
            halves = [[text[:at], text[at:]] for at in range(1, len(text))] if case == sample else []
            for cutting, early in itertools.product(([text], list(text), pieces, *halves), (False, True)):
                got = parsed(found, cutting, prompt, opens, is_sorted, early=early)
                assert (case, expected(reply, text, is_sorted)) == (case, got)
