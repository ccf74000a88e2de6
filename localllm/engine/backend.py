"""The seam between the batching engine and whatever computes: llama.cpp, or the fake model of the tests.

A backend holds one model, one pool of KV cells and `max_sequences` numbered slots in it. It is driven by one thread and
validates what it is given: llama.cpp answers misuse with abort(). It decides nothing; the engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from localllm.generation import Options, ResponseFormat, Sampling

DecodeStatus = Literal["done", "no_room"]
Constraint = object  # opaque between a backend's new_constraint and its new_sampler


class EngineError(Exception):
    """The backend could not compute; the sequences of the batch are lost, the process may go on."""


class ModelLoadError(Exception):
    """The backend refused the model or its context; the message is its own last error, without paths."""


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What the engine and the runner need to know of a loaded model. Sizes in bytes, lengths in tokens."""

    vocabulary_size: int
    trained_context_tokens: int
    pool_tokens: int
    batch_tokens: int
    max_sequences: int
    weight_bytes: int = 0
    kv_bytes: int = 0
    gpu_bytes: int = 0
    layers: int = 0
    gpu_layers: int = 0
    chat_template: str | None = None
    bos_text: str = ""
    eos_text: str = ""
    sampling_defaults: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one decode, at most `batch_tokens`; all arrays have one element per row.

    `tokens`, `positions` and `slots` are int32; `outputs` int8, 1 where logits are wanted, at most one row per slot.
    Positions of a slot continue where its last decode ended.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    outputs: npt.NDArray[np.int8]


class Sampler(Protocol):
    """Chooses tokens for one sequence; keeps that sequence's random state and penalty window."""

    def sample(self, row: int) -> int:
        """The next token from the logits of `row` of the last batch. Raises EngineError for non-finite logits."""

    def close(self) -> None:
        """Free it; no use after."""


class Backend(Protocol):
    """One loaded model."""

    @property
    def facts(self) -> BackendFacts:
        """Fixed once loaded."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe. `add_special` lets the vocabulary add its BOS and EOS."""

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """The bytes a token stands for; control tokens are empty unless `special`."""

    def is_end_of_generation(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""

    def new_constraint(self, response_format: ResponseFormat) -> Constraint:
        """A constraint for one answer; thread-safe. Raises BadRequestError for a schema that cannot be kept."""

    def new_sampler(
        self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], constraint: Constraint | None
    ) -> Sampler:
        """A sampler whose penalties already know `recent_tokens`, and which keeps to `constraint`."""

    def decode(self, batch: Batch) -> DecodeStatus:
        """Compute the batch; "no_room" leaves everything as it was. Raises EngineError."""

    def forget(self, slot: int) -> None:
        """Free all cells of a slot."""

    def close(self) -> None:
        """Free the model; no use after."""
