"""The harshest model there is: any token that may follow, by chance, within what an answer is held to.

It runs the runner's own text side and the engine's own sampler on the vocabulary of the fake model: bytes, an end, and
the marks a test wants to be tokens. What it says without a constraint is noise; what a grammar allows, it finds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from localllm.engine.constrained import ConstrainedSampler
from localllm.engine.fake import END_TOKEN, FakeBackend
from localllm.engine.sequence import Finish, SequenceOutput, SequenceStats
from localllm.generation import ContentDelta, Event, Finished, GenerationRequest, ThinkingDelta, ToolCallDelta
from localllm.runner.answer import Stream
from localllm.runner.conversation import Conversations, Prepared, Sources

STATS = SequenceStats(1, 1, 0.0, 0.0, 0.0)
MOST_TOKENS = 6000
# Noise would hardly ever close what it opened.
LIKELY = {**dict.fromkeys(b"\"}]>)'", 2.5), **dict.fromkeys(range(128, 256), -3.0)}


class RandomBackend(FakeBackend):
    """Every token is about as likely as any other."""

    def __init__(self, marks: Sequence[str] = (), seed: int = 0, likely: dict[int, float] | None = None) -> None:
        super().__init__(marks=marks)
        self.chance = np.random.default_rng(seed)
        self.row = np.zeros(self.facts.vocabulary_size, dtype=np.float32)
        self._likely = {**LIKELY, END_TOKEN: 1.5, **(likely or {})}

    def new_row(self) -> None:
        self.row.fill(0.0)
        for token, logit in self._likely.items():
            self.row[token] = logit


class ByChance:
    """The sampler: the softmax of the row."""

    def __init__(self, backend: RandomBackend) -> None:
        self._backend = backend

    def sample(self, row: int) -> int:
        possible = np.flatnonzero(np.isfinite(self._backend.row))
        weights = np.exp(self._backend.row[possible])
        return int(self._backend.chance.choice(possible, p=weights / weights.sum()))

    def close(self) -> None:
        pass


@dataclass
class Said:
    """One answer: its raw text, and what the parser made of it."""

    raw: str
    reason: str
    tokens: list[int]
    thinking: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def take(self, event: Event) -> None:
        match event:
            case ThinkingDelta(text):
                self.thinking += text
            case ContentDelta(text):
                self.content += text
            case ToolCallDelta(_, _, str(name), _):
                self.calls.append((name, ""))
            case ToolCallDelta(_, _, _, arguments):
                self.calls[-1] = (self.calls[-1][0], self.calls[-1][1] + arguments)


def conversations(backend: FakeBackend, template: str | None) -> Conversations:
    numbers = itertools.count()
    sources = Sources(lambda: 1, lambda: f"call_{next(numbers):08d}", lambda: datetime(2031, 2, 3))
    return Conversations(backend, template, sources)


def prepare(backend: FakeBackend, request: GenerationRequest, template: str | None) -> Prepared:
    return conversations(backend, template).prepare(1, request)


def tokens_of(
    backend: RandomBackend, prepared: Prepared, begin: Sequence[int] = (), most: int = MOST_TOKENS
) -> list[int]:
    """An answer's tokens; what it `begin`s with is likely, if it may be said."""
    sampler: ByChance | ConstrainedSampler = ByChance(backend)
    if prepared.sequence.constraint is not None:
        sampler = ConstrainedSampler(sampler, prepared.sequence.constraint, lambda row: backend.row)
    said: list[int] = []
    for wanted in itertools.chain(begin, itertools.repeat(None, most)):
        backend.new_row()
        if wanted is not None:
            backend.row[wanted] = 60.0
        said.append(sampler.sample(0))
        if said[-1] == END_TOKEN:
            break
    return said


def heard(backend: RandomBackend, prepared: Prepared, tokens: Sequence[int], *, piecewise: bool) -> Said:
    """The tokens as the parser hears them: all at once, or character by character."""
    text = b"".join(backend.token_bytes(token, special=True) for token in tokens).decode("utf-8", "replace")
    reason = "stop" if tokens and tokens[-1] == END_TOKEN else "length"
    said = Said(text, reason, list(tokens))
    stream = Stream(prepared)
    pieces = list(text) if piecewise else [text]
    outputs = [SequenceOutput(1, piece) for piece in pieces] + [SequenceOutput(1, finish=Finish(reason, STATS))]
    for output in outputs:
        for event in stream.events(output):
            said.take(event)
            if isinstance(event, Finished):
                said.reason = event.reason
    return said


class Talk:
    """One template, which is looked at once, and the backend it speaks to."""

    def __init__(self, template: str | None, marks: Sequence[str] = (), likely: dict[int, float] | None = None) -> None:
        self.backend = RandomBackend(marks, 0, likely)
        self._conversations = conversations(self.backend, template)

    def answers(self, request: GenerationRequest, seed: int = 0, begin: Sequence[int] = ()) -> tuple[Said, Said]:
        """One answer by chance, heard at once and character by character."""
        self.backend.chance = np.random.default_rng(seed)
        prepared = self._conversations.prepare(1, request)
        tokens = tokens_of(self.backend, prepared, begin)
        again = self._conversations.prepare(2, request)
        first = heard(self.backend, prepared, tokens, piecewise=False)
        return first, heard(self.backend, again, tokens, piecewise=True)


def answers(
    request: GenerationRequest,
    template: str | None = None,
    *,
    seed: int = 0,
    marks: Sequence[str] = (),
    begin: Sequence[int] = (),
) -> tuple[Said, Said]:
    """One answer of a talk of its own."""
    return Talk(template, marks).answers(request, seed, begin)
