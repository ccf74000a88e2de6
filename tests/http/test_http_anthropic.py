"""Anthropic's dialect over HTTP: messages, their tokens, models, errors, pings."""

from __future__ import annotations

import json

import httpx
import pytest
from live_server import live_server, wait_until

VERSION = {"anthropic-version": "2023-06-01", "x-api-key": "unused"}


def post(server, text, path="/v1/messages", **fields):
    body = {"model": "guide", "max_tokens": 50, "messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(server.url + path, json=body, headers=VERSION, timeout=20)


def events_of(text):
    pairs = [block.split("\n") for block in text.split("\n\n") if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


def test_a_message_is_answered_with_blocks_and_usage(server):
    answer = post(server, "echo a b").json()
    assert [{"type": "text", "text": "a b"}] == answer["content"]
    assert ("message", "assistant", "guide", "end_turn") == tuple(
        answer[name] for name in ("type", "role", "model", "stop_reason")
    )
    assert (2, 1, 2) == tuple(
        answer["usage"][name] for name in ("input_tokens", "cache_read_input_tokens", "output_tokens")
    )


def test_a_stream_has_named_events_from_message_start_to_message_stop(server):
    answer = post(server, "echo a b", stream=True)
    assert "text/event-stream; charset=utf-8" == answer.headers["content-type"]
    names = [name for name, _ in events_of(answer.text)]
    delta = "content_block_delta"
    middle = ["content_block_start", delta, delta, "content_block_stop"]
    assert ["message_start", *middle, "message_delta", "message_stop"] == names


def test_a_tool_call_is_a_block(server):
    tools = [{"name": "add", "input_schema": {"type": "object"}}]
    answer = post(server, "tool", tools=tools).json()
    assert [{"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}}] == answer["content"]
    assert "tool_use" == answer["stop_reason"]


def test_the_tokens_of_a_message_are_counted_with_the_models_own_template(server):
    answer = post(server, "hi", "/v1/messages/count_tokens", system="s")
    expected = "<user>before<assistant>yes<system>s<user>hi"
    assert {"input_tokens": 1 + len(expected)} == answer.json()
    assert 0 == server.scheduler.leased


def test_a_model_that_cannot_think_answers_without_and_that_is_told(server):
    answer = post(server, "echo a", thinking={"type": "enabled", "budget_tokens": 1024}, service_tier="auto")
    assert (200, "service_tier, thinking") == (answer.status_code, answer.headers["x-localllm-ignored"])


@pytest.mark.parametrize(
    ("fields", "status", "kind", "message"),
    [
        ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens is required and must be positive"),
        ({"model": "nosuch"}, 404, "not_found_error", "model 'nosuch' not found"),
        ({"keep_alive": 503}, 503, "overloaded_error", "server busy, please try again"),
        ({"model": "embed"}, 400, "invalid_request_error", '"embed" does not support chat'),
    ],
)
def test_errors_have_anthropics_shape(server, fields, status, kind, message):
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        if "max_tokens" in fields and "count" in path:
            continue
        answer = post(server, "echo a", path, **fields)
        body = answer.json()
        assert (status, "error", kind) == (answer.status_code, body["type"], body["error"]["type"])
        assert body["error"]["message"].startswith(message)
        name = answer.headers["x-request-id"]
        assert (name, name) == (body["request_id"], answer.headers["request-id"])


def test_an_error_within_a_stream_is_an_event_and_the_last(server):
    answer = post(server, "fail later", stream=True)
    *_, (name, error) = events_of(answer.text)
    assert ("error", "api_error", "the model's process died") == (
        name,
        error["error"]["type"],
        error["error"]["message"],
    )
    assert answer.headers["request-id"] == error["request_id"]


def test_a_stream_that_is_silent_pings():
    with live_server(early_headers_seconds=0.05, ping_seconds=0.05) as server:
        body = {"model": "guide", "max_tokens": 5, "stream": True, "messages": [{"role": "user", "content": "wait"}]}
        with httpx.stream("POST", server.url + "/v1/messages", json=body, timeout=10) as answer:
            lines = answer.iter_lines()
            while next(lines) != "event: content_block_delta":
                pass
            assert ["", "event: ping", 'data: {"type":"ping"}'] == [next(lines) for _ in range(4)][1:]
        wait_until(lambda: 1 == server.scheduler.cancelled)


def test_models_are_listed_in_anthropics_shape_for_its_clients(server):
    listed = httpx.get(server.url + "/v1/models", headers=VERSION).json()
    assert (False, "guide:latest", "embed:latest") == (listed["has_more"], listed["first_id"], listed["last_id"])
    assert {
        "type": "model",
        "id": "guide:latest",
        "display_name": "guide:latest",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "lifecycle": "active",
        "max_input_tokens": 2048,
    } == listed["data"][0]
    assert "guide" == httpx.get(server.url + "/v1/models/guide", headers=VERSION).json()["id"]
    assert "list" == httpx.get(server.url + "/v1/models").json()["object"]
    missing = httpx.get(server.url + "/v1/models/nosuch", headers=VERSION)
    assert (404, "not_found_error") == (missing.status_code, missing.json()["error"]["type"])
    assert "error" == missing.json()["type"]


def test_claude_code_is_told_that_somebody_is_here(server):
    assert (200, b"") == ((answer := httpx.head(server.url + "/api/hello")).status_code, answer.content)
    assert {"message": "hello"} == httpx.get(server.url + "/api/hello").json()
