"""The fake model with a price: every decode moves a virtual clock on, and what the fake itself takes is not counted.

A decode costs a + b·rows + c·attended cells, where each sequence of the batch attends to its own cells once: what a
prompt's many rows read together is read once by kernels that work in tiles.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from localllm.engine.backend import Batch, Constraint, DecodeStatus
from localllm.engine.fake import FakeBackend
from localllm.generation import Sampling

# Asked for every token: timing them would cost more than they do.
QUICK = ("facts", "token_bytes", "is_end_of_generation", "is_control", "lowest_position")


@dataclass
class VirtualClock:
    """Seconds that pass only when somebody says so."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@dataclass(frozen=True)
class Costs:
    """Seconds of one decode: `step` of itself, `row` for each row, `cell` for each cell that is attended to."""

    step: float
    row: float
    cell: float

    def of(self, batch: Batch) -> float:
        """What this batch takes."""
        lengths = np.zeros(int(batch.slots.max()) + 1, dtype=np.int64)
        np.maximum.at(lengths, batch.slots, batch.positions + 1)
        return self.step + self.row * len(batch.tokens) + self.cell * float(lengths.sum())


# cpu fits what was measured of the 0.6 B model on two cores (30 tokens/s alone, 13 at 2,000 cells, 340 prompt
# tokens/s); gpu is of the order of an 8 B model on a data centre's card.
PRESETS = {"cpu": Costs(0.020, 0.0025, 26e-6), "gpu": Costs(0.008, 60e-6, 20e-9)}


class Letters:
    """A sampler that costs nothing and never repeats itself for long."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def sample(self, row: int) -> int:
        """Some letter."""
        return 97 + self._random.getrandbits(4)

    def close(self) -> None:
        """Nothing to free."""


class VirtualBackend:
    """See the module. `busy_seconds` is the real CPU time of the fake, to be taken off the engine's."""

    def __init__(self, fake: FakeBackend, costs: Costs, clock: VirtualClock) -> None:
        self.fake = fake
        self.busy_seconds = 0.0
        self.virtual_seconds = 0.0
        self._costs = costs
        self._clock = clock
        for name in QUICK:
            setattr(self, name, getattr(fake, name))

    def __getattr__(self, name: str) -> Any:
        """Any other method of the fake, timed; found here once and kept."""
        timed = self._timed(getattr(self.fake, name))
        setattr(self, name, timed)
        return timed

    def decode(self, batch: Batch) -> DecodeStatus:
        """Compute, and let the time pass that it would have taken."""
        started = time.thread_time()
        status = self.fake.decode(batch)
        if status == "done":
            seconds = self._costs.of(batch)
            self._clock.now += seconds
            self.virtual_seconds += seconds
        self.busy_seconds += time.thread_time() - started
        return status

    def new_sampler(
        self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], constraint: Constraint | None
    ) -> Letters:
        """The fake's own looks at the whole sequence for every token."""
        return Letters(seed)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return method(*arguments, **named)
            finally:
                self.busy_seconds += time.thread_time() - started

        return run
