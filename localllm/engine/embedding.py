"""Inputs to batches and vectors to what is sent: the pure half of embedding. Knows no backend and no request.

An input is the token ids of one text, shape (tokens,). A batch is rows of several inputs, each with a sequence number
of its own; the backend pools the rows of each to one vector.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from localllm.errors import BadRequestError, InputTooLongError, RunnerError
from localllm.placement.layout import BufferBytes

_DECIMALS = 9  # as many as tell the float32 values of a vector of length 1 apart

Vector = npt.NDArray[np.float32]
Input = npt.NDArray[np.int32]

_PLACES = re.compile(r"\{(query|document)\}")


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
    vocabulary_size: int
    is_reranker: bool = False
    weight_bytes: int = 0
    kv_bytes: int = 0
    gpu_bytes: int = 0
    layers: int = 0
    gpu_layers: int = 0
    buffers: tuple[BufferBytes, ...] = ()


class Embedder(Protocol):
    """One loaded embedding model. All but `tokenize` and `facts` belong to one thread."""

    @property
    def facts(self) -> EmbedderFacts:
        """Fixed once loaded."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe. `add_special` adds what the model wants around an input."""

    def tokenize_pair(self, query: str, document: str) -> list[int]:
        """Token ids of both, as a reranker reads them; thread-safe."""

    def embed_batch(self, inputs: Sequence[Input]) -> Vector:
        """The pooled vectors of inputs that `next_batch` put together, shape (len(inputs), dimensions).

        Raises EngineError for what llama.cpp would abort on, and for its own failures.
        """

    def close(self) -> None:
        """Free the model; no use after."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """One input, and whether something of it was cut off."""

    tokens: Input
    is_truncated: bool = False


def tokenize_input(embedder: Embedder, text: str, limit_tokens: int | None, *, truncates: bool) -> Tokenized:
    """Token ids of one text, special tokens included, at most `limit_tokens` (and what the model takes) of them.

    Raises InputTooLongError, or with `truncates` cuts the text and keeps what the model wants around it; raises
    BadRequestError when nothing is left to embed.
    """
    limit = _limit(embedder, limit_tokens)
    tokens = embedder.tokenize(text, add_special=True, parse_special=True)
    if not tokens:
        raise BadRequestError("an input is empty")
    if len(tokens) <= limit:
        return Tokenized(np.array(tokens, dtype=np.int32))
    if not truncates:
        raise InputTooLongError(len(tokens), limit)
    around = embedder.tokenize("", add_special=True, parse_special=False)
    bare = len(embedder.tokenize(text, add_special=False, parse_special=True))
    closing = _closing(tokens, around, len(tokens) - bare)
    if limit <= len(around):
        raise BadRequestError("input after truncation exceeds maximum context length")
    return Tokenized(np.array([*tokens[: limit - closing], *tokens[len(tokens) - closing :]], dtype=np.int32), True)


def tokenize_pair_input(
    embedder: Embedder, query: str, document: str, limit_tokens: int | None, *, truncates: bool
) -> Tokenized:
    """Token ids of a query and a document. With `truncates` the end of a document that does not fit is cut off.

    Raises InputTooLongError; BadRequestError when there is nothing, or the query leaves no room for any document.
    """
    tokens = embedder.tokenize_pair(query, document)
    limit = _limit(embedder, limit_tokens)
    if len(tokens) <= limit or not truncates:
        return check_input(embedder, tokens, limit, truncates=False)
    around = embedder.tokenize_pair(query, "")
    if limit <= len(around):
        raise BadRequestError(f"the query has {len(around)} tokens, the context holds {limit}")
    closing = _closing(tokens, around, len(around))
    return Tokenized(np.array([*tokens[: limit - closing], *tokens[len(tokens) - closing :]], dtype=np.int32), True)


def filled(template: str, query: str, document: str) -> str:
    """A reranker's template with both in their places; what they say is no place."""
    texts = {"query": query, "document": document}
    return _PLACES.sub(lambda place: texts[place[1]], template)


def check_input(embedder: Embedder, tokens: Sequence[int], limit_tokens: int | None, *, truncates: bool) -> Tokenized:
    """Token ids that a client sent, taken as they are. A wrong one would fail all that is computed beside it.

    Raises BadRequestError for none at all and for one that the vocabulary does not have; InputTooLongError, or with
    `truncates` keeps the first ones.
    """
    if not tokens:
        raise BadRequestError("an input is empty")
    size = embedder.facts.vocabulary_size
    wrong = next((token for token in tokens if not 0 <= token < size), None)
    if wrong is not None:
        raise BadRequestError(f"there is no token {wrong}: the model's are 0 to {size - 1}")
    limit = _limit(embedder, limit_tokens)
    if len(tokens) > limit and not truncates:
        raise InputTooLongError(len(tokens), limit)
    return Tokenized(np.array(tokens[:limit], dtype=np.int32), len(tokens) > limit)


def _limit(embedder: Embedder, limit_tokens: int | None) -> int:
    most = embedder.facts.input_tokens
    return most if limit_tokens is None else min(limit_tokens, most)


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


def no_vectors(count: int, dimensions: int) -> Vector:
    """Room for `count` vectors."""
    return np.zeros((count, dimensions), dtype=np.float32)


def float64_rows(vectors: Vector) -> tuple[bytes, ...]:
    """Each vector as the bytes of float64 in this machine's order, rounded so that JSON shows no digit in vain."""
    return tuple(row.tobytes() for row in np.round(vectors.astype(np.float64), _DECIMALS))
