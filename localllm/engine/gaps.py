"""Rows that nobody asked for, so that those that were asked for are computed together. Pure.

In streams llama.cpp computes the next tokens of several slots in one pass over the weights only if the slots are
neighbours: those of slots 0, 1 and 3 take two passes. A row for slot 2, taken out of its cells again afterwards, costs
what its stream's keys and values take to read, which mostly is far less than a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

PART_OF_A_PASS = 0.5  # reading a gap's cells may take so much of the time that reading the weights takes


def cells_most(weight_bytes: int, bytes_per_cell: int) -> int:
    """How many cells the rows that fill a gap may look at; 0 when nobody knows what a cell takes."""
    return int(PART_OF_A_PASS * weight_bytes / bytes_per_cell) if bytes_per_cell else 0


def slots_to_fill(
    slots: Sequence[int], length: Callable[[int], int], cells_most: int, stream_tokens: int
) -> Iterator[tuple[int, int]]:
    """The slots, and the position of a row in each, between `slots`, which rise: of each gap that is worth it all.

    `length` tells how many cells a slot holds, of `stream_tokens` at most.
    """
    for before, behind in pairwise(slots):
        gap = [(slot, length(slot)) for slot in range(before + 1, behind)]
        if sum(held + 1 for _, held in gap) <= cells_most and all(held < stream_tokens for _, held in gap):
            yield from gap
