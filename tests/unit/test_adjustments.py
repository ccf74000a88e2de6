"""Biases and penalties: what they do to a few logits, and that all of it can be undone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.adjustments import Adjustments, Penalties

LOGITS = [2.0, -2.0, 0.0, 4.0, 1.0]


def adjusted(adjustments: Adjustments) -> list[float]:
    logits = np.array(LOGITS, dtype=np.float32)
    adjustments.apply(logits)
    return logits.tolist()


@pytest.mark.parametrize(
    ("adjustments", "expected"),
    [
        (Adjustments(), LOGITS),
        (Adjustments([(1, 1.5), (3, -4.0), (3, 1.0)]), [2.0, -0.5, 0.0, 1.0, 1.0]),
        (Adjustments(penalties=Penalties(8, repeat=2.0), recent=[0, 1, 2, 0]), [1.0, -4.0, 0.0, 4.0, 1.0]),
        (Adjustments(penalties=Penalties(8, frequency=0.5, presence=0.25), recent=[0, 3, 3]), [1.25, -2, 0, 2.75, 1]),
        (Adjustments([(4, 3.0)], Penalties(8, repeat=2.0), [4]), [2.0, -2.0, 0.0, 4.0, 2.0]),
        (Adjustments(penalties=Penalties(2, repeat=2.0), recent=[3, 0, 0]), [1.0, -2.0, 0.0, 4.0, 1.0]),
        (Adjustments(penalties=Penalties(0, repeat=2.0), recent=[3, 0, 0]), LOGITS),
    ],
)
def test_named_and_recent_tokens_change(adjustments, expected):
    assert expected == adjusted(adjustments)


def test_a_token_that_left_the_window_is_as_it_was():
    adjustments = Adjustments(penalties=Penalties(2, presence=1.0), recent=[0])
    assert [1.0, -2.0, 0.0, 4.0, 1.0] == adjusted(adjustments)
    adjustments.note(3)
    adjustments.note(4)
    assert [2.0, -2.0, 0.0, 3.0, 0.0] == adjusted(adjustments)


tokens = st.integers(0, len(LOGITS) - 1)
numbers = st.floats(-5, 5, width=32)


@given(st.lists(st.tuples(tokens, numbers)), st.lists(tokens, max_size=12), st.integers(0, 6), numbers, numbers)
@settings(max_examples=100, deadline=None)
def test_all_is_undone(bias, said, window, frequency, presence):
    adjustments = Adjustments(bias, Penalties(window, 1.3, frequency, presence), said[:4])
    logits = np.array(LOGITS, dtype=np.float32)
    for token in said:
        adjustments.apply(logits)
        adjustments.undo(logits)
        assert LOGITS == logits.tolist()
        adjustments.note(token)
