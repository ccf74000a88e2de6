"""OpenAI's older completions over HTTP, and several answers to one request."""

from __future__ import annotations

import json

import httpx
import pytest
from live_server import wait_until

from localllm.generation import FillIn


def post(server, path="/v1/completions", **body):
    return httpx.post(server.url + path, json={"model": "guide", **body}, timeout=20)


def texts(answer):
    return [(choice["index"], choice["text"], choice["finish_reason"]) for choice in answer.json()["choices"]]


def chunks_of(answer):
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert "[DONE]" == lines[-1]
    return [json.loads(line) for line in lines[:-1]]


def test_a_prompt_is_answered_without_a_template(server):
    answer = post(server, prompt="echo a b", max_tokens=5)
    assert (200, [(0, "a b", "stop")]) == (answer.status_code, texts(answer))
    assert {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    } == answer.json()["usage"]
    (request,) = server.scheduler.requests
    assert ("echo a b", True, None, 5) == (request.prompt, request.raw, request.messages, request.options.num_predict)


def test_a_stream_brings_text_the_reason_and_done(server):
    answer = post(server, prompt="echo a b", stream=True, stream_options={"include_usage": True})
    assert "text/event-stream; charset=utf-8" == answer.headers["content-type"]
    *chunks, usage = chunks_of(answer)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [("a", None), (" b", None), ("", "stop")] == [(one["text"], one["finish_reason"]) for one in choices]
    assert ([], 5) == (usage["choices"], usage["usage"]["total_tokens"])


def test_each_of_several_prompts_gets_each_of_its_answers(server):
    answer = post(server, prompt=["echo a", "echo b"], n=2)
    assert [(0, "a", "stop"), (1, "a", "stop"), (2, "b", "stop"), (3, "b", "stop")] == texts(answer)
    usage = answer.json()["usage"]
    assert (6, 4, 2) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


def test_token_ids_are_a_prompt_and_echo_tells_it_as_text(server):
    answer = post(server, prompt=list(b"echo a"), echo=True)
    assert [(0, "echo aa", "stop")] == texts(answer)
    assert [(0, "echo aa", "stop"), (1, "echo bb", "stop")] == texts(
        post(server, prompt=["echo a", "echo b"], echo=True)
    )


def test_a_suffix_makes_it_a_gap(server):
    assert 200 == post(server, prompt="echo a", suffix="z").status_code
    assert 200 == post(server, "/api/generate", prompt="echo a", suffix="z", stream=False).status_code
    assert [("echo a", FillIn("z"))] * 2 == [(one.prompt, one.fill_in) for one in server.scheduler.requests]


def test_several_answers_of_a_chat_are_its_choices(server):
    messages = [{"role": "user", "content": "echo a"}]
    answer = post(server, "/v1/chat/completions", messages=messages, n=2, service_tier="auto").json()
    assert [(0, "a"), (1, "a")] == [(one["index"], one["message"]["content"]) for one in answer["choices"]]
    assert "default" == answer["service_tier"]
    streamed = chunks_of(post(server, "/v1/chat/completions", messages=messages, n=2, stream=True))
    assert {(0, "stop"), (1, "stop")} == {
        (one["index"], one["finish_reason"]) for chunk in streamed for one in chunk["choices"] if one["finish_reason"]
    }


def test_one_answer_that_fails_fails_the_request_and_the_others_are_cancelled(server):
    answer = post(server, prompt=["wait", "fail"])
    assert (400, "the template refused") == (answer.status_code, answer.json()["error"]["message"])
    wait_until(lambda: server.scheduler.leased == 0)
    assert server.scheduler.cancelled >= 1  # the one that waits, and the other where its end had not been read


def test_an_error_before_any_text_keeps_its_status_also_with_several_answers(server):
    answer = post(server, prompt=["fail", "fail"], stream=True)
    assert (400, "template_error") == (answer.status_code, answer.json()["error"]["code"])


@pytest.mark.parametrize("prompts", [["cut off", "echo a"], ["bug", "echo a"]])
def test_an_answer_that_just_ends_is_an_error_and_tells_nothing_of_the_machine(server, prompts):
    answer = post(server, prompt=prompts)
    assert (500, "internal_error") == (answer.status_code, answer.json()["error"]["code"])
    assert "/secret/path" not in answer.text


def test_a_client_that_leaves_cancels_all_its_answers(server):
    body = {"model": "guide", "prompt": ["wait", "wait"], "stream": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=10) as answer:
        next(answer.iter_lines())
    wait_until(lambda: server.scheduler.cancelled >= 2 and not server.scheduler.leased)
    assert 2 == server.scheduler.cancelled


def test_fields_that_change_nothing_are_named_in_a_header(server):
    answer = post(server, prompt="echo a", store=True, **{"bad\r\nname": 1})
    assert "store" == answer.headers["x-localllm-ignored"]
    assert "x-localllm-ignored" not in post(server, prompt="echo a").headers


def test_errors_have_openais_shape(server):
    answer = post(server, n=1)
    assert 400 == answer.status_code
    assert {
        "message": "prompt is required",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "invalid_field",
    } == answer.json()["error"]
