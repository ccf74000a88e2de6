"""What each layer of a model remembers of a sequence: keys and values per cell, a window of them, a recurrent state.

One entry per layer, from the header's numbers, by the rules of the llama.cpp that pyproject.toml names.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.gguf import Header
from localllm.placement.shape import CELL_STEP, ContextShape, row_bytes


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """Elements that one layer keeps: per cell of keys and of values (0 when it shares another layer's or has none), of
    an index beside them, and per sequence of recurrent state (always 32 bits each). `window_tokens` 0 is all of them."""

    key_elements: int = 0
    value_elements: int = 0
    index_elements: int = 0
    state_elements: int = 0
    window_tokens: int = 0


def memory_of(header: Header) -> tuple[LayerMemory, ...]:
    """The memory of every layer. Raises ModelFileError for counts that no model can have."""
    heads = header.architecture_integer("attention.head_count_kv") or header.architecture_integer("attention.head_count")
    size = header.embedding_length // max(header.architecture_integer("attention.head_count"), 1)
    key = header.architecture_integer("attention.key_length") or size
    value = header.architecture_integer("attention.value_length") or size
    return (LayerMemory(heads * key, heads * value),) * header.block_count


def memory_bytes(memory: LayerMemory, shape: ContextShape) -> int:
    """Bytes of one layer in a context of this shape."""
    cells = window_cells(memory, shape) * shape.streams
    per_cell = row_bytes(shape.k_type, memory.key_elements + memory.index_elements)
    per_cell += row_bytes(shape.v_type, memory.value_elements)
    states = max(shape.sequences, 1) * (1 + shape.rollback_states)
    return cells * per_cell + states * memory.state_elements * 4


def window_cells(memory: LayerMemory, shape: ContextShape) -> int:
    """Cells of one stream that the layer keeps."""
    if not memory.window_tokens or shape.keeps_whole_window:
        return shape.stream_cells
    wanted = memory.window_tokens * (shape.sequences if shape.is_unified else 1) + shape.batch_tokens
    return -(-min(shape.stream_cells, wanted) // CELL_STEP) * CELL_STEP
