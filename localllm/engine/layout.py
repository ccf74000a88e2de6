"""How the KV cells of a model are laid out: one pool that sequences share, or a stream for each; a pure choice.

In one pool a prefix is shared at no cost and any sequence may take any cell, but every row looks past all cells in use.
In streams a row looks at its own cells only, a shared prefix is copied, and no sequence can be longer than its stream.
On a CPU sharing wins as soon as two requests begin alike; a GPU copies quickly and pays for every cell it looks past.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from localllm.engine.backend import Layout, MemoryKind

WantedLayout = Literal["auto", "unified", "streams"]
IDLE_SLOTS = 16  # for idle prefixes: in one pool a slot without cells costs next to nothing
IDLE_STATES = 4  # a recurrent slot costs its state
MOST_SLOTS = 256  # LLAMA_MAX_SEQ
WHOLE_WINDOW_TOKENS = 16_384  # a pool that affords so many cells in all layers keeps windowed layers whole
STREAM_TOKENS = 8192  # a stream must hold so much, or the model's whole context


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """The layout, its number of slots, whether windowed layers keep all cells, and why."""

    layout: Layout
    slots: int
    keeps_whole_window: bool
    reason: str


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
    if wanted == "streams":
        return LayoutChoice("streams", parallel, whole, "asked for")
    slots = min(parallel + (IDLE_STATES if kind == "recurrent" else IDLE_SLOTS), MOST_SLOTS)
    if wanted == "unified":
        return LayoutChoice("unified", slots, whole, "asked for")
    if is_on_gpu and kind != "recurrent" and pool_tokens // parallel >= min(STREAM_TOKENS, trained_context_tokens):
        return LayoutChoice("streams", parallel, whole, "a GPU copies prefixes faster than it looks past others' cells")
    return LayoutChoice("unified", slots, whole, "requests share prefixes without copying")
