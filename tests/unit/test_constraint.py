"""What a request asks of its answer, as rules, and what a model that says anything makes of them."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest
from chat_templates import upstream_templates
from json_schemas import FLAG, TOOLS, integer, obj
from jsonschema import Draft202012Validator
from random_answers import RandomBackend, Talk, answers, heard, prepare

from localllm.chat.formats import detect
from localllm.chat.template import ChatTemplate
from localllm.engine.fake import END_TOKEN
from localllm.errors import BadRequestError
from localllm.generation import GenerationRequest, Message, Options, Rendering, ResponseFormat, Tool, ToolChoice

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>\n{{ c.function | tojson }}"
    "\n</tool_call>{% endfor %}{{ '\n' }}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "<assistant>{% if enable_thinking is defined %}<think>\n{% if not enable_thinking %}\n</think>\n\n{% endif %}"
    "{% endif %}"
)
LLAMA = (
    TEMPLATE.replace("<tool_call>\n", "")
    .replace("\n</tool_call>", "")
    .replace("c.function", "{'name': c.function.name, 'parameters': c.function.arguments}")
)
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
THINK, END_THINK, CALL = (257 + index for index in range(3))
WEATHER = TOOLS["get_weather"]
PERSON = obj({"name": {"type": "string", "maxLength": 9}, "age": integer(0, 120)})


def tool(name: str = "get_weather", parameters: object = WEATHER, **more: object) -> Tool:
    return Tool(name, json.dumps({"type": "function", "function": {"name": name, "parameters": parameters}}), **more)


def request(**more: object) -> GenerationRequest:
    return GenerationRequest("m", **{"messages": (Message("user", "Q?"),), "think": False, **more})


def said(template: str = TEMPLATE, begin: str = "", seed: int = 0, marks: tuple[str, ...] = MARKS, **more: object):
    whole, pieces = answers(request(**more), template, seed=seed, marks=marks, begin=spelled(begin, marks))
    assert (whole.thinking, whole.content, whole.calls) == (pieces.thinking, pieces.content, pieces.calls)
    return whole


def insistent(seed: int, **more: object):
    """What a model that may think says, but that would rather begin with an x."""
    return Talk(TEMPLATE, MARKS, {ord("x"): 4.0}).answers(request(think=None, **more), seed)[0]


def spelled(text: str, marks: tuple[str, ...]) -> list[int]:
    """A text as tokens: bytes, and marks where they stand."""
    tokens: list[int] = []
    while text:
        mark = next((mark for mark in marks if text.startswith(mark)), None)
        tokens += list(text[:1].encode()) if mark is None else [257 + marks.index(mark)]
        text = text[1 if mark is None else len(mark) :]
    return tokens


def complaints(schema: dict[str, Any], text: str) -> list[str]:
    """What is wrong with a JSON text by its schema."""
    return [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(text))]


def person() -> ResponseFormat:
    return ResponseFormat("json_schema", json.dumps(PERSON))


def test_thinking_is_free_before_an_answer_that_is_not():
    found = said(think=True, response_format=person(), begin='I {think} "so"</think>')
    assert 'I {think} "so"' == found.thinking
    assert [] == complaints(PERSON, found.content)


def test_thinking_that_is_to_be_followed_by_an_answer_cannot_end_the_turn():
    for seed in range(5):
        found = said(think=True, response_format=person(), options=Options(thinking_budget=30), seed=seed)
        assert [] == complaints(PERSON, found.content)


def test_a_model_may_begin_to_think_before_its_answer_if_nobody_said_that_it_may_not():
    thoughtful = said(think=None, response_format=person(), begin="<think>hm</think>")
    assert "hm" == thoughtful.thinking
    forbidden = said(think=False, response_format=person(), begin="<think>hm</think>")
    assert "" == forbidden.thinking
    for found in (thoughtful, forbidden):
        assert [] == complaints(PERSON, found.content)


def test_a_model_may_begin_a_line_before_it_thinks():
    for wanted in (person(), ResponseFormat("regex", "yes|no")):
        found = said(think=None, response_format=wanted, begin="\n<think>hm</think>")
        assert "hm" == found.thinking
    called = said(think=None, tools=(tool(),), tool_choice=ToolChoice("required"), begin="\n<think>hm</think>")
    assert ("hm", 1) == (called.thinking, min(1, len(called.calls)))


@pytest.mark.parametrize("kind", ["json_schema", "regex"])
def test_a_model_that_would_say_something_else_answers_at_once(kind):
    wanted = person() if kind == "json_schema" else ResponseFormat("regex", "(yes|no)[0-9]")
    for seed in range(8):
        found = insistent(seed, response_format=wanted)
        assert ("", found.raw) == (found.thinking, found.content)
        assert found.content[0] in "{yn"


def test_a_call_that_must_be_made_is_made_at_once_by_a_model_that_would_say_something_else():
    for seed in range(8):
        found = insistent(seed, tools=(tool(),), tool_choice=ToolChoice("required"))
        assert CALL == found.tokens[0]


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "GLM-4.6", "openai-gpt-oss-120b", "google-gemma-4-31B-it"])
def test_models_of_all_families_think_before_a_held_answer_only_if_they_want_to(name):
    source = upstream_templates()[name]
    found = detect(ChatTemplate(source, bos_token="", eos_token="", today=lambda: datetime(2031, 2, 3)))
    marks = tuple(mark for mark in found.markers if len(mark) > 1)
    asked = request(think=None, response_format=ResponseFormat("json_schema", json.dumps(obj({"a": FLAG}))))
    thought = spelled(f"{found.thinking.start}hm{found.thinking.end}", marks)
    for likely, begin, thinking in (({ord("x"): 9.0}, [], ""), ({}, thought, "hm")):
        talk = Talk(source, marks, likely)
        for seed in range(5):
            whole, _ = talk.answers(asked, seed, begin)
            assert (thinking, ["a"]) == (whole.thinking.strip(), list(json.loads(whole.content)))
            assert whole.content.startswith("{") or begin


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_budget_ends_thinking_after_so_many_tokens(budget):
    found = said(think=True, options=Options(thinking_budget=budget), begin="é" * 20)
    assert budget <= len(found.thinking.encode()) <= budget + 1  # a character is not cut in two
    assert END_THINK in found.tokens[: budget + 2]


def test_a_budget_counts_what_the_model_begins_to_think_by_itself():
    found = said(think=None, options=Options(thinking_budget=3), begin="<think>abcdefgh")
    assert "abc" == found.thinking


def test_a_budget_of_minus_one_is_none():
    assert "a" * 50 == said(think=True, options=Options(thinking_budget=-1), begin="a" * 50 + "</think>").thinking


def test_tools_leave_text_free_until_a_call_begins():
    found = said(tools=(tool(),), begin='Free {"text"} <b>, then <tool_call>')
    assert 'Free {"text"} <b>, then' == found.content[: len('Free {"text"} <b>, then')]
    name, arguments = found.calls[0]
    assert "get_weather" == name
    assert [] == complaints(WEATHER, arguments)


def test_a_call_may_be_spelled_in_letters_that_run_on_into_it():
    found = said(tools=(tool(),), marks=(), begin='Look: <tool_call>{"name": "get_weather", "arguments": {"place": 5')
    assert [] == complaints(WEATHER, found.calls[0][1])


def test_without_parallel_calls_the_answer_ends_with_its_first():
    for seed in range(3):
        found = said(tools=(tool(),), tool_choice=ToolChoice(parallel=False), begin="<tool_call>", seed=seed)
        assert (1, "", "tool_calls") == (len(found.calls), found.content, found.reason)


def test_only_the_tools_that_are_allowed_are_called():
    tools = (tool(), tool("other", obj({})))
    for seed in range(4):
        choice = ToolChoice("required", ("other",))
        found = said(tools=tools, tool_choice=choice, seed=seed)
        assert {("other", "{}")} == {(name, json.dumps(json.loads(text))) for name, text in found.calls}


def test_what_looks_like_the_call_of_a_tool_that_is_not_allowed_is_text():
    tools = (tool(), tool("other", obj({})))
    written = '{"name": "other", "parameters": {}}'
    for allowed, calls in ((("get_weather",), []), ((), [("other", "{}")])):
        choice = ToolChoice("auto", allowed)
        backend = RandomBackend(MARKS)
        prepared = prepare(backend, request(tools=tools, tool_choice=choice), LLAMA)
        found = heard(backend, prepared, [*written.encode(), END_TOKEN], piecewise=False)
        assert (calls, "" if calls else written) == (found.calls, found.content)


def test_without_tools_nothing_is_a_call():
    for template, written in ((TEMPLATE, '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
                              (LLAMA, '{"name": "f", "parameters": {}}')):  # fmt: skip
        found = said(template, begin=written, marks=())
        assert [] == found.calls
        assert found.content.startswith(written)


def test_thinking_comes_before_a_call_that_must_be_made():
    found = said(think=True, tools=(tool(),), tool_choice=ToolChoice("required"), begin="hm<tool_call></think>")
    assert ("hm<tool_call>", "") == (found.thinking, found.content)
    assert found.calls


def test_no_call_begins_where_none_may_be_made():
    found = said(tool_choice=ToolChoice("none"), begin="a<tool_call>b")
    assert CALL not in found.tokens
    assert found.content.startswith("a")
    assert "<tool_call>" not in said(tool_choice=ToolChoice("none"), marks=(), begin="x<tool_call>").content


def test_with_tools_and_a_format_an_answer_is_one_or_the_other():
    outcomes = set()
    for seed in range(12):
        found = said(tools=(tool(),), response_format=person(), seed=seed)
        outcomes.add(bool(found.calls))
        if found.calls:
            assert [] == complaints(WEATHER, found.calls[0][1])
        else:
            assert [] == complaints(PERSON, found.content)
    assert {True, False} == outcomes


def test_a_bare_object_is_a_call_once_it_names_a_tool_and_text_before():
    call = said(LLAMA, tools=(tool(),), begin='{"name": "get_weather", "parameters": {"place": 7')
    assert [] == complaints(WEATHER, call.calls[0][1])
    other = said(LLAMA, tools=(tool(),), begin='{"name": "Ann", "parameters": 7}')
    assert other.content.startswith('{"name": "Ann", "parameters": 7}')


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (ResponseFormat("regex", "(yes|no)/[0-9]{2}"), r"(yes|no)/[0-9]{2}"),
        (ResponseFormat("grammar", 'start: "a" /[0-9]/ "b"'), "a[0-9]b"),
        (ResponseFormat("grammar", 'start: "\x7f}" /[\x7f0]/'), "\x7f}[\x7f0]"),
        (
            ResponseFormat("grammar", 'root ::= "<" word ("," word)? ">"\nword ::= [a-c]{2}\n'),
            r"<[a-c]{2}(,[a-c]{2})?>",
        ),
    ],
)
def test_a_text_can_be_held_to_an_expression_or_a_grammar(wanted, expected):
    for seed in range(3):
        found = said(response_format=wanted, seed=seed)
        assert re.fullmatch(expected, found.content), found.content


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            ResponseFormat("json_schema", '{"uniqueItems": true}'),
            'its JSON schema: unsupported keywords: "uniqueItems"',
        ),
        (ResponseFormat("json_schema", '{"properties": {"a": {"not": {}}}}'), '"not"'),
        (ResponseFormat("json_schema", '{"type": "string", "format": "zork"}'), "Unknown format: zork"),
        (ResponseFormat("json_schema", '{"type": "string", "pattern": "(?!a)"}'), "look-around"),
        (ResponseFormat("json_schema", '{"type": "array", "items": {"minProperties": 3}}'), '"minProperties"'),
        (ResponseFormat("json_schema", '{"type": "string", "minLength": 3, "maxLength": 2}'), "Unsatisfiable schema"),
        (ResponseFormat("regex", "(a"), "the grammar cannot be kept: .*unclosed group"),
        (ResponseFormat("json_schema", '{"$ref": "#"}'), "there is no text that it allows"),
        (ResponseFormat("grammar", 'root ::= root "x"'), "there is no text that it allows"),
        (ResponseFormat("grammar", "start: nothing"), "the grammar cannot be kept: .*nothing"),
        (ResponseFormat("grammar", "root ::= nothing"), 'uses the rule "nothing" at line 1'),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_name(wanted, message):
    with pytest.raises(BadRequestError, match=message):
        said(response_format=wanted)


UNKEPT = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}


def test_a_strict_tool_that_cannot_be_kept_is_refused_and_another_is_kept_as_far_as_possible(caplog):
    with pytest.raises(BadRequestError, match=r'calls of the tool "f" cannot be held to its schema: .*"uniqueItems"'):
        said(tools=(tool("f", UNKEPT, strict=True),))
    with pytest.raises(BadRequestError, match='"uniqueItems"'):
        said(tools=(tool("f", UNKEPT),), tool_choice=ToolChoice("required"))
    found = said(tools=(tool("f", UNKEPT),), begin="<tool_call>")
    assert isinstance(json.loads(found.calls[0][1])["a"], list)
    assert 'arguments of "f" are held to less than its schema: unsupported keywords: "uniqueItems"' in caplog.text


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?!x)"}, "b": FLAG}, "required": ["b"]},
        {"$ref": "http://elsewhere/x"},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": {"type": "number", "minimum": 3, "maximum": 1}}, "required": ["a"]},
    ],
)
def test_whatever_schema_an_agent_brings_its_calls_are_objects(parameters):
    found = said(tools=(tool("f", parameters),), begin="<tool_call>")
    assert isinstance(json.loads(found.calls[0][1]), dict)


def test_a_tool_without_parameters_takes_no_arguments():
    found = said(tools=(Tool("f", '{"type": "function", "function": {"name": "f"}}'),), begin="<tool_call>")
    assert {} == json.loads(found.calls[0][1])


def test_what_nobody_asked_for_is_not_held():
    for more in ({}, {"think": True}, {"prompt": "x", "messages": None, "raw": True}):
        assert None is prepare(RandomBackend(), request(**more), TEMPLATE).sequence.constraint


def test_an_answer_that_is_continued_goes_on_within_its_schema():
    turns = (Message("user", "Q?"), Message("assistant", '{"name": "An'))
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if not loop.last %}\n{% endif %}{% endfor %}"
    rendering = Rendering(continues_final_message=True, prompts=False)
    found = said(template, messages=turns, rendering=rendering, response_format=person())
    assert [] == complaints(PERSON, '{"name": "An' + found.content)
    with pytest.raises(BadRequestError, match="does not begin as it was asked for"):
        said(template, messages=(turns[0], Message("assistant", "Ann")), rendering=rendering, response_format=person())


def test_a_budget_is_told_to_templates_that_read_one():
    template = TEMPLATE.replace("<assistant>", "{{ thinking_budget }}<assistant>")
    prepared = prepare(RandomBackend(), request(options=Options(thinking_budget=70)), template)
    assert b"70<assistant>" in bytes(prepared.sequence.prompt)
