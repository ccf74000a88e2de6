"""llama-server's dialect over HTTP, with and without a model's name."""

from __future__ import annotations

import json

import httpx
import pytest
from live_server import live_server

from localllm.generation import ContextFile, FillIn


@pytest.fixture
def one_model(server):
    """Only "guide", which comes with localllm, generates; "embed" embeds."""
    del server.store.models["slow"]
    return server


def post(server, path, **body):
    return httpx.post(server.url + path, json=body, timeout=20)


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_a_prompt_is_answered_by_the_only_model(one_model, path):
    answer = post(one_model, path, prompt="echo a b", n_predict=5).json()
    assert ("a b", "guide:latest", True, 2, 3) == tuple(
        answer[name] for name in ("content", "model", "stop", "tokens_predicted", "tokens_evaluated")
    )
    assert {"prompt_n": 2, "cache_n": 1, "predicted_n": 2} == {
        name: value for name, value in answer["timings"].items() if name.endswith("_n")
    }
    (request,) = one_model.scheduler.requests
    assert ("echo a b", True, 5) == (request.prompt, request.raw, request.options.num_predict)


def test_a_stream_ends_with_the_object_that_says_stop(one_model):
    text = post(one_model, "/completion", prompt="echo a b", stream=True).text
    pieces = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
    assert [("a", False), (" b", False), ("", True)] == [(one["content"], one["stop"]) for one in pieces]


def test_a_gap_is_filled_and_only_what_is_wanted_is_told(one_model):
    answer = post(
        one_model,
        "/infill",
        input_prefix="echo a",
        input_suffix="z",
        input_extra=[{"filename": "a.py", "text": "x"}],
        n_predict=8,
        samplers=["infill"],
        response_fields=["content", "timings/predicted_n"],
    )
    assert {"content": "a", "timings/predicted_n": 1} == answer.json()
    assert "samplers" == answer.headers["x-localllm-ignored"]
    (request,) = one_model.scheduler.requests
    assert ("echo a", FillIn("z", (ContextFile("a.py", "x"),))) == (request.prompt, request.fill_in)


def test_several_prompts_are_answered_side_by_side(one_model):
    answers = post(one_model, "/completion", prompt=["echo a", "echo b"]).json()
    assert [(0, "a"), (1, "b")] == [(one["index"], one["content"]) for one in answers]


def test_a_name_that_nobody_knows_means_the_only_model_and_that_is_told(one_model):
    answer = post(one_model, "/completion", prompt="echo a", model="GPT-4")
    assert ("guide:latest", "model") == (answer.json()["model"], answer.headers["x-localllm-ignored"])


def test_where_several_models_could_be_meant_the_request_has_to_say_which(server):
    answer = post(server, "/completion", prompt="echo a")
    assert {
        "code": 400,
        "message": "several models are there, say which in `model`: guide:latest, slow:latest",
        "type": "invalid_request_error",
    } == answer.json()["error"]
    assert "guide" == post(server, "/completion", prompt="echo a", model="guide").json()["model"]


def test_texts_become_tokens_and_tokens_texts(one_model):
    assert {"tokens": [104, 105]} == post(one_model, "/tokenize", content="hi").json()
    pieces = [{"id": 256, "piece": "<s>"}, {"id": 104, "piece": "h"}]
    answer = post(one_model, "/tokenize", content="h", add_special=True, with_pieces=True)
    assert {"tokens": pieces} == answer.json()
    assert {"content": "hi"} == post(one_model, "/detokenize", tokens=[104, 105]).json()
    refused = post(one_model, "/detokenize", tokens=[999])
    assert (400, "there is no token 999: the model's are 0 to 256") == (
        refused.status_code,
        refused.json()["error"]["message"],
    )


def test_texts_and_token_ids_in_turn_are_one_prompt_and_one_text_to_tokenize(one_model):
    answer = post(one_model, "/completion", prompt=["echo a", 32, "b"], n_predict=5).json()
    assert ["echo a", 32, "b"] == answer["prompt"]
    (request,) = one_model.scheduler.requests
    assert (256, *b"echo a", 32, *b"b") == request.prompt_tokens
    answers = post(one_model, "/completion", prompt=["echo x", [98, "c"]]).json()
    assert ["echo x", [98, "c"]] == [one["prompt"] for one in answers]
    assert {"tokens": [104, 7, 105]} == post(one_model, "/tokenize", content=["h", 7, "i"]).json()
    assert {"tokens": []} == post(one_model, "/tokenize", content=[], with_pieces=True).json()


def test_a_conversation_becomes_the_prompt_that_the_model_would_get(one_model):
    answer = post(one_model, "/apply-template", messages=[{"role": "user", "content": "hi"}])
    prompt = "<system>Be brief.<user>before<assistant>yes<user>hi"
    assert {"prompt": prompt, "tokens": [256, *prompt.encode()]} == answer.json()


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_texts_become_vectors_in_rows_of_their_own(server, path):
    assert [
        {"index": 0, "embedding": [[2.0, 0.5]]},
        {"index": 1, "embedding": [[1.0, 0.5]]},
    ] == post(server, path, content=["hi", "x"]).json()


def test_documents_are_ranked_for_a_query_in_two_forms(server):
    asked = {"query": "why", "documents": ["b", "ccc", "dd"], "top_n": 2}
    ranked = post(server, "/v1/rerank", model="embed", **asked).json()
    assert ("embed", [(1, 3.0), (2, 2.0)]) == (
        ranked["model"],
        [(one["index"], one["relevance_score"]) for one in ranked["results"]],
    )
    teis = post(server, "/rerank", query="why", texts=["b", "ccc"]).json()
    assert [{"index": 1, "score": 3.0}, {"index": 0, "score": 1.0}] == teis
    first, second = server.scheduler.embed_requests
    assert ("why", "why", False) == (first.query, second.query, first.normalises)


def test_a_reranker_ranks_and_another_embeds_where_nobody_says_which(server):
    server.store.add_reranker("ranker")
    answer = post(server, "/rerank", query="why", documents=["b"]).json()
    assert "ranker:latest" == answer["model"]
    assert 200 == post(server, "/embedding", content="hi", temperature=1).status_code
    assert ["ranker:latest", "embed:latest"] == [one.model for one in server.scheduler.embed_requests]


def test_what_vectors_do_not_depend_on_is_told(server):
    answer = post(server, "/embedding", content="hi", user="u", truncate=True)
    assert "user" == answer.headers["x-localllm-ignored"]
    ranked = post(server, "/rerank", query="why", texts=["b"], truncate=True, raw_scores=True)
    assert "raw_scores" == ranked.headers["x-localllm-ignored"]
    assert [True, True] == [one.truncates for one in server.scheduler.embed_requests]


def test_props_tell_of_the_model_and_nothing_of_the_machine(one_model):
    answer = httpx.get(one_model.url + "/props")
    props = answer.json()
    assert (8, 1024, "guide:latest", "{{ messages }}") == (
        props["total_slots"],
        props["default_generation_settings"]["n_ctx"],
        props["model_path"],
        props["chat_template"],
    )
    assert "/models/" not in answer.text


def test_slots_are_as_many_as_the_model_serves_at_once(one_model):
    found = httpx.get(one_model.url + "/slots").json()
    assert (list(range(8)), [True] + 7 * [False]) == (
        [one["id"] for one in found],
        [one["is_processing"] for one in found],
    )


def test_slots_that_are_all_busy_are_an_error_for_who_asks_for_that(one_model):
    path = f"{one_model.url}/slots?fail_on_no_slot="
    assert 200 == httpx.get(path + "1").status_code
    one_model.scheduler.active = 8
    assert 200 == httpx.get(path + "0").status_code
    refused = httpx.get(path + "1")
    told = {"code": 503, "message": "no slot available", "type": "unavailable_error"}
    assert (503, told) == (refused.status_code, refused.json()["error"])


def test_a_chat_and_the_models_are_where_llama_server_has_them_too(server):
    body = {"model": "guide", "messages": [{"role": "user", "content": "echo a b"}]}
    answers = [post(server, path, **body).json() for path in ("/chat/completions", "/v1/chat/completions")]
    assert ["a b", "a b"] == [one["choices"][0]["message"]["content"] for one in answers]
    assert httpx.get(server.url + "/v1/models").json() == httpx.get(server.url + "/models").json()
    refused = post(server, "/chat/completions", **{**body, "model": "absent"})
    assert (404, "model_not_found") == (refused.status_code, refused.json()["error"]["code"])


def test_health_is_told_without_a_key_and_everything_else_is_not():
    with live_server(api_key="secret") as server:
        for path in ("/health", "/v1/health"):
            assert {"status": "ok"} == httpx.get(server.url + path).json()
        assert 401 == httpx.get(server.url + "/props").status_code
