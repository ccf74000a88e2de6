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


def completion(daemon: Daemon, **body: object) -> dict:
    response = daemon.http.post("/v1/completions", json={"model": "guide", "temperature": 0, **body})
    assert 200 == response.status_code, response.text
    return response.json()


def with_its_answer(daemon: Daemon) -> tuple[list[int], dict]:
    """The tokens of a prompt and its answer, and the logprobs with which the answer came."""
    prompt = daemon.http.post("/tokenize", json={"model": "guide", "content": "How do I pull a model? With"}).json()
    body = {"model": "guide", "prompt": prompt["tokens"], "n_predict": 30, "temperature": 0, "return_tokens": True}
    answer = daemon.http.post("/completion", json=body).json()["tokens"]
    (choice,) = completion(daemon, prompt=prompt["tokens"], max_tokens=30, logprobs=3)["choices"]
    count = len(choice["logprobs"]["tokens"])
    assert count >= 10
    kept = count - 2  # what follows has a logprob too: it is not the end of the answer
    return [*prompt["tokens"], *answer[:kept]], {name: values[:kept] for name, values in choice["logprobs"].items()}


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_prompt_is_scored_as_it_would_be_written(daemon: Daemon, max_tokens: int) -> None:
    """As evaluation harnesses ask: how likely is this answer to this question?"""
    tokens, written = with_its_answer(daemon)
    (choice,) = completion(daemon, prompt=tokens, max_tokens=max_tokens, logprobs=3, echo=True)["choices"]
    scored = choice["logprobs"]
    assert len(tokens) + max_tokens == len(scored["tokens"]) == len(scored["token_logprobs"])
    assert (None, None) == (scored["token_logprobs"][0], scored["top_logprobs"][0])
    assert choice["text"] == "".join(scored["tokens"])
    start = len(tokens) - len(written["tokens"])
    for name in ("token_logprobs", "tokens"):
        assert pytest.approx(written[name], abs=0.05) == scored[name][start : len(tokens)]
    for before, after in zip(written["top_logprobs"], scored["top_logprobs"][start:], strict=False):
        assert max(before, key=before.get) == max(after, key=after.get)
    offsets = scored["text_offset"]
    for token, offset in zip(scored["tokens"], offsets, strict=True):
        assert choice["text"][offset:].startswith(token)


def test_scores_do_not_depend_on_what_was_computed_before_or_beside_them(daemon: Daemon) -> None:
    texts = [f"localllm {command} {count} models" for command in ("pull", "run") for count in range(6)]
    body = {"max_tokens": 0, "logprobs": 1, "echo": True}
    together = completion(daemon, prompt=texts, **body)["choices"]
    assert texts == [one["text"] for one in together]
    for text, one in zip(texts, together, strict=True):
        (alone,) = completion(daemon, prompt=text, **body)["choices"]
        assert alone["logprobs"]["tokens"] == one["logprobs"]["tokens"]
        assert pytest.approx(alone["logprobs"]["token_logprobs"][1:], abs=0.05) == one["logprobs"]["token_logprobs"][1:]


def test_a_stream_tells_the_scores_of_a_long_prompt_as_they_come(daemon: Daemon) -> None:
    body = {"prompt": "Pull a model, then run it. " * 60, "max_tokens": 2, "logprobs": 1, "echo": True}
    whole = completion(daemon, **body)["choices"][0]
    text = daemon.http.post("/v1/completions", json={"model": "guide", "temperature": 0, "stream": True, **body}).text
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert len(choices) > 6
    assert whole["text"] == "".join(one["text"] for one in choices)
    for name in ("tokens", "text_offset"):
        assert whole["logprobs"][name] == [each for one in choices for each in (one["logprobs"] or {name: []})[name]]
