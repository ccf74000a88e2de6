"""Rows that nobody asked for, so that those that were asked for are computed together. Pure.

Two things make them pay, both on a CPU. Each filler lies behind what its slot holds and is taken out again afterwards.

    gaps    In streams llama.cpp computes the next tokens of several slots in one pass over the weights only if the
            slots are neighbours: those of slots 0, 1 and 3 take two passes. A row for slot 2 costs what its stream's
            keys and values take to read, which mostly is far less than a pass.
    tiles   Flash attention takes TILE_ROWS rows of a stream through its cells together; fewer go one by one, each as
            dear as a third of a tile of 64 and more. So the few new tokens of a long conversation are filled up to a
            tile: 60 rows behind 3,000 cells took 2.0 s, and 64 rows 0.75 s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from localllm.engine.backend import BackendFacts, Batch

Filler = tuple[int, int]  # the slot of a row, and its position

PART_OF_A_PASS = 0.5  # reading a gap's cells may take so much of the time that reading the weights takes
TILE_ROWS = 64
TILE_COST = 24.0  # what a tile takes, in single rows: measured 17 behind 3,000 cells, 23 behind 1,000
PASS_ROWS = 4.0  # what reading the weights once takes, in rows of a large batch
WORTH = 0.95  # of the time without fillers


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one slot in a batch, behind the cells that it holds."""

    slot: int
    rows: int
    held: int


def fillers(batch: Batch, facts: BackendFacts, length: Callable[[int], int]) -> list[Filler]:
    """The rows to put among those of `batch`, whose slots rise. `length` tells how many cells a slot holds."""
    if facts.memory.kind != "attention":  # rows could not be taken out again
        return []
    is_streams, slots = facts.memory.layout == "streams", batch.slots.tolist()
    if all(before < behind for before, behind in pairwise(slots)):
        if not is_streams or facts.slots > facts.batch_tokens:
            return []
        most = cells_most(facts.weight_bytes, facts.kv_bytes_per_token)
        return list(slots_to_fill(slots, length, most, facts.sequence_tokens))
    if not facts.tile_row_cells:
        return []
    pieces = [Piece(slot, len(list(rows)), length(slot)) for slot, rows in groupby(slots)]
    targets = tile_targets(pieces, facts.tile_row_cells, facts.batch_tokens, facts.sequence_tokens, streams=is_streams)
    return [
        (piece.slot, piece.held + row)
        for piece, target in zip(pieces, targets, strict=True)
        for row in range(piece.rows, target)
    ]


def first_positions(rows: Sequence[Filler]) -> dict[int, int]:
    """By slot, where its first filler lies: what the slot holds without them."""
    return dict(reversed(rows))


def cells_most(weight_bytes: int, bytes_per_cell: int) -> int:
    """How many cells the rows that fill a gap may look at; 0 when nobody knows what a cell takes."""
    return int(PART_OF_A_PASS * weight_bytes / bytes_per_cell) if bytes_per_cell else 0


def slots_to_fill(
    slots: Sequence[int], length: Callable[[int], int], cells_most: int, stream_tokens: int
) -> Iterator[Filler]:
    """The slots, and the position of a row in each, between `slots`, which rise: of each gap that is worth it all.

    `length` tells how many cells a slot holds, of `stream_tokens` at most.
    """
    for before, behind in pairwise(slots):
        gap = [(slot, length(slot)) for slot in range(before + 1, behind)]
        if sum(held + 1 for _, held in gap) <= cells_most and all(held < stream_tokens for _, held in gap):
            yield from gap


def tile_targets(
    pieces: Sequence[Piece], row_cells: float, most_rows: int, stream_tokens: int, *, streams: bool
) -> list[int]:
    """How many rows each piece should have: its own, or more where that is clearly quicker.

    `row_cells`: the weights take a row as long as looking at so many cells. All together have `most_rows` at most, one
    slot `stream_tokens` cells.
    """
    plain = [piece.rows for piece in pieces]
    candidates = _candidates(plain, streams=streams)
    if not candidates:  # as for a few guesses, in every step
        return plain
    best, least = plain, WORTH * cost(pieces, row_cells, most_rows, streams=streams)
    for targets in candidates:
        filled = [replace(piece, rows=target) for piece, target in zip(pieces, targets, strict=True)]
        if sum(targets) > most_rows or any(piece.held + piece.rows > stream_tokens for piece in filled):
            continue
        seconds = cost(filled, row_cells, most_rows, streams=streams)
        if seconds < least:
            best, least = targets, seconds
    return best


def _candidates(plain: list[int], *, streams: bool) -> list[list[int]]:
    """Ways to fill: in one pool the last piece alone, in streams short ones to a tile, or all to whole tiles."""
    if (max(plain) if streams else sum(plain)) <= TILE_COST:  # one by one they are quicker in any case
        return []
    if not streams:
        missing = TILE_ROWS - sum(plain)
        return [[*plain[:-1], plain[-1] + missing]] if missing > 0 else []
    return [[max(rows, TILE_ROWS) for rows in plain], [-(-rows // TILE_ROWS) * TILE_ROWS for rows in plain]]


def cost(pieces: Sequence[Piece], row_cells: float, most_rows: int, *, streams: bool) -> float:
    """What a batch takes, in the time that one row takes to look at one cell."""
    if not streams:
        rows = sum(piece.rows for piece in pieces)
        held = sum(piece.held for piece in pieces)
        alone = sum(_attention(piece.rows, piece.held) for piece in pieces)
        return (PASS_ROWS + rows) * row_cells + (alone if rows < TILE_ROWS else _attention(rows, held))
    total = 0.0
    for run, rows in passes(pieces, most_rows):
        total += (PASS_ROWS + rows * len(run)) * row_cells
        total += sum(_attention(rows, held) for held in run)
    return total


def passes(pieces: Sequence[Piece], most_rows: int) -> Iterator[tuple[list[int], int]]:
    """How llama.cpp parts a batch of streams: of neighbouring slots equally many rows, until one of them has no more.

    Of each pass the cells behind which the rows of each slot lie, and the number of these.
    """
    left = [[piece.slot, piece.rows, piece.held] for piece in pieces]
    while left:
        run = left[:1]
        for one in left[1:]:
            if one[0] != run[-1][0] + 1:
                break
            run.append(one)
        rows = min(*(one[1] for one in run), max(1, most_rows // len(run)), most_rows)
        yield [one[2] for one in run], rows
        for one in run:
            one[1] -= rows
            one[2] += rows
        left = [one for one in left if one[1]]


def _attention(rows: int, held: int) -> float:
    """Rows of one stream, each of which looks at the cells before it."""
    together = float(rows) if rows < TILE_ROWS else -(-rows // TILE_ROWS) * TILE_COST
    return together * (held + rows / 2)
