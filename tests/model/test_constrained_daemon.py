"""The bundled model held to shapes over HTTP: eight requests at once, in every dialect, streamed and not, one free."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemon_process import Daemon, running_daemon
from json_schemas import TOOLS, integer, obj
from jsonschema import Draft202012Validator

PERSON = obj({"name": {"type": "string", "maxLength": 20}, "age": integer(0, 120)})
WEATHER = TOOLS["get_weather"]
# A patch as coding agents describe it, of few and short lines: the bundled model would not end it.
PATCH = r"""
start: begin hunk{1,2} end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?
hunk: "*** Add File: " /[^\n]{1,12}/ LF add{1,3} | "*** Update File: " /[^\n]{1,12}/ LF change{1,3}
add: "+" /[^\n]{0,12}/ LF -> line
change: ("@@" | "@@ " /[^\n]{1,12}/) LF | ("+" | "-" | " ") /[^\n]{0,12}/ LF
%import common.LF
"""
IS_PATCH = (
    r"\*\*\* Begin Patch\n(?:\*\*\* Add File: .{1,12}\n(?:\+.{0,12}\n){1,3}"
    r"|\*\*\* Update File: .{1,12}\n(?:@@\n|@@ .{1,12}\n|[-+ ].{0,12}\n){1,3}){1,2}\*\*\* End Patch\n?"
)
DIGIT, NOTHING = integer(0, 9), {"type": "null"}
NODE = {**obj({"v": DIGIT, "next": {"anyOf": [{"$ref": "#/$defs/n"}, NOTHING]}}), "additionalProperties": False}
HARD = {
    "recursion": {"$defs": {"n": NODE}, "$ref": "#/$defs/n"},
    "one of": {"oneOf": [obj({"k": {"const": "a"}, "x": DIGIT}), obj({"k": {"const": "b"}, "y": NOTHING})]},
    "patterns": {"type": "object", "patternProperties": {"^x-[a-z]{1,3}$": DIGIT}, "additionalProperties": False},
    "constant": {"const": {"a": [1, "é", None, {"b": True}]}},
    "mixed values": {"enum": [1, "1", 1.5, None, True, [], {"a": 1}, 'é\n"\\']},
    "so many": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "formats": obj({name: {"type": "string", "format": name} for name in ("date-time", "uuid", "date")}),
    "decimals": obj({"a": {"type": "number", "minimum": 0.25, "maximum": 0.75}, "b": integer(-(2**63), 2**63 - 1)}),
    "nullable": {"anyOf": [{"anyOf": [NOTHING, {"type": "string", "maxLength": 3}]}, NOTHING]},
    "others": {**obj({"a": DIGIT}), "additionalProperties": {"type": "array", "items": DIGIT, "maxItems": 2}},
    "names": obj({"größe": DIGIT, "名前": {"enum": ["太郎", "é"]}, 'q"\\': NOTHING}),
    "anything": {},
}
ENDLESS = {"recursion", "patterns", "others", "anything"}  # what a weak model need not end
FUNCTION = {"name": "get_weather", "description": "Get the weather", "parameters": WEATHER}
TOOL = {"type": "function", "function": FUNCTION}
MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]
ASKED = {"model": "guide", "messages": MESSAGES, "max_tokens": 400}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory):
    with running_daemon(tmp_path_factory.mktemp("home")) as running:
        yield running


def post(daemon: Daemon, path: str, body: dict) -> str:
    response = daemon.http.post(path, json=body)
    assert 200 == response.status_code, response.text
    return response.text


def chunks(text: str) -> list[dict]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def openai_call(daemon: Daemon) -> tuple[dict, object]:
    (choice,) = json.loads(post(daemon, "/v1/chat/completions", {**ASKED, "tools": [TOOL], "tool_choice": "required"}))[
        "choices"
    ]
    assert "tool_calls" == choice["finish_reason"]
    return WEATHER, json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])


def openai_call_streamed(daemon: Daemon) -> tuple[dict, object]:
    named = {"type": "function", "function": {"name": "get_weather"}}
    body = {**ASKED, "tools": [TOOL], "tool_choice": named, "parallel_tool_calls": False, "stream": True}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(post(daemon, "/v1/chat/completions", body))]
    pieces = [call["function"].get("arguments", "") for delta in deltas for call in delta.get("tool_calls", ())]
    assert len(pieces) > 3, "the arguments come while they are written"
    assert 1 == sum("name" in call["function"] for delta in deltas for call in delta.get("tool_calls", ()))
    return WEATHER, json.loads("".join(pieces))


def openai_format_streamed(daemon: Daemon) -> tuple[dict, object]:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    body = {**ASKED, "response_format": wanted, "stream": True, "thinking_budget": 5, "reasoning_effort": "high"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(post(daemon, "/v1/chat/completions", body))]
    assert any(delta.get("reasoning") for delta in deltas)
    return PERSON, json.loads("".join(delta.get("content") or "" for delta in deltas))


def ollama_format(daemon: Daemon) -> tuple[dict, object]:
    body = {"model": "guide", "messages": MESSAGES, "format": PERSON, "think": True, "stream": False}
    message = json.loads(post(daemon, "/api/chat", {**body, "options": {"thinking_budget": 6}}))["message"]
    assert message["thinking"]
    return PERSON, json.loads(message["content"])


def ollama_call_streamed(daemon: Daemon) -> tuple[dict, object]:
    body = {"model": "guide", "messages": MESSAGES, "tools": [TOOL], "tool_choice": "required"}
    lines = [json.loads(line) for line in post(daemon, "/api/chat", body).splitlines() if line.strip()]
    (call,) = [call for line in lines for call in line.get("message", {}).get("tool_calls", ())][:1]
    return WEATHER, call["function"]["arguments"]


def anthropic_call(daemon: Daemon) -> tuple[dict, object]:
    tools = [{"name": "get_weather", "input_schema": WEATHER, "strict": True}]
    body = {**ASKED, "tools": tools, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    (block,) = [one for one in json.loads(post(daemon, "/v1/messages", body))["content"] if one["type"] == "tool_use"]
    return WEATHER, block["input"]


def llamacpp_schema(daemon: Daemon) -> tuple[dict, object]:
    body = {"prompt": "Ann is", "n_predict": 200, "json_schema": PERSON}
    return PERSON, json.loads(json.loads(post(daemon, "/completion", body))["content"])


def free_answer(daemon: Daemon) -> tuple[dict, object]:
    body = {"model": "guide", "messages": MESSAGES, "stream": False, "options": {"temperature": 0}, "think": False}
    return {"type": "string", "minLength": 1}, json.loads(post(daemon, "/api/chat", body))["message"]["content"]


HELD = [openai_call, openai_call_streamed, openai_format_streamed, ollama_format, ollama_call_streamed, anthropic_call,
        llamacpp_schema]  # fmt: skip


def test_eight_at_once_keep_to_their_shapes_in_every_dialect_and_a_free_one_to_itself(daemon):
    alone = free_answer(daemon)
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda ask: ask(daemon), [*HELD, free_answer]))
    for schema, value in found:
        Draft202012Validator(schema).validate(value)
    assert alone == found[-1]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"grammar": 'root ::= "<" [a-f]{2} ">"'}, "<[a-f]{2}>"),
        ({"guided_regex": "(yes|no)!"}, "(yes|no)!"),
        ({"regex": "(yes|no)!"}, "(yes|no)!"),
        ({"structured_outputs": {"choice": ["red", "blue"]}}, "red|blue"),
        ({"response_format": {"type": "grammar", "grammar": 'start: "a" | "b"'}}, "a|b"),
    ],
)
def test_texts_keep_to_grammars_and_expressions(daemon, fields, expected):
    answer = json.loads(post(daemon, "/v1/chat/completions", {**ASKED, **fields}))
    assert re.fullmatch(expected, answer["choices"][0]["message"]["content"])


def test_an_answer_that_is_cut_says_so(daemon):
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    body = {**ASKED, "response_format": wanted, "max_tokens": 3, "reasoning_effort": "none"}
    (choice,) = json.loads(post(daemon, "/v1/chat/completions", body))["choices"]
    assert ("length", "{") == (choice["finish_reason"], choice["message"]["content"][:1])


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "json_object", "schema": {"uniqueItems": True}}}),
        ("/v1/messages", {"output_format": {"type": "json_schema", "schema": {"uniqueItems": True}}}),
        ("/api/chat", {"format": {"uniqueItems": True}}),
        ("/completion", {"prompt": "x", "json_schema": {"uniqueItems": True}}),
    ],
)
def test_a_keyword_that_cannot_be_kept_is_named_in_a_400(daemon, path, fields):
    response = daemon.http.post(path, json={**ASKED, **fields})
    assert 400 == response.status_code
    assert 'unsupported keywords: \\"uniqueItems\\"' in response.text


@pytest.mark.parametrize("name", HARD)
def test_hard_schemas_are_kept(daemon, name):
    wanted = {"type": "json_schema", "json_schema": {"name": "wanted", "schema": HARD[name]}}
    body = {**ASKED, "response_format": wanted, "reasoning_effort": "none", "temperature": 1.5, "max_tokens": 400}
    for seed in range(2):
        (choice,) = json.loads(post(daemon, "/v1/chat/completions", {**body, "seed": seed}))["choices"]
        assert "stop" == choice["finish_reason"] or name in ENDLESS
        if choice["finish_reason"] == "stop":
            Draft202012Validator(HARD[name]).validate(json.loads(choice["message"]["content"]))


def test_the_input_of_a_custom_tool_follows_its_lark_grammar(daemon):
    wanted = {"type": "grammar", "syntax": "lark", "definition": PATCH}
    tool = {"type": "custom", "name": "apply_patch", "description": "Edit files", "format": wanted}
    body = {"model": "guide", "input": "Add a file", "tools": [tool], "tool_choice": "required",
            "parallel_tool_calls": False, "temperature": 1.5}  # fmt: skip

    def asked(number: int) -> str:
        if number % 2:
            events = chunks(post(daemon, "/v1/responses", {**body, "stream": True}))
            return next(one["input"] for one in events if one["type"] == "response.custom_tool_call_input.done")
        output = json.loads(post(daemon, "/v1/responses", body))["output"]
        return next(one["input"] for one in output if one["type"] == "custom_tool_call")

    with ThreadPoolExecutor(8) as clients:
        for text in clients.map(asked, range(24)):
            assert re.fullmatch(IS_PATCH, text), text


def test_a_lark_grammar_that_cannot_be_kept_is_a_400_with_its_place(daemon):
    wanted = {"type": "grammar", "syntax": "lark", "definition": "start: line+\nline: nobody"}
    tool = {"type": "custom", "name": "apply_patch", "format": wanted}
    response = daemon.http.post("/v1/responses", json={"model": "guide", "input": "x", "tools": [tool]})
    assert 400 == response.status_code
    assert 'the grammar of the tool \\"apply_patch\\" cannot be kept: line 2' in response.text
