"""Calls that are not JSON objects: each syntax read from literal text, from damaged text, and cut anywhere."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.formats import THINK_TAGS, OutputFormat
from localllm.chat.parser import OutputParser
from localllm.chat.syntax import (
    WILD,
    AnswerMarkers,
    ArgumentMarkers,
    ElementSyntax,
    GemmaSyntax,
    Marker,
    PythonSyntax,
    Syntax,
    TaggedSyntax,
    marker,
)
from localllm.generation import ContentDelta, Event, ThinkingDelta, Tool, ToolCallDelta

QWEN_CODER = TaggedSyntax(
    section=Marker(),
    lead=marker("<tool_call>\n<function="),
    after_name=marker(">"),
    call_end=marker("</function>\n</tool_call>"),
    section_end=Marker(),
    arguments=ArgumentMarkers(marker("<parameter="), marker(">"), marker("</parameter>"), before="\n", after="\n"),
)
GLM = TaggedSyntax(
    section=Marker(),
    lead=marker("<tool_call>"),
    after_name=Marker(),
    call_end=marker("</tool_call>"),
    section_end=Marker(),
    arguments=ArgumentMarkers(marker("<arg_key>"), marker("</arg_key>\n<arg_value>"), marker("</arg_value>")),
)
DEEPSEEK = TaggedSyntax(
    section=marker("<calls>"),
    lead=marker('<invoke name="'),
    after_name=marker('">'),
    call_end=marker("</invoke>"),
    section_end=marker("</calls>"),
    arguments=ArgumentMarkers(
        marker('<parameter name="'), marker(f'" string="{WILD}">'), marker("</parameter>"), text_middle="true"
    ),
)
KIMI = TaggedSyntax(
    section=marker("<|calls_begin|>"),
    lead=marker("<|call_begin|>functions."),
    after_name=marker(f":{WILD}<|argument_begin|>"),
    call_end=marker("<|call_end|>"),
    section_end=marker("<|calls_end|>"),
)
MISTRAL = TaggedSyntax(
    section=Marker(),
    lead=marker("[TOOL_CALLS]"),
    after_name=marker("[ARGS]"),
    call_end=Marker(),
    section_end=Marker(),
)
XTML = TaggedSyntax(
    section=marker("<|open|>tools<|sep|>"),
    lead=marker('<|open|>call tool="'),
    after_name=marker(f'" index="{WILD}"<|sep|>'),
    call_end=marker("<|close|>call<|sep|>"),
    section_end=marker("<|close|>tools<|sep|>"),
    arguments=ArgumentMarkers(
        marker('<|open|>argument key="'),
        marker(f'" type="{WILD}"<|sep|>'),
        marker("<|close|>argument<|sep|>"),
        text_middle="string",
    ),
)
ELEMENTS = ElementSyntax(
    section=marker("$<calls>", "$"),
    lead=marker('$<call name="', "$"),
    after_name=marker('">'),
    call_end=marker("$</call>", "$"),
    section_end=marker("$</calls>", "$"),
    prefix="$",
)
LFM = PythonSyntax(("<|tool_call_start|>",), "<|tool_call_end|>")
PYTHONIC = PythonSyntax((), bare=True)
GEMMA = GemmaSyntax()
NAMED: dict[str, Syntax] = {
    "qwen-coder": QWEN_CODER, "glm": GLM, "deepseek": DEEPSEEK, "kimi": KIMI, "mistral": MISTRAL, "lfm": LFM,
    "xtml": XTML, "elements": ELEMENTS, "pythonic": PYTHONIC, "gemma": GEMMA,
}  # fmt: skip
PARAMETERS = {
    "q": {"type": "string"}, "n": {"type": "integer"}, "any": {}, "maybe": {"type": ["string", "null"]},
    "list": {"type": "array", "items": {"$ref": "#/$defs/point"}}, "object": {"type": "object"},
}  # fmt: skip
DEFINITIONS = {"point": {"type": "object", "properties": {"x": {"type": "string"}, "item": {"type": "integer"}}}}
SCHEMA = {"properties": PARAMETERS, "$defs": DEFINITIONS}
TOOLS = tuple(
    Tool(name, json.dumps({"type": "function", "function": {"name": name, "parameters": SCHEMA}}))
    for name in ("f", "g", "a.f")
)


def parsed(name: str, pieces: list[str]) -> list[tuple[str, ...]]:
    """Events with neighbours joined: (kind, text) or (name, arguments)."""
    numbers = itertools.count()
    text = AnswerMarkers("<|open|>response<|sep|>", ("<|close|>response<|sep|>", "<|close|>message<|sep|>"))
    found = OutputFormat(thinking=THINK_TAGS, calls=NAMED[name], answer=text if name == "xtml" else None)
    parser = OutputParser(found, TOOLS, new_call_id=lambda: f"call_{next(numbers)}")
    events: list[Event] = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    result: list[tuple[str, ...]] = []
    for event in events:
        match event:
            case ContentDelta(text) | ThinkingDelta(text):
                kind = "content" if isinstance(event, ContentDelta) else "thinking"
                same = result and result[-1][0] == kind
                result = [*result[:-1], (kind, result[-1][1] + text)] if same else [*result, (kind, text)]
            case ToolCallDelta(_, _, str(called), _):
                result.append((called, ""))
            case ToolCallDelta(_, _, _, arguments):
                result[-1] = (result[-1][0], result[-1][1] + arguments)
    return result


CODER_CALL = "<tool_call>\n<function=f>\n<parameter=q>\na < b\n\nc\n</parameter>\n</function>\n</tool_call>"
CASES = [
    ("qwen-coder", CODER_CALL, [("f", '{"q": "a < b\\n\\nc"}')]),
    ("qwen-coder", f"So:\n\n{CODER_CALL}\n{CODER_CALL}\n", [("content", "So:"), *[("f", '{"q": "a < b\\n\\nc"}')] * 2]),
    ("qwen-coder", "<tool_call><function=g></function></tool_call> Done", [("g", "{}"), ("content", "Done")]),
    ("qwen-coder", "<function=f><parameter=n>3</parameter></function>", [("f", '{"n": 3}')]),
    ("qwen-coder", "<function=f><parameter=q>3</parameter></function></tool_call>", [("f", '{"q": "3"}')]),
    ("qwen-coder", "<tool_call><function=f><parameter=n>3</parameter>", [("f", '{"n": 3}')]),
    (
        "qwen-coder",
        "<function=f><parameter=q>x</parameter> y</parameter><parameter=any>[1, 'a']</parameter></function>",
        [("f", '{"q": "x</parameter> y", "any": [1, "a"]}')],
    ),
    ("qwen-coder", "<think>a <function=f></think>b", [("thinking", "a <function=f>"), ("content", "b")]),
    (
        "glm",
        "<tool_call>f\n<arg_key>q</arg_key>\n<arg_value>Zürich</arg_value>\n<arg_key>n</arg_key><arg_value>-1"
        "</arg_value>\n</tool_call>\n<tool_call>g</tool_call>",
        [("f", '{"q": "Zürich", "n": -1}'), ("g", "{}")],
    ),
    ("glm", "<tool_call>f<arg_key>maybe</arg_key><arg_value>null</arg_value></tool_call>", [("f", '{"maybe": null}')]),
    (
        "deepseek",
        '<calls>\n<invoke name="f">\n<parameter name="q" string="false">[1.0, {"b": 1, "a": 2}]</parameter>\n'
        '<parameter name="n" string="true">3</parameter>\n</invoke>\n<invoke name="g">\n</invoke>\n</calls>',
        [("f", '{"q": [1.0, {"b": 1, "a": 2}], "n": "3"}'), ("g", "{}")],
    ),
    (
        "kimi",
        'Hm.<|calls_begin|><|call_begin|>functions.f:0<|argument_begin|>{"q": "}"}<|call_end|><|call_begin|>'
        "functions.g:12<|argument_begin|>{}<|call_end|><|calls_end|>",
        [("content", "Hm."), ("f", '{"q": "}"}'), ("g", "{}")],
    ),
    (
        "xtml",
        '<think>Hm</think><|open|>response<|sep|>Yes.<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="f" '
        'index="1"<|sep|><|open|>argument key="q" type="string"<|sep|>3<b><|close|>argument<|sep|><|open|>argument '
        'key="any" type="array"<|sep|>[1]<|close|>argument<|sep|><|close|>call<|sep|><|open|>call tool="g" index="2"'
        "<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
        [("thinking", "Hm"), ("content", "Yes."), ("f", '{"q": "3<b>", "any": [1]}'), ("g", "{}")],
    ),
    ("xtml", "<|open|>response<|sep|>Yes.<|close|>response<|sep|>\n", [("content", "Yes.")]),
    ("xtml", "<|open|>response<|sep|><|close|>message<|sep|>No", [("content", "<|close|>message<|sep|>No")]),
    (
        "elements",
        'So $<calls>\n$<call name="f">$<q>a <b>x</b> $5$</q>$<n>3$</n>$<any>$<item>1$</item>$<item>'
        "$<item>true$</item>$</item>$</any>$<list>$<item>$<x>5$</x>$<item>7$</item>$</item>$</list>$<maybe>$</maybe>$</call>\n"
        '$<call name="g">$<list>$</list>$<object>$</object>$<other>$<k>v$</k>$</other>$</call>\n$</calls> Done',
        [
            ("content", "So"),
            ("f", '{"q": "a <b>x</b> $5", "n": 3, "any": [1, [true]], "list": [{"x": "5", "item": 7}], "maybe": ""}'),
            ("g", '{"list": [], "object": {}, "other": {"k": "v"}}'),
            ("content", "Done"),
        ],
    ),
    ("elements", '$<call name="f">$<object>$<item>1$</item>$</object>', [("f", '{"object": {"item": 1}}')]),
    (
        "kimi",
        '<|calls_begin|><|call_begin|>f:0<|argument_begin|>{"q": "a"}<|call_end|><|call_begin|>g:1<|argument_begin|>{}'
        "<|call_end|><|calls_end|>",
        [("f", '{"q": "a"}'), ("g", "{}")],
    ),
    ("kimi", '<|call_begin|>f:0<|argument_begin|>{"q": "a"}<|call_end|>', [("f", '{"q": "a"}')]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"q": "a"}[TOOL_CALLS]g[ARGS]{}', [("f", '{"q": "a"}'), ("g", "{}")]),
    (
        "lfm",
        "<|tool_call_start|>[f(q='it\\'s ]', any={\"a\": [1, true, None]}), g()]<|tool_call_end|>Hi",
        [("f", '{"q": "it\'s ]", "any": {"a": [1, true, null]}}'), ("g", "{}"), ("content", "Hi")],
    ),
    ("pythonic", ' [a.f(n=-1, q="é")]', [("a.f", '{"n": -1, "q": "é"}')]),
    ("pythonic", "[f(n=1), unknown()]", [("f", '{"n": 1}'), ("unknown", "{}")]),
    (
        "gemma",
        '<|tool_call>call:f{q:<|"|>a "b" }<|"|>,any:{x:[1,None,{}],y:<|"|><|"|>}}<tool_call|><|tool_call>call:g{}'
        "<tool_call|>",
        [("f", '{"q": "a \\"b\\" }", "any": {"x": [1, null, {}], "y": ""}}'), ("g", "{}")],
    ),
]
NO_CALLS = [
    ("elements", '$<call name="f">$<q>a$</n>$</call>'),
    ("elements", '$<call name="f">text$</call>'),
    ("elements", '$<call name="f">' + "$<any>" * 200),
    ("xtml", '<|open|>call tool="f" index="1"<|sep|><|close|>argument<|sep|>'),
    ("qwen-coder", "<tool_call>\n<function=f>\n<parameter=q>\nnever ends"),
    ("qwen-coder", "Write <function=name> then <parameter= or </tool_call>."),
    ("qwen-coder", "<tool_call>{}</tool_call>"),
    ("glm", "<tool_call>f<arg_key>q</arg_value>"),
    ("glm", "<tool_call>"),
    ("kimi", "<|call_begin|>functions.f<|argument_begin|>{}"),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"q": NaN}'),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"q": '),
    ("lfm", "<|tool_call_start|>[f(1)]<|tool_call_end|>"),
    ("lfm", "<|tool_call_start|>[f(q=__import__('os'))]"),
    ("lfm", "<|tool_call_start|>f(q=1)"),
    ("pythonic", "[1] is a footnote, [f(q=1"),
    ("pythonic", "[unknown(q=1)] is Python"),
    ("gemma", "<|tool_call>call:f{q:oops}<tool_call|>"),
    ("gemma", "<|tool_call>f{}"),
    ("gemma", '<|tool_call>call:f{q:<|"|>}'),
]


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_calls_come_out_whole_and_character_by_character(name, text, expected):
    assert expected == parsed(name, [text])
    assert expected == parsed(name, list(text))


@pytest.mark.parametrize(("name", "text"), NO_CALLS)
def test_what_is_no_call_comes_back_exactly(name, text):
    assert [("content", text)] == parsed(name, [text])
    assert [("content", text)] == parsed(name, list(text))


FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<function=", "f", "g", ">", "</function>", "<parameter=", "</parameter>", "q"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<calls>", '<invoke name="', '">', "</invoke>", "\n"),
    *('<parameter name="', '" string="true">', "</calls>", "<|call_begin|>", "functions.", ":0", "<|argument_begin|>"),
    *(
        "<|call_end|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        '{"q": 1}',
        "{}",
        "<|tool_call_start|>",
        "[f(q=1)]",
        "[",
        "]",
        "(",
        ")",
    ),
    *(
        "'",
        '"',
        "\\",
        "<|tool_call>",
        "call:f",
        "{q:",
        '<|"|>',
        "}",
        "<tool_call|>",
        " ",
        "é",
        "<",
        "<think>",
        "$",
        "$<calls>",
        '$<call name="',
        "$<any>",
        "$</any>",
        "$<item>",
        "$</item>",
        "$</call>",
        "<|open|>",
        "<|sep|>",
        "<|close|>",
        "call",
        "1",
        ",",
    ),
]
damages = st.tuples(
    st.sampled_from([text for _, text, _ in CASES]), st.integers(0, 200), st.integers(0, 4), st.text(max_size=2)
)
texts = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join),
    damages.map(lambda damage: damage[0][: damage[1]] + damage[3] + damage[0][damage[1] + damage[2] :]),
)


@pytest.mark.parametrize("name", sorted(NAMED))
@pytest.mark.parametrize("text", ["[", "[[", " [", "{", "[f(", "<"])
def test_what_begins_like_a_call_and_is_none_comes_out_as_it_is(name, text):
    assert [("content", text)] == parsed(name, [text])


@pytest.mark.parametrize("name", sorted(NAMED))
def test_an_answer_of_nothing_but_beginnings_of_calls_ends(name):
    starts = NAMED[name].starts or ("",)
    for inside in ("", "[", "call:f{", "f<"):
        # In two kinds of quotes a bracket does not hide from all the calls that began before it.
        text = "".join(starts[0] + inside + "\"'"[number % 2] for number in range(1001))
        assert [("content", text)] == parsed(name, [text])


@pytest.mark.parametrize(("syntax", "is_call"), [(PYTHONIC, False), (LFM, True)])
def test_a_list_without_a_tag_that_never_closes_is_no_unfinished_call(syntax, is_call):
    parser = OutputParser(OutputFormat(calls=syntax), TOOLS, new_call_id=lambda: "call_0")
    parser.feed("".join(syntax.starts) + "[see the note")
    parser.finish()
    assert is_call is parser.has_unfinished_call


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(NAMED)), texts, st.lists(st.integers(0, 200), max_size=6))
def test_any_cutting_of_any_text_gives_the_same_events(name, text, cuts):
    whole = parsed(name, [text])
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    assert whole == parsed(name, [text[start:end] for start, end in itertools.pairwise(edges)])
    assert whole == parsed(name, list(text))
    for kind, said in whole:
        assert kind in ("content", "thinking") or isinstance(json.loads(said), dict)
    marks = ("<think>", "<|open|>response<|sep|>") if name == "xtml" else ("<think>",)
    if not any(mark in text for mark in marks) and all(kind == "content" for kind, _ in whole):
        assert text == "".join(said for _, said in whole)
