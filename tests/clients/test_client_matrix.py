"""Every client library people use, against the real daemon: chat, stream, tools, JSON, vectors, models, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_process import run_cli
from client_programs import run_program
from daemon_process import running_daemon
from synthetic_models import build

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
ALL = {"chat", "stream", "tools", "streamed_tools", "structured", "embeddings", "models", "error"}
# What a library has no call for, or none that asks this daemon.
LACKS = {
    ("litellm_client.py", "ollama"): {"models"},
    ("litellm_client.py", "openai"): {"models"},
    ("langchain_client.py", "ollama"): {"models"},
    ("langchain_client.py", "openai"): {"models"},
    ("langchain_client.py", "responses"): {"models"},
    ("pydantic_ai_client.py", ""): {"models", "embeddings"},
    ("instructor_client.py", ""): {"models", "embeddings", "tools", "streamed_tools"},
    ("llama_index_client.py", ""): {"models", "embeddings"},
    ("openai_agents_client.py", "chat"): {"models", "embeddings"},
    ("openai_agents_client.py", "responses"): {"models", "embeddings"},
    ("autogen_client.py", "ollama"): {"models", "embeddings"},
    ("autogen_client.py", "openai"): {"models", "embeddings"},
    ("anthropic_client.mjs", ""): {"embeddings"},
    ("ai_sdk_client.mjs", "compatible"): {"models"},
    ("ai_sdk_client.mjs", "openai"): {"models"},
    ("ai_sdk_client.mjs", "anthropic"): {"models", "embeddings"},
    ("ai_sdk_client.mjs", "ollama"): {"models"},
}
# Puts pieces together that come within a tenth of a second.
GATHERS = ("pydantic_ai_client.py",)
WAYS = (
    ("litellm_client.py", "ollama"), ("litellm_client.py", "openai"),
    ("langchain_client.py", "ollama"), ("langchain_client.py", "openai"), ("langchain_client.py", "responses"),
    ("llm_client.py", ""), ("pydantic_ai_client.py", ""), ("instructor_client.py", ""), ("llama_index_client.py", ""),
    ("openai_agents_client.py", "chat"), ("openai_agents_client.py", "responses"),
    ("autogen_client.py", "ollama"), ("autogen_client.py", "openai"),
    ("ollama_client.mjs", ""), ("openai_client.mjs", ""), ("anthropic_client.mjs", ""),
    ("ai_sdk_client.mjs", "compatible"), ("ai_sdk_client.mjs", "openai"),
    ("ai_sdk_client.mjs", "anthropic"), ("ai_sdk_client.mjs", "ollama"),
)  # fmt: skip

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running_daemon(tmp_path_factory.mktemp("matrix")) as running:
        file = build("bert-tiny", GUIDE, running.home / "bert-tiny.gguf")
        assert 0 == run_cli("create", "bert-tiny", "--from", str(file), environment=running.environment).returncode
        yield running


@pytest.fixture(scope="module")
def said(daemon, tmp_path_factory):
    """What each program said; each runs once."""
    known: dict[str, dict[str, Any]] = {}

    def of(program: str, way: str) -> dict[str, Any]:
        if program not in known:
            known[program] = run_program(program, daemon.url, tmp_path_factory.mktemp("home"))
        return known[program][way] if way else known[program]

    return of


@pytest.mark.parametrize(("program", "way"), WAYS)
def test_a_client_gets_what_it_asks_for(said, program, way):
    results = said(program, way)
    asked = ALL - LACKS.get((program, way), set())
    assert asked <= results.keys()
    assert "localllm pull" in results["chat"]
    assert "nosuch" in results["error"]
    assert results["structured"]["command"] in ("pull", "run")
    pieces = results["stream"]
    assert len(pieces) > (0 if program in GATHERS else 2)
    if program != "instructor_client.py":  # whose pieces are objects that grow
        assert results["chat"].strip() == "".join(pieces).strip()
    for trip in {"tools", "streamed_tools"} & asked:
        assert_round_trip(results[trip])
    if "embeddings" in asked:
        assert {256} == set(results["embeddings"])
    if "models" in asked:
        assert any("guide" in name for name in results["models"])


def assert_round_trip(trip):
    name, arguments, told = trip
    assert ("get_weather", {"city": "Paris"}) == (name, arguments)
    assert "21" in told


@pytest.mark.parametrize("way", ["anthropic", "ollama"])
def test_thinking_before_a_call_and_behind_its_result_reaches_the_ai_sdk(said, way):
    before, behind = said("ai_sdk_client.mjs", way)["thoughts"]
    assert "get_weather" in before
    assert "result" in behind


def test_litellm_finds_out_what_a_model_is(said):
    assert ["guide"] == said("litellm_client.py", "")["models"]


def test_openais_responses_and_anthropics_count_of_tokens_are_there_too(said):
    assert "localllm pull" in said("openai_client.mjs", "")["responses"]
    assert said("anthropic_client.mjs", "")["tokens"] > 5


def test_a_call_streamed_as_a_response_goes_round(said):
    assert_round_trip(said("openai_client.mjs", "")["responded_tools"])


def test_instructor_gets_an_object_by_a_call_whole_and_as_it_grows(said):
    results = said("instructor_client.py", "")
    assert results["structured_by_tool"]["command"] in ("pull", "run")
    assert results["streamed_by_tool"][-1]["command"] in ("pull", "run")
