"""A smaller model of the same vocabulary that guesses what a larger one will say.

It has a backend of its own with one sequence, which follows whichever sequence runs alone: what both have in common
stays, the rest is computed. A long prompt is caught up with in parts, one a step, while the larger model goes on
without guesses at half its speed at worst; one that would take too long is not begun. It guesses what it holds most
probable, and stops where that is not probable enough.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from localllm.engine.backend import Backend, Batch, EngineError
from localllm.engine.speculation import MOST_DRAFTED
from localllm.engine.tokens import TokenArray, Tokens, common_prefix

FEWEST_ROWS = 16  # that are caught up with in a step
FIRST_ROWS = 64  # as long as nobody knows how long they take
# A text that is longer than this model computes in the time of so many plain tokens is left alone: few answers are long
# enough to win that back. What was measured may have been a bad moment, and fades.
MOST_PLAIN_TOKENS = 32
FADES = 0.99
LEAST_PROBABILITY = 0.75
_SLOT = 0

logger = logging.getLogger(__name__)


class DraftModel:
    """Guesses of the model in `backend`. Tokens from `vocabulary_size` on, which the larger model has not, are never
    guessed, nor one that is less probable than `least_probability`, nor more than `tokens_most` at once. `clock` gives
    seconds that only go forward."""

    def __init__(
        self,
        backend: Backend,
        vocabulary_size: int,
        clock: Callable[[], float],
        least_probability: float = LEAST_PROBABILITY,
        tokens_most: int = MOST_DRAFTED,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._vocabulary_size = vocabulary_size
        self._least_probability = least_probability
        self._tokens_most = tokens_most
        self._computed = TokenArray(())  # what lies in the slot
        self._is_broken = False
        self._row_seconds = 0.0  # of a row among many, as measured

    def guess(self, tokens: Tokens, most: int, plain_seconds: float) -> Tokens | None:
        """The tokens that this model would say after `tokens`, at most `most`, as far as it is sure of them; None while
        it is catching up, behind the end of its own context, and behind a token that it does not have."""
        most = min(most, self._tokens_most, self._backend.facts.sequence_tokens - len(tokens))
        if self._is_broken or most < 1:
            return None
        try:
            return self._guess(tokens, most, plain_seconds)
        except EngineError as error:
            logger.warning("the draft model is not used any more: %s", error)
            self._is_broken = True
            return None

    def use_threads(self, count: int) -> None:
        """Compute with so many threads, or all that it has: more than there are cores free wait for each other."""
        self._backend.use_threads(min(count, self._backend.facts.threads))

    def _guess(self, tokens: Tokens, most: int, plain_seconds: float) -> Tokens | None:
        # The last token is computed anew, should it be there already: its logits are wanted.
        self._keep(min(common_prefix(tokens, self._computed.view()), len(tokens) - 1))
        rest = tokens[len(self._computed) :]
        if int(rest.max()) >= self._backend.facts.vocabulary_size:
            return None
        if len(rest) > (rows := self._rows(plain_seconds)):
            if len(rest) * self._row_seconds > MOST_PLAIN_TOKENS * plain_seconds:
                self._row_seconds *= FADES
                return None
            started = self._clock()
            self._compute(rest[:rows], wants_logits=False)
            self._row_seconds = (self._clock() - started) / rows
            return None
        guesses: list[int] = []
        while self._compute(rest, wants_logits=True):
            token = self._most_probable(len(rest) - 1)
            if token is None:
                break
            guesses.append(token)
            if len(guesses) == most or self._backend.is_end_of_generation(token):
                break
            rest = np.array([token], dtype=np.int32)
        return np.array(guesses, dtype=np.int32)

    def _rows(self, seconds: float) -> int:
        """How many rows can be computed in about that time."""
        rows = int(seconds / self._row_seconds) if self._row_seconds else FIRST_ROWS
        return min(max(rows, FEWEST_ROWS), self._backend.facts.batch_tokens)

    def _keep(self, length: int) -> None:
        if length == len(self._computed):
            return
        if not self._backend.rewind(_SLOT, length):
            self._backend.forget(_SLOT)
            length = 0
        self._computed.cut(length, len(self._computed))

    def _compute(self, tokens: Tokens, *, wants_logits: bool) -> bool:
        """Compute the next tokens; False leaves nothing of this sequence, for want of room."""
        first, count = len(self._computed), len(tokens)
        outputs = np.zeros(count, dtype=np.int8)
        outputs[-1] = wants_logits
        positions = np.arange(first, first + count, dtype=np.int32)
        batch = Batch(np.asarray(tokens, dtype=np.int32), positions, np.full(count, _SLOT, dtype=np.int32), outputs)
        if self._backend.decode(batch) != "done":
            self._backend.forget(_SLOT)
            self._computed.cut(0, first)
            return False
        for token in tokens.tolist():
            self._computed.append(token)
        return True

    def _most_probable(self, row: int) -> int | None:
        """The token that this model would say, if it is sure enough and the larger one knows it."""
        logits = self._backend.logits(row)
        token = int(logits.argmax())
        highest = logits[token]
        if not np.isfinite(highest):
            raise EngineError("it computes non-finite logits; its file may be damaged")
        probability = 1.0 / float(np.exp(logits - highest).sum())
        return token if probability >= self._least_probability and token < self._vocabulary_size else None
