"""Guessing the next tokens, to be checked by the model itself: which guesses are tried, and whether they pay.

    prompt lookup     code edits, quotations and tables repeat what the text holds: when the last few tokens occurred
                      earlier, those that followed then are guessed
    draft_model       a smaller model of the same vocabulary says what it would say

Guesses are computed together with the next token, and each is kept only if the model would have chosen it: the sampler
is asked row by row and the draft ends where it chooses otherwise. So the text is that of a run without drafts, whatever
the sampling.

A draft costs time even when it is wrong, and so does a source that computes and then is not sure. So each is used only
while it pays: tokens per second with its drafts against those without, both measured here, and what was lost by asking
in vain against what was won. Pure: a clock and durations come in, drafts go out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from localllm.engine.tokens import Tokens

LONGEST_MATCH = 4
SHORTEST_MATCH = 3  # two tokens occur again by chance
MOST_DRAFTED = 8
FIRST_DRAFTED = 3
SEARCHED_TOKENS = 16_384
TRIES = 4  # drafts before a verdict
WORTH = 1.05  # drafts must be so much faster
PAUSE_STEPS = 96  # plain steps before the next try; doubled with each failure, up to
LONGEST_PAUSE = 16 * PAUSE_STEPS
PLAIN_EVERY = 32  # drafts before a plain step shows again what they are held against
WEIGHT = 0.2
CLEARLY = 1.01  # a longer draft must promise so much more
VAIN_TOKENS = 4.0  # the time of so many tokens may be lost by asking in vain
WON_TOKENS = 16.0  # more than was won before, of which so much is remembered


class Guesser(Protocol):
    """A source of guesses."""

    def guess(self, tokens: Tokens, most: int, plain_seconds: float) -> Tokens | None:
        """What may follow `tokens`, at most `most`, which is at least 1; empty when it has computed in vain, None when
        it has nothing to guess by or is getting ready, which may take about `plain_seconds`, as long as a token without
        guesses does."""


class DraftGuesser(Guesser, Protocol):
    """One that computes."""

    def use_threads(self, count: int) -> None:
        """Compute with so many threads, or all that it has."""


class PromptLookup:
    """What followed the last few tokens before."""

    def guess(self, tokens: Tokens, most: int, plain_seconds: float) -> Tokens | None:
        """See `draft`."""
        found = draft(tokens, most)
        return found if len(found) else None


class Trial:
    """One source: how much it may guess, and whether that pays. `seconds` per token while it is asked, if known."""

    def __init__(self, guesser: Guesser, longest_draft: int = MOST_DRAFTED) -> None:
        self.guesser = guesser
        self.seconds: float | None = None
        self.lengths = Lengths(longest_draft)
        self._drafted_seconds: float | None = None  # per token of its drafts alone
        self._lost = 0.0  # seconds, by asking in vain, less what its drafts have won
        self._pause = 0
        self._next_pause = PAUSE_STEPS
        self._tries = 0

    @property
    def is_paused(self) -> bool:
        """Whether its drafts did not pay."""
        return self._pause > 0

    def rest(self) -> None:
        """One step less of the pause."""
        self._pause -= 1

    def observe(self, drafted: int, accepted: int, seconds: float, otherwise: float) -> None:
        """One draft and what it took; without it a token takes `otherwise`."""
        self._tries += 1
        self.seconds = _blend(self.seconds, seconds / (1 + accepted))
        self._drafted_seconds = _blend(self._drafted_seconds, seconds / (1 + accepted))
        self._lost = max(self._lost + seconds - (1 + accepted) * otherwise, -WON_TOKENS * otherwise)
        self.lengths.observe(drafted, accepted, seconds)
        if self._tries < TRIES:
            return
        if self._drafted_seconds * WORTH <= otherwise:
            self._next_pause = PAUSE_STEPS
            return
        self._begin_pause()

    def observe_nothing(self, seconds: float, otherwise: float) -> None:
        """It was asked for so long, and was not sure of anything; a token without it takes `otherwise`."""
        self.seconds = _blend(self.seconds, otherwise + seconds)
        self._lost += seconds
        if self._lost > VAIN_TOKENS * otherwise:
            self._begin_pause()

    def _begin_pause(self) -> None:
        self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, LONGEST_PAUSE)
        self._tries, self._lost = 0, 0.0
        self.seconds = self._drafted_seconds = None


class Lengths:
    """How long drafts are best: tokens that a draft may be expected to give, by what it takes with its check.

    What a draft of so many tokens takes is measured, for devices compute a few rows at the price of one, or of as many.
    A longer draft than any before is tried when one was right throughout, a shorter one when that promises more.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._seconds: dict[int, float] = {}  # of a draft of that length
        self._right: float | None = None  # the part of the guesses that are, each asked after right ones
        self._may_grow = False

    @property
    def best(self) -> int:
        """The length of the next draft."""
        if not self._seconds:
            return min(FIRST_DRAFTED, self._longest)
        tried = dict(self._seconds)
        most, least = max(tried), min(tried)
        if self._may_grow and most < self._longest:
            tried[most + 1] = tried[most]
        if least > 1:
            tried[least - 1] = tried[least] * (least + 1) / (least + 2)
        best, most_per_second = 1, 0.0
        for length in sorted(tried):
            per_second = self._expected(length) / max(tried[length], 1e-9)
            if per_second > most_per_second * CLEARLY:
                best, most_per_second = length, per_second
        return best

    def observe(self, drafted: int, accepted: int, seconds: float) -> None:
        """A draft of that length, and the step that checked it."""
        self._seconds[drafted] = _blend(self._seconds.get(drafted), seconds)
        self._right = _blend(self._right, accepted / min(drafted, accepted + 1))
        self._may_grow = accepted == drafted

    def forget_times(self) -> None:
        """Measure anew, but for lengths that are used now."""
        best = self.best
        self._seconds = {length: seconds for length, seconds in self._seconds.items() if length == best}

    def _expected(self, length: int) -> float:
        """Tokens of a step: the one that the model itself says, and guesses up to the first that is wrong."""
        right = 1.0 if self._right is None else self._right
        return sum(right**number for number in range(length + 1))


class Speculation:
    """The drafts of one sequence: of the first source that has one, while that source pays.

    A trial may go on from sequence to sequence. `clock` times the guessing itself, a part of the step that checks it.
    """

    def __init__(self, trials: Sequence[Trial], clock: Callable[[], float]) -> None:
        self._trials = trials
        self._clock = clock
        self._plain_seconds: float | None = None  # per token
        self._since_plain = 0
        self._used = 0
        self._guessing_seconds = 0.0

    def propose(self, tokens: Tokens, most: int) -> Tokens:
        """The tokens that may follow, at most `most`; empty when nothing is known or drafts do not pay."""
        if self._plain_seconds is None or most < 1 or self._since_plain >= PLAIN_EVERY:
            return tokens[:0]
        for number, trial in enumerate(self._trials):
            if trial.is_paused:
                trial.rest()
                continue
            started = self._clock()
            guesses = trial.guesser.guess(tokens, min(trial.lengths.best, most), self._plain_seconds)
            if guesses is None:
                continue
            seconds = self._clock() - started
            if len(guesses):
                self._used, self._guessing_seconds = number, seconds
                return guesses
            trial.observe_nothing(seconds, self._otherwise(number))
        return tokens[:0]

    def observe(self, drafted: int, accepted: int, seconds: float) -> None:
        """A step computed one token and `drafted` guesses, of which `accepted` were right."""
        if not drafted:
            self._plain_seconds = _blend(self._plain_seconds, seconds)
            if self._since_plain >= PLAIN_EVERY:
                self._trials[self._used].lengths.forget_times()
            self._since_plain = 0
            return
        self._since_plain += 1
        otherwise = self._otherwise(self._used)
        self._trials[self._used].observe(drafted, accepted, seconds + self._guessing_seconds, otherwise)

    def _otherwise(self, number: int) -> float:
        """Seconds of a token without that source: plain, or with one that is asked after it."""
        assert self._plain_seconds is not None  # nothing is proposed before
        behind = [trial.seconds for trial in self._trials[number + 1 :] if not trial.is_paused]
        return min([self._plain_seconds, *(seconds for seconds in behind if seconds is not None)])


class Speculations:
    """One for each sequence that ran alone. What a draft model gains depends on the machine more than on the sequence:
    it is not tried anew for each."""

    def __init__(self, draft_model: Guesser | None, longest_draft: int, clock: Callable[[], float]) -> None:
        self._shared = (Trial(draft_model, longest_draft),) if draft_model else ()
        self._longest = longest_draft
        self._clock = clock
        self._known: dict[int, Speculation] = {}

    def of(self, request_id: int) -> Speculation:
        """That of a request, new when it was not asked for before."""
        known = self._known.get(request_id)
        if known is None:
            known = self._known[request_id] = Speculation(
                (Trial(PromptLookup(), self._longest), *self._shared), self._clock
            )
        return known

    def forget(self, request_id: int) -> None:
        """The request has ended."""
        self._known.pop(request_id, None)


def draft(tokens: Tokens, most: int) -> Tokens:
    """What followed the latest earlier occurrence of the longest run of tokens that `tokens` ends with."""
    if most <= 0:
        return tokens[:0]
    text = tokens[-SEARCHED_TOKENS:]
    ends = np.flatnonzero(text[:-1] == text[-1:])  # of runs before the last one
    if not len(ends):
        return tokens[:0]
    for length in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
        found = ends[ends >= length - 1]
        for back in range(1, min(length, len(text))):
            found = found[text[found - back] == text[-1 - back]]
        if len(found):
            start = int(found[-1]) + 1
            return text[start : start + most].copy()
    return tokens[:0]


def _blend(old: float | None, new: float) -> float:
    return new if old is None else (1.0 - WEIGHT) * old + WEIGHT * new
