"""One request inside the engine: what it asked for, its tokens so far, and how much of them the KV pool holds.

`tokens` is the prompt and everything generated. `computed` of them are in the pool; the rest is to be computed. A
sequence that decodes has exactly one token to compute, a sequence that prefills has more, and one that lost its cells
to others has its state in host memory, or all of its tokens to compute again: there is no other state.

    waiting ──slot──▶ active (prefill ▷ decode) ──▶ finished; its cells stay as an idle prefix
       ▲                 │
       └──── preempted ──┘   tokens kept; state saved, or computed again later
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ReadOnly
from dataclasses import dataclass
from typing import Literal

from localllm.engine.backend import Constraint, Sampler, State
from localllm.engine.batch import Claim
from localllm.engine.detokenizer import Detokenizer
from localllm.engine.logprobs import LogprobRecorder
from localllm.engine.prefix_cache import Pending, Resident
from localllm.engine.tokens import TokenArray
from localllm.generation import CacheMiss, Sampling, TokenLogprob

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """What the engine is asked to generate. `limit_tokens` bounds prompt and answer together.

    `max_new_tokens` None generates until the model ends its turn or the limit. `preserved_tokens` are control tokens
    whose text matters to the reader (tool-call markers) and must come out. At the limit the sequence ends, or with
    `shifts` goes on without the older half of what follows its first `keep_tokens`. `priority` 0 is served first;
    requests of one `client` share what it gets. `message_starts` are positions of the prompt where messages begin.
    `logprobs` asks for each token's and that many others', `prompt_logprobs` for those of the prompt's tokens: it is
    computed whole then, whatever of it lies there already. A prompt that is not computed `prefill_seconds_most` after
    the request came is given up; an answer ends `decode_seconds_most` after its first token once it has a whole line.
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
    shifts: bool = False
    keep_tokens: int = 0
    priority: int = 0
    client: str = ""
    message_starts: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prefill_seconds_most: float | None = None
    decode_seconds_most: float | None = None


@dataclass(frozen=True, slots=True)
class SequenceStats:
    """What a finished sequence cost. Times are seconds: waiting for a slot, computing the prompt, generating.

    `cached_tokens` of the prompt were taken over from others, `dropped_tokens` went to make room at the limit.
    """

    prompt_tokens: int
    completion_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    cached_tokens: int = 0
    cache_miss: CacheMiss | None = None
    dropped_tokens: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a sequence: why, and what it cost. `stop_text` is the stop string that ended it, if one did."""

    reason: FinishReason
    stats: SequenceStats
    stop_text: str | None = None


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """What one step gave one sequence: new tokens and their text, or progress on its prompt.

    Of `prompt_processed` tokens `prompt_cached` were taken over from others.
    `prompt_logprobs` are of the prompt's next tokens. The last has `finish`, or `error`.
    Text may be held back or cut (stop strings), logprobs go with it, tokens do not.
    """

    id: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    prompt_processed: int | None = None
    prompt_cached: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    error: str | None = None


class Sequence:
    """The engine's own record of one request."""

    __slots__ = (
        "accepted_tokens",
        "added_at",
        "admitted_at",
        "arrived_at",
        "cache_miss",
        "cached_tokens",
        "detokenizer",
        "drafted_tokens",
        "dropped_tokens",
        "first_token_at",
        "generated",
        "has_line",
        "limit_tokens",
        "logprobs",
        "pending",
        "preemptions",
        "priority",
        "prompt_length",
        "request",
        "resident",
        "sampler",
        "saved",
        "saved_length",
        "scored",
        "stops_at",
        "tokens",
    )

    def __init__(
        self, request: SequenceRequest, sampler: Sampler, limit_tokens: int, arrived_at: float, added_at: float
    ) -> None:
        self.request = request
        self.sampler = sampler
        self.detokenizer = Detokenizer(request.stop)
        self.tokens = TokenArray(request.prompt)
        self.prompt_length = len(self.tokens)
        self.limit_tokens = limit_tokens  # of its request, within what one sequence can have
        self.generated = 0
        self.has_line = False  # whether its text has come to the end of one
        self.logprobs: LogprobRecorder | None = None  # if they were asked for
        self.priority = request.priority
        self.resident: Resident | None = None
        self.pending: Pending | None = None  # the prefix it waits for
        self.saved: State | None = None  # its state while it is preempted
        self.saved_length = 0
        self.scored = 0  # tokens of the prompt whose logprobs are told, if they were asked for
        self.stops_at: set[int] = set()  # lengths at which its state is to be saved
        self.arrived_at = arrived_at
        self.added_at = added_at  # later, if a step ran when it arrived
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.cached_tokens = 0
        self.cache_miss: CacheMiss | None = None
        self.dropped_tokens = 0
        self.preemptions = 0
        self.drafted_tokens = 0
        self.accepted_tokens = 0

    @property
    def computed(self) -> int:
        """Tokens in the pool."""
        return self.resident.computed if self.resident is not None else 0

    @property
    def to_compute(self) -> int:
        """Tokens that are not in the pool yet."""
        return len(self.tokens) - self.computed

    @property
    def most_in_one_step(self) -> int:
        """Tokens up to the next length at which its state is saved, or its logprobs begin; 0 for no bound."""
        computed = self.computed
        stops = (*self.stops_at, self.scored - 1) if self.scored else self.stops_at
        return min((length - computed for length in stops if length > computed), default=0)

    @property
    def has_to_score(self) -> bool:
        """Whether logprobs of its prompt are wanted that are not told yet."""
        return self.request.prompt_logprobs is not None and self.scored < self.prompt_length

    @property
    def scores_next(self) -> bool:
        """Whether the tokens that are computed next tell them: not while those before are computed again."""
        return self.has_to_score and self.computed >= self.scored - 1

    @property
    def has_all_it_asked_for(self) -> bool:
        """Whether no further token is wanted."""
        limit = self.request.max_new_tokens
        return limit is not None and self.generated >= limit

    @property
    def is_at_limit(self) -> bool:
        """Whether its context is full."""
        return len(self.tokens) >= self.limit_tokens

    def is_out_of_time(self, clock: Callable[[], float]) -> bool:
        """Whether the time for its prompt, or for its answer, is over; asks the clock only if there is such a bound."""
        if self.first_token_at is None:
            most = self.request.prefill_seconds_most
            return most is not None and clock() - self.arrived_at >= most
        most = self.request.decode_seconds_most
        return most is not None and self.has_line and clock() - self.first_token_at >= most

    def claim(self, now: float, client_tokens: float) -> Claim:
        """Its place in the order of service."""
        return Claim(self.priority, client_tokens, now - self.arrived_at)

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
            cached_tokens=self.cached_tokens,
            cache_miss=self.cache_miss,
            dropped_tokens=self.dropped_tokens,
            preemptions=self.preemptions,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )
