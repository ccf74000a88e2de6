"""Real models held to schemas: the bundled one, and random weights, in batches with answers that are free."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from chat_templates import upstream_templates
from json_schemas import SCHEMAS, TOOLS
from jsonschema import Draft202012Validator
from llguidance import LLMatcher
from synthetic_models import build

from localllm.chat.lark import JSON_BLANKS
from localllm.engine.grammar import byte_tokenizer
from localllm.generation import GenerationRequest, Message, Options, ResponseFormat, Tool, ToolChoice

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHILD = Path(__file__).with_name("constrained_child.py")
SAMPLE = """two types|one of some values|a pattern|a date and a time|a number about zero|a pair and more
optional members|a map of objects|any of two objects|a tree|tool read_file|tool click|tool book_flight
tool extract_people|tool comment_tree""".replace("\n", "|").split("|")
FAMILIES = """Qwen-Qwen3-0.6B Qwen3-Coder GLM-4.6 Kimi-K2-Instruct MiniMax-M2 deepseek-ai-DeepSeek-V3.2 MiniMax-M3
llama-cpp-deepseek-r1 meta-llama-Llama-3.1-8B-Instruct mistralai-Mistral-Nemo-Instruct-2407 LFM2-8B-A1B
google-gemma-4-31B-it openai-gpt-oss-120b Mistral-Small-3.2-24B-Instruct-2506""".split()
ASKED = (Message("user", "What is the weather in Paris?"),)
# Near to chance: a model of random weights that may choose repeats itself for ever.
HOT = Options(num_predict=2500, temperature=2.0, top_k=0, top_p=1.0)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama-tiny", GUIDE, tmp_path_factory.mktemp("random") / "model.gguf")


def answered(model: Path, requests: list[GenerationRequest], template: str | None = None) -> list[dict]:
    order = {"model": str(model), "template": template, "requests": msgspec.to_builtins(requests)}
    done = subprocess.run(
        [sys.executable, str(CHILD)], input=json.dumps(order), capture_output=True, text=True, timeout=560, check=False
    )
    assert 0 == done.returncode, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def free(number: int) -> GenerationRequest:
    messages = (Message("user", f"How do I pull model {number}?"),)
    return GenerationRequest("m", messages=messages, think=False, options=Options(num_predict=40, temperature=0.0))


def asked_for(name: str, number: int) -> GenerationRequest:
    wanted = ResponseFormat("json_schema", json.dumps(SCHEMAS[name]))
    return GenerationRequest("m", messages=ASKED, think=False, response_format=wanted, options=replaced(number))


def replaced(number: int) -> Options:
    return msgspec.structs.replace(HOT, seed=number)


def check_schemas(model: Path, names: list[str]) -> None:
    requests = [request for number, name in enumerate(names) for request in (asked_for(name, number), free(number))]
    found = answered(model, requests)
    for name, said in zip(names, found[::2], strict=True):
        assert "" == said["error"], name
        if said["reason"] == "length":  # chance may not close a text that has no bound in so many tokens
            assert begins_an_answer(name, said["content"]), (name, said["content"][-200:])
        else:
            Draft202012Validator(SCHEMAS[name]).validate(json.loads(said["content"]))
    assert len(names) > 10 * [said["reason"] for said in found[::2]].count("length")
    alone = answered(model, [free(number) for number in range(len(names))])
    assert [said["content"] for said in alone] == [said["content"] for said in found[1::2]]


def begins_an_answer(name: str, content: str) -> bool:
    grammar = LLMatcher.grammar_from_json_schema(
        json.dumps(SCHEMAS[name]), defaults={"whitespace_pattern": JSON_BLANKS}
    )
    tokens = list(content.removesuffix("\ufffd").encode())
    tokenizer = byte_tokenizer([*(bytes([byte]) for byte in range(256)), b""], 256)
    return LLMatcher(tokenizer, grammar).try_consume_tokens(tokens) == len(tokens)


def test_the_bundled_model_keeps_to_schemas_beside_answers_that_are_free():
    check_schemas(GUIDE, SAMPLE)


def test_random_weights_keep_to_schemas_beside_answers_that_are_free(random_model):
    check_schemas(random_model, SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(6))
def test_every_model_keeps_to_every_schema(random_model, part):
    for model in (GUIDE, random_model):
        check_schemas(model, sorted(SCHEMAS)[part::6])


def weather(number: int, mode: str) -> GenerationRequest:
    function = {"name": "get_weather", "description": "d", "parameters": TOOLS["get_weather"]}
    tools = (Tool("get_weather", json.dumps({"type": "function", "function": function})),)
    options = msgspec.structs.replace(HOT, seed=number, thinking_budget=12)
    return GenerationRequest(
        "m", messages=ASKED, tools=tools, tool_choice=ToolChoice(mode, parallel=False), think=False, options=options
    )


def check_calls(model: Path, family: str, count: int) -> None:
    requests = [one for number in range(count) for one in (weather(number, "required"), free(number))]
    for said in answered(model, requests, upstream_templates()[family])[::2]:
        assert ("tool_calls", "", "") == (said["reason"], said["error"], said["content"].strip())
        for name, arguments in said["calls"]:
            assert "get_weather" == name
            Draft202012Validator(TOOLS["get_weather"]).validate(json.loads(arguments))


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_random_weights_make_calls_in_a_familys_syntax(random_model, family):
    check_calls(random_model, family, 4)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_make_calls_in_every_familys_syntax(random_model, family):
    check_calls(random_model, family, 16)
