"""Inputs to batches and vectors to what is sent: the pure half of embedding. Knows no backend and no request.

An input is the token ids of one text. A batch is rows of several inputs, each with a sequence number of its own; the
backend pools the rows of each to one vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from localllm.errors import BadRequestError, InputTooLongError, RunnerError

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    """What is known of a loaded embedding model. Sizes in bytes, lengths in tokens.

    `input_tokens` is the longest input, with its special tokens. One batch has at most `batch_rows` rows of at most
    `sequences` inputs; an input that is longer than `batch_rows` is computed alone. A reranker gives scores, one for
    each of `dimensions` classes, and no embedding.
    """

    dimensions: int
    input_tokens: int
    batch_rows: int
    sequences: int
    trained_context_tokens: int
    is_reranker: bool = False
    weight_bytes: int = 0
    kv_bytes: int = 0
    gpu_bytes: int = 0
    layers: int = 0
    gpu_layers: int = 0


class Embedder(Protocol):
    """One loaded embedding model. All but `tokenize` and `facts` belong to one thread."""

    @property
    def facts(self) -> EmbedderFacts:
        """Fixed once loaded."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe. `add_special` adds what the model wants around an input."""

    def embed_batch(self, inputs: Sequence[Sequence[int]]) -> Vector:
        """The pooled vectors of inputs that `next_batch` put together, shape (len(inputs), dimensions).

        Raises EngineError for what llama.cpp would abort on, and for its own failures.
        """

    def close(self) -> None:
        """Free the model; no use after."""


def tokenize_input(embedder: Embedder, text: str, limit_tokens: int, *, truncates: bool) -> list[int]:
    """Token ids of one input, special tokens included, at most `limit_tokens` (and what the model takes) of them.

    Raises InputTooLongError, or with `truncates` cuts the text and keeps what the model wants around it; then raises
    BadRequestError when there is room for nothing else.
    """
    limit = min(limit_tokens, embedder.facts.input_tokens)
    tokens = embedder.tokenize(text, add_special=True, parse_special=True)
    if len(tokens) <= limit:
        return tokens
    if not truncates:
        raise InputTooLongError(len(tokens), limit)
    around = embedder.tokenize("", add_special=True, parse_special=False)
    bare = len(embedder.tokenize(text, add_special=False, parse_special=True))
    closing = _closing(tokens, around, len(tokens) - bare)
    if limit <= len(around):
        raise BadRequestError("input after truncation exceeds maximum context length")
    return [*tokens[: limit - closing], *tokens[len(tokens) - closing :]]


def _closing(tokens: Sequence[int], around: Sequence[int], special: int) -> int:
    """How many of the special tokens stand behind the text: as many as the end of `tokens` shares with `around`."""
    count = 0
    while count < min(len(around), special) and around[-1 - count] == tokens[-1 - count]:
        count += 1
    return count


def next_batch(lengths: Sequence[int], rows_most: int, inputs_most: int) -> list[int]:
    """Which of the waiting inputs, oldest first, to compute together: the oldest, and all that still fit beside it."""
    chosen: list[int] = []
    rows = 0
    for index, length in enumerate(lengths):
        if not chosen or rows + length <= rows_most:
            chosen.append(index)
            rows += length
        if len(chosen) == inputs_most or rows >= rows_most:
            break
    return chosen


def embed(embedder: Embedder, inputs: Sequence[Sequence[int]], on_batch: Callable[[], None] = lambda: None) -> Vector:
    """The vectors of any number of inputs, in their order, shape (len(inputs), dimensions), as the model pools them.

    `on_batch` is called before each batch and may raise, to give up. Raises EngineError, InputTooLongError.
    """
    facts = embedder.facts
    vectors = np.empty((len(inputs), facts.dimensions), dtype=np.float32)
    for tokens in inputs:
        if len(tokens) > facts.input_tokens:
            raise InputTooLongError(len(tokens), facts.input_tokens)
    waiting = list(range(len(inputs)))
    while waiting:
        on_batch()
        lengths = [len(inputs[index]) for index in waiting]
        chosen = [waiting[at] for at in next_batch(lengths, facts.batch_rows, facts.sequences)]
        vectors[chosen] = embedder.embed_batch([inputs[index] for index in chosen])
        waiting = [index for index in waiting if index not in set(chosen)]
    return vectors


def finished(vectors: Vector, dimensions: int | None, *, normalises: bool) -> Vector:
    """The first `dimensions` of each vector (None: all), of length 1 if asked for. A zero vector stays one.

    Raises RunnerError for vectors that are not finite.
    """
    if not np.isfinite(vectors).all():
        raise RunnerError("embedding contains NaN or Inf values", hint="the model's file may be damaged")
    kept = vectors if dimensions is None else vectors[:, :dimensions]
    if not normalises:
        return kept
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return (kept / np.where(lengths > 0.0, lengths, 1.0)).astype(np.float32)
