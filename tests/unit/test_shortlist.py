"""The largest of many logits: the same that sorting finds, whatever the logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.shortlist import is_worthwhile, largest

SIZE = 20_000


def sorted_by_size(logits, count):
    """The slow way; equal ones in their order."""
    return np.argsort(-logits, kind="stable")[:count].tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 39), st.sampled_from([1, 3, 1000]), st.integers(SIZE, SIZE + 200))
@settings(max_examples=60, deadline=None)
def test_it_finds_what_sorting_finds(seed, count, distinct, size):
    logits = np.random.default_rng(seed).integers(0, distinct, size).astype(np.float32)
    assert sorted_by_size(logits, count) == largest(logits, count).tolist()


def test_the_largest_may_stand_together_or_at_the_very_end():
    logits = np.zeros(SIZE, dtype=np.float32)
    logits[-30:] = np.arange(1, 31)
    assert list(range(SIZE - 1, SIZE - 31, -1)) == largest(logits, 30).tolist()


def test_forbidden_tokens_are_never_among_them():
    logits = np.full(SIZE, -np.inf, dtype=np.float32)
    logits[[5, 77, 19_999]] = [1.0, 3.0, 2.0]
    assert [77, 19_999, 5] == largest(logits, 20).tolist()
    assert [] == largest(np.full(SIZE, -np.inf, dtype=np.float32), 20).tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, SIZE // 2])
def test_nothing_is_found_where_the_computation_went_wrong(value, place):
    logits = np.zeros(SIZE, dtype=np.float32)
    logits[place] = value
    assert [] == largest(logits, 20).tolist()


def test_it_is_for_few_of_many():
    assert is_worthwhile(151_936, 40)
    assert not is_worthwhile(151_936, 0)
    assert not is_worthwhile(151_936, 1000)
    assert not is_worthwhile(4096, 40)
