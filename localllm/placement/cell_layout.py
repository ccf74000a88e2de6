"""How the KV cells of a model are laid out when it loads: one pool that sequences share, or a stream for each. Pure.

The plan asks it to know what a context will take, and the engine to open it so: both must choose alike. What is better
later, while requests run, is engine/layout's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MemoryKind = Literal["attention", "window", "recurrent"]
CellLayout = Literal["unified", "streams"]
WantedLayout = Literal["auto", "unified", "streams"]
IDLE_SLOTS = 16  # for idle prefixes: in one pool a slot without cells costs next to nothing
IDLE_STATES = 4  # a recurrent slot costs its state
MOST_SLOTS = 256  # LLAMA_MAX_SEQ
WHOLE_WINDOW_TOKENS = 16_384  # a pool that affords so many cells in all layers keeps windowed layers whole
# A stream must hold so much, or the model's whole context.
STREAM_TOKENS_ON_GPU = 8192
STREAM_TOKENS_ON_CPU = 1024


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """The layout, its number of slots, whether windowed layers keep all cells, and why.

    `can_change`: nobody asked for it, and the other is possible.
    """

    layout: CellLayout
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
    keeps_whole_window: bool | None = None,
) -> LayoutChoice:
    """Choose for one model. `pool_tokens` are the cells of the pool, counted in all layers. Whether windowed layers
    keep them all is the caller's choice, or follows from how many they are."""
    whole = kind == "window" and (
        pool_tokens >= min(WHOLE_WINDOW_TOKENS, trained_context_tokens * parallel)
        if keeps_whole_window is None
        else keeps_whole_window
    )
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
