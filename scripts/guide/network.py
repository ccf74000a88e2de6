"""The llama architecture in torch, with the weight layout that llama.cpp's `llama` reads.

Rotary positions turn neighbouring pairs (2i, 2i+1), which is what llama.cpp calls the NORM kind, so the
query and key weights go into the GGUF file as they are: nothing is permuted. Written for speed on a CPU:
query, key and value are one matrix, so are gate and up; the residual stream is bfloat16 while training;
the norms inside the blocks have no gain (the next matrix learns it), in the file their weights are ones.

It knows nothing about text, chat or files. Shapes: batch B, tokens T, width C, heads H, key heads K.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SHORT_TEXT = 640


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the network; every row length is a multiple of 256 because K-quants need that."""

    vocabulary_size: int
    layers: int = 4
    width: int = 256
    feed_forward_width: int = 768
    heads: int = 4
    key_heads: int = 2
    rope_base: float = 500_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head_width


class Normalise(torch.autograd.Function):
    """Scale each vector to unit root mean square; the gradient by hand takes half the passes over memory."""

    @staticmethod
    def forward(context: Any, x: Tensor, epsilon: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
        scale = (squares / x.shape[-1] + epsilon).rsqrt().to(x.dtype)
        normed: Tensor = x * scale
        context.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        normed, scale = context.saved_tensors
        (gradient,) = gradients
        along = (gradient * normed).mean(-1, keepdim=True)
        # d(x·s)/dx: what points along x changes only the length, which the scaling takes away again.
        return torch.addcmul(gradient, normed, along, value=-1.0).mul_(scale), None


def normalise(x: Tensor, epsilon: float) -> Tensor:
    normed: Tensor = Normalise.apply(x, epsilon)  # type: ignore[no-untyped-call]
    return normed


def rotations(tokens: int, head_width: int, base: float) -> Tensor:
    """Unit complex numbers of shape (tokens, 1, head_width / 2), one turn per position and pair."""
    frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(tokens, dtype=torch.float32), frequencies)
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the neighbouring pairs of x, shape (B, T, heads, head_width), by their positions' angles."""
    pairs = torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention over (B, heads, T, head_width); for short texts plain products beat the fused kernel."""
    tokens, head_width = query.shape[-2:]
    if tokens > SHORT_TEXT:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    scores = (query * head_width**-0.5) @ key.transpose(-1, -2) + future_mask(tokens, query.dtype)
    return scores.softmax(-1) @ value


@cache
def future_mask(tokens: int, dtype: torch.dtype) -> Tensor:
    return torch.full((tokens, tokens), -math.inf).triu(1).to(dtype)


class Block(nn.Module):
    """One layer: grouped-query attention, then a gated feed-forward network, both residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.query_key_value = nn.Linear(shape.width, shape.width + 2 * shape.key_width, bias=False)
        self.attention_output = nn.Linear(shape.width, shape.width, bias=False)
        self.gate_up = nn.Linear(shape.width, 2 * shape.feed_forward_width, bias=False)
        self.down = nn.Linear(shape.feed_forward_width, shape.width, bias=False)

    def attend(self, x: Tensor, turns: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        shape = self.shape
        heads = self.query_key_value(x).view(batch, tokens, -1, shape.head_width)
        turned = rotate(heads[:, :, : shape.heads + shape.key_heads], turns)
        query, key = turned[:, :, : shape.heads], turned[:, :, shape.heads :]
        value = heads[:, :, shape.heads + shape.key_heads :]
        repeats = shape.heads // shape.key_heads
        key, value = key.repeat_interleave(repeats, 2), value.repeat_interleave(repeats, 2)
        mixed = mix(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        output: Tensor = self.attention_output(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return output

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        epsilon = self.shape.norm_epsilon
        x = x + self.attend(normalise(x, epsilon), turns)
        gate, up = self.gate_up(normalise(x, epsilon)).chunk(2, dim=-1)
        change: Tensor = self.down(functional.silu(gate) * up)
        return x + change


class Network(nn.Module):
    """Token ids (B, T) in, logits out; input and output embeddings are one matrix."""

    turns: Tensor

    def __init__(self, shape: Shape, context_tokens: int) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary_size, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_gain = nn.Parameter(torch.ones(shape.width))
        self.register_buffer("turns", rotations(context_tokens, shape.head_width, shape.rope_base), False)
        self.start_weights()

    def start_weights(self) -> None:
        """Normal weights of standard deviation 0.02; what writes into the residual stream starts smaller."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = "attention_output" in name or "down" in name
                deviation = 0.02 / math.sqrt(2 * self.shape.layers) if residual else 0.02
                nn.init.normal_(weight, std=deviation)

    def forward(self, ids: Tensor, wanted: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits of shape (N, vocabulary) at the positions where `wanted` (B, T) is true, else (B, T, …)."""
        turns = self.turns[: ids.shape[1]]
        x = self.embedding(ids).to(dtype)
        for block in self.blocks:
            x = block(x, turns)
        x = x if wanted is None else x[wanted]
        normed = normalise(x, self.shape.norm_epsilon) * self.output_gain.to(dtype)
        return functional.linear(normed, self.embedding.weight)
