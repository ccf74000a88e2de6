"""The bundled model calls a tool and uses its result, end to end, streamed, in both dialects; thinking comes apart."""

from __future__ import annotations

import json

import pytest
from daemon_process import Daemon, running_daemon

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Get the weather", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
RESULT = "sunny, 21 degrees"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory):
    with running_daemon(tmp_path_factory.mktemp("home")) as running:
        yield running


def ollama(daemon: Daemon, messages: list[dict], **more: object) -> dict:
    """One streamed answer of /api/chat, its pieces joined."""
    body = {"model": "guide", "messages": messages, "options": {"temperature": 0}, **more}
    said: dict = {"role": "assistant", "content": "", "thinking": "", "tool_calls": []}
    response = daemon.http.post("/api/chat", json=body)
    for line in response.text.splitlines():
        message = json.loads(line)["message"]
        said["content"] += message.get("content") or ""
        said["thinking"] += message.get("thinking") or ""
        said["tool_calls"] += message.get("tool_calls") or []
    return said


def openai(daemon: Daemon, messages: list[dict], **more: object) -> dict:
    """One streamed answer of /v1/chat/completions, its pieces joined."""
    body = {"model": "guide", "messages": messages, "temperature": 0, "stream": True, **more}
    said: dict = {"role": "assistant", "content": "", "thinking": "", "tool_calls": []}
    response = daemon.http.post("/v1/chat/completions", json=body)
    for line in response.text.splitlines():
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            delta = choice["delta"]
            said["content"] += delta.get("content") or ""
            said["thinking"] += delta.get("reasoning") or ""
            for call in delta.get("tool_calls", ()):
                if call.get("id"):
                    said["tool_calls"].append({**call, "function": {"name": "", "arguments": ""}})
                for key, text in call["function"].items():
                    said["tool_calls"][call["index"]]["function"][key] += text
    return said


def test_a_tool_is_called_and_its_result_told_by_ollamas_chat(daemon):
    said = ollama(daemon, [QUESTION], tools=[TOOL])
    ((function,), text) = [call["function"] for call in said["tool_calls"]], said["content"]
    assert ("get_weather", {"city": "Paris"}, "") == (function["name"], function["arguments"], text)
    result = {"role": "tool", "tool_name": "get_weather", "content": RESULT}
    turn = {key: value for key, value in said.items() if value}
    assert RESULT in ollama(daemon, [QUESTION, turn, result], tools=[TOOL])["content"]


def test_a_tool_is_called_and_its_result_told_by_openais_chat(daemon):
    said = openai(daemon, [QUESTION], tools=[TOOL])
    ((call,), text) = said["tool_calls"], said["content"]
    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    assert ("get_weather", {"city": "Paris"}, "") == (name, arguments, text)
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": RESULT}
    assert RESULT in openai(daemon, [QUESTION, turn, result], tools=[TOOL])["content"]


def test_thinking_comes_apart_from_the_answer_and_may_be_cut_short(daemon):
    asked = [{"role": "user", "content": "How do I pull a model?"}]
    for said in (ollama(daemon, asked, think=True), openai(daemon, asked, reasoning_effort="high")):
        assert said["thinking"]
        assert "localllm pull" in said["content"]
        assert "think>" not in said["content"]
    short = ollama(daemon, asked, think=True, options={"temperature": 0, "thinking_budget": 5, "num_predict": 80})
    assert 0 < len(short["thinking"]) < len(said["thinking"])
    assert short["content"]
    assert "think>" not in short["content"]


def test_a_tool_that_is_brought_in_later_is_called_and_leaves_the_prompts_beginning_as_it_was(daemon):
    search = {"name": "find_tool", "input_schema": {"type": "object", "properties": {}}}
    weather = {
        "name": "get_weather",
        "description": "Get the weather",
        "input_schema": PARAMETERS,
        "defer_loading": True,
    }
    call = {"type": "tool_use", "id": "t", "name": "find_tool", "input": {}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "tool_reference", "tool_name": "get_weather"}],
    }

    def ask(path: str, messages: list[dict], tools: list[dict], **more: object) -> dict:
        body = {"model": "guide", "max_tokens": 60, "temperature": 0, "messages": messages, "tools": tools, **more}
        answer = daemon.http.post(f"/v1/messages{path}", json=body)
        assert 200 == answer.status_code, answer.text
        return answer.json()

    assert ask("/count_tokens", [QUESTION], [search]) == ask("/count_tokens", [QUESTION], [search, weather])
    first = ask("", [QUESTION], [search])["usage"]
    turns = [QUESTION, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}, QUESTION]
    said = ask("", turns, [search, weather], tool_choice={"type": "tool", "name": "get_weather"})
    assert said["usage"]["cache_read_input_tokens"] >= first["input_tokens"] - 8
    (block,) = said["content"]
    assert ("tool_use", "get_weather") == (block["type"], block["name"])
    assert {"city"} == set(block["input"])
