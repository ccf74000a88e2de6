"""Start weights that hold the circuit which repeats what was said before: an induction head.

A tool call repeats names from the prompt that nobody has seen before, token by token. What does this in a
transformer are two attention heads one after the other: the first writes into each place which token stands before
it, the second looks for the place whose token before is the own token, and says the token that stands there. From
random weights, four layers did not learn this: after 1.5 million tokens of drills they repeated no random token.
With the circuit built in, they repeat two in five before any training, and nearly all after a few minutes of it.

What is set by hand is only a start, and is trained on like every other weight. The residual stream is divided:

    TOKEN     what the token at this place is; the output layer reads it too
    CONSTANT  the same in every token, so that a query or a key can be the same everywhere
    PREVIOUS  what the token before is; written by the first layer, read by the second

Shapes: width C, head width D, vocabulary V. Deterministic from the seed.
"""

import math
from typing import cast

import torch
from torch import Tensor

from guide.network import Block, Network

TOKEN = slice(0, 160)
CONSTANT = 160
PREVIOUS = slice(192, 256)
# Pairs that turn by more than this per place tell neighbours apart; by less than that, hardly turn over a prompt.
FAST, SLOW = 0.15, 0.02
# How much larger the scores of the right place are than those of others, before the softmax, in layers 1 and 2.
NEAR_SCORE, MATCH_SCORE = 40, 18
REPEATERS = (0, 2)
# What is left of the random weights of a head that gets a task.
REST = 0.1
GAIN = 6.0


class Heads:
    """The weights of one block, by head: query, key and value (heads, D, C), output (C, heads, D), all views."""

    def __init__(self, block: Block) -> None:
        shape, weight = block.shape, block.query_key_value.weight
        self.per_key = shape.heads // shape.key_heads
        query, key, value = torch.split(weight, [shape.width, shape.key_width, shape.key_width])
        self.query = query.view(shape.heads, shape.head_width, shape.width)
        self.key = key.view(shape.key_heads, shape.head_width, shape.width)
        self.value = value.view(shape.key_heads, shape.head_width, shape.width)
        self.output = block.attention_output.weight.view(shape.width, shape.heads, shape.head_width)


def orthogonal(rows: int, columns: int, source: torch.Generator) -> Tensor:
    """A random matrix whose rows, or columns where there are fewer, are orthonormal."""
    weight = torch.empty(rows, columns)
    torch.nn.init.orthogonal_(weight, generator=source)
    return weight


def mean_length(vectors: Tensor) -> float:
    return float(torch.linalg.vector_norm(vectors, dim=-1).mean())


def divide_embedding(embedding: Tensor) -> Tensor:
    """Give all tokens the constant, and quiet the rest outside TOKEN; returns the normalised vectors (V, C)."""
    embedding[:, TOKEN.stop :] *= REST
    embedding[:, CONSTANT] = embedding[:, TOKEN].std() * 8
    return embedding / embedding.square().mean(-1, keepdim=True).sqrt()


def look_back(heads: Heads, frequencies: Tensor, constant: float, head_width: int) -> None:
    """Let the first head look at the place before its own.

    Query and key are constant. In each fast pair the query is the key turned back by one place, so the score is
    highest for the key that the rotary positions have turned by one place less.
    """
    heads.query[0] *= REST
    heads.key[0] *= REST
    pairs = (frequencies > FAST).nonzero()[:, 0].tolist()
    size = math.sqrt(math.sqrt(head_width) * NEAR_SCORE / len(pairs)) / constant
    for pair in pairs:
        angle = frequencies[pair].item()
        heads.key[0, 2 * pair, CONSTANT] = size
        heads.query[0, 2 * pair, CONSTANT] = size * math.cos(angle)
        heads.query[0, 2 * pair + 1, CONSTANT] = -size * math.sin(angle)


def tell_previous(heads: Heads, projection: Tensor, embedding: Tensor, normed: Tensor) -> None:
    """Write what the first head sees, as `projection` (D, TOKEN) shows it, into PREVIOUS."""
    heads.value[0] *= REST
    heads.value[0][:, TOKEN] = projection
    heads.output[:, 0] *= REST
    seen, wanted = mean_length(normed[:, TOKEN] @ projection.T), mean_length(embedding[:, TOKEN] @ projection.T) * 1.5
    heads.output[PREVIOUS, 0] = torch.eye(len(projection)) * (wanted / seen)


def find_repetition(heads: Heads, head: int, rows: Tensor, mixer: Tensor, projection: Tensor, normed: Tensor) -> None:
    """Let a head look for the place whose token before is the own token.

    The query shows the own token, the key the token before, both through `mixer` (rows, D). Only the slow pairs of
    rows are used, since the other place may be anywhere in the prompt.
    """
    key_head = head // heads.per_key
    heads.query[head] *= REST
    heads.key[key_head] *= REST
    shown = mixer @ projection
    size = math.sqrt(math.sqrt(len(projection)) * MATCH_SCORE) / mean_length(normed[:, TOKEN] @ shown.T)
    heads.query[head, rows, TOKEN] = shown * size
    heads.key[key_head, rows, PREVIOUS] = mixer * (size / 1.2)


def say_found(heads: Heads, head: int, embedding: Tensor, normed: Tensor, source: torch.Generator) -> None:
    """Let a head write the token it looks at into TOKEN, so strongly that the output layer says it."""
    key_head = head // heads.per_key
    heads.value[key_head] *= REST
    heads.output[:, head] *= REST
    value = orthogonal(heads.value.shape[1], TOKEN.stop, source)
    scale = mean_length(embedding[:, TOKEN]) / mean_length(normed[:, TOKEN])
    heads.value[key_head][:, TOKEN] = value
    heads.output[TOKEN, head] = value.T * (scale * GAIN)


@torch.no_grad()
def build_in(network: Network, seed: int) -> None:
    """Put the circuit into the first two layers of a network that has its random start weights."""
    shape, source = network.shape, torch.Generator().manual_seed(seed)
    width = shape.head_width
    embedding = network.embedding.weight
    normed = divide_embedding(embedding)
    frequencies = shape.rope_base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    projection = orthogonal(width, TOKEN.stop, source)
    first, second = (Heads(cast(Block, network.blocks[layer])) for layer in (0, 1))
    look_back(first, frequencies, normed[:, CONSTANT].mean().item(), width)
    tell_previous(first, projection, embedding, normed)
    slow = (frequencies < SLOW).nonzero()[:, 0]
    rows = torch.stack([2 * slow, 2 * slow + 1], 1).flatten()
    mixer = orthogonal(len(rows), width, source)
    for head in REPEATERS:
        find_repetition(second, head, rows, mixer, projection, normed)
        say_found(second, head, embedding, normed, source)
