"""Streams that have nothing to tell yet: their headers are there at once, and they are never silent for long."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager

import httpx
import pytest
from live_server import live_server

CHAT = [{"role": "user", "content": "prefill 30"}]
# Route, body, and what each dialect's stream ends with.
STREAMS = (
    ("/v1/chat/completions", {"messages": CHAT}, "data: [DONE]"),
    ("/v1/completions", {"prompt": "prefill 30"}, "data: [DONE]"),
    ("/v1/responses", {"input": "prefill 30"}, "event: response.completed"),
    ("/v1/messages", {"messages": CHAT, "max_tokens": 9}, "event: message_stop"),
    ("/completion", {"prompt": "prefill 30"}, '"stop":true'),
    ("/api/chat", {"messages": CHAT}, '"done":true'),
    ("/api/generate", {"prompt": "prefill 30"}, '"done":true'),
)
ROUTES = [pytest.param(*stream, id=stream[0]) for stream in STREAMS]


@contextmanager
def asking(server, path, body, model="guide"):
    everything = {"model": model, "stream": True, **body}
    with httpx.stream("POST", server.url + path, json=everything, timeout=20) as stream:
        yield stream


def is_ping(text: str) -> bool:
    return text.startswith((": keep-alive\n\n", " ", "event: ping\n", "event: response.created\n"))


@pytest.mark.parametrize(("path", "body", "_"), ROUTES)
def test_who_waits_in_the_queue_has_headers_at_once_and_hears_something(path, body, _):
    with live_server(early_headers_seconds=0.02, ping_seconds=0.02) as server:
        started = time.monotonic()
        with asking(server, path, body, "slow") as stream:
            assert 200 == stream.status_code
            assert "3" == stream.headers["x-localllm-queue-position"]
            assert is_ping(next(stream.iter_text()))
            assert time.monotonic() - started < 5


@pytest.mark.parametrize(("path", "body", "end"), ROUTES)
def test_who_waits_for_a_long_prompt_hears_something_and_then_the_answer(path, body, end):
    with live_server(ping_seconds=0.05) as server:
        started = time.monotonic()
        with asking(server, path, body) as stream:
            text = stream.read().decode()
        seconds = time.monotonic() - started
    pings = text.count(": keep-alive\n\n") + text.count("event: ping\n") + (len(text) - len(text.lstrip(" ")))
    assert 2 <= pings <= seconds / 0.05
    assert "once" in text
    assert end in text[-2500:]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_every_line_of_ollamas_streams_is_json_whatever_came_before_it(path):
    body = {"messages": CHAT} if path == "/api/chat" else {"prompt": "prefill 30"}
    with live_server(ping_seconds=0.02) as server, asking(server, path, body) as stream:
        lines = list(stream.iter_lines())
    assert lines[0].startswith("  ")
    assert [False, True] == [json.loads(line)["done"] for line in lines]


def test_a_daemon_may_be_told_to_keep_silent():
    with live_server(ping_seconds=float("inf")) as server, asking(server, "/v1/completions", STREAMS[1][1]) as stream:
        assert "keep-alive" not in stream.read().decode()


def progress_of(text: str) -> list[dict]:
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]
    return [event["prompt_progress"] for event in events if "prompt_progress" in event]


@pytest.mark.parametrize(
    ("path", "body"), [("/completion", {"prompt": "prefill 5"}), ("/infill", {"input_suffix": ""}),
                       ("/v1/chat/completions", {"messages": [{"role": "user", "content": "prefill 5"}]})]
)  # fmt: skip
def test_who_asks_for_progress_is_told_how_far_its_prompt_is(path, body):
    body = {"input_prefix": "prefill 5", **body} if path == "/infill" else body
    with live_server() as server, asking(server, path, {**body, "return_progress": True}) as stream:
        text = stream.read().decode()
    steps = progress_of(text)
    assert [(step, 5, 1) for step in range(5)] == [
        (step["processed"], step["total"], step["cache"]) for step in steps[:5]
    ]
    assert 0 == steps[0]["time_ms"] <= steps[4]["time_ms"]
    assert "x-localllm-ignored" not in stream.headers


def test_who_does_not_ask_is_not_told():
    with live_server() as server, asking(server, "/completion", {"prompt": "prefill 5"}) as stream:
        assert [] == progress_of(stream.read().decode())


# What each dialect's stream ends with when its answer failed after the first word.
ENDS = (
    ("/v1/chat/completions", "messages", '"hint":"the next request starts a new one"}}\n\ndata: [DONE]\n\n'),
    ("/v1/completions", "prompt", '"hint":"the next request starts a new one"}}\n\ndata: [DONE]\n\n'),
    ("/v1/responses", "input", '"background":false},"sequence_number":8}\n\n'),
    ("/v1/messages", "messages", '"hint":"the next request starts a new one"},"request_id":"id1"}\n\n'),
    ("/completion", "prompt", '"hint":"the next request starts a new one"}}\n\n'),
    ("/api/chat", "messages", '"hint":"the next request starts a new one"}\n'),
    ("/api/generate", "prompt", '"hint":"the next request starts a new one"}\n'),
)  # fmt: skip


@pytest.mark.parametrize(("path", "field", "end"), [pytest.param(*end, id=end[0]) for end in ENDS])
def test_a_stream_that_fails_says_so_with_its_last_event(path, field, end):
    said = [{"role": "user", "content": "fail later"}] if field == "messages" else "fail later"
    with live_server() as server, asking(server, path, {field: said, "max_tokens": 9}) as stream:
        text = stream.read().decode()
    assert "once" in text
    assert "the model's process died" in text
    assert text.endswith(end)
