"""What the parser makes of a model's text: thinking, calls in each syntax, and text that only looks like them."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.formats import HERMES_CALLS, LLAMA_CALLS, MISTRAL_CALLS, THINK_TAGS, CallSyntax, OutputFormat
from localllm.chat.parser import OutputParser
from localllm.chat.syntax import PythonSyntax
from localllm.chat.tools import call_ids
from localllm.generation import ContentDelta, Event, ThinkingDelta, Tool, ToolCallDelta

QWEN = OutputFormat(thinking=THINK_TAGS, calls=HERMES_CALLS)
LLAMA = OutputFormat(calls=LLAMA_CALLS)
MISTRAL = OutputFormat(calls=MISTRAL_CALLS)
DEEPSEEK = OutputFormat(thinking=THINK_TAGS)
LISTED = OutputFormat(calls=CallSyntax(starts=("<calls>",), opening="[", separator=",", closing="]", end="</calls>"))
BARE = OutputFormat(calls=CallSyntax((), opening="[", separator=",", closing="]", bare=True))
# Llama 3.1: built-in tools are called in another way behind the same mark.
BUILTIN = OutputFormat(calls=replace(LLAMA_CALLS, other=PythonSyntax(("<|python_tag|>",), method=".call")))
FORMATS = {
    "builtin": BUILTIN,
    "bare": BARE,
    "qwen": QWEN,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "deepseek": DEEPSEEK,
    "listed": LISTED,
}
TOOLS = (Tool("add", "{}"), Tool("now", "{}"))


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def events_of(output_format: OutputFormat, pieces: list[str], *, tools: tuple[Tool, ...] = TOOLS, opened: bool = False):
    numbers = itertools.count()
    parser = OutputParser(
        output_format, tools, prompt_opens_thinking=opened, new_call_id=lambda: f"call_{next(numbers)}"
    )
    events: list[Event] = []
    for piece in pieces:
        events += parser.feed(piece)
    return events + parser.finish()


def joined(events: list[Event]) -> list[tuple[str, ...]]:
    """Events with neighbours joined: ("content", text), ("thinking", text), ("call", id, name, arguments)."""
    result: list[list[str]] = []
    for event in events:
        match event:
            case ContentDelta(text) | ThinkingDelta(text):
                kind = "content" if isinstance(event, ContentDelta) else "thinking"
                assert text, "an empty delta"
                if result and result[-1][0] == kind:
                    result[-1][1] += text
                else:
                    result.append([kind, text])
            case ToolCallDelta(index, call_id, name, arguments):
                if name is not None:
                    result.append(["call", call_id, name, arguments])
                else:
                    assert result[-1][0] == "call"
                    assert result[-1][1] == f"call_{index}"
                    result[-1][3] += arguments
    return [tuple(item) for item in result]


def call(index: int, name: str, arguments: str) -> tuple[str, ...]:
    return ("call", f"call_{index}", name, arguments)


ADD = '{"name": "add", "arguments": {"b": 2, "a": 1}}'
CASES = [
    ("qwen", "Hello.", [("content", "Hello.")]),
    ("qwen", " Hello. \n", [("content", " Hello. \n")]),
    ("qwen", "<think>\nHm.\n</think>\n\nYes.", [("thinking", "Hm."), ("content", "Yes.")]),
    ("qwen", "\n<think>a</think><think>b</think>c", [("thinking", "ab"), ("content", "c")]),
    ("qwen", "<think>\n\n</think>\n\nYes.", [("content", "Yes.")]),
    ("qwen", "<think>Hm. ", [("thinking", "Hm. ")]),
    ("qwen", "<think>a < b </thin", [("thinking", "a < b </thin")]),
    ("qwen", "A <think> tag.", [("content", "A <think> tag.")]),
    ("qwen", "<thinking>", [("content", "<thinking>")]),
    ("qwen", " <thi", [("content", " <thi")]),
    ("qwen", f"<tool_call>\n{ADD}\n</tool_call>", [call(0, "add", '{"b": 2, "a": 1}')]),
    ("qwen", f"Wait.\n<tool_call>{ADD}</tool_call>\n", [("content", "Wait."), call(0, "add", '{"b": 2, "a": 1}')]),
    ("qwen", f"<tool_call>{ADD}", [call(0, "add", '{"b": 2, "a": 1}')]),
    ("qwen", f"<tool_call>{ADD}</tool", [call(0, "add", '{"b": 2, "a": 1}'), ("content", "</tool")]),
    (
        "qwen",
        f'<tool_call>{ADD}</tool_call>\n<tool_call>\n{{"name":"now"}}</tool_call> Done.',
        [call(0, "add", '{"b": 2, "a": 1}'), call(1, "now", "{}"), ("content", "Done.")],
    ),
    (
        "qwen",
        f'<tool_call>{ADD}\n{{"name": "now", "arguments": null}}</tool_call>',
        [call(0, "add", '{"b": 2, "a": 1}'), call(1, "now", "{}")],
    ),
    (
        "qwen",
        f"<think>I say <tool_call>{ADD}</tool_call></think>No.",
        [("thinking", f"I say <tool_call>{ADD}</tool_call>"), ("content", "No.")],
    ),
    ("qwen", '<tool_call>{"name":"x","arguments":"{\\"q\\":\\"é\\"}"}', [call(0, "x", '{"q":"é"}')]),
    (
        "qwen",
        '<tool_call>{"arguments": {"s": "}</tool_call>{"}, "name": "x"}',
        [call(0, "x", '{"s": "}</tool_call>{"}')],
    ),
    ("qwen", '<tool_call>{"name":"x","arguments":{"s":"a\nb\\n"}}', [call(0, "x", '{"s":"a\\nb\\n"}')]),
    ("qwen", '<tool_call>{"name":"x","arguments":{"n":1.50,"m":1E400}}', [call(0, "x", '{"n":1.50,"m":1E400}')]),
    ("qwen", f"<tool_call><tool_call>{ADD}", [("content", "<tool_call>"), call(0, "add", '{"b": 2, "a": 1}')]),
    (
        "qwen",
        'x <tool_call>{"name": oops <tool_call>{"name":"now"}',
        [("content", 'x <tool_call>{"name": oops'), call(0, "now", "{}")],
    ),
    ("qwen", f"<tool_call>{ADD}}}</tool_call>", [call(0, "add", '{"b": 2, "a": 1}'), ("content", "}</tool_call>")]),
    ("llama", '{"name": "add", "parameters": {"a": 1}}', [call(0, "add", '{"a": 1}')]),
    ("llama", '\n\n{"name": "add", "parameters": {"a": 1}}\n', [call(0, "add", '{"a": 1}')]),
    ("llama", '{"type": "function", "name": "now", "parameters": {}}', [call(0, "now", "{}")]),
    ("llama", '<|python_tag|>{"name": "other", "parameters": {}}', [call(0, "other", "{}")]),
    (
        "llama",
        '{"name": "add", "parameters": {"a": 1}}; {"name": "now", "parameters": {}}',
        [call(0, "add", '{"a": 1}'), call(1, "now", "{}")],
    ),
    ("builtin", '<|python_tag|>add.call(b="x, (\\"y\\")", a=1)', [call(0, "add", '{"b": "x, (\\"y\\")", "a": 1}')]),
    ("builtin", "Wait.<|python_tag|> now.call()\n", [("content", "Wait."), call(0, "now", "{}")]),
    (
        "builtin",
        '<|python_tag|>{"name": "other", "parameters": {}}<|python_tag|>now.call()',
        [call(0, "other", "{}"), call(1, "now", "{}")],
    ),
    ("llama", '{"name": "now", "parameters": {}}; or so', [call(0, "now", "{}"), ("content", "; or so")]),
    ("llama", '{"name": "now", "parameters": {}} Done.', [call(0, "now", "{}"), ("content", "Done.")]),
    ("mistral", f"[TOOL_CALLS] [{ADD}]", [call(0, "add", '{"b": 2, "a": 1}')]),
    (
        "mistral",
        f'So: [TOOL_CALLS][{ADD}, {{"name": "now", "arguments": {{}}, "id": "abcdefghi"}}]',
        [("content", "So:"), call(0, "add", '{"b": 2, "a": 1}'), call(1, "now", "{}")],
    ),
    ("mistral", f"[TOOL_CALLS][{ADD}", [call(0, "add", '{"b": 2, "a": 1}')]),
    ("mistral", f"[TOOL_CALLS][{ADD}, nothing]", [call(0, "add", '{"b": 2, "a": 1}'), ("content", ", nothing]")]),
    ("mistral", f"[TOOL_CALLS][{ADD}]\nDone.", [call(0, "add", '{"b": 2, "a": 1}'), ("content", "Done.")]),
    (
        "listed",
        f"<calls>[{ADD}, {ADD}]</calls> x",
        [call(i, "add", '{"b": 2, "a": 1}') for i in (0, 1)] + [("content", "x")],
    ),
    ("bare", f' [{ADD}, {{"name": "now"}}]\n', [call(0, "add", '{"b": 2, "a": 1}'), call(1, "now", "{}")]),
    ("deepseek", f"<think>Hm</think>\n\n<tool_call>{ADD}", [("thinking", "Hm"), ("content", f"<tool_call>{ADD}")]),
]
NOT_CALLS = [
    ("bare", "[1, 2]"),
    ("bare", '[{"name": "nobody", "arguments": {}}]'),
    ("bare", "[] or [x]"),
    ("bare", f"So: [{ADD}]"),
    ("qwen", "Use <tool_call> and </tool_call>."),
    ("qwen", '<tool_call>\n{"name": "add", "arguments": {"a": 1'),
    ("qwen", '\n <tool_call>\n{"name": "add", "arguments": [1]}\n</tool_call>\n'),
    ("qwen", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
    ("qwen", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
    ("qwen", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    ("qwen", '<tool_call>{"name": "x", "arguments": "\\"\\\\ud800"}</tool_call>'),
    ("qwen", '<tool_call>{"name": "x", "arguments": {"a": NaN}}</tool_call>'),
    ("qwen", '<tool_call>{"name": "x", "arguments": {"a": 1,}}</tool_call>'),
    ("qwen", '<tool_call>{"name": "x" "arguments"]'),
    ("qwen", "<tool_call>{}</tool_call>"),
    ("qwen", "<tool_call>{:}</tool_call>"),
    ("qwen", "<tool_call>" + '{"name":' * 1_000),
    ("qwen", "<tool_call>  "),
    ("llama", '{"answer": 42, "name": "add"}'),
    ("llama", '{"name": "nobody", "parameters": {}}'),
    ("llama", 'Sure: {"name": "add", "parameters": {}}'),
    ("llama", '<|python_tag|>brave_search.call(query="x")'),
    ("builtin", '<|python_tag|>nobody.call(query="x")'),
    ("builtin", "<|python_tag|> \n add(a=1)"),
    ("builtin", 'add.call(query="x")'),
    ("builtin", '<|python_tag|>\nadd.call(query="x'),
    ("builtin", "<|python_tag|>add.call(1)"),
    ("builtin", "<|python_tag|>add.call"),
    ("llama", "{ not JSON }"),
    ("mistral", f"[TOOL_CALLS]{ADD}"),
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral", "[TOOL_CALLS] [ \n"),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_an_answer_becomes_these_events_whole_and_character_by_character(name, text, expected):
    assert expected == joined(events_of(FORMATS[name], [text]))
    assert expected == joined(events_of(FORMATS[name], list(text)))


def test_thinking_that_was_cut_short_may_end_twice_and_no_more_often():
    text = "<think>Hm</think>I think.\n</think>\n\nYes </think> it is."
    for pieces in ([text], list(text), *([text[:at], text[at:]] for at in range(len(text)))):
        parser = OutputParser(QWEN, TOOLS, cut_short=True, new_call_id=str)
        events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
        assert [("thinking", "Hm"), ("content", "I think.\n\n\nYes </think> it is.")] == joined(events)


@pytest.mark.parametrize(("name", "text"), NOT_CALLS)
def test_what_is_not_a_call_comes_back_exactly_as_content(name, text):
    assert [("content", text)] == joined(events_of(FORMATS[name], [text]))
    assert [("content", text)] == joined(events_of(FORMATS[name], [text[i : i + 7] for i in range(0, len(text), 7)]))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("qwen", '<tool_call>{"name": "add", "arguments": {"a": [1', [call(0, "add", '{"a": [1]}')]),
        ("llama", '{"name": "add", "parameters": {"a": 1}', [call(0, "add", '{"a": 1}')]),
        ("mistral", f"[TOOL_CALLS][{ADD[:-1]}", [call(0, "add", '{"b": 2, "a": 1}')]),
        ("qwen", '<tool_call>{"name": "add", "arguments": {"a": "b', None),
        ("qwen", '<tool_call>{"name": "add", "arguments": {"a": ', None),
        ("qwen", '<tool_call>{"arguments": {"a": 1}', None),
    ],
)
def test_a_call_that_lacks_only_its_last_brackets_gets_them_if_the_model_ended_it(name, text, expected):
    cut, stopped = (OutputParser(FORMATS[name], TOOLS, new_call_id=lambda: "call_0") for _ in range(2))
    assert [("content", text)] == joined(cut.feed(text) + cut.finish())
    assert cut.has_unfinished_call is (name != "llama")  # a bare object may be an answer in JSON
    assert (expected or [("content", text)]) == joined(stopped.feed(text) + stopped.finish(stopped=True))
    assert stopped.has_unfinished_call is (expected is None)


def test_without_tools_a_call_is_content():
    text = f"<tool_call>{ADD}</tool_call>"
    assert [("content", text)] == joined(events_of(QWEN, [text], tools=()))


def test_without_markers_thinking_is_content():
    assert [("content", "<think>a</think>b")] == joined(events_of(LLAMA, ["<think>a</think>b"]))


def test_an_answer_begins_inside_thinking_when_the_prompt_opened_it():
    assert [("thinking", "Hm."), ("content", "Yes.")] == joined(
        events_of(QWEN, ["\nHm.\n</think>\n\nYes."], opened=True)
    )


def test_content_streams_at_once_except_for_a_possible_marker():
    parser = OutputParser(QWEN, TOOLS, new_call_id=lambda: "call_x")
    assert [ContentDelta("Hello")] == parser.feed("Hello ")
    assert [ContentDelta(" a")] == parser.feed("a<tool")
    assert [ContentDelta("<tool box")] == parser.feed(" box")
    assert [] == parser.finish()


def test_a_json_answer_that_is_no_call_streams_from_its_first_key_on():
    parser = OutputParser(LLAMA, TOOLS, new_call_id=lambda: "call_x")
    assert [] == parser.feed('{"answer"')
    assert [ContentDelta('{"answer": "forty')] == parser.feed(': "forty')


def test_a_call_gives_its_name_first_and_then_its_arguments():
    parser = OutputParser(QWEN, TOOLS, new_call_id=lambda: "call_x")
    assert [
        ToolCallDelta(index=0, id="call_x", name="add"),
        ToolCallDelta(index=0, arguments='{"b": 2, "a": 1}'),
    ] == parser.feed(f"<tool_call>{ADD}")
    assert 1 == parser.call_count


def test_call_ids_are_as_ollama_makes_them():
    new_call_id = call_ids(random.Random(7))
    first, second = new_call_id(), new_call_id()
    assert first != second
    assert "call_" == first[:5]
    assert 13 == len(first)
    assert set(first[5:]) <= set("abcdefghijklmnopqrstuvwxyz0123456789")


def test_blanks_before_a_thinking_marker_that_comes_in_parts_are_eaten():
    assert [("thinking", "hm"), ("content", "yes")] == joined(
        events_of(FORMATS["deepseek"], ["\n", "<", "think>hm</think>", "yes"])
    )


FRAGMENTS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<calls>", "</calls>"),
    *("{", "}", "[", "]", ",", ";", ":", '"', "\\", "\n", " ", "a", "é", "<", '"name"', '"arguments"', '"add"', "NaN"),
    *(ADD, '{"name": "now"}', '{"name": "add", "parameters": {"s": "\\"}"}}', "<tool_c", "</think", "1", "\\ud800"),
]
texts = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
format_names = st.sampled_from(sorted(FORMATS))


@settings(max_examples=600, deadline=None)
@given(format_names, texts, st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_any_cutting_of_any_text_gives_the_same_events(name, text, cuts, opened):
    whole = joined(events_of(FORMATS[name], [text], opened=opened))
    assert whole == joined(events_of(FORMATS[name], pieces_of(text, cuts), opened=opened))
    assert whole == joined(events_of(FORMATS[name], list(text), opened=opened))


def bare_text(text: str, output_format: OutputFormat) -> str:
    """The text without blanks, markers and list brackets: what no parser may lose."""
    marks = [*output_format.markers, "[", "]", ",", ";"]
    text = "".join(text.split())
    for mark in marks:
        text = text.replace("".join(mark.split()), "")
    return text


@settings(max_examples=600, deadline=None)
@given(format_names, texts, st.booleans())
def test_nothing_of_any_text_is_lost(name, text, opened):
    events = joined(events_of(FORMATS[name], [text], opened=opened))
    if any(event[0] == "call" for event in events):
        for event in events:
            if event[0] == "call":
                assert isinstance(json.loads(event[3]), dict)
        said = "".join(event[1] for event in events if event[0] != "call")
        letters = bare_text(text, FORMATS[name])
        assert all(said.count(letter) <= text.count(letter) for letter in set(said))
        assert len(bare_text(said, FORMATS[name])) <= len(letters)
    else:
        said = "".join(event[1] for event in events)
        assert bare_text(text, FORMATS[name]) == bare_text(said, FORMATS[name])
    if [] == [event for event in events if event[0] != "content"] and "<think>" not in text and not opened:
        assert text == "".join(event[1] for event in events)


def calls_of(name: str, count: int) -> str:
    bodies = [json.dumps({"name": "add", "arguments": {"i": i, "s": 'q"\\é\n{}'}}) for i in range(count)]
    if name == "mistral":
        return f"[TOOL_CALLS][{', '.join(bodies)}]"
    if name == "listed":
        return f"<calls>[{', '.join(bodies)}]</calls>"
    if name == "llama":
        return "; ".join(bodies)
    return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["qwen", "llama", "mistral", "listed"]), st.integers(1, 3), st.data())
def test_a_damaged_call_is_a_call_or_comes_back_exactly(name, count, data):
    text = calls_of(name, count)
    at = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 5))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + length :]
    events = joined(events_of(FORMATS[name], list(damaged)))
    calls = [event for event in events if event[0] == "call"]
    assert all(isinstance(json.loads(arguments), dict) for _, _, _, arguments in calls)
    if not calls:
        assert damaged == "".join(text for _, text in events)


@pytest.mark.parametrize("name", ["qwen", "llama", "mistral", "listed"])
def test_undamaged_calls_come_out_with_their_own_argument_text(name):
    expected = [call(i, "add", json.dumps({"i": i, "s": 'q"\\é\n{}'})) for i in range(3)]
    assert expected == joined(events_of(FORMATS[name], list(calls_of(name, 3))))


@pytest.mark.parametrize(
    ("start", "filling"),
    [
        ("", "word "),
        ("", " \n"),
        ("", "<tool_cal"),
        ("<think>", "hm </thin"),
        ("<think>", "   "),
        ("<tool_call>", "   "),
        ('<tool_call>{"name": "x", "arguments": {"s": "', "text\\n"),
        ('<tool_call>{"name": "x", "arguments": {"s": [', '{"a": [1]}, '),
        (f"<tool_call>{ADD}", " \n"),
    ],
)
def test_a_megabyte_in_small_pieces_is_held_back_only_as_a_list_of_pieces(start, filling):
    # A parser that rescans or copies what it holds would handle 2**40 characters here.
    pieces = [start] + [filling] * (2**20 // len(filling))
    events = events_of(QWEN, pieces)
    said = "".join(event.text for event in events if isinstance(event, (ContentDelta, ThinkingDelta)))
    lost = {"<think>": len("<think>"), f"<tool_call>{ADD}": len("".join(pieces))}.get(start, 0)
    if start == "<think>" and not filling.strip():
        lost = len("".join(pieces))
    assert len("".join(pieces)) - lost == len(said)
