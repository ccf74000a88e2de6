"""How likely the model found each token: from a row of logits to log-probabilities, told when the token's text is.

The probabilities are the softmax of the logits as the model computed them, before biases, penalties, grammar and
temperature. Samplers change a row in place: copy it before sampling.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from localllm.engine import shortlist
from localllm.generation import TokenLogprob

LOWEST = -9999.0  # minus infinity has no JSON; OpenAI writes this


def token_logprob(
    logits: npt.NDArray[np.float32], token: int, top: int, token_bytes: Callable[[int], bytes]
) -> TokenLogprob:
    """The log-probability of `token` and of the `top` likeliest; `logits` has shape (vocabulary_size,)."""
    peak = logits.max()
    total = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))

    def one(index: int, others: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(token_bytes(index), max(float(logits[index]) - total, LOWEST), others)

    return one(token, tuple(one(index) for index in _likeliest(logits, top)))


def _likeliest(logits: npt.NDArray[np.float32], count: int) -> list[int]:
    if count == 0:
        return []
    is_worthwhile = shortlist.is_worthwhile(len(logits), count)
    found = shortlist.largest(logits, count) if is_worthwhile else np.argsort(-logits, kind="stable")[:count]
    return [int(index) for index in found]


class LogprobRecorder:
    """The logprobs of one sequence, from the rows that are sampled to what is sent; `top` others beside each token.

    Per token: `look` at its row, sample, `note` the choice, and once it counts as part of the answer `keep` it.
    """

    def __init__(self, top: int, token_bytes: Callable[[int], bytes]) -> None:
        self._top = top
        self._token_bytes = token_bytes
        self._row: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self._noted: deque[TokenLogprob] = deque()
        self._held = HeldLogprobs()

    def look(self, logits: npt.NDArray[np.float32]) -> None:
        """Remember a row: the sampler is about to change it."""
        self._row = logits.copy()

    def note(self, token: int) -> None:
        """The token that was chosen from the row."""
        self._noted.append(token_logprob(self._row, token, self._top, self._token_bytes))

    def keep(self, start: int) -> None:
        """The oldest noted token is part of the answer; its text begins at the character `start`."""
        self._held.add(self._noted.popleft(), start)

    def release(self, text: str, *, is_all: bool) -> tuple[TokenLogprob, ...]:
        """What goes out with a step's text; `is_all` at the end of an answer that no stop string cut."""
        self._noted.clear()  # the token that ended the model's turn is no part of the answer
        released = self._held.release(text)
        return (*released, *self._held.release_all()) if is_all else released


class HeldLogprobs:
    """The logprobs of one sequence whose text is not sent yet, since it may be part of a character or a stop string.

    A token goes out with the first text it has part in. One that has no text (a mark that is not shown) goes with the
    next text, or at the end.
    """

    def __init__(self) -> None:
        self._held: deque[tuple[int, TokenLogprob]] = deque()
        self._sent_characters = 0

    def add(self, logprob: TokenLogprob, start: int) -> None:
        """The next token; its text begins at the character `start` of the answer."""
        self._held.append((start, logprob))

    def release(self, text: str) -> tuple[TokenLogprob, ...]:
        """The logprobs to send along with `text`, which follows what was released before."""
        self._sent_characters += len(text)
        released = []
        while self._held and self._held[0][0] < self._sent_characters:
            released.append(self._held.popleft()[1])
        return tuple(released)

    def release_all(self) -> tuple[TokenLogprob, ...]:
        """All that is held, at the end of an answer that no stop string cut."""
        released = tuple(logprob for _, logprob in self._held)
        self._held.clear()
        return released
