"""Which layout of the KV cells serves what runs and waits now: one pool, or a stream for each; a pure choice.

In one pool a prefix is shared at no cost and any sequence may take any cell, but every row looks past all cells in use.
In streams a row looks at its own cells only, a shared prefix is copied (60 ms for a thousand tokens of a 0.6 B model,
which take seconds to compute on a CPU), and no sequence can be longer than its stream.

Which is faster depends on what is asked. Measured on two cores with 0.6 B, a next token for each of eight requests:

    eight times 700 cells of their own     264 ms in one pool, 190 ms in streams
    1,400 cells that all of them share     215 ms in one pool, 315 ms in streams (what is shared stays in a CPU's cache)

So a CPU begins with streams where they are long enough (placement/cell_layout chooses), and changes when what runs and
waits shows that the other is better, or a request outgrows its stream. A change takes about a second: everything is
saved and put back.
"""

from __future__ import annotations

from collections.abc import Sequence

from localllm.engine.tokens import Tokens, common_prefix
from localllm.placement.cell_layout import IDLE_SLOTS, MOST_SLOTS, CellLayout, LayoutChoice

# What a shared cell saves a row in one pool, in cells that it looks past; from the figures above.
SHARED_CELL_GAIN = 3.0
CLEARLY = 1.5  # times better, or nothing changes
LEAST_CELLS = 4096  # looked past or shared by all rows of a step: for fewer a change would not pay


def changed(choice: LayoutChoice, parallel: int) -> LayoutChoice:
    """The other layout of a choice that can change."""
    whole = choice.keeps_whole_window
    if choice.layout == "unified":
        return LayoutChoice("streams", parallel, whole, "requests have little in common", can_change=True)
    slots = min(parallel + IDLE_SLOTS, MOST_SLOTS)
    return LayoutChoice("unified", slots, whole, "requests share much, or one outgrew its part", can_change=True)


def better_layout(present: CellLayout, prompts: Sequence[Tokens]) -> CellLayout:
    """The layout in which sequences of these tokens, computed together, take clearly less time, or the present one."""
    shared = [_shared(at, prompts) for at in range(len(prompts))]
    cells = sum(len(prompt) for prompt in prompts) - _saved_cells(prompts)
    looked_past = sum(cells - len(prompt) for prompt in prompts)
    gain = SHARED_CELL_GAIN * sum(shared)
    if present == "streams" and gain > CLEARLY * looked_past + LEAST_CELLS:
        return "unified"
    if present == "unified" and looked_past > CLEARLY * gain + LEAST_CELLS:
        return "streams"
    return present


def _shared(at: int, prompts: Sequence[Tokens]) -> int:
    """How many of its first tokens another has too."""
    others = (one for other, one in enumerate(prompts) if other != at)
    return max((common_prefix(prompts[at], one) for one in others), default=0)


def _saved_cells(prompts: Sequence[Tokens]) -> int:
    """Cells that one pool needs less than the tokens of all: what a prompt shares with one before it."""
    return sum(
        max((common_prefix(prompt, one) for one in prompts[:at]), default=0) for at, prompt in enumerate(prompts)
    )
