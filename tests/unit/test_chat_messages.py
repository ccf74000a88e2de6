"""What the parser makes of answers in messages with headers: gpt-oss's, Muse Glimmer's, Functionary's."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.formats import OutputFormat
from localllm.chat.parser import OutputParser
from localllm.chat.syntax import ArgumentMarkers, Channels, Marker, TaggedSyntax, ThinkingMarkers, marker
from localllm.generation import ContentDelta, Event, ThinkingDelta, Tool, ToolCallDelta

ATEM = TaggedSyntax(
    section=Marker(),
    lead=marker('<atem:invoke name="'),
    after_name=marker('">'),
    call_end=marker("</atem:invoke>"),
    section_end=Marker(),
    arguments=ArgumentMarkers(marker('<atem:parameter name="'), marker('">'), marker("</atem:parameter>")),
)
CHANNELS = {
    "gpt-oss": Channels(
        start="<|start|>assistant",
        header_end="<|message|>",
        ends=("<|end|>", "<|call|>", "<|return|>"),
        text="final",
        thinking="analysis",
        recipient="to=functions.",
    ),
    "muse": Channels("<|start|>assistant", "<|message|>", ("<|eom|>", "<|eot|>"), "user", "self", "to=", ATEM),
    "functionary": Channels(">>>", "\n", ("<|eot_id|>",), "all", None, ""),
}
TOOLS = (Tool("f", "{}"), Tool("g", "{}"))


def parser_of(name: str, tools: tuple[Tool, ...] = TOOLS, prompt: str | None = None) -> OutputParser:
    numbers = itertools.count()
    found = OutputFormat(ThinkingMarkers("<|channel|>analysis<|message|>", "<|end|>"), channels=CHANNELS[name])
    return OutputParser(found, tools, prompt=prompt, new_call_id=lambda: f"call_{next(numbers)}")


def joined(events: list[Event]) -> list[tuple[str, ...]]:
    """Events with neighbours joined: (kind, text) or (name, arguments)."""
    result: list[tuple[str, ...]] = []
    indices = []
    for event in events:
        match event:
            case ContentDelta(text) | ThinkingDelta(text):
                kind = "content" if isinstance(event, ContentDelta) else "thinking"
                same = result and result[-1][0] == kind
                result = [*result[:-1], (kind, result[-1][1] + text)] if same else [*result, (kind, text)]
            case ToolCallDelta(index, _, str(called), _):
                indices.append(index)
                result.append((called, ""))
            case ToolCallDelta(_, _, _, arguments):
                result[-1] = (result[-1][0], result[-1][1] + arguments)
    assert indices == list(range(len(indices)))
    return result


def parsed(name: str, pieces: list[str], *, stopped: bool = False, **others: object) -> list[tuple[str, ...]]:
    parser = parser_of(name, **others)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return joined(events + parser.finish(stopped=stopped))


ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"q": "<|end|>"}<|call|>'
INVOKE = '<atem:invoke name="f"><atem:parameter name="q">a</atem:parameter></atem:invoke>'
CASES = [
    ("gpt-oss", f"{FINAL}Hello <b>.\n", [("content", "Hello <b>.\n")]),
    ("gpt-oss", f"{FINAL}Hello<|return|>", [("content", "Hello")]),
    (
        "gpt-oss",
        f"{ANALYSIS}Hm {{x}}<|end|><|start|>assistant{FINAL}Yes.",
        [("thinking", "Hm {x}"), ("content", "Yes.")],
    ),
    ("gpt-oss", f"{ANALYSIS}Hm<|end|><|start|>assistant{CALL}", [("thinking", "Hm"), ("f", '{"q": "<|end|>"}')]),
    ("gpt-oss", ' to=functions.f<|channel|>commentary json<|message|>{"b": 1, "a": 2}', [("f", '{"b": 1, "a": 2}')]),
    ("gpt-oss", "<|channel|>commentary to=functions.g json<|message|><|call|>", [("g", "{}")]),
    ("gpt-oss", "<|channel|>commentary<|message|>I will look.<|end|>", [("content", "I will look.")]),
    (
        "gpt-oss",
        f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{CALL}<|start|>assistant{CALL}",
        [("content", "I look."), ("f", '{"q": "<|end|>"}'), ("f", '{"q": "<|end|>"}')],
    ),
    ("gpt-oss", f"{ANALYSIS}Hm<|end|>{FINAL}Yes.", [("thinking", "Hm"), ("content", "Yes.")]),
    ("gpt-oss", '<|channel|>final <|constrain|>json<|message|>{"a": 1}', [("content", '{"a": 1}')]),
    ("gpt-oss", "No header at all.", [("content", "No header at all.")]),
    ("gpt-oss", "x" * 600 + "<|message|>", [("content", "x" * 600 + "<|message|>")]),
    ("gpt-oss", '<|channel|>commentary to=browser.search<|message|>{"q": 1}', [("browser.search", '{"q": 1}')]),
    ("gpt-oss", f"{FINAL}Yes.<|end|><|start|>assistant", [("content", "Yes.")]),
    ("gpt-oss", f"{FINAL}Yes.<|end|><|start|>assistant<|chan", [("content", "Yes.")]),
    ("gpt-oss", f"{FINAL}Yes.<|end|> And no.", [("content", "Yes. And no.")]),
    ("muse", " to=user<|message|>Yes.<|eot|>", [("content", "Yes.")]),
    (
        "muse",
        f" to=self<|message|>Hm<|eom|><|start|>assistant to=f<|message|>{INVOKE}<|eom|>"
        f"<|start|>assistant to=f<|message|>{INVOKE}<|eot|>",
        [("thinking", "Hm"), ("f", '{"q": "a"}'), ("f", '{"q": "a"}')],
    ),
    ("muse", f" to=f<|message|>So: {INVOKE}", [("content", "So:"), ("f", '{"q": "a"}')]),
    ("functionary", "all\nYes\n\nno", [("content", "Yes\n\nno")]),
    (
        "functionary",
        'all\nI look.>>>f\n{"q": ">>>g\\n"}>>>g\n{}',
        [("content", "I look."), ("f", '{"q": ">>>g\\n"}'), ("g", "{}")],
    ),
    ("functionary", "all\n>>> print(1)\n>>>h\n1", [("content", ">>> print(1)\n>>>h\n1")]),
    ("functionary", "h\n{}", [("content", "h\n{}")]),
    ("functionary", "f\nno", [("content", "f\nno")]),
    ("functionary", "all\n>>>", [("content", ">>>")]),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_messages_become_events_whole_and_character_by_character(name, text, expected):
    assert expected == parsed(name, [text])
    assert expected == parsed(name, list(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('to=functions.f<|message|>{"a": [1', [("f", '{"a": [1]}')]),
        ('to=functions.f<|message|>{"a": "b', [("content", 'to=functions.f<|message|>{"a": "b')]),
        ('to=functions.f<|message|>{"a": ', [("content", 'to=functions.f<|message|>{"a": ')]),
    ],
)
def test_a_call_that_lacks_only_its_last_brackets_gets_them_if_the_model_ended_it(text, expected):
    assert expected == parsed("gpt-oss", [text], stopped=True)
    parser = parser_of("gpt-oss")
    assert [("content", text)] == joined(parser.feed(text) + parser.finish())
    assert parser.has_unfinished_call


def test_without_tools_a_call_is_text():
    assert [("content", "{}")] == parsed("gpt-oss", ["to=functions.f<|message|>{}"], tools=())
    assert [("content", ">>>f\n{}")] == parsed("functionary", ["all\n>>>f\n{}"], tools=())


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("…<|start|>assistant", f"{FINAL}Yes.", [("content", "Yes.")]),
        (f"…<|start|>assistant{FINAL}", "Yes.", [("content", "Yes.")]),
        (f"…<|start|>assistant{FINAL}Well, ", "yes.", [("content", "yes.")]),
        (f"…<|start|>assistant{ANALYSIS}", "Hm<|end|>", [("thinking", "Hm")]),
        ("…<|start|>assistant<|channel|>", "final<|message|>Yes.", [("content", "Yes.")]),
        ("a prompt of another kind", f"{FINAL}Yes.", [("content", "Yes.")]),
    ],
)
def test_an_answer_goes_on_where_the_prompt_ends(prompt, text, expected):
    assert expected == parsed("gpt-oss", list(text), prompt=prompt)


def test_text_streams_at_once_except_for_a_possible_mark():
    parser = parser_of("gpt-oss")
    assert [] == parser.feed("<|channel|>final<|mess")
    assert [ContentDelta("Hel ")] == parser.feed("age|>Hel <|en")
    assert [ContentDelta("<|en lo")] == parser.feed(" lo")


FRAGMENTS = [
    *("<|start|>assistant", "<|start|>", "assistant", "<|channel|>", "analysis", "final", "commentary", "<|message|>"),
    *("<|end|>", "<|call|>", "<|return|>", " to=functions.f", " to=", "f", "g", "user", "self", "<|eom|>", "<|eot|>"),
    *(">>>", "all", "\n", "{", "}", '{"q": 1}', '"', "\\", " ", "é", "<", "<|", INVOKE, '<atem:invoke name="', ">"),
]
damages = st.tuples(
    st.sampled_from([text for _, text, _ in CASES]), st.integers(0, 200), st.integers(0, 4), st.text(max_size=2)
)
texts = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join),
    damages.map(lambda damage: damage[0][: damage[1]] + damage[3] + damage[0][damage[1] + damage[2] :]),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CHANNELS)), texts, st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_any_cutting_of_any_text_gives_the_same_events(name, text, cuts, stopped):
    whole = parsed(name, [text], stopped=stopped)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    assert whole == parsed(name, [text[a:b] for a, b in itertools.pairwise(edges)], stopped=stopped)
    assert whole == parsed(name, list(text), stopped=stopped)
    for kind, said in whole:
        assert said
        assert kind in ("content", "thinking") or isinstance(json.loads(said), dict)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CHANNELS)), st.text("ab{}<> \n", max_size=40))
def test_text_without_marks_comes_back_exactly(name, text):
    header = {"gpt-oss": FINAL, "muse": " to=user<|message|>", "functionary": "all\n"}[name]
    assert text == "".join(said for _, said in parsed(name, list(header + text)))


@pytest.mark.parametrize(
    ("name", "start", "filling"),
    [
        ("gpt-oss", FINAL, "word <|en"),
        ("gpt-oss", ANALYSIS, "hm "),
        ("gpt-oss", f"{FINAL}x<|end|>", " \n"),
        ("gpt-oss", 'to=functions.f<|message|>{"q": "', "text\\n"),
        ("gpt-oss", "to=functions.f<|message|>", "  "),
        ("gpt-oss", "", "no header "),
        ("functionary", "all\n", ">>>print "),
        ("functionary", "all\n", ">>> "),
        ("muse", ' to=f<|message|><atem:invoke name="f"><atem:parameter name="q">', "text "),
    ],
)
def test_a_long_text_in_small_pieces_takes_no_longer_than_its_characters(name, start, filling):
    # A parser that rescans or copies what it holds would handle 2**34 characters here.
    pieces = [start] + [filling] * (2**17 // len(filling))
    parser = parser_of(name)
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    said = sum(len(event.text) for event in events if isinstance(event, (ContentDelta, ThinkingDelta)))
    assert said >= len(filling) * (len(pieces) - 1) - 2 or not filling.strip()


def test_a_start_at_the_very_end_is_text_where_it_looks_like_text():
    assert [("content", "See >>>")] == parsed("functionary", ["all\nSee >>>"])
    assert [("content", "See >>>f")] == parsed("functionary", list("all\nSee >>>f"))
