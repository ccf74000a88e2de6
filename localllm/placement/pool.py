"""How many cells a pool may have, and the shape of a context with so many: pure.

A request takes cells of the pool for every token it holds, and no more than its model was trained on at once. A pool as
large as all requests together could need is more than most machines have: requests wait for cells, so a smaller one
costs time only when many are long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localllm.placement.cell_layout import LayoutChoice, MemoryKind, choose_layout
from localllm.placement.estimate import Estimate
from localllm.placement.shape import CELL_STEP, ContextShape, outputs_for
from localllm.placement.wishes import Wishes

LEAST_CELLS = 4096
USUAL_CELLS = 8192  # for which layers leave a GPU; a larger pool takes only what is left over
# llama.cpp writes the whole pool at load: 5.5 GB took 14 to 19 s on a virtual machine of two cores.
HOST_POOL_BYTES_MOST = 2 * 2**30
HOST_POOL_SHARE = 0.25  # of the memory that is free: the rest is for weights, the next model and other programs
# An embedding model computes whole inputs at once: engine/llama_embedding.
_EMBED_SEQUENCES, _EMBED_ROWS_LEAST, _EMBED_ROWS_MOST, _EMBED_TOKENS_MOST = 64, 64, 2048, 8192
_EMBED_LOGITS_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class PoolBounds:
    """Cells: what one request must have, what it should have, and what all requests together can use."""

    least: int
    usual: int
    most: int


def bounds_of(estimate: Estimate, wishes: Wishes) -> PoolBounds:
    """The bounds of a model's pool. A context that was asked for is no less and no more than that."""
    trained = estimate.context_length or LEAST_CELLS
    most = max(LEAST_CELLS, trained * wishes.parallel)
    if wishes.context_tokens is not None:
        least = _rounded(max(LEAST_CELLS, min(wishes.context_tokens, trained)))
        return PoolBounds(least, least, max(least, most))
    return PoolBounds(LEAST_CELLS, max(LEAST_CELLS, min(trained, USUAL_CELLS)), most)


def memory_kind(estimate: Estimate) -> MemoryKind:
    """What can be done with the memory of a sequence."""
    if any(memory.state_elements for memory in estimate.memories):
        return "recurrent"
    has_window = any(cache.window_tokens for memory in estimate.memories for cache in memory.caches)
    return "window" if has_window else "attention"


def layout_for(
    estimate: Estimate, wishes: Wishes, cells: int, *, is_on_gpu: bool, keeps_whole_window: bool | None = None
) -> LayoutChoice:
    """How a pool of so many cells is laid out."""
    return choose_layout(
        wishes.kv_layout,
        memory_kind(estimate),
        wishes.parallel,
        cells,
        estimate.context_length or LEAST_CELLS,
        is_on_gpu=is_on_gpu,
        keeps_whole_window=keeps_whole_window,
    )


def shape_for(estimate: Estimate, wishes: Wishes, request_cells: int, *, is_on_gpu: bool) -> ContextShape:
    """The smallest context in which one request can have so many cells."""
    if wishes.embeds:
        return _embedding_shape(estimate, wishes)
    # A windowed layer that keeps every cell can share them: one pool of few cells may be less than many short streams.
    ways = (True, False) if memory_kind(estimate) == "window" else (None,)
    shapes = [_shape_with(estimate, wishes, request_cells, is_on_gpu, whole) for whole in ways]
    return min(shapes, key=estimate.kv_bytes)


def _shape_with(
    estimate: Estimate, wishes: Wishes, request_cells: int, is_on_gpu: bool, whole: bool | None
) -> ContextShape:
    shape = pool_shape(estimate, wishes, request_cells, is_on_gpu=is_on_gpu, keeps_whole_window=whole)
    choice = layout_for(estimate, wishes, shape.cells, is_on_gpu=is_on_gpu, keeps_whole_window=whole)
    if choice.layout == "unified" or choice.can_change:
        return shape
    # Streams that stay: no request can have more than its own.
    cells = request_cells * wishes.parallel
    return pool_shape(estimate, wishes, cells, is_on_gpu=is_on_gpu, keeps_whole_window=whole)


def pool_shape(
    estimate: Estimate, wishes: Wishes, cells: int, *, is_on_gpu: bool, keeps_whole_window: bool | None = None
) -> ContextShape:
    """A context with so many cells in all."""
    cells = _rounded(cells)
    choice = layout_for(estimate, wishes, cells, is_on_gpu=is_on_gpu, keeps_whole_window=keeps_whole_window)
    return ContextShape(
        cells=cells,
        sequences=choice.slots,
        batch_tokens=min(wishes.batch_tokens, cells),
        outputs=outputs_for(choice.slots),
        k_type=wishes.k_type,
        v_type=wishes.v_type,
        is_unified=choice.layout == "unified",
        keeps_whole_window=choice.keeps_whole_window,
        flash_attention=wishes.flash_attention != "off",
    )


def host_cells(estimate: Estimate, wishes: Wishes, free_bytes: int) -> int:
    """The cells of a pool in host memory of which so much is free; windows count as if they kept all cells."""
    limit = min(int(free_bytes * HOST_POOL_SHARE), HOST_POOL_BYTES_MOST)
    bounds = bounds_of(estimate, wishes)

    def fits(cells: int) -> bool:
        whole = ContextShape(cells, 1, k_type=wishes.k_type, v_type=wishes.v_type, keeps_whole_window=True)
        return estimate.kv_bytes(whole) <= limit

    return largest(bounds.least, bounds.most, fits)


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The most cells, in llama.cpp's steps, up to `high` that fit; `low` if nothing more does."""
    first, last = low // CELL_STEP, high // CELL_STEP
    while first < last:
        middle = (first + last + 1) // 2
        if fits(middle * CELL_STEP):
            first = middle
        else:
            last = middle - 1
    return max(low, first * CELL_STEP)


def _embedding_shape(estimate: Estimate, wishes: Wishes) -> ContextShape:
    longest = min(estimate.context_length or _EMBED_TOKENS_MOST, _EMBED_TOKENS_MOST)
    rows = min(max(_EMBED_LOGITS_BYTES // max(8 * estimate.vocabulary, 1), _EMBED_ROWS_LEAST), _EMBED_ROWS_MOST)
    remembers = any(memory.key_elements for memory in estimate.memories)
    batch = min(rows, longest) if remembers else longest  # an encoder computes an input in one piece
    return ContextShape(
        _rounded(max(longest, batch)),
        min(_EMBED_SEQUENCES, batch),
        batch_tokens=batch,
        outputs=batch,
        flash_attention=wishes.flash_attention != "off",
    )


def _rounded(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP
