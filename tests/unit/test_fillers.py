"""Fillers: which gaps between slots, and which prompts' last rows, are worth it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from localllm.engine.backend import BackendFacts, Batch, MemoryTraits
from localllm.engine.fillers import (
    Piece,
    cells_most,
    fillers,
    first_positions,
    passes,
    slots_to_fill,
    tile_targets,
)

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


ROW_CELLS = 500.0


def targets(*pieces: tuple[int, int, int], streams: bool = True, most: int = 512, stream: int = 4096) -> list[int]:
    return tile_targets([Piece(*piece) for piece in pieces], ROW_CELLS, most, stream, streams=streams)


@pytest.mark.parametrize(
    ("rows", "held", "expected"),
    [
        (60, 0, 60),  # so few cells are looked at one by one
        (60, 1000, 64),
        (32, 1000, 32),  # half a tile of rows for nothing costs more
        (32, 3000, 64),
        (20, 100_000, 20),  # a tile takes longer than 20 rows do
        (64, 3000, 64),
        (188, 3000, 188),  # the last of three tiles is not full, which costs it nothing
        (512, 3000, 512),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_a_turn_behind_many_cells_is_filled_up_to_a_tile(rows, held, expected, streams):
    assert [expected] == targets((0, rows, held), streams=streams, stream=200_000)


def test_turns_of_several_streams_are_filled_together():
    assert 8 * [64] == targets(*((slot, 60, 250) for slot in range(8)))
    assert [60, 59] == targets((0, 60, 10), (1, 59, 10))


def test_a_stream_that_ends_a_little_earlier_is_filled_so_that_no_short_pass_is_left():
    assert [64, 128] == targets((0, 60, 1500), (1, 120, 1500))


def test_there_is_no_filling_beyond_what_a_batch_or_a_stream_can_hold():
    assert [60] == targets((0, 60, 1000), most=63)
    assert [60] == targets((0, 60, 1000), stream=1063)
    assert [64] == targets((0, 60, 1000), stream=1064)


def test_in_one_pool_the_last_rows_are_filled_up_to_a_tile_of_all():
    assert [30, 34] == targets((0, 30, 4000), (3, 30, 100), streams=False)
    # A tile goes through the cells of all three.
    assert [20, 20, 20] == targets((0, 20, 2000), (1, 20, 2000), (3, 20, 2000), streams=False)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({0: 3}, [([0], 3)]),
        ({0: 3, 1: 3}, [([0, 0], 3)]),
        ({0: 2, 1: 5}, [([0, 0], 2), ([2], 3)]),
        ({0: 2, 1: 5, 3: 1}, [([0, 0], 2), ([2], 3), ([0], 1)]),
        ({0: 9, 1: 9}, [([0, 0], 4), ([4, 4], 4), ([8, 8], 1)]),  # 8 rows at most
    ],
)
def test_a_batch_of_streams_is_computed_in_passes_of_equally_many_rows_of_neighbours(rows, expected):
    assert expected == list(passes([Piece(slot, count, 0) for slot, count in rows.items()], 8))


FACTS = BackendFacts(
    vocabulary_size=1000, trained_context_tokens=8192, pool_tokens=16384, batch_tokens=512, parallel=4, slots=4,
    memory=MemoryTraits("attention", "streams"), kv_bytes_per_token=1000, weight_bytes=10**9, tile_row_cells=ROW_CELLS,
)  # fmt: skip


def batch(*slots: int) -> Batch:
    numbers = np.array(slots, dtype=np.int32)
    return Batch(numbers, numbers, numbers, numbers.astype(np.int8))


def test_fillers_lie_behind_the_rows_of_their_slot():
    assert [(2, 1060), (2, 1061), (2, 1062), (2, 1063)] == fillers(batch(*60 * [2]), FACTS, lambda slot: 1000)
    assert [(1, 1000)] == fillers(batch(0, 2), FACTS, lambda slot: 1000)


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, memory=MemoryTraits("recurrent", "streams")),
        replace(FACTS, memory=MemoryTraits("window", "streams")),
        replace(FACTS, tile_row_cells=0.0),
    ],
)
def test_there_are_none_where_they_cannot_be_taken_out_again_or_attention_has_no_tiles(facts):
    assert [] == fillers(batch(*60 * [2]), facts, lambda slot: 1000)


def test_a_slot_holds_what_is_before_its_first_filler():
    assert {1: 7, 2: 1060} == first_positions([(1, 7), (2, 1060), (2, 1061)])
