"""How many prompt tokens the next step may compute beside running streams, learnt from how long steps took.

A step of decode rows alone takes some time; each prompt token in the same step adds some. So that a stream's tokens
come at most `stretch` times as far apart while somebody else's long prompt is computed, the prompt tokens may cost
(stretch - 1) times the time of the decode rows. Both costs are measured all the time: they differ between machines by
a factor of a hundred, and grow with the context. Every so often one step decodes alone, to measure that again.

A prompt that fits in one batch gets larger parts, each no longer than a pause nobody minds: beside one fast stream the
budget of a step may be a handful of tokens, and every part costs a pass over all weights besides. Such a prompt is done
in a few steps, with no small part left over for a step of its own; one of thousands of tokens would hold the streams up
for minutes.

Pure: durations come in, a number of tokens goes out.
"""

from __future__ import annotations

LEAST_TOKENS = 8  # a prompt always moves on
UNMEASURED_TOKENS = 64
MEASURE_EVERY = 48  # mixed steps between two steps that decode alone
WEIGHT = 0.25  # of the newest measurement
PAUSE_TOKENS = 64  # as many as a CPU's attention takes together
PAUSE_SECONDS = 0.4
WHOLE = 1.5  # a rest that is longer than a part by no more than this is done at once


class Pace:
    """The budget of prompt tokens per step. Seconds in, tokens out."""

    def __init__(self, batch_tokens: int, stretch: float = 2.0) -> None:
        self._batch_tokens = batch_tokens
        self._stretch = stretch
        self._decode_seconds: float | None = None
        self._prompt_token_seconds: float | None = None
        self._mixed_steps = 0

    @property
    def prompt_token_seconds(self) -> float | None:
        """What one prompt token costs; None until one was measured."""
        return self._prompt_token_seconds

    def observe(self, decode_rows: int, prompt_rows: int, seconds: float) -> None:
        """A step of so many rows of each kind took so long."""
        if decode_rows and not prompt_rows:
            self._decode_seconds = _blend(self._decode_seconds, seconds)
            self._mixed_steps = 0
        elif prompt_rows >= LEAST_TOKENS:
            base = (self._decode_seconds or 0.0) if decode_rows else 0.0
            self._prompt_token_seconds = _blend(self._prompt_token_seconds, max(seconds - base, 0.0) / prompt_rows)
        self._mixed_steps += bool(decode_rows and prompt_rows)

    def budget(self, moderate: int = 0) -> int:
        """Prompt tokens for a step in which streams are to keep flowing; 0 asks for a step that only decodes.

        `moderate`: what the shortest prompt still has to compute, of those that fit in one batch; 0 if there is none.
        """
        if self._mixed_steps >= MEASURE_EVERY:
            return 0
        share, cost = self._share(), self._prompt_token_seconds
        if cost is None:
            return share
        bearable = min(PAUSE_TOKENS, PAUSE_SECONDS / cost) if cost else PAUSE_TOKENS
        part = moderate if moderate <= WHOLE * bearable else int(bearable)
        return min(max(share, part), self._batch_tokens)

    def _share(self) -> int:
        if self._decode_seconds is None or self._prompt_token_seconds is None:
            return min(UNMEASURED_TOKENS, self._batch_tokens)
        allowed = (self._stretch - 1.0) * self._decode_seconds
        if self._prompt_token_seconds * self._batch_tokens <= allowed:
            return self._batch_tokens
        return max(LEAST_TOKENS, int(allowed / self._prompt_token_seconds))


def _blend(old: float | None, new: float) -> float:
    return new if old is None else (1.0 - WEIGHT) * old + WEIGHT * new
