"""A call's arguments while they are written: name first, then pieces of JSON, and nothing twice when a call is cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_readers import NAMED, TOOLS

from localllm.chat.early import TextPieces
from localllm.chat.formats import HERMES_CALLS, LLAMA_CALLS, MISTRAL_CALLS, OutputFormat
from localllm.chat.parser import OutputParser
from localllm.chat.tools import JsonPieces, ObjectScanner
from localllm.chat.values import without_blanks
from localllm.generation import ContentDelta, Event, ToolCallDelta

ARGUMENTS = {"q": 'a "quoted" path\\n, not/short', "n": 12, "any": [1, {"x": None}]}
LONG = json.dumps(ARGUMENTS)
NAMES = frozenset(tool.name for tool in TOOLS)
WRITTEN = {
    "hermes": (HERMES_CALLS, f'<tool_call>\n{{"name": "f", "arguments": {LONG}}}\n</tool_call>'),
    "llama": (LLAMA_CALLS, f'{{"name": "f", "parameters": {LONG}}}'),
    "kimi": (
        NAMED["kimi"],
        f"<|calls_begin|><|call_begin|>functions.f:0<|argument_begin|>{LONG}<|call_end|><|calls_end|>",
    ),
    "mistral with tags": (NAMED["mistral"], f"[TOOL_CALLS]f[ARGS]{LONG}"),
    "mistral": (MISTRAL_CALLS, f'[TOOL_CALLS][{{"name": "f", "arguments": {LONG}, "id": "abc"}}]'),
}


def played(syntax, pieces, *, early: bool = True, ends: bool = True) -> tuple[list[Event], OutputParser]:
    numbers = itertools.count()
    parser = OutputParser(
        OutputFormat(calls=syntax),
        TOOLS,
        early=NAMES if early else frozenset(),
        new_call_id=lambda: f"call_{next(numbers)}",
    )
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + (parser.finish(stopped=True) if ends else []), parser


def told(events: list[Event]) -> tuple[str, list[tuple[str, str]]]:
    """The text, and the calls put together."""
    text, calls = "", []
    for event in events:
        match event:
            case ContentDelta(more):
                text += more
            case ToolCallDelta(index, call_id, str(name), ""):
                assert (len(calls), f"call_{len(calls)}") == (index, call_id)
                calls.append((name, ""))
            case ToolCallDelta(index, None, None, more):
                assert len(calls) - 1 == index
                calls[-1] = (calls[-1][0], calls[-1][1] + more)
    return text, calls


@pytest.mark.parametrize("name", WRITTEN)
def test_arguments_are_given_out_as_they_come_and_each_beginning_is_one_of_json(name):
    syntax, text = WRITTEN[name]
    events, parser = played(syntax, text)
    pieces = [event.arguments for event in events if isinstance(event, ToolCallDelta) and event.name is None]
    assert len(pieces) > 30
    scanner = ObjectScanner()
    for piece in pieces:
        assert not scanner.closed
        assert len(piece) == scanner.feed(piece)
        assert not scanner.broken
    assert scanner.closed
    assert (("", [("f", LONG)]), False) == (told(events), parser.has_unfinished_call)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_name_comes_before_the_arguments_are_complete(name):
    syntax, text = WRITTEN[name]
    events, _ = played(syntax, [text[: text.index("quoted")]], ends=False)
    _, calls = told(events)
    assert ("f", '{"q": "a \\"') == calls[0]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_call_that_is_cut_is_not_text_besides(name):
    syntax, text = WRITTEN[name]
    events, parser = played(syntax, [text[: text.index("short")]])
    said, calls = told(events)
    assert ("", 1, True) == (said.strip(), len(calls), parser.has_unfinished_call)
    assert LONG.startswith(calls[0][1])
    whole, parser = played(syntax, [text[: text.index("short")]], early=False)
    assert [] == told(whole)[1]


def test_what_looks_like_a_call_of_no_known_tool_is_held_back_as_before():
    text = '{"name": "nosuch", "parameters": {"q": "x"}} is JSON'
    assert (text, []) == told(played(LLAMA_CALLS, text)[0])


@pytest.mark.parametrize("name", WRITTEN)
def test_a_call_that_is_held_to_nothing_is_given_out_whole(name):
    syntax, text = WRITTEN[name]
    parser = OutputParser(OutputFormat(calls=syntax), TOOLS, early=frozenset({"g"}), new_call_id=lambda: "call_0")
    events = [event for piece in text for event in parser.feed(piece)] + parser.finish()
    assert ["", LONG] == [event.arguments for event in events if isinstance(event, ToolCallDelta)]


def test_several_calls_follow_one_another():
    text = "".join(f'<tool_call>{{"name": "{name}", "arguments": {{"n": 1}}}}</tool_call>' for name in "fg")
    assert ("", [("f", '{"n": 1}'), ("g", '{"n": 1}')]) == told(played(HERMES_CALLS, text)[0])


WORDS = " ".join(f"word{number}" for number in range(50))
BETWEEN_TAGS = {
    "qwen-coder": f"<tool_call>\n<function=f>\n<parameter=q>\n{WORDS}\n</parameter>\n</function>\n</tool_call>",
    "glm": f"<tool_call>f\n<arg_key>q</arg_key>\n<arg_value>{WORDS}</arg_value>\n</tool_call>",
    "deepseek": f'<calls><invoke name="f"><parameter name="q" string="true">{WORDS}</parameter></invoke></calls>',
}


@pytest.mark.parametrize("syntax", BETWEEN_TAGS)
def test_a_long_text_between_tags_is_given_out_as_it_comes(syntax):
    events, parser = played(NAMED[syntax], BETWEEN_TAGS[syntax])
    assert (("", [("f", json.dumps({"q": WORDS}))]), False) == (told(events), parser.has_unfinished_call)
    assert len(events) > 50
    cut, parser = played(NAMED[syntax], BETWEEN_TAGS[syntax].partition("word30")[:1])
    assert (("", True), "word29") == (
        (told(cut)[0].strip(), parser.has_unfinished_call),
        told(cut)[1][0][1].split()[-1],
    )


def test_elements_are_given_out_one_by_one():
    call = '$<calls>$<call name="f">$<q>text$</q>$<n>1$</n>$</call>$</calls>'
    events, parser = played(NAMED["elements"], call)
    pieces = [event.arguments for event in events if isinstance(event, ToolCallDelta) and event.name is None]
    assert (['{"q": "text"', ', "n": 1', "}"], False) == (pieces, parser.has_unfinished_call)


@given(
    st.sampled_from(sorted(WRITTEN)), st.data(), st.lists(st.integers(0, 200), max_size=6), st.text('"{}[]:,\\ \nx1')
)
@settings(max_examples=300, deadline=None)
def test_a_call_that_is_told_whole_is_the_one_that_is_read_whole(name, data, cuts, noise):
    syntax, text = WRITTEN[name]
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + noise + text[at + data.draw(st.integers(0, 3)) :]
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    events, parser = played(syntax, pieces)
    if not parser.has_unfinished_call:
        whole, plain = played(syntax, [text], early=False)
        assert (told(whole), False) == (told(events), plain.has_unfinished_call)


BLANKS = st.sampled_from(["", "\n", "\n\n", "\n  ", " ", "\r\n"])


@given(st.text('ab\n"\\\t<![CDATA[]>', max_size=30), st.lists(st.integers(0, 30), max_size=4), BLANKS, BLANKS)
@settings(max_examples=300, deadline=None)
def test_a_text_in_pieces_is_the_string_of_the_whole(text, cuts, before, after):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = TextPieces("lead", before, after)
    parts = [pieces.feed(text[start:end]) for start, end in itertools.pairwise(edges)]
    expected = json.dumps(without_blanks(text, before, after), ensure_ascii=False)
    assert f"lead{expected}" == "".join([*parts, pieces.end()])


def test_line_breaks_within_strings_are_escaped_and_others_stay():
    pieces = JsonPieces()
    text = '{\n "a\tb": "x\ny\\"\n"\n}'
    assert {"a\tb": 'x\ny"\n'} == json.loads("".join(pieces.feed(character) for character in text))
