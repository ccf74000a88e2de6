"""What a request says of itself in its headers, what the answer's headers say of its way, and its own deadline."""

from __future__ import annotations

import json

import httpx
import pytest
from fake_scheduler import FakeLease, FakeRunner, FakeScheduler
from live_server import live_server, wait_until

from localllm.scheduler.state import Requester
from localllm.server.progress import Progress
from localllm.server.terms import LONGEST_CLIENT, client_of

PLAIN = {"model": "guide", "prompt": "echo a b", "stream": False}


def ask(server, body=None, path="/api/generate", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(server.url + path, json=body or PLAIN, headers=named, timeout=20)


def ours(answer):
    return {
        name.removeprefix("x-localllm-"): value
        for name, value in answer.headers.items()
        if name.startswith("x-localllm-")
    }


def test_a_client_is_its_address_its_program_and_what_is_said_of_its_user():
    assert "10.0.0.7" == client_of("10.0.0.7", {}, "")
    headers = {"user-agent": "OpenAI/Python 3.5", "x-openwebui-user-id": "u1", "x-localllm-client": "nightly"}
    assert "10.0.0.7 OpenAI nightly u1 me" == client_of("10.0.0.7", headers, "me")
    assert "1 Zed" == client_of("1", {"user-agent": "Zed (linux)"}, "")
    assert LONGEST_CLIENT == len(client_of("1", {}, "x" * 5000))


def test_the_scheduler_and_the_engine_hear_who_asks_and_how_urgently(server):
    ask(server, user_agent="curl/8", x_localllm_client="nightly", x_localllm_priority="Batch")
    messages = [{"role": "user", "content": "echo a"}]
    ask(server, {"model": "guide", "messages": messages, "user": "ann"}, "/v1/chat/completions", user_agent="curl/8")
    ask(server, {"model": "embed", "input": "abc"}, "/api/embed", user_agent="curl/8", x_localllm_priority="agent")
    assert [
        Requester("127.0.0.1 curl nightly", "batch"),
        Requester("127.0.0.1 curl ann", "interactive"),
        Requester("127.0.0.1 curl", "agent"),
    ] == server.scheduler.requesters
    told = [(request.client, request.priority) for request in server.scheduler.requests]
    assert [("127.0.0.1 curl nightly", "batch"), ("127.0.0.1 curl ann", "interactive")] == told


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"x_localllm_priority": "urgent"}, "X-Localllm-Priority is 'urgent', but must be interactive, agent, batch"),
        ({"x_request_timeout": "0"}, "X-Request-Timeout is '0', but must be a number of seconds above 0"),
        ({"x_request_timeout": "nan"}, "X-Request-Timeout is 'nan', but must be a number of seconds above 0"),
        ({"x_request_timeout": "soon"}, "X-Request-Timeout is 'soon', but must be a number of seconds above 0"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(server, headers, message):
    answer = ask(server, **headers)
    assert (400, message) == (answer.status_code, answer.json()["error"])


def test_an_answer_tells_what_it_waited_for_and_where_it_was_computed(server):
    assert {
        "queue-position": "0",
        "queue-ms": "125",
        "load-ms": "250",
        "placement": "gpu 1/2 layers",
        "prompt-tokens": "3",
        "cached-tokens": "1",
        "prefill-tokens-per-second": "4.0",
        "decode-tokens-per-second": "2.0",
    } == ours(ask(server))
    known = {"queue-position": "0", "queue-ms": "125", "load-ms": "250", "placement": "gpu 1/2 layers"}
    assert known == ours(ask(server, {"model": "guide", "prompt": "echo a b"}))
    assert known == ours(ask(server, {"model": "embed", "input": "abc"}, "/api/embed"))
    assert known == ours(ask(server, {"model": "guide"}))  # a load
    assert {} == ours(ask(server, {"model": "guide", "keep_alive": 0, "stream": False}))  # an unload waits for nobody


def test_an_answer_of_a_model_that_had_to_go_to_the_cpu_says_why():
    progress = Progress(None)
    progress.lease = FakeLease(FakeRunner(FakeScheduler()), fallback="CUDA0 is full")
    assert (b"x-localllm-fallback", b"CUDA0 is full") in progress.headers()


def test_a_stream_that_still_waits_tells_its_place():
    with (
        live_server(early_headers_seconds=0.05) as server,
        httpx.stream("POST", f"{server.url}/api/generate", json={"model": "slow", "prompt": "x"}, timeout=20) as answer,
    ):
        assert {"queue-position": "3", "queue-eta-ms": "4500"} == ours(answer)
        assert 200 == answer.status_code


def test_ps_lists_the_requests_that_wait(server):
    assert [
        {
            "model": "slow:latest",
            "position": 3,
            "client": "someone",
            "priority": "batch",
            "waited_duration": 1_500_000_000,
            "eta_duration": 4_500_000_000,
        }
    ] == httpx.get(f"{server.url}/api/ps").json()["queue"]


def test_a_full_queue_tells_its_figures_in_headers_too(server):
    answer = ask(server, {**PLAIN, "keep_alive": 503})
    assert (503, "7") == (answer.status_code, answer.headers["retry-after"])
    assert {"queue-length": "64", "queue-limit": "64"} == ours(answer)


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_does_not_start_in_time_is_told_so_and_leaves_the_queue(server, stream):
    answer = ask(server, {"model": "slow", "prompt": "x", "stream": stream}, x_request_timeout="0.2")
    assert 504 == answer.status_code
    assert {
        "error": "the request was not started within 0.2 s: it was number 3 in the queue and needed about 4.5 s more",
        "code": "request_timeout",
        "hint": "allow more with X-Request-Timeout, or ask for a shorter answer",
    } == answer.json()
    assert "false" == answer.headers["x-should-retry"]
    wait_until(lambda: server.scheduler.waiting == 0)


ASKED_AT_ONCE = {
    "/tokenize": {"content": "x"},
    "/detokenize": {"tokens": [104]},
    "/apply-template": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses/input_tokens": {"input": "x"},
    "/api/chat": {"messages": [{"role": "user", "content": "x"}], "_debug_render_only": True},
    "/embedding": {"content": "x"},
    "/rerank": {"query": "x", "documents": ["y"]},
    "/v1/embeddings": {"input": "x"},
}


@pytest.mark.parametrize("path", ASKED_AT_ONCE)
def test_a_question_tells_what_it_waited_for_and_keeps_to_its_time(server, path):
    model = "embed" if path in ("/embedding", "/rerank", "/v1/embeddings") else "guide"
    answer = ask(server, {"model": model, **ASKED_AT_ONCE[path]}, path)
    told = {"queue-position": "0", "queue-ms": "125", "load-ms": "250", "placement": "gpu 1/2 layers"}
    assert (200, told) == (answer.status_code, ours(answer))
    if model == "guide":
        late = ask(server, {"model": "slow", **ASKED_AT_ONCE[path]}, path, x_request_timeout="0.1")
        assert (504, "false") == (late.status_code, late.headers["x-should-retry"])
        assert "the request was not started within 0.1 s: it was number 3 in the queue" in late.text
        wait_until(lambda: server.scheduler.waiting == 0)


def test_an_answer_that_runs_out_of_time_ends_in_the_words_of_its_dialect(server):
    answer = ask(server, {"model": "guide", "prompt": "wait"}, x_request_timeout="0.3")
    last = json.loads(answer.text.splitlines()[-1])
    assert (200, "the answer was not complete within 0.3 s") == (answer.status_code, last["error"])
    body = {"model": "guide", "messages": [{"role": "user", "content": "wait"}], "stream": True}
    events = ask(server, body, "/v1/chat/completions", x_request_timeout="0.3").text.split("\n\n")
    assert "request_timeout" == json.loads(events[-3].removeprefix("data: "))["error"]["code"]
    assert "data: [DONE]" == events[-2]
    whole = ask(server, {**body, "stream": False}, "/v1/chat/completions", x_request_timeout="0.3")
    assert (504, "request_timeout") == (whole.status_code, whole.json()["error"]["code"])
    vectors = ask(server, {"model": "embed", "input": "wait"}, "/api/embed", x_request_timeout="0.3")
    assert (504, "request_timeout") == (vectors.status_code, vectors.json()["code"])
    wait_until(lambda: (server.scheduler.leased, server.scheduler.cancelled) == (0, 4))


def test_an_answer_within_its_time_is_left_alone(server):
    assert 200 == ask(server, x_request_timeout="20").status_code
