"""One request inside the engine: what it asked for, its tokens so far, and how much of them the KV pool holds.

`tokens` is the prompt and everything generated. `computed` of them are in the pool; the rest is to be computed. A
sequence that decodes has exactly one token to compute, a sequence that prefills has more, and one that lost its cells
to others has all of them: there is no other state.

    waiting ──slot──▶ active (prefill ▷ decode) ──▶ finished
       ▲                 │
       └──── preempted ──┘   cells freed, tokens kept; computed again later
"""

from __future__ import annotations

from collections.abc import Sequence as ReadOnly
from dataclasses import dataclass
from typing import Literal

from localllm.engine.backend import Constraint, Sampler
from localllm.engine.detokenizer import Detokenizer
from localllm.generation import Sampling

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """What the engine is asked to generate. `limit_tokens` bounds prompt and answer together.

    `max_new_tokens` None generates until the model ends its turn or the limit. `preserved_tokens` are control tokens
    whose text matters to the reader (tool-call markers) and must come out.
    """

    id: int
    prompt: ReadOnly[int]
    sampling: Sampling
    seed: int
    limit_tokens: int
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    preserved_tokens: frozenset[int] = frozenset()
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class SequenceStats:
    """What a finished sequence cost. Times are seconds: waiting for a slot, computing the prompt, generating."""

    prompt_tokens: int
    completion_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a sequence: why, and what it cost."""

    reason: FinishReason
    stats: SequenceStats


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """What one step gave one sequence: new text, or progress on its prompt; its last has `finish`, or `error`."""

    id: int
    text: str = ""
    prompt_processed: int | None = None
    finish: Finish | None = None
    error: str | None = None


class Sequence:
    """The engine's own record of one request."""

    __slots__ = (
        "admitted_at",
        "arrived_at",
        "computed",
        "detokenizer",
        "first_token_at",
        "prompt_length",
        "request",
        "sampler",
        "slot",
        "tokens",
    )

    def __init__(self, request: SequenceRequest, sampler: Sampler, arrived_at: float) -> None:
        self.request = request
        self.sampler = sampler
        self.detokenizer = Detokenizer(request.stop)
        self.tokens = list(request.prompt)
        self.prompt_length = len(self.tokens)
        self.computed = 0
        self.slot: int | None = None
        self.arrived_at = arrived_at
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None

    @property
    def to_compute(self) -> int:
        """Tokens that are not in the pool yet."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def is_at_limit(self) -> bool:
        """Whether no further token may be generated."""
        limit = self.request.max_new_tokens
        return len(self.tokens) >= self.request.limit_tokens or (limit is not None and self.generated >= limit)

    def stats(self, now: float) -> SequenceStats:
        """The figures, as of `now`."""
        admitted = self.admitted_at if self.admitted_at is not None else now
        first = self.first_token_at if self.first_token_at is not None else now
        return SequenceStats(
            prompt_tokens=self.prompt_length,
            completion_tokens=self.generated,
            queue_seconds=admitted - self.arrived_at,
            prefill_seconds=first - admitted,
            decode_seconds=now - first,
        )
