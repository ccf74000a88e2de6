"""Logprobs of the real model through the real daemon, in both dialects: what clients may rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from daemon_process import Daemon, lines_of, running_daemon

ASK = [{"role": "user", "content": "How do I pull a model?"}]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("logprobs")) as running:
        yield running


def ollama(daemon: Daemon, *, predict: int = 10, **body: object) -> dict:
    options = {"temperature": 0, "num_predict": predict, **body.pop("options", {})}
    response = daemon.http.post(
        "/api/chat", json={"model": "guide", "messages": ASK, "stream": False, "options": options, **body}
    )
    assert 200 == response.status_code, response.text
    return response.json()


def joined(logprobs: list[dict]) -> str:
    return bytes(byte for one in logprobs for byte in one["bytes"]).decode()


def test_each_token_of_the_answer_has_its_logprob_and_they_spell_the_answer(daemon: Daemon) -> None:
    answer = ollama(daemon, logprobs=True)
    assert 10 == len(answer["logprobs"])
    assert answer["message"]["content"] == joined(answer["logprobs"])
    assert all(one["logprob"] <= 0 and "top_logprobs" not in one for one in answer["logprobs"])


def test_the_likeliest_stand_beside_each_in_order_and_greedy_takes_the_first(daemon: Daemon) -> None:
    for one in ollama(daemon, logprobs=True, top_logprobs=5)["logprobs"]:
        others = one["top_logprobs"]
        assert 5 == len(others)
        assert sorted((other["logprob"] for other in others), reverse=True) == [other["logprob"] for other in others]
        assert (one["bytes"], one["logprob"]) == (others[0]["bytes"], others[0]["logprob"])
        assert sum(math.exp(other["logprob"]) for other in others) < 1.0001


def test_sampling_options_change_the_choice_but_not_the_probabilities(daemon: Daemon) -> None:
    plain = ollama(daemon, predict=1, logprobs=True, top_logprobs=2)["logprobs"][0]
    hot = ollama(daemon, predict=1, logprobs=True, top_logprobs=2, options={"temperature": 5, "top_k": 2, "seed": 1})
    forced = ollama(daemon, predict=1, logprobs=True, top_logprobs=2, format={"type": "object"})
    for answer in (hot, forced):
        for before, after in zip(plain["top_logprobs"], answer["logprobs"][0]["top_logprobs"], strict=True):
            assert before["bytes"] == after["bytes"]
            assert math.isclose(before["logprob"], after["logprob"], abs_tol=0.05)
    assert "{" in forced["logprobs"][0]["token"]


def test_the_whole_answer_has_no_logprob_for_its_end(daemon: Daemon) -> None:
    answer = ollama(daemon, predict=-1, logprobs=True)
    assert "stop" == answer["done_reason"]
    assert answer["message"]["content"] == joined(answer["logprobs"])
    assert answer["eval_count"] - 1 == len(answer["logprobs"])


def test_no_logprob_comes_for_a_stop_string(daemon: Daemon) -> None:
    whole = ollama(daemon, predict=20)["message"]["content"]
    stop = whole[8:12]
    answer = ollama(daemon, predict=20, logprobs=True, options={"stop": [stop]})
    assert whole.partition(stop)[0] == answer["message"]["content"]
    assert joined(answer["logprobs"]).startswith(answer["message"]["content"])
    assert stop not in joined(answer["logprobs"][:-1])


def test_a_stream_tells_the_same_as_a_whole_answer(daemon: Daemon) -> None:
    whole = ollama(daemon, logprobs=True, top_logprobs=1)["logprobs"]
    body = {"model": "guide", "messages": ASK, "options": {"temperature": 0, "num_predict": 10}}
    with daemon.http.stream("POST", "/api/chat", json={**body, "logprobs": True, "top_logprobs": 1}) as response:
        streamed = [one for line in lines_of(response) for one in line.get("logprobs", ())]
    assert [one["bytes"] for one in whole] == [one["bytes"] for one in streamed]


def test_openai_has_them_in_the_choice_whole_and_streamed(daemon: Daemon) -> None:
    body = {"model": "guide", "messages": ASK, "temperature": 0, "max_tokens": 8, "logprobs": True, "top_logprobs": 3}
    (choice,) = daemon.http.post("/v1/chat/completions", json=body).json()["choices"]
    content = choice["logprobs"]["content"]
    assert (8, {3}) == (len(content), {len(one["top_logprobs"]) for one in content})
    assert choice["message"]["content"] == joined(content)
    text = daemon.http.post("/v1/chat/completions", json={**body, "stream": True}).text
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    streamed = [
        one
        for chunk in chunks
        for part in chunk["choices"]
        for one in (part.get("logprobs") or {"content": []})["content"]
    ]
    assert [one["bytes"] for one in content] == [one["bytes"] for one in streamed]


def test_nobody_gets_logprobs_without_asking(daemon: Daemon) -> None:
    assert "logprobs" not in ollama(daemon)
    body = {"model": "guide", "messages": ASK, "max_tokens": 3}
    assert None is daemon.http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]


def test_thinking_is_not_among_them(daemon: Daemon) -> None:
    answer = ollama(daemon, predict=-1, logprobs=True, think=True)
    assert answer["message"]["thinking"]
    assert joined(answer["logprobs"]).strip() == answer["message"]["content"].strip()
