"""Guessing tokens that stood in the text before: prompt lookup, checked by the model itself.

Code edits, quotations and tables repeat what the prompt holds. When the last few tokens occurred earlier, those that
followed then are computed as a draft together with the next token, and each is kept only if the model would have chosen
it: the sampler is asked row by row and the draft ends where it chooses otherwise. So the text is that of a run without
drafts, whatever the sampling.

A draft costs time even when it is wrong, so it is used only while it pays: tokens per second with drafts against
without, both measured here. Pure: durations come in, drafts go out.
"""

from __future__ import annotations

import numpy as np

from localllm.engine.tokens import Tokens

LONGEST_MATCH = 4
SHORTEST_MATCH = 3  # two tokens occur again by chance
MOST_DRAFTED = 8
FIRST_DRAFTED = 3
SEARCHED_TOKENS = 16_384
TRIES = 4  # drafts before a verdict
WORTH = 1.05  # drafts must be so much faster
PAUSE_STEPS = 96  # plain steps before the next try; doubled with each failure
WEIGHT = 0.2


class PromptLookup:
    """The drafts of one sequence, and whether they pay."""

    def __init__(self, longest_draft: int = MOST_DRAFTED) -> None:
        self._longest_draft = longest_draft
        self._length = min(FIRST_DRAFTED, longest_draft)
        self._plain_seconds: float | None = None  # per token
        self._draft_seconds: float | None = None  # per token
        self._tries = 0
        self._pause = 0
        self._next_pause = PAUSE_STEPS

    def propose(self, tokens: Tokens, most: int) -> Tokens:
        """The tokens that may follow, at most `most`; empty when nothing is known or drafts do not pay."""
        if self._pause > 0 or self._plain_seconds is None:
            self._pause = max(0, self._pause - 1)
            return tokens[:0]
        return draft(tokens, min(self._length, most))

    def observe(self, drafted: int, accepted: int, seconds: float) -> None:
        """A step computed one token and `drafted` guesses, of which `accepted` were right."""
        if not drafted:
            self._plain_seconds = _blend(self._plain_seconds, seconds)
            return
        self._tries += 1
        self._draft_seconds = _blend(self._draft_seconds, seconds / (1 + accepted))
        self._length = min(self._longest_draft, self._length + 1) if accepted == drafted else max(1, self._length - 1)
        if self._tries >= TRIES and self._draft_seconds * WORTH > (self._plain_seconds or 0.0):
            self._pause, self._next_pause = self._next_pause, 2 * self._next_pause
            self._tries, self._draft_seconds = 0, None


def draft(tokens: Tokens, most: int) -> Tokens:
    """What followed the latest earlier occurrence of the longest run of tokens that `tokens` ends with."""
    if most <= 0:
        return tokens[:0]
    text = tokens[-SEARCHED_TOKENS:]
    for length in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
        if len(text) <= length:
            continue
        end = text[-length:]
        # Starts of runs before the last one: a match is where all of its tokens are equal.
        starts = len(text) - length
        found = np.ones(starts, dtype=bool)
        for offset in range(length):
            found &= text[offset : offset + starts] == end[offset]
        places = np.flatnonzero(found)
        if len(places):
            start = int(places[-1]) + length
            return text[start : start + most].copy()
    return tokens[:0]


def _blend(old: float | None, new: float) -> float:
    return new if old is None else (1.0 - WEIGHT) * old + WEIGHT * new
