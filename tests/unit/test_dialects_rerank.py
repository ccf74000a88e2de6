"""The ranking of documents for a query: bodies in Jina's and TEI's form, answers in the same."""

from __future__ import annotations

import json
from array import array

import pytest

from localllm.dialects.llamacpp_rerank import Ranking, decode_rerank, encode_ranking
from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import InvalidFieldError


def ranking(**fields) -> Ranking:
    return decode_rerank(json.dumps(fields).encode())


def answer(wanted: Ranking, *scores: float):
    vectors = [array("d", [score, 9.0]).tobytes() for score in scores]
    parts = [Embeddings(tuple(vectors[:2]), 5), Embeddings(tuple(vectors[2:]), 3)]
    return json.loads(encode_ranking(wanted, "m", parts))


def test_documents_are_texts_or_objects_with_one():
    wanted = ranking(model="m", query="q", documents=["a", {"text": "b", "title": "t"}], user="u")
    assert EmbedRequest("m", ("a", "b"), normalises=False, query="q") == wanted.request
    assert ("user",) == wanted.ignored


def test_the_best_come_first_with_their_place_and_score():
    answered = answer(ranking(query="q", documents=["a", "b", "c"]), -1.5, 2.0, 0.0)
    assert {
        "model": "m",
        "object": "list",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
        "results": [
            {"index": 1, "relevance_score": 2.0},
            {"index": 2, "relevance_score": 0.0},
            {"index": 0, "relevance_score": -1.5},
        ],
    } == answered


def test_only_the_best_are_told_with_their_texts_if_asked_for():
    wanted = ranking(query="q", documents=["a", {"text": "b"}, "c"], top_n=1, return_documents=True)
    assert [{"index": 1, "relevance_score": 2.0, "document": {"text": "b"}}] == answer(wanted, 1.0, 2.0, 2.0)["results"]


def test_tei_has_an_array_with_its_own_words():
    plain, told = (ranking(query="q", texts=["a", "b", "c"], return_text=tells) for tells in (False, True))
    assert [{"index": 2, "score": 3.0}, {"index": 1, "score": 2.0}, {"index": 0, "score": 1.0}] == (
        answer(plain, 1.0, 2.0, 3.0)
    )
    assert ["c", "b", "a"] == [one["text"] for one in answer(told, 1.0, 2.0, 3.0)]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "texts": []}, "texts"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "q", "documents": [1]}, "documents[0]"),
    ],
)
def test_a_bad_body_is_told_what_is_wrong_with_it(fields, field):
    with pytest.raises(InvalidFieldError) as caught:
        ranking(**fields)
    assert field == caught.value.field
