"""The child's side of embedding, on an embedder of letters: jobs share batches, and each gets its own answer."""

from __future__ import annotations

import queue
from array import array

import numpy as np
import pytest

from localllm.embedding import EmbedRequest
from localllm.engine.backend import EngineError
from localllm.engine.embedding import EmbedderFacts
from localllm.errors import UnsupportedError
from localllm.generation import Failed, GenerationRequest
from localllm.runner import protocol
from localllm.runner.conversation import Rejection
from localllm.runner.embedding import EmbeddingTexts, EmbeddingWorker

UNKNOWN = ord("?")  # a token that cannot be computed
BROKEN = ord("!")  # one whose vector is not finite


class Letters:
    """Its vector of a text is how often each of "abc" occurs; at most 8 rows and 3 inputs in a batch."""

    def __init__(self, *, is_reranker=False):
        self.facts = EmbedderFacts(3, 16, 8, 3, 64, vocabulary_size=123, is_reranker=is_reranker)
        self.batches = []

    def tokenize(self, text, *, add_special, parse_special):
        return [ord(letter) for letter in text]

    def tokenize_pair(self, query, document):
        return [ord(letter) for letter in query + document]

    def embed_batch(self, inputs):
        self.batches.append(["".join(map(chr, tokens)) for tokens in inputs])
        if any(UNKNOWN in tokens for tokens in inputs):
            raise EngineError("a token id outside 0..25")
        counts = [[(tokens == ord(letter)).sum() for letter in "abc"] for tokens in inputs]
        vectors = np.array(counts, dtype=np.float32)
        vectors[[BROKEN in tokens for tokens in inputs]] = np.nan
        return vectors

    def close(self):
        pass


class Child:
    """A worker, what it is sent, and what it says."""

    def __init__(self, **facts):
        self.embedder = Letters(**facts)
        self.inbox = queue.SimpleQueue()
        self.said = []
        self.worker = EmbeddingWorker(self.embedder, self.inbox, self.said.append, lambda: 4096)

    def ask(self, job_id, *inputs, **fields):
        self.inbox.put(protocol.Embed(job_id, EmbedRequest("m", inputs, **fields)))

    def answer(self, steps=1):
        for _ in range(steps):
            if self.worker.has_work or not self.inbox.empty():  # else it would wait
                self.worker.step()
        return {message.id: message for message in self.said}

    def vectors(self, job_id, steps=1):
        return [array("d", vector).tolist() for vector in self.answer(steps)[job_id].embeddings.vectors]


def test_a_reranker_reads_each_document_with_the_query_and_leaves_its_scores_as_they_are():
    child = Child(is_reranker=True)
    child.ask(1, "b", "aa", query="a", normalises=False)
    assert [[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]] == child.vectors(1)
    assert (["ab", "aaa"], 5) == (child.embedder.batches[0], child.said[0].embeddings.prompt_tokens)


def test_a_model_that_embeds_ranks_no_documents():
    child = Child()
    child.ask(1, "b", query="a")
    assert '"m" does not rank documents' == child.answer()[1].error.message


def test_a_pair_that_is_too_long_is_refused():
    child = Child(is_reranker=True)
    child.ask(1, "b" * 9, query="a" * 8)
    assert "it has 17 tokens, the context holds 16" in child.answer()[1].error.message


def test_a_pair_that_is_too_long_loses_the_end_of_its_document_where_that_is_asked_for():
    child = Child(is_reranker=True)
    child.ask(1, "bc" * 9, query="a" * 8, truncates=True)
    assert 1 == child.answer()[1].embeddings.truncated_inputs
    assert [["a" * 8 + "bc" * 4]] == child.embedder.batches
    child.ask(2, "b", query="a" * 16, truncates=True)
    assert "the query has 16 tokens, the context holds 16" == child.answer()[2].error.message


def test_a_pair_of_nothing_is_refused_and_costs_nobody_else():
    child = Child(is_reranker=True)
    child.ask(1, "", query="")
    child.ask(2, "b", query="a")
    answers = child.answer(2)
    assert ("bad_request", "an input is empty") == (answers[1].error.code, answers[1].error.message)
    assert isinstance(answers[2], protocol.Embedded)


def test_a_request_gets_vectors_of_length_one_in_the_order_of_its_inputs():
    child = Child()
    child.ask(1, "aab", "c")
    assert [[0.894427180, 0.447213590, 0.0], [0.0, 0.0, 1.0]] == child.vectors(1)
    assert 4 == child.said[0].embeddings.prompt_tokens


def test_values_keep_nine_decimals_and_dimensions_are_cut_before():
    child = Child()
    child.ask(1, "aabc", dimensions=2)
    assert [[0.894427180, 0.447213590]] == child.vectors(1)


def test_a_vector_that_is_to_stay_as_it_is_does():
    child = Child()
    child.ask(1, "aab", normalises=False)
    assert [[2.0, 1.0, 0.0]] == child.vectors(1)


def test_requests_share_batches_and_a_short_one_does_not_wait_for_a_long_one():
    child = Child()
    child.ask(1, *"aaaaaaaa")
    child.ask(2, "b")
    assert {2} == set(child.answer(1))
    assert [["a", "b", "a"]] == child.embedder.batches
    assert {1, 2} == set(child.answer(2))
    assert [[1.0, 0.0, 0.0]] * 8 == child.vectors(1, steps=0)


def test_a_request_without_inputs_is_answered_at_once():
    child = Child()
    child.ask(1)
    child.ask(2, "a")
    assert [] == child.vectors(1)


def test_token_ids_are_taken_as_they_are():
    child = Child()
    child.ask(1, (ord("b"), ord("b")))
    assert [[0.0, 1.0, 0.0]] == child.vectors(1)


def test_a_cancelled_request_is_computed_no_further():
    child = Child()
    child.ask(1, *"aaaaaaaa")
    child.answer(1)
    child.inbox.put(protocol.Cancel(1))
    child.ask(2, "b")
    assert {2} == set(child.answer(1))
    assert [["a", "a", "a"], ["b"]] == child.embedder.batches


@pytest.mark.parametrize(
    ("inputs", "fields", "code", "message"),
    [
        (("a" * 17,), {}, "input_too_long", "the input length exceeds the context length: it has 17 tokens, the"),
        (("abc",), {"num_ctx": 2}, "input_too_long", "the input length exceeds the context length: it has 3 tokens"),
        (((1,) * 17,), {}, "input_too_long", "the input length exceeds the context length: it has 17 tokens, the"),
        (("",), {}, "bad_request", "an input is empty"),
        (((97, 123),), {}, "bad_request", "there is no token 123: the model's are 0 to 122"),
        (("a",), {"dimensions": 4}, "bad_request", "dimensions is 4, but the model has 3"),
        (("?",), {}, "engine_error", "a token id outside 0..25"),
        (("!",), {}, "runner_error", "embedding contains NaN or Inf values"),
    ],
)
def test_what_cannot_be_computed_is_said_and_costs_nobody_else(inputs, fields, code, message):
    child = Child()
    child.ask(1, *inputs, **fields)
    child.ask(2, "abcabcab")
    answers = child.answer(2)
    assert (1, code) == (answers[1].id, answers[1].error.code)
    assert answers[1].error.message.startswith(message)
    assert isinstance(answers[2], protocol.Embedded)


def test_what_is_cut_off_is_counted():
    child = Child()
    child.ask(1, "abcabc", "a", (ord("b"), ord("c"), ord("c")), num_ctx=2, truncates=True, normalises=False)
    assert [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0]] == child.vectors(1)
    assert (5, 2) == (child.said[0].embeddings.prompt_tokens, child.said[0].embeddings.truncated_inputs)


def test_a_reranker_does_not_embed():
    child = Child(is_reranker=True)
    child.ask(1, "a")
    assert Failed("unsupported", 400, '"m" ranks documents and does not support embedding') == child.answer()[1].error


def test_other_questions_are_answered_too():
    child = Child()
    child.inbox.put(protocol.AskStats(1))
    child.inbox.put(Rejection(2, Failed("unsupported", 400, "no")))
    child.ask(3, "a")
    child.worker.step()
    stats, step, _ = child.said
    assert (1, 16, 4096) == (stats.id, stats.pool_tokens, stats.resident_bytes)
    assert protocol.Step(((2, Failed("unsupported", 400, "no")),)) == step
    texts = EmbeddingTexts(child.embedder)
    assert [97] == texts.tokenize("a", True, True)
    with pytest.raises(UnsupportedError):
        texts.prepare(4, GenerationRequest("m", prompt="x"))
