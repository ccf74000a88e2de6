"""Answers over HTTP: streams, whole answers, errors before and within them, clients that leave."""

from __future__ import annotations

import json
import math
import socket
from dataclasses import replace

import httpx
import pytest
from live_server import live_server, wait_until

from localllm.errors import ShuttingDownError
from localllm.generation import GenerationRequest, Message, Options


def chat(prompt: str, **fields):
    return {"model": "guide", "messages": [{"role": "user", "content": prompt}], **fields}


def post(server, path, body, **extra):
    return httpx.post(server.url + path, json=body, timeout=20, **extra)


def without_times(line: dict) -> dict:
    return {name: value for name, value in line.items() if name not in ("created_at", "total_duration")}


CLIENT = "127.0.0.1 python-httpx"
METRICS = {
    "load_duration": 250_000_000,
    "queue_duration": 125_000_000,
    "prompt_eval_count": 3,
    "prompt_cached_count": 1,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 2,
    "eval_duration": 1_000_000_000,
}


def test_a_chat_streams_lines_and_ends_with_the_metrics(server):
    answer = post(server, "/api/chat", chat("echo a b"))
    assert (200, "application/x-ndjson") == (answer.status_code, answer.headers["content-type"])
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [
        {"model": "guide", "message": {"role": "assistant", "content": "a"}, "done": False},
        {"model": "guide", "message": {"role": "assistant", "content": " b"}, "done": False},
        {
            "model": "guide",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            **METRICS,
        },
    ] == [without_times(line) for line in lines]
    assert 0 < lines[-1]["total_duration"] < 10**10


def test_the_prompt_can_be_had_instead_of_an_answer(server):
    def shown(path, **fields):
        answer = post(server, path, {"model": "guide", "_debug_render_only": True, **fields})
        assert (200, "application/json; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
        body = answer.json()
        assert body.pop("created_at").endswith("Z")
        return body

    told = "<system>Be brief.<user>before<assistant>yes<user>hi"
    shape = {"model": "guide", "done": False}
    debug = {"rendered_template": told, "tokens": [256, *told.encode()]}
    chat_body = shown("/api/chat", messages=[{"role": "user", "content": "hi"}])
    assert {**shape, "message": {"role": "assistant", "content": ""}, "_debug_info": debug} == chat_body
    assert {**shape, "response": "", "_debug_info": debug} == shown("/api/generate", prompt="hi", stream=False)
    raw = shown("/api/generate", prompt="hi", raw=True)["_debug_info"]
    assert {"rendered_template": "hi", "tokens": [256, 104, 105]} == raw


def test_the_prompt_of_a_model_that_is_not_there_is_an_error(server):
    answer = post(server, "/api/chat", {**chat("hi"), "model": "nobody", "_debug_render_only": True})
    assert (404, "model_not_found") == (answer.status_code, answer.json()["code"])


def test_an_answer_that_is_not_streamed_is_the_same_in_one_object(server):
    answer = post(server, "/api/generate", {"model": "guide", "prompt": "echo a b", "stream": False})
    assert "application/json; charset=utf-8" == answer.headers["content-type"]
    expected = {"model": "guide", "response": "a b", "done": True, "done_reason": "stop", **METRICS}
    assert expected == without_times(answer.json())


def test_openais_stream_ends_with_done_and_its_ids_differ(server):
    body = chat("echo a b", stream=True, stream_options={"include_usage": True})
    ids = set()
    for _ in range(2):
        answer = post(server, "/v1/chat/completions", body)
        assert "text/event-stream; charset=utf-8" == answer.headers["content-type"]
        events = answer.text.split("\n\n")
        assert ["data: [DONE]", ""] == events[-2:]
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        assert "a b" == "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
        assert 5 == chunks[-1]["usage"]["total_tokens"]
        ids |= {chunk["id"] for chunk in chunks}
    assert 2 == len(ids)


def test_openais_tool_call_comes_whole_without_a_stream(server):
    tools = [{"type": "function", "function": {"name": "add"}}]
    choice = post(server, "/v1/chat/completions", chat("tool", tools=tools)).json()["choices"][0]
    assert ("tool_calls", None) == (choice["finish_reason"], choice["message"]["content"])
    assert {"name": "add", "arguments": '{"a": 1}'} == choice["message"]["tool_calls"][0]["function"]


def test_the_modelfile_is_laid_under_what_the_client_sends(server):
    post(server, "/api/chat", chat("echo a", options={"top_k": 3}))
    post(server, "/api/chat", {"model": "guide", "messages": [{"role": "system", "content": "Shout."}]})
    post(server, "/api/generate", {"model": "guide", "prompt": "echo a", "options": {"temperature": 0, "num_ctx": 0}})
    post(server, "/api/generate", {"model": "guide", "prompt": "echo a", "raw": True})
    before = (Message("user", "before"), Message("assistant", "yes"))
    system = Message("system", "Be brief.")
    own = Options(temperature=0.5, stop=('<"end">', "b"))
    assert [
        GenerationRequest(
            "guide",
            messages=(system, *before, Message("user", "echo a")),
            options=Options(temperature=0.5, stop=own.stop, top_k=3),
            client=CLIENT,
        ),
        GenerationRequest("guide", messages=(*before, Message("system", "Shout.")), options=own, client=CLIENT),
        GenerationRequest(
            "guide",
            messages=(system, *before, Message("user", "echo a")),
            options=Options(temperature=0.0, stop=own.stop),
            client=CLIENT,
            returns_context=True,
        ),
        GenerationRequest("guide", prompt="echo a", raw=True, options=own, client=CLIENT),
    ] == server.scheduler.requests


def test_the_configured_context_is_for_those_who_ask_for_none():
    with live_server(context_length=512) as server:
        post(server, "/api/chat", chat("echo a"))
        post(server, "/api/chat", chat("echo a", options={"num_ctx": 99}))
        assert [512, 99] == [request.options.num_ctx for request in server.scheduler.requests]


def test_an_empty_prompt_loads_and_keep_alive_0_unloads(server):
    for path, text in (
        ("/api/generate", {"response": ""}),
        ("/api/chat", {"message": {"role": "assistant", "content": ""}}),
    ):
        answer = post(server, path, {"model": "guide", "keep_alive": -1})
        assert {**text, "model": "guide", "done": True, "done_reason": "load"}.items() <= answer.json().items()
        answer = post(server, path, {"model": "guide", "keep_alive": 0}).json()
        assert {**text, "model": "guide", "done": True, "done_reason": "unload"} == without_times(answer)
    assert ([math.inf] * 2, ["guide:latest"] * 2) == (server.scheduler.keep_alives, server.scheduler.unloaded)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/chat", {"model": "gone", "messages": []}, 404, "model 'gone' not found"),
        ("/api/generate", {}, 404, "model '' not found"),
        ("/api/chat", {}, 400, "model is required"),
        ("/api/chat", chat("echo", model="embed"), 400, '"embed" does not support chat'),
        ("/api/generate", {"model": "embed", "prompt": "x"}, 400, '"embed" does not support generate'),
        ("/api/chat", chat("echo", think=True), 400, '"guide" does not support thinking'),
        ("/api/chat", chat("fail"), 400, "the template refused"),
        ("/api/chat", chat("fail", stream=False), 400, "the template refused"),
        ("/api/chat", chat("fail later", stream=False), 500, "the model's process died"),
        ("/api/chat", chat("echo", keep_alive=500), 500, "the model could not be loaded"),
        ("/api/chat", chat("bug", stream=False), 500, "something went wrong inside localllm"),
        ("/api/chat", chat("cut", stream=False), 500, "something went wrong inside localllm"),
        ("/api/chat", chat("echo", options={"num_ctx": "x"}), 400, 'option "num_ctx" must be of type integer'),
    ],
)
def test_an_error_before_the_first_byte_has_its_status(server, path, body, status, message):
    answer = post(server, path, body)
    assert (status, message) == (answer.status_code, answer.json()["error"])
    assert "application/json; charset=utf-8" == answer.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat("echo", temperature="x"), "temperature"),
        ("/v1/chat/completions", chat("echo", max_completion_tokens="x"), "max_completion_tokens"),
        ("/v1/completions", {"model": "guide", "prompt": "echo", "logit_bias": {"x": 1}}, "logit_bias"),
        ("/v1/responses", {"model": "guide", "input": "echo", "top_p": 2}, "top_p"),
        ("/v1/chat/completions", chat("echo", top_logprobs=2), "top_logprobs"),
    ],
)
def test_an_error_of_openais_names_the_parameter(server, path, body, param):
    error = post(server, path, body).json()["error"]
    assert (param, "invalid_request_error") == (error["param"], error["type"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", chat("echo a", stream=False)),
        ("/api/generate", {"model": "guide", "prompt": "echo a", "stream": False}),
        ("/v1/chat/completions", chat("echo a")),
        ("/v1/completions", {"model": "guide", "prompt": "echo a"}),
        ("/v1/responses", {"model": "guide", "input": "echo a"}),
        ("/v1/messages", chat("echo a", max_tokens=9)),
    ],
)
def test_an_option_that_nobody_knows_is_told_on_every_route(server, path, body):
    answer = post(server, path, {**body, "options": {"warp": 1, "min_p": 0.1}})
    assert (200, "options.warp") == (answer.status_code, answer.headers["x-localllm-ignored"])


def test_tools_need_a_model_that_can_use_them(server):
    plain = replace(server.store.models["slow"], name="plain:latest", capabilities=("completion",))
    server.store.models["plain"] = plain
    tools = [{"type": "function", "function": {"name": "add"}}]
    answer = post(server, "/api/chat", chat("echo", model="plain", tools=tools))
    assert (400, "plain:latest does not support tools") == (answer.status_code, answer.json()["error"])


def test_a_full_queue_says_when_to_come_back_in_each_dialect(server):
    ours = post(server, "/api/chat", chat("echo", keep_alive=503))
    theirs = post(server, "/v1/chat/completions", chat("echo", keep_alive=503))
    for answer in (ours, theirs):
        assert (503, "7") == (answer.status_code, answer.headers["retry-after"])
    message = "server busy, please try again: 64 requests wait for 'guide' and the limit is 64"
    assert message == ours.json()["error"]
    assert (message, "queue_full") == (theirs.json()["error"]["message"], theirs.json()["error"]["code"])


@pytest.mark.parametrize("prompt", ["fail later", "bug", "cut off"])
def test_an_error_within_a_stream_is_its_last_line(server, prompt):
    answer = post(server, "/api/chat", chat(prompt))
    *_, last = answer.text.splitlines()
    assert (200, ["error", "code", "hint"]) == (answer.status_code, list(json.loads(last)))
    assert "/secret" not in answer.text
    answer = post(server, "/v1/chat/completions", chat(prompt, stream=True))
    events = answer.text.split("\n\n")
    assert ["data: [DONE]", ""] == events[-2:]
    assert "api_error" == json.loads(events[-3].removeprefix("data: "))["error"]["type"]


def test_headers_come_early_when_nothing_else_does():
    with live_server(early_headers_seconds=0.05) as server:
        with httpx.stream("POST", f"{server.url}/api/chat", json=chat("silent"), timeout=10) as answer:
            assert (200, "application/x-ndjson") == (answer.status_code, answer.headers["content-type"])
            assert 0 == server.scheduler.cancelled
        wait_until(lambda: server.scheduler.cancelled == 1)


def test_an_error_after_early_headers_goes_into_the_stream():
    with (
        live_server(early_headers_seconds=0.05) as server,
        httpx.stream("POST", f"{server.url}/api/chat", json=chat("held"), timeout=10) as answer,
    ):
        assert 200 == answer.status_code
        server.call(server.scheduler.release.set)
        assert ['{"error":"the template refused","code":"template_error"}'] == list(answer.iter_lines())


@pytest.mark.parametrize("prompt", ["wait", "silent"])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_ends_its_request(server, path, prompt, is_stream):
    body = json.dumps(chat(prompt, stream=is_stream)).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        wait_until(lambda: server.scheduler.leased == 1)
        assert 0 == server.scheduler.cancelled
    wait_until(lambda: server.scheduler.cancelled == 1 and server.scheduler.leased == 0)
    wait_until(lambda: server.activity.running == 0)


def test_a_client_that_leaves_while_it_waits_for_a_load_gives_up_its_place(server):
    body = json.dumps(chat("echo", model="slow")).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        wait_until(lambda: server.scheduler.waiting == 1)
    wait_until(lambda: server.scheduler.waiting == 0)
    assert (0, 0) == (server.scheduler.waiting, server.scheduler.leased)


def test_the_next_request_on_a_connection_comes_after_the_last_ones_end(server):
    with httpx.Client() as client:
        for _ in range(3):
            answer = client.post(f"{server.url}/api/chat", json=chat("echo a b"))
            assert '"done":true' in answer.text
    assert 0 == server.scheduler.cancelled


def test_while_it_stops_new_requests_are_refused_and_running_ones_told(server):
    with httpx.stream("POST", f"{server.url}/api/chat", json=chat("wait"), timeout=10) as running:
        lines = running.iter_lines()
        assert "once" == json.loads(next(lines))["message"]["content"]
        server.activity.close()
        refused = post(server, "/api/chat", chat("echo a"))
        assert (503, "the server is shutting down") == (refused.status_code, refused.json()["error"])
        assert 200 == httpx.get(f"{server.url}/api/version").status_code
        server.call(server.activity.fail_all, ShuttingDownError())
        assert {
            "error": "the server is shutting down",
            "code": "shutting_down",
            "hint": "send the request again once it runs",
        } == json.loads(next(lines))
        assert [] == list(lines)
