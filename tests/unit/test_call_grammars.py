"""Calls held to their tools' schemas, in the syntax of every known family, by a model that says anything: all parse."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from chat_templates import upstream_templates
from json_schemas import FLAG, SHORT, TOOLS, integer, obj, several, text
from jsonschema import Draft202012Validator
from random_answers import Said, Talk, answers

from localllm.chat.formats import detect
from localllm.chat.template import ChatTemplate
from localllm.errors import BadRequestError
from localllm.generation import GenerationRequest, Message, Options, Tool, ToolChoice

# Of every syntax one or more; the other templates are slow.
SAMPLE = """Qwen-Qwen3-0.6B Qwen3-Coder GLM-4.6 Kimi-K3 MiniMax-M2 MiniMax-M3 deepseek-ai-DeepSeek-V3.2
meta-llama-Llama-3.1-8B-Instruct mistralai-Mistral-Nemo-Instruct-2407 LFM2-8B-A1B
Mistral-Small-3.2-24B-Instruct-2506 google-gemma-4-31B-it openai-gpt-oss-120b meetkai-functionary-medium-v3.2""".split()
# They show no tools, or want of each property what these tools do not have.
WITHOUT_CALLS = {
    "CohereForAI-c4ai-command-r-plus-tool_use", "HuggingFaceTB-SmolLM3-3B", "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world", "microsoft-Phi-3.5-mini-instruct",
}  # fmt: skip
SEARCH = obj(
    {
        "query": text(minLength=1, maxLength=9),
        "kinds": several({"enum": ["web", "bücher"]}, 1, 2),
        "filter": obj(
            {"since": text(format="date"), "exact": FLAG, "note": {"type": ["string", "null"], "maxLength": 4}}, "exact"
        ),
        "limit": integer(1, 50),
        "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "both": {"anyOf": [integer(0, 9), FLAG]},
        "code": text(pattern="^[A-Z]{2}[0-9]$"),
    },
    "query kinds filter",
)
SCHEMAS = {"search_all": SEARCH, "search": TOOLS["get_weather"], "get_time": obj({}), "note": obj({"text": SHORT})}


def tool(name: str, parameters: object, **more: object) -> Tool:
    function = {"name": name, "description": f"Does {name}.", "parameters": parameters}
    return Tool(name, json.dumps({"type": "function", "function": function}), **more)


ALL_TOOLS = tuple(tool(name, schema) for name, schema in SCHEMAS.items())
ASKED = GenerationRequest("m", messages=(Message("user", "Q?"),), tools=ALL_TOOLS, think=False)


def asked(**more: object) -> GenerationRequest:
    fields = {name: getattr(ASKED, name) for name in ("messages", "tools", "think")}
    return GenerationRequest("m", **{**fields, **more}, options=Options(thinking_budget=20))


def marks_of(source: str) -> tuple[str, ...]:
    found = detect(ChatTemplate(source, bos_token="", eos_token="", today=lambda: datetime(2031, 2, 3)))
    return tuple(mark for mark in found.markers if len(mark) > 1)


def assert_calls(said: Said) -> None:
    assert ("tool_calls", "") == (said.reason, said.content.strip()), said.raw
    for name, arguments in said.calls:
        Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))


def check(name: str, seeds: range) -> None:
    """With marks that are tokens, and with marks that are letters like all others: noise may not find the end then."""
    source = upstream_templates()[name]
    marks = marks_of(source)
    letters = {ord(letter): 4.0 for mark in marks for letter in mark[-8:] if letter.isascii()}
    with_tokens, with_letters = Talk(source, marks), Talk(source, likely=letters)
    for seed in seeds:
        for said in with_tokens.answers(asked(tool_choice=ToolChoice("required")), seed):
            assert_calls(said)
        spelled, again = with_letters.answers(asked(tool_choice=ToolChoice("required")), seed)
        assert spelled.calls == again.calls
        if spelled.reason != "length":
            assert_calls(spelled)


def names() -> list[str]:
    try:
        return sorted(set(upstream_templates()) - set(SAMPLE) - WITHOUT_CALLS)
    except pytest.skip.Exception:
        return []  # test_render_conformance says why


@pytest.mark.parametrize("name", SAMPLE)
def test_a_demanded_call_follows_its_schema_in_the_familys_syntax(name):
    check(name, range(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_demanded_calls_follow_their_schemas_in_every_familys_syntax(name):
    check(name, range(6))


BUILTIN_BEGINNINGS = ["search.call(", "\nget_time.call(", 'note.call(text="\\"', '{"name": "search', "search("]


@pytest.mark.parametrize("written", BUILTIN_BEGINNINGS)
def test_behind_a_mark_a_call_may_be_written_in_either_way_and_follows_its_schema(written):
    mark = "<|python_tag|>"
    talk = Talk(upstream_templates()["meta-llama-Llama-3.1-8B-Instruct"], [mark])
    token = next(token for token in range(256, 400) if talk.backend.token_bytes(token, special=True) == mark.encode())
    for said in talk.answers(asked(tool_choice=ToolChoice(parallel=False)), begin=[token, *written.encode()]):
        assert_calls(said)
        assert ".call(" not in written or written.strip().partition(".")[0] == said.calls[0][0]


@pytest.mark.parametrize("name", sorted(WITHOUT_CALLS - {"CohereForAI-c4ai-command-r-plus-tool_use"}))
def test_a_call_cannot_be_demanded_of_a_model_without_a_notation_for_it(name):
    with pytest.raises(BadRequestError, match="a call cannot be forced"):
        answers(asked(tool_choice=ToolChoice("required")), upstream_templates()[name])
