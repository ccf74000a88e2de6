"""How the KV cells of a model are laid out: one pool that sequences share, or a stream for each; a pure choice.

In one pool a prefix is shared at no cost and any sequence may take any cell, but every row looks past all cells in use.
In streams a row looks at its own cells only, a shared prefix is copied (60 ms for a thousand tokens of a 0.6 B model,
which take seconds to compute on a CPU), and no sequence can be longer than its stream.

Which is faster depends on what is asked. Measured on two cores with 0.6 B, a next token for each of eight requests:

    eight times 700 cells of their own     264 ms in one pool, 190 ms in streams
    1,400 cells that all of them share     215 ms in one pool, 315 ms in streams (what is shared stays in a CPU's cache)

So a CPU begins with streams where they are long enough, and changes when what runs and waits shows that the other is
better, or a request outgrows its stream. A change takes about a second: everything is saved and put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from localllm.engine.backend import Layout, MemoryKind
from localllm.engine.tokens import Tokens, common_prefix

WantedLayout = Literal["auto", "unified", "streams"]
IDLE_SLOTS = 16  # for idle prefixes: in one pool a slot without cells costs next to nothing
IDLE_STATES = 4  # a recurrent slot costs its state
MOST_SLOTS = 256  # LLAMA_MAX_SEQ
WHOLE_WINDOW_TOKENS = 16_384  # a pool that affords so many cells in all layers keeps windowed layers whole
# A stream must hold so much, or the model's whole context.
STREAM_TOKENS_ON_GPU = 8192
STREAM_TOKENS_ON_CPU = 1024
# What a shared cell saves a row in one pool, in cells that it looks past; from the figures above.
SHARED_CELL_GAIN = 3.0
CLEARLY = 1.5  # times better, or nothing changes
LEAST_CELLS = 4096  # looked past or shared by all rows of a step: for fewer a change would not pay


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """The layout, its number of slots, whether windowed layers keep all cells, and why.

    `can_change`: nobody asked for it, and the other is possible.
    """

    layout: Layout
    slots: int
    keeps_whole_window: bool
    reason: str
    can_change: bool = False


def choose_layout(
    wanted: WantedLayout,
    kind: MemoryKind,
    parallel: int,
    pool_tokens: int,
    trained_context_tokens: int,
    *,
    is_on_gpu: bool,
) -> LayoutChoice:
    """Choose for one model. `pool_tokens` are the cells of the pool, counted in all layers."""
    whole = kind == "window" and pool_tokens >= min(WHOLE_WINDOW_TOKENS, trained_context_tokens * parallel)
    if kind == "window" and not whole:
        # A cell of a window that two sequences share is never given up: a shared pool would fill.
        return LayoutChoice("streams", parallel, False, "windowed layers keep only their window, which is not shared")
    stream_tokens = pool_tokens // parallel
    if wanted == "streams":
        return LayoutChoice("streams", parallel, whole, "asked for")
    slots = min(parallel + (IDLE_STATES if kind == "recurrent" else IDLE_SLOTS), MOST_SLOTS)
    if wanted == "unified":
        return LayoutChoice("unified", slots, whole, "asked for")
    least = min(STREAM_TOKENS_ON_GPU if is_on_gpu else STREAM_TOKENS_ON_CPU, trained_context_tokens)
    if kind == "recurrent" or stream_tokens < least:
        return LayoutChoice("unified", slots, whole, "requests share prefixes without copying")
    reason = f"each of {parallel} requests looks at its own cells only, for as long as none needs more than its part"
    return LayoutChoice("streams", parallel, whole, reason, can_change=True)


def changed(choice: LayoutChoice, parallel: int) -> LayoutChoice:
    """The other layout of a choice that can change."""
    whole = choice.keeps_whole_window
    if choice.layout == "unified":
        return LayoutChoice("streams", parallel, whole, "requests have little in common", can_change=True)
    slots = min(parallel + IDLE_SLOTS, MOST_SLOTS)
    return LayoutChoice("unified", slots, whole, "requests share much, or one outgrew its part", can_change=True)


def better_layout(present: Layout, prompts: Sequence[Tokens]) -> Layout:
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
