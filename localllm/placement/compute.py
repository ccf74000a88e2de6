"""What one step of a model computes with: buffers for activations, masks and logits, never below what llama.cpp takes.

A bound, not a simulation of llama.cpp's allocator: the sum of what must live at once in the widest part of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.gguf import ArrayInfo, Header
from localllm.placement.cache import LayerMemory
from localllm.placement.shape import ContextShape

_FLOAT_BYTES = 4
_VOCABULARY_TENSORS = ("output.weight", "token_embd.weight")


@dataclass(frozen=True, slots=True)
class Widths:
    """The model's widths that a step's buffers follow, in elements."""

    embedding: int
    vocabulary: int
    feed_forward: int
    experts_used: int


@dataclass(frozen=True, slots=True)
class ComputeBytes:
    """Bytes of one device's compute buffer, by what lies on it. `whole`: everything, as on a CPU without a GPU.
    `layers`: some layers, not the output. `output`: some layers and the output. `input`: the embedding alone, as in
    host memory when every layer is on a GPU."""

    whole: int
    layers: int
    output: int
    input: int


def widths_of(header: Header, memories: tuple[LayerMemory, ...]) -> Widths:
    """The widths of a model."""
    return Widths(
        embedding=header.embedding_length,
        vocabulary=_vocabulary(header),
        feed_forward=header.architecture_integer("feed_forward_length"),
        experts_used=header.architecture_integer("expert_used_count"),
    )


def _vocabulary(header: Header) -> int:
    """Rows of the output matrix, which may be more than there are tokens."""
    rows = {tensor.name: tensor.shape[-1] for tensor in header.tensors if tensor.name in _VOCABULARY_TENSORS}
    for name in _VOCABULARY_TENSORS:
        if name in rows:
            return rows[name]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, tuple) else tokens.length if isinstance(tokens, ArrayInfo) else 0


def compute_bytes(widths: Widths, shape: ContextShape) -> ComputeBytes:
    """A bound of what a step of `shape` takes."""
    rows = shape.batch_tokens
    logits = min(rows, shape.outputs) * widths.vocabulary * _FLOAT_BYTES
    layers = rows * (8 * widths.embedding + 2 * widths.feed_forward) * _FLOAT_BYTES
    return ComputeBytes(layers + logits, layers, layers + logits, 2 * rows * widths.embedding * _FLOAT_BYTES)
