"""The routes that embed, over HTTP: answers, errors in each dialect's words, and clients that leave."""

from __future__ import annotations

import httpx
import pytest
from live_server import LiveServer, wait_until

from localllm.embedding import EmbedRequest


def post(server: LiveServer, path: str, **body: object) -> httpx.Response:
    return httpx.post(server.url + path, json={"model": "embed", **body}, trust_env=False)


def test_ollama_gets_a_vector_per_input_and_the_figures(server: LiveServer) -> None:
    answer = post(server, "/api/embed", input=["why", "long"], keep_alive=60).json()
    assert ("embed", [[3.0, 0.5], [4.0, 0.5]], 7, 1) == (
        answer["model"],
        answer["embeddings"],
        answer["prompt_eval_count"],
        answer["truncated_count"],
    )
    assert 250_000_000 == answer["load_duration"]
    assert answer["total_duration"] > 0
    assert [60.0] == server.scheduler.keep_alives


def test_an_empty_input_loads_the_model_and_has_no_vector(server: LiveServer) -> None:
    assert [] == post(server, "/api/embed", input="").json()["embeddings"]
    assert {"embedding": []} == post(server, "/api/embeddings", prompt="").json()
    assert ([None, None], []) == (server.scheduler.keep_alives, server.scheduler.embed_requests)


def test_the_older_route_gives_one_vector_as_the_model_made_it(server: LiveServer) -> None:
    assert {"embedding": [3.0, 0.5]} == post(server, "/api/embeddings", prompt="why").json()
    (request,) = server.scheduler.embed_requests
    assert not request.normalises


def test_openai_gets_its_list(server: LiveServer) -> None:
    assert {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [2.0, 0.5]}],
        "model": "embed",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    } == post(server, "/v1/embeddings", input=[7, 8]).json()


def test_the_modelfiles_context_counts_unless_the_client_says_another(server: LiveServer) -> None:
    post(server, "/api/embed", input="a", options={"num_ctx": 30})
    post(server, "/api/embed", input="a", options={"num_ctx": 0})
    expected = [EmbedRequest("embed", ("a",), truncates=True, num_ctx=number) for number in (30, None)]
    assert expected == server.scheduler.embed_requests


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {"input": "a", "options": {"num_ctx": 9, "temperature": 1, "seed": None}, "user": "u"}),
        ("/api/embeddings", {"prompt": "a", "options": {"num_ctx": 9, "temperature": 1}, "user": "u", "name": "x"}),
        ("/v1/embeddings", {"input": "a", "options": {"num_ctx": 9, "temperature": 1}, "user": "u"}),
    ],
)
def test_what_vectors_do_not_depend_on_is_told(server: LiveServer, path: str, body: dict[str, object]) -> None:
    answer = post(server, path, **body)
    assert (200, "user, options.temperature") == (answer.status_code, answer.headers["x-localllm-ignored"])
    (request,) = server.scheduler.embed_requests
    assert 9 == request.num_ctx


def test_what_llama_vscode_calls_every_model_is_the_one_that_embeds(server: LiveServer) -> None:
    answer = post(server, "/v1/embeddings", model="GPT-4", input="why")
    assert ("embed:latest", "model") == (answer.json()["model"], answer.headers["x-localllm-ignored"])
    assert 404 == post(server, "/v1/embeddings", model="gpt-4", input="why").status_code


def test_many_inputs_go_to_the_runner_in_parts_and_come_back_in_one(server: LiveServer) -> None:
    answer = post(server, "/v1/embeddings", input=["x" * (1 + index % 7) for index in range(2500)]).json()
    assert [1024, 1024, 452] == [len(request.inputs) for request in server.scheduler.embed_requests]
    assert [1.0 + index % 7 for index in range(2500)] == [one["embedding"][0] for one in answer["data"]]
    assert list(range(2500)) == [one["index"] for one in answer["data"]]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/embed", {"model": "guide"}, 400, '"guide" does not support embedding'),
        ("/v1/embeddings", {"model": "guide", "input": "a"}, 400, '"guide" does not support embedding'),
        ("/api/embed", {"model": "absent"}, 404, 'model "absent" not found, try pulling it first'),
        ("/api/embeddings", {"model": "absent"}, 404, 'model "absent" not found, try pulling it first'),
        ("/api/embed", {"model": ""}, 404, "model '' not found"),
        ("/v1/embeddings", {"model": "absent", "input": "a"}, 404, "model 'absent' not found"),
        ("/api/embed", {"input": [1]}, 400, "invalid input type"),
        ("/v1/embeddings", {"input": []}, 400, "invalid input"),
    ],
)
def test_errors_are_in_the_words_of_the_dialect(
    server: LiveServer, path: str, body: dict[str, object], status: int, message: str
) -> None:
    response = post(server, path, **body)
    error = response.json()["error"]
    assert (status, message) == (response.status_code, error["message"] if path.startswith("/v1/") else error)


def test_a_full_queue_is_a_503_with_a_time_to_come_back(server: LiveServer) -> None:
    response = post(server, "/api/embed", input="a", keep_alive=503)
    assert (503, "7") == (response.status_code, response.headers["retry-after"])


def test_a_client_that_leaves_ends_its_request(server: LiveServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/api/embed", json={"model": "embed", "input": "wait"}, timeout=0.5, trust_env=False)
    wait_until(lambda: server.scheduler.cancelled)
    wait_until(lambda: not server.activity.running)
    assert (1, 0) == (server.scheduler.cancelled, server.scheduler.leased)
