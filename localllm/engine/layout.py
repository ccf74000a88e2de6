"""How the KV cells of a model are laid out: one pool that sequences share, or a stream for each; a pure choice.

In one pool a prefix is shared at no cost and any sequence may take any cell, but every row looks past all cells in use.
In streams a row looks at its own cells only, a shared prefix is copied (60 ms for a thousand tokens of a 0.6 B model,
which take seconds to compute on a CPU), and no sequence can be longer than its stream. So streams are the faster layout
for as long as requests fit in them; the first that does not has them merged into one pool.

Flash attention on a CPU skips cells that a row does not look at, one by one for the rows of a decode: right for a pool.
In a stream there is little to skip, and plain attention takes a sixth less time for a decode, but needs room for every
score: rows × cells × heads.
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
# A stream must hold so much, or the model's whole context.
STREAM_TOKENS_ON_GPU = 8192
STREAM_TOKENS_ON_CPU = 1024
PLAIN_ATTENTION_TOKENS = 8192  # in longer streams the scores of a batch would take too much memory


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """The layout, its number of slots, whether windowed layers keep all cells, and why.

    `can_merge`: its streams may become one pool when a request needs more than one of them holds.
    `flash_attention` None leaves it to llama.cpp.
    """

    layout: Layout
    slots: int
    keeps_whole_window: bool
    reason: str
    can_merge: bool = False
    flash_attention: bool | None = None


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
    is_plain = not is_on_gpu and stream_tokens <= PLAIN_ATTENTION_TOKENS
    flash_attention = False if is_plain else None
    if wanted == "streams":
        return LayoutChoice("streams", parallel, whole, "asked for", flash_attention=flash_attention)
    slots = min(parallel + (IDLE_STATES if kind == "recurrent" else IDLE_SLOTS), MOST_SLOTS)
    if wanted == "unified":
        return LayoutChoice("unified", slots, whole, "asked for")
    least = min(STREAM_TOKENS_ON_GPU if is_on_gpu else STREAM_TOKENS_ON_CPU, trained_context_tokens)
    if kind == "recurrent" or stream_tokens < least:
        return LayoutChoice("unified", slots, whole, "requests share prefixes without copying")
    reason = f"each of {parallel} requests looks at its own cells only, for as long as none needs more than its part"
    return LayoutChoice("streams", parallel, whole, reason, can_merge=True, flash_attention=flash_attention)


def merged(streams: LayoutChoice) -> LayoutChoice:
    """What streams that can be merged become."""
    slots = min(streams.slots + IDLE_SLOTS, MOST_SLOTS)
    return LayoutChoice("unified", slots, streams.keeps_whole_window, "a request needed more cells than its part")
