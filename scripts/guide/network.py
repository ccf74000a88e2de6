"""The llama architecture in torch, with the weight layout that llama.cpp's `llama` reads.

Rotary positions turn neighbouring pairs (2i, 2i+1), which is what llama.cpp calls the NORM kind, so the
query and key weights go into the GGUF file as they are: nothing is permuted.

It knows nothing about text, chat or files. Shapes: batch B, tokens T, width C, heads H, key heads K.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the network; every row length is a multiple of 256 because K-quants need that."""

    vocabulary_size: int
    layers: int = 6
    width: int = 256
    feed_forward_width: int = 768
    heads: int = 4
    key_heads: int = 2
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class RootMeanSquareNorm(nn.Module):
    """Scale each token's vector to unit root mean square, times a learned weight."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


def rotation_angles(tokens: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions 0..tokens-1; each of shape (tokens, head_width / 2)."""
    frequencies = base ** (-torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(tokens, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the neighbouring pairs of x, shape (B, T, heads, head_width), by their positions' angles."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = cosines[:, None], sines[:, None]
    turned = torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Block(nn.Module):
    """One layer: grouped-query attention, then a gated feed-forward network, both residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        key_width = shape.key_heads * shape.head_width
        self.attention_norm = RootMeanSquareNorm(shape.width, shape.norm_epsilon)
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, key_width, bias=False)
        self.value = nn.Linear(shape.width, key_width, bias=False)
        self.attention_output = nn.Linear(shape.width, shape.width, bias=False)
        self.feed_forward_norm = RootMeanSquareNorm(shape.width, shape.norm_epsilon)
        self.gate = nn.Linear(shape.width, shape.feed_forward_width, bias=False)
        self.up = nn.Linear(shape.width, shape.feed_forward_width, bias=False)
        self.down = nn.Linear(shape.feed_forward_width, shape.width, bias=False)

    def attend(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        head_width = self.shape.head_width
        query = rotate(self.query(x).view(batch, tokens, -1, head_width), cosines, sines)
        key = rotate(self.key(x).view(batch, tokens, -1, head_width), cosines, sines)
        value = self.value(x).view(batch, tokens, -1, head_width)
        repeats = self.shape.heads // self.shape.key_heads
        key, value = key.repeat_interleave(repeats, 2), value.repeat_interleave(repeats, 2)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True
        )
        return self.attention_output(mixed.transpose(1, 2).reshape(batch, tokens, -1))

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        x = x + self.attend(self.attention_norm(x), cosines, sines)
        normed = self.feed_forward_norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


class Network(nn.Module):
    """Token ids (B, T) in, logits (B, T, vocabulary) out; input and output embeddings are one matrix."""

    def __init__(self, shape: Shape, context_tokens: int) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary_size, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = RootMeanSquareNorm(shape.width, shape.norm_epsilon)
        cosines, sines = rotation_angles(context_tokens, shape.head_width, shape.rope_base)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self.start_weights()

    def start_weights(self) -> None:
        """Normal weights of standard deviation 0.02; what writes into the residual stream starts smaller."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = "attention_output" in name or "down" in name
                deviation = 0.02 / (2 * self.shape.layers) ** 0.5 if residual else 0.02
                nn.init.normal_(weight, std=deviation)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = ids.shape[1]
        cosines, sines = self.cosines[:tokens], self.sines[:tokens]
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cosines, sines)
        return functional.linear(self.output_norm(x), self.embedding.weight)
