"""What the next decode computes: a pure decision from how much each sequence still has to compute.

Decode rows come first, so that running streams keep flowing; what is left of the step's budget goes to prefills, oldest
first. When the pool cannot hold even the decode rows, the newest sequence gives its cells back and is computed again
later: a running request is slowed, never failed. The oldest one always goes on, so everything ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """One active sequence as the planner sees it: tokens to compute, and cells it holds."""

    to_compute: int
    cells: int


@dataclass(frozen=True, slots=True)
class Share:
    """The next `count` tokens of the `index`-th active sequence go into the batch."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Sequences that must give up their cells first, and then the batch. Indices are into what was planned for."""

    preempt: tuple[int, ...]
    shares: tuple[Share, ...]


def plan_batch(active: Sequence[Load], budget_tokens: int, free_cells: int) -> BatchPlan:
    """Plan one decode for the active sequences, oldest first. `budget_tokens` is at least their number."""
    remaining = list(range(len(active)))
    preempt: list[int] = []
    while True:
        shares = _shares([(index, active[index]) for index in remaining], budget_tokens, free_cells)
        if shares is not None or len(remaining) <= 1:
            return BatchPlan(tuple(preempt), shares or ())
        newest = remaining.pop()
        preempt.append(newest)
        free_cells += active[newest].cells


def may_admit(active: Sequence[Load], needed_tokens: int, free_cells: int) -> bool:
    """Whether a waiting sequence may start: the pool holds it beside what the active ones still need now.

    One cell in hand for each active sequence's next token keeps an admission from causing a preemption at once.
    """
    if not active:
        return True
    promised = sum(load.to_compute for load in active) + len(active)
    return needed_tokens + promised < free_cells


def _shares(active: list[tuple[int, Load]], budget: int, free_cells: int) -> tuple[Share, ...] | None:
    """The batch for these sequences, or None when the pool is too full to move."""
    decoding = [index for index, load in active if load.to_compute == 1]
    if len(decoding) > free_cells:
        return None
    shares = [Share(index, 1) for index in decoding]
    room = min(budget, free_cells) - len(decoding)
    for index, load in active:
        if load.to_compute > 1 and room > 0:
            shares.append(Share(index, min(load.to_compute, room)))
            room -= shares[-1].count
    return tuple(shares) if shares else None
