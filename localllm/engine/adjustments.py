"""What makes tokens likelier or less likely before a sampler looks at them: biases, then penalties for the latest ones.

llama.cpp does both too, in a chain that first makes a candidate of every token: 1 ms for 150,000. They touch only the
tokens that are named or were said, so here they change those few logits and put them back: 10 µs. Pure numpy.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Penalties:
    """For tokens among the latest `window`: divides their logits, and subtracts for each time and once."""

    window: int
    repeat: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0


class Adjustments:
    """Those of one sequence. `recent` are the tokens said so far, in order; `note` adds the next."""

    def __init__(
        self, bias: Sequence[tuple[int, float]] = (), penalties: Penalties | None = None, recent: Sequence[int] = ()
    ) -> None:
        sums: dict[int, float] = {}
        for token, value in bias:
            sums[token] = sums.get(token, 0.0) + value
        self._biased = np.array(list(sums), dtype=np.intp)
        self._bias = np.array(list(sums.values()), dtype=np.float32)
        self._penalties = penalties
        self._recent: deque[int] = deque()
        self._counts: Counter[int] = Counter()
        self._changed: npt.NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self._before: Logits = np.empty(0, dtype=np.float32)
        for token in recent[-penalties.window :] if penalties and penalties.window else ():
            self.note(int(token))

    def note(self, token: int) -> None:
        """The token that was chosen."""
        if self._penalties is None or not self._penalties.window:
            return
        self._recent.append(token)
        self._counts[token] += 1
        if len(self._recent) > self._penalties.window:
            oldest = self._recent.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def apply(self, logits: Logits) -> None:
        """Change the logits, shape (vocabulary,), in place, until `undo`."""
        if self._penalties is None or not self._counts:
            self._changed = self._biased
            self._before = logits[self._biased]
            logits[self._biased] = self._before + self._bias
        else:
            penalized = np.fromiter(self._counts, dtype=np.intp, count=len(self._counts))
            self._changed = np.concatenate((self._biased, penalized))
            self._before = logits[self._changed]
            logits[self._biased] += self._bias
            times = np.fromiter(self._counts.values(), dtype=np.float32, count=len(penalized))
            logits[penalized] = _penalized(logits[penalized], times, self._penalties)

    def undo(self, logits: Logits) -> None:
        """Put back what `apply` changed: the same row may be looked at again."""
        logits[self._changed] = self._before


def _penalized(logits: Logits, times: Logits, penalties: Penalties) -> Logits:
    repeat, frequency, presence = (
        np.float32(number) for number in (penalties.repeat, penalties.frequency, penalties.presence)
    )
    # Dividing a negative logit would make its token likelier.
    changed: Logits = np.where(logits <= 0, logits * repeat, logits / repeat)
    return changed - (times * frequency + presence)
