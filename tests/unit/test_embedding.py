"""Embedding without a model: which inputs are computed together, how a text is cut, what becomes of a vector."""

from __future__ import annotations

import numpy as np
import pytest

from localllm.engine.embedding import EmbedderFacts, check_input, filled, finished, next_batch, tokenize_input
from localllm.errors import BadRequestError, InputTooLongError, RunnerError

FIRST, LAST = 1000, 1001


class Letters:
    """A vocabulary of letters with tokens around each text; no model."""

    def __init__(self, input_tokens=16, opening=(FIRST,), closing=(LAST,)):
        self.facts = EmbedderFacts(3, input_tokens, 8, 3, trained_context_tokens=64, vocabulary_size=100)
        self.opening, self.closing = opening, closing

    def tokenize(self, text, *, add_special, parse_special):
        tokens = [ord(letter) for letter in text]
        return [*self.opening, *tokens, *self.closing] if add_special else tokens


def test_a_rerankers_template_has_each_text_in_its_place_whatever_it_says():
    assert "q {document} d {query} {x}" == filled("q {query} d {document} {x}", "{document}", "{query}")


def test_the_oldest_input_goes_first_and_those_that_fit_beside_it():
    assert [0, 2, 3] == next_batch([5, 6, 2, 1, 1], rows_most=8, inputs_most=9)
    assert [0, 1] == next_batch([1, 1, 1], rows_most=8, inputs_most=2)


def test_an_input_that_is_longer_than_a_batch_goes_alone():
    assert [0] == next_batch([20, 1], rows_most=8, inputs_most=9)


def test_a_text_that_does_not_fit_is_refused_with_both_counts():
    with pytest.raises(InputTooLongError) as caught:
        tokenize_input(Letters(input_tokens=16), "a" * 15, 64, truncates=False)
    assert (17, 16) == (caught.value.input_tokens, caught.value.context_tokens)
    assert "the input length exceeds the context length: it has 17 tokens, the context holds 16" == str(caught.value)
    with pytest.raises(InputTooLongError):
        check_input(Letters(input_tokens=16), [0] * 17, None, truncates=False)


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
    cut = tokenize_input(embedder, "abcabc", 4, truncates=True)
    assert (expected, True) == (cut.tokens.tolist(), cut.is_truncated)


def test_a_text_that_fits_is_not_cut():
    whole = tokenize_input(Letters(), "ab", 4, truncates=True)
    assert ([FIRST, *b"ab", LAST], False) == (whole.tokens.tolist(), whole.is_truncated)


def test_token_ids_of_a_client_are_cut_behind():
    cut = check_input(Letters(), [7, 8, 9], 2, truncates=True)
    assert ([7, 8], True) == (cut.tokens.tolist(), cut.is_truncated)
    assert [7, 8, 9] == check_input(Letters(), [7, 8, 9], 3, truncates=False).tokens.tolist()


def test_a_text_without_tokens_is_refused():
    with pytest.raises(BadRequestError, match="an input is empty"):
        tokenize_input(Letters(opening=(), closing=()), "", None, truncates=True)


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
