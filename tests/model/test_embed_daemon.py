"""Embedding through the real daemon, with tiny random models of each kind: what clients rely on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from cli_process import run_cli
from daemon_process import Daemon, running_daemon
from synthetic_models import build

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
ENCODER, DECODER, RERANKER = "bert-tiny", "qwen3-embedding-tiny", "bert-reranker-tiny"
KINDS = pytest.mark.parametrize("kind", [ENCODER, DECODER])
TOLERANCE = 0.02  # through other kernels in other batches
LONG = "a text that goes on and on " * 400


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("embed")
    with running_daemon(home) as running:
        for kind in (ENCODER, DECODER, RERANKER):
            file = build(kind, GUIDE, home / f"{kind}.gguf")
            created = run_cli("create", kind, "--from", str(file), environment=running.environment)
            assert 0 == created.returncode, created.stderr
        yield running


def post(daemon: Daemon, path: str, kind: str, **body: object) -> httpx.Response:
    return daemon.http.post(path, json={"model": kind, **body})


def embed(daemon: Daemon, kind: str, **body: object) -> dict:
    response = post(daemon, "/api/embed", kind, **body)
    assert 200 == response.status_code, response.text
    return response.json()


@KINDS
def test_each_input_has_its_vector_of_length_one_whatever_is_computed_beside_it(kind: str, daemon: Daemon) -> None:
    texts = ["why is the sky blue?", "a", "Run `localllm pull` first.", "a longer text " * 20]
    together = np.array(embed(daemon, kind, input=texts)["embeddings"])
    alone = np.array([embed(daemon, kind, input=text)["embeddings"][0] for text in texts])
    assert (4, 256) == together.shape
    assert [1.0] * 4 == np.linalg.norm(together, axis=1).round(6).tolist()
    assert np.abs(together - alone).max() < TOLERANCE
    assert (np.triu(together @ together.T, 1) < 0.999).all()


@KINDS
def test_the_figures_count_the_tokens_of_all_inputs(kind: str, daemon: Daemon) -> None:
    one = embed(daemon, kind, input="why is the sky blue?")
    three = embed(daemon, kind, input=["why is the sky blue?"] * 3)
    assert 3 * one["prompt_eval_count"] == three["prompt_eval_count"]
    assert three["total_duration"] > 0


@KINDS
def test_fewer_dimensions_are_the_first_ones_made_one_long_again(kind: str, daemon: Daemon) -> None:
    whole = np.array(embed(daemon, kind, input="hello")["embeddings"][0])
    (short,) = embed(daemon, kind, input="hello", dimensions=16)["embeddings"]
    assert np.allclose(whole[:16] / np.linalg.norm(whole[:16]), short, atol=1e-6)
    refused = post(daemon, "/api/embed", kind, input="hello", dimensions=257)
    assert (400, "dimensions is 257, but the model has 256") == (refused.status_code, refused.json()["error"])


@KINDS
def test_a_long_input_is_cut_unless_it_must_not_be(kind: str, daemon: Daemon) -> None:
    answer = embed(daemon, kind, input=[LONG, "short"], options={"num_ctx": 30})
    assert (2, 1) == (len(answer["embeddings"]), answer["truncated_count"])
    assert answer["prompt_eval_count"] <= 60
    refused = post(daemon, "/api/embed", kind, input=["short", LONG], options={"num_ctx": 30}, truncate=False)
    assert 400 == refused.status_code
    assert "the input length exceeds the context length" in refused.json()["error"]
    assert ("the context holds 30" in refused.json()["error"], "input_too_long") == (True, refused.json()["code"])


@KINDS
def test_a_cut_input_has_the_vector_of_the_text_that_is_left(kind: str, daemon: Daemon) -> None:
    short = embed(daemon, kind, input="why")
    cut = embed(daemon, kind, input="why is the sky blue?", options={"num_ctx": short["prompt_eval_count"]})
    assert 1 == cut["truncated_count"]
    assert np.allclose(short["embeddings"], cut["embeddings"], atol=TOLERANCE)


def test_an_input_longer_than_the_trained_context_is_cut_to_it(daemon: Daemon) -> None:
    answer = embed(daemon, ENCODER, input=LONG)
    assert (512, 1) == (answer["prompt_eval_count"], answer["truncated_count"])


def test_the_older_route_leaves_the_length_as_the_model_made_it(daemon: Daemon) -> None:
    vector = np.array(post(daemon, "/api/embeddings", ENCODER, prompt="hello").json()["embedding"])
    (unit,) = embed(daemon, ENCODER, input="hello")["embeddings"]
    assert np.allclose(vector / np.linalg.norm(vector), unit, atol=1e-6)
    assert abs(np.linalg.norm(vector) - 1.0) > 0.01


def test_openai_takes_token_ids_and_refuses_those_that_are_none(daemon: Daemon) -> None:
    answer = post(daemon, "/v1/embeddings", DECODER, input=[[5, 6, 7], [8]]).json()
    assert ([0, 1], 4) == ([one["index"] for one in answer["data"]], answer["usage"]["prompt_tokens"])
    refused = post(daemon, "/v1/embeddings", DECODER, input=[[10**6]])
    assert 400 == refused.status_code
    assert "there is no token 1000000" in refused.json()["error"]["message"]
    assert 200 == post(daemon, "/v1/embeddings", DECODER, input="and it serves on").status_code


def test_a_reranker_scores_each_document_for_the_query_whatever_is_ranked_beside_it(daemon: Daemon) -> None:
    documents = ["Run `localllm pull` first.", "the sky is blue", "a longer text " * 20, "why is the sky blue?"]
    asked = {"query": "why is the sky blue?", "documents": documents}
    ranked = post(daemon, "/v1/rerank", RERANKER, **asked).json()
    scores = {one["index"]: one["relevance_score"] for one in ranked["results"]}
    assert [0, 1, 2, 3] == sorted(scores)
    assert sorted(scores.values(), reverse=True) == list(scores.values())
    assert len(set(scores.values())) > 1
    for index, document in enumerate(documents):
        (alone,) = post(daemon, "/rerank", RERANKER, query=asked["query"], texts=[document]).json()
        assert abs(scores[index] - alone["score"]) < TOLERANCE
    other = post(daemon, "/rerank", RERANKER, query="another question", texts=documents[:1]).json()
    assert other[0]["score"] != scores[0]


def test_a_reranker_is_found_without_its_name_and_cuts_a_document_only_where_that_is_asked_for(daemon: Daemon) -> None:
    asked = {"query": "why is the sky blue?", "documents": [LONG, "the sky"]}
    refused = daemon.http.post("/v1/reranking", json=asked)
    assert (400, "invalid_request_error") == (refused.status_code, refused.json()["error"]["type"])
    assert "the input length exceeds the context length" in refused.json()["error"]["message"]
    cut = daemon.http.post("/reranking", json={**asked, "truncate": True}).json()
    assert (f"{RERANKER}:latest", {0, 1}) == (cut["model"], {one["index"] for one in cut["results"]})
    assert 512 < cut["usage"]["prompt_tokens"] < 600


@pytest.mark.parametrize(
    ("kind", "path", "body", "message"),
    [
        (RERANKER, "/api/embed", {"input": "a"}, "ranks documents and does not support embedding"),
        (ENCODER, "/api/generate", {"prompt": "a"}, "does not support generate"),
        (ENCODER, "/api/chat", {"messages": [{"role": "user", "content": "a"}]}, "does not support chat"),
    ],
)
def test_what_a_model_cannot_do_is_said(kind: str, path: str, body: dict, message: str, daemon: Daemon) -> None:
    refused = post(daemon, path, kind, **body)
    assert 400 == refused.status_code
    assert message in refused.json()["error"]


def test_a_loaded_embedding_model_is_listed(daemon: Daemon) -> None:
    embed(daemon, ENCODER, input="", keep_alive="5m")
    (entry,) = [one for one in daemon.http.get("/api/ps").json()["models"] if ENCODER in one["name"]]
    assert 512 == entry["context_length"]


@KINDS
def test_what_an_embedding_model_was_to_take_is_listed_beside_what_it_took(kind: str, daemon: Daemon) -> None:
    embed(daemon, kind, input="", keep_alive="5m")
    (entry,) = [one for one in daemon.http.get("/api/ps").json()["models"] if kind in one["name"]]
    (share,) = entry["placement"]["devices"]
    measured = share["measured"]
    assert entry["size"] == measured["weights"] + measured["cache"] + measured["compute"]
    assert share["cache"] == measured["cache"]
    assert measured["compute"] <= share["compute"] <= 1.2 * measured["compute"]
    assert 0 < measured["total"] <= 1.1 * share["total"]
