"""Programs that a model writes behind <|python_tag|> instead of a call."""

from __future__ import annotations

import itertools
import json

import pytest
from chat_templates import upstream_templates
from hypothesis import given, settings
from hypothesis import strategies as st
from random_answers import Talk

from localllm.chat.formats import LLAMA_CALLS, OutputFormat
from localllm.chat.parser import OutputParser
from localllm.chat.programs import PROGRAM_MARK
from localllm.chat.syntax import PythonSyntax, TaggedSyntax, marker
from localllm.generation import ContentDelta, GenerationRequest, Message, Tool, ToolCallDelta, ToolChoice

PLAIN = OutputFormat(calls=LLAMA_CALLS, program_mark=PROGRAM_MARK)
BUILTIN = OutputFormat(
    calls=type(LLAMA_CALLS)(
        LLAMA_CALLS.starts,
        separator=";",
        bare=True,
        argument_keys=("parameters",),
        other=PythonSyntax((PROGRAM_MARK,), method=".call"),
    ),
    program_mark=PROGRAM_MARK,
)
# Functionary 3.1 has other calls; programs stand behind the same mark.
TAGGED = OutputFormat(
    calls=TaggedSyntax(marker(""), marker("<function="), marker(">"), marker("</function>"), marker("")),
    program_mark=PROGRAM_MARK,
)
FORMATS = {"plain": PLAIN, "builtin": BUILTIN, "tagged": TAGGED}


def tool(name: str, schema: dict | None = None) -> Tool:
    function = {"name": name, **({"parameters": schema} if schema is not None else {})}
    return Tool(name, json.dumps({"type": "function", "function": function}))


CODE = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
SCRIPT = {"type": "object", "properties": {"script": {"type": "string"}, "seconds": {"type": "integer"}}}
SEARCH = tool("search", {"type": "object", "properties": {"query": {"type": "string"}}})
PYTHON = tool("python", CODE)
PROGRAM = 'import math\n\nfor x in {"a": 1}:\n    print(f"{x}: {math.pi}")\n# <|python_tag|> search.call(query="x")'


def said(found: OutputFormat, pieces, tools, *, stopped=True):
    parser = OutputParser(found, tools, new_call_id=lambda: "call_0")
    content, calls = "", []
    for event in [*itertools.chain(*map(parser.feed, pieces)), *parser.finish(stopped=stopped)]:
        match event:
            case ContentDelta(text):
                content += text
            case ToolCallDelta(_, _, str(name), arguments):
                calls.append([name, arguments or ""])
            case ToolCallDelta(_, _, _, arguments):
                calls[-1][1] += arguments
    return content, [(name, json.loads(arguments)) for name, arguments in calls], parser.has_unfinished_call


def every_cut(text: str):
    yield from ([text], list(text), *([text[:at], text[at:]] for at in range(1, len(text))))


@pytest.mark.parametrize("found", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([SEARCH, PYTHON], ("python", {"code": PROGRAM})),
        ([tool("code_interpreter")], ("code_interpreter", {"code": PROGRAM})),
        ([tool("ipython", SCRIPT)], ("ipython", {"script": PROGRAM})),
    ],
)
@pytest.mark.parametrize("before", ["", "I count.\n"])
def test_a_program_is_a_call_of_the_tool_for_programs(found, tools, expected, before):
    for pieces in every_cut(f"{before}{PROGRAM_MARK}\n{PROGRAM}\n"):
        assert (before.strip(), [expected], False) == said(found, pieces, tools)


@pytest.mark.parametrize("found", FORMATS.values(), ids=FORMATS)
def test_a_program_that_was_cut_is_no_call_but_text_and_that_is_told(found):
    for pieces in every_cut(f"{PROGRAM_MARK}{PROGRAM}"):
        assert (f"{PROGRAM_MARK}{PROGRAM}", [], True) == said(found, pieces, [PYTHON], stopped=False)


def test_other_calls_behind_the_mark_are_what_they_were():
    for pieces in every_cut(f'{PROGRAM_MARK}search.call(query="x")'):
        assert ("", [("search", {"query": "x"})], False) == said(BUILTIN, pieces, [SEARCH, PYTHON])
    for pieces in every_cut(f'{PROGRAM_MARK}{{"name": "search", "parameters": {{"query": "x"}}}}'):
        assert ("", [("search", {"query": "x"})], False) == said(PLAIN, pieces, [SEARCH, PYTHON])
    for pieces in every_cut('<function=search>{"query": "x"}</function>'):
        assert ("", [("search", {"query": "x"})], False) == said(TAGGED, pieces, [SEARCH, PYTHON])


@pytest.mark.parametrize(
    "other",
    [
        SEARCH,
        tool("python", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}),
        tool("python", {**SCRIPT, "required": ["script", "seconds"]}),
        tool("ipython", {"type": "object", "properties": {"code": {"type": "integer"}}}),
    ],
)
def test_without_a_tool_that_takes_a_program_and_nothing_else_it_is_text(other):
    for pieces in every_cut(f"{PROGRAM_MARK}{PROGRAM}"):
        content, calls, _ = said(PLAIN, pieces, [other])
        assert (f"{PROGRAM_MARK}{PROGRAM}", []) == (content, calls)


@pytest.mark.parametrize("found", FORMATS.values(), ids=FORMATS)
def test_where_no_tools_are_asked_for_a_program_stands_without_the_mark(found):
    for pieces in every_cut(f"\n{PROGRAM_MARK}{PROGRAM}"):
        assert (PROGRAM, [], False) == said(found, pieces, [])
    for pieces in every_cut(f"The mark is {PROGRAM_MARK}."):
        assert (f"The mark is {PROGRAM_MARK}.", [], False) == said(found, pieces, [])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(st.sampled_from([PROGRAM_MARK, "<|python", "search.call(", ")", "{", '"', "x", " ", "\n", "<function="])),
    st.booleans(),
)
def test_nothing_is_lost_and_any_chunking_says_the_same(name, words, stopped):
    text = "".join(words)
    whole = said(FORMATS[name], [text], [SEARCH, PYTHON], stopped=stopped)
    assert whole == said(FORMATS[name], list(text), [SEARCH, PYTHON], stopped=stopped)
    content, calls, _ = whole
    letters = "".join(text.replace(PROGRAM_MARK, "").split())
    told = content.replace(PROGRAM_MARK, "") + "".join(str(arguments.get("code")) for _, arguments in calls)
    assert letters == "".join(told.replace(PROGRAM_MARK, "").split()) or any(one == "search" for one, _ in calls)


@pytest.mark.parametrize("name", ["meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"])
@pytest.mark.parametrize(
    "written", ["import math\n", "print(1)", 'search.call(query="\\"', "searching.call", '{"name": "']
)
def test_a_model_that_is_held_to_its_tools_may_write_a_program(name, written):
    talk = Talk(upstream_templates()[name], [PROGRAM_MARK])
    token = next(at for at in range(256, 400) if talk.backend.token_bytes(at, special=True) == PROGRAM_MARK.encode())
    messages = (Message("user", "How much?"),)
    request = GenerationRequest("m", messages, tools=(SEARCH, PYTHON), tool_choice=ToolChoice(parallel=False))
    for one in talk.answers(request, begin=[token, *written.encode()]):
        assert 1 == len(one.calls), one.raw
        ((called, arguments),) = one.calls
        if called == "python" and not written.startswith("{"):
            assert json.loads(arguments)["code"].startswith(written.strip())
        assert called == ("search" if written.startswith("search.call") else called)
        assert "" == one.content
