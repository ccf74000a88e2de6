"""Gaps between slots: which are filled so that next tokens are computed together, and which are not worth it."""

from __future__ import annotations

import pytest

from localllm.engine.gaps import cells_most, slots_to_fill

LENGTHS = {0: 10, 1: 40, 2: 0, 3: 100, 4: 64, 5: 7}


def filled(*slots: int, most: int = 1000, stream: int = 64) -> list[tuple[int, int]]:
    return list(slots_to_fill(slots, LENGTHS.__getitem__, most, stream))


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ((), []),
        ((4,), []),
        ((0, 1), []),
        ((0, 2), [(1, 40)]),
        ((1, 3), [(2, 0)]),
        ((0, 3), [(1, 40), (2, 0)]),
        ((0, 2, 5), [(1, 40)]),  # the stream of slot 4 has no cell left
    ],
)
def test_the_slots_between_are_filled_behind_what_they_hold(slots, expected):
    assert expected == filled(*slots)


def test_a_gap_whose_cells_take_longer_to_read_than_the_pass_it_saves_stays():
    assert [(1, 40), (2, 0)] == filled(0, 3, most=42)
    assert [] == filled(0, 3, most=41)
    assert [(2, 0)] == filled(0, 1, 3, most=41)


def test_the_cells_that_are_worth_it_grow_with_the_weights():
    assert (500, 1000, 0) == (cells_most(10**6, 10**3), cells_most(2 * 10**6, 10**3), cells_most(10**6, 0))
