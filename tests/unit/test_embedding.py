"""Embedding without a model: which inputs are computed together, how a text is cut, what becomes of a vector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.embedding import EmbedderFacts, embed, finished, next_batch, tokenize_input
from localllm.errors import BadRequestError, InputTooLongError, RunnerError

FIRST, LAST = 1000, 1001


class Letters:
    """An embedder of letters: its vector of a text is how often each of "abc" occurs; it notes its batches."""

    def __init__(self, input_tokens=16, batch_rows=8, sequences=3, opening=(FIRST,), closing=(LAST,)):
        self.facts = EmbedderFacts(3, input_tokens, batch_rows, sequences, trained_context_tokens=64)
        self.opening, self.closing = opening, closing
        self.batches = []

    def tokenize(self, text, *, add_special, parse_special):
        tokens = [ord(letter) for letter in text]
        return [*self.opening, *tokens, *self.closing] if add_special else tokens

    def embed_batch(self, inputs):
        assert sum(map(len, inputs)) <= self.facts.batch_rows or len(inputs) == 1
        assert len(inputs) <= self.facts.sequences
        self.batches.append([len(tokens) for tokens in inputs])
        return np.array([[tokens.count(ord(letter)) for letter in "abc"] for tokens in inputs], dtype=np.float32)

    def close(self):
        pass


def test_the_oldest_input_goes_first_and_those_that_fit_beside_it():
    assert [0, 2, 3] == next_batch([5, 6, 2, 1, 1], rows_most=8, inputs_most=9)
    assert [0, 1] == next_batch([1, 1, 1], rows_most=8, inputs_most=2)


def test_an_input_that_is_longer_than_a_batch_goes_alone():
    assert [0] == next_batch([20, 1], rows_most=8, inputs_most=9)


@given(st.lists(st.text("abc", min_size=1, max_size=14), max_size=20))
def test_every_input_gets_its_own_vector_whatever_the_batches(texts):
    embedder = Letters()
    inputs = [tokenize_input(embedder, text, 64, truncates=False) for text in texts]
    expected = [[float(text.count(letter)) for letter in "abc"] for text in texts]
    assert expected == embed(embedder, inputs).tolist()
    assert sorted(map(len, inputs)) == sorted(length for batch in embedder.batches for length in batch)


def test_several_short_inputs_are_computed_together():
    embedder = Letters()
    embed(embedder, [[1], [2], [3], [4]])
    assert [[1, 1, 1], [1]] == embedder.batches


def test_a_caller_can_give_up_between_batches():
    embedder = Letters(sequences=1)

    def give_up():
        if embedder.batches:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        embed(embedder, [[1], [2]], give_up)
    assert [[1]] == embedder.batches


def test_a_text_that_does_not_fit_is_refused_with_both_counts():
    with pytest.raises(InputTooLongError) as caught:
        tokenize_input(Letters(input_tokens=16), "a" * 15, 64, truncates=False)
    assert (17, 16) == (caught.value.input_tokens, caught.value.context_tokens)
    assert "the input length exceeds the context length: it has 17 tokens, the context holds 16" == str(caught.value)
    with pytest.raises(InputTooLongError):
        embed(Letters(input_tokens=16), [[0] * 17])


@pytest.mark.parametrize(
    ("opening", "closing", "expected"),
    [
        ((FIRST,), (LAST,), [FIRST, *b"ab", LAST]),
        ((FIRST,), (), [FIRST, *b"abc"]),
        ((), (LAST,), [*b"abc", LAST]),
        ((), (), [*b"abca"]),
        ((LAST,), (LAST,), [LAST, *b"ab", LAST]),
    ],
)
def test_a_cut_text_keeps_the_tokens_around_it(opening, closing, expected):
    embedder = Letters(opening=opening, closing=closing)
    assert expected == tokenize_input(embedder, "abcabc", 4, truncates=True)


def test_a_text_that_fits_is_not_cut():
    assert [FIRST, *b"ab", LAST] == tokenize_input(Letters(), "ab", 4, truncates=True)


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_limit_with_no_room_beside_the_special_tokens_is_refused(limit):
    with pytest.raises(BadRequestError) as caught:
        tokenize_input(Letters(), "ab", limit, truncates=True)
    assert "input after truncation exceeds maximum context length" == caught.value.message


def test_vectors_are_cut_first_and_then_made_one_long():
    vectors = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    assert [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]] == finished(vectors, 2, normalises=True).tolist()
    assert [[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]] == finished(vectors, None, normalises=False).tolist()
    lengths = np.linalg.norm(finished(vectors[:1], None, normalises=True), axis=1)
    assert [1.0] == lengths.round(6).tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_an_error(value):
    with pytest.raises(RunnerError, match="embedding contains NaN or Inf values"):
        finished(np.array([[1.0, value]], dtype=np.float32), None, normalises=True)
