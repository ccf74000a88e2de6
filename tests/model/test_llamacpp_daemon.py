"""llama-server's dialect on a real daemon and the bundled model: what only real tokens can show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from daemon_process import Daemon, running_daemon

QUESTION = "<|im_start|>user\nHow do I pull a model?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("llamacpp")) as running:
        yield running


def post(daemon: Daemon, path: str, **body: Any) -> Any:
    answer = daemon.http.post(path, json={"model": "guide", **body})
    assert 200 == answer.status_code, answer.text
    return answer.json()


def complete(daemon: Daemon, prompt: Any, **body: Any) -> Any:
    return post(daemon, "/completion", **{"prompt": prompt, "temperature": 0, "n_predict": 12, **body})


def test_the_tokens_of_an_answer_are_told_and_make_its_text(daemon: Daemon) -> None:
    answer = complete(daemon, QUESTION, return_tokens=True)
    assert answer["tokens_predicted"] == len(answer["tokens"])
    assert answer["content"] == post(daemon, "/detokenize", tokens=answer["tokens"])["content"]
    assert [] == complete(daemon, QUESTION)["tokens"]
    cut = complete(daemon, QUESTION, return_tokens=True, stop=["local"])
    assert cut["content"] == post(daemon, "/detokenize", tokens=cut["tokens"])["content"]


def test_texts_and_token_ids_in_turn_are_the_prompt_that_they_make_together(daemon: Daemon) -> None:
    tokens = post(daemon, "/tokenize", content=QUESTION)["tokens"]
    opening = "<|im_start|>user\n"
    count = len(post(daemon, "/tokenize", content=opening)["tokens"])
    mixed = [opening, *tokens[count:-3], "<|im_start|>assistant\n"]
    assert tokens == post(daemon, "/tokenize", content=mixed)["tokens"]
    answer = complete(daemon, mixed)
    assert (complete(daemon, QUESTION)["content"], mixed) == (answer["content"], answer["prompt"])
    several = complete(daemon, [QUESTION, mixed])
    assert several[0]["content"] == several[1]["content"] == answer["content"]


def test_each_piece_of_a_stream_tells_how_fast_it_goes(daemon: Daemon) -> None:
    body = {"model": "guide", "prompt": QUESTION, "stream": True, "timings_per_token": True, "n_predict": 4}
    text = daemon.http.post("/completion", json=body).text
    *pieces, last = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
    assert list(range(1, len(pieces) + 1)) == [one["timings"]["predicted_n"] for one in pieces]
    spent = [one["timings"]["predicted_ms"] for one in pieces]
    assert sorted(spent) == spent
    assert last["timings"].keys() > pieces[0]["timings"].keys()


def test_a_prompt_of_nothing_is_refused_in_every_form(daemon: Daemon) -> None:
    for prompt in ("", ["", [5]], [[5], ["", 5, 99999]]):
        refused = daemon.http.post("/completion", json={"model": "guide", "prompt": prompt, "n_predict": 1})
        assert (400, "invalid_request_error") == (refused.status_code, refused.json()["error"]["type"])
    assert "a" == complete(daemon, ["", 64], n_predict=1)["content"][:1]
