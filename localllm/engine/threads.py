"""How many threads should compute, while other programs use the cores too: learnt from how long steps took.

llama.cpp's threads meet hundreds of times in a step and spin while they wait for each other. Alone on the machine that
is the fastest way. When another program takes a core, every meeting waits for the scheduler, and two threads need ten
times as long as one. Nobody knows beforehand, so it is measured: when the process is made to wait for a core, half as
many threads are tried for a few steps, and kept if they are faster; later more are tried again.

    settled on n ──forced off cores──▶ trying n/2 ──faster──▶ settled on n/2
                 ◀──────not faster────┘            now and then: trying 2n

Only steps of the same sequences are compared: a row behind a thousand cells takes twice as long as one behind ten.

Pure: durations and counts come in, a number of threads goes out.
"""

from __future__ import annotations

from collections import deque
from statistics import median

TRIAL_STEPS = 3
COMPARED_STEPS = 8
FASTER = 0.9  # of the time it took before
FORCED_OFF_PER_STEP = 1.0  # on an idle machine a step is hardly ever interrupted
HOPELESS = 1.5  # a first step so much slower settles it
FEWER_AFTER_STEPS = 3
SLOWER = 1.25  # than when fewer threads did not pay
MORE_AFTER_STEPS = 48
MORE_AFTER_CONTENDED = 8  # times as long, while the process is still being forced off
LONGEST_WAIT_STEPS = 768  # then what did not pay is forgotten


class ThreadTuner:
    """The number of threads for the next step, between 1 and `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._settled = most
        self._trial: int | None = None
        self._rows = 0
        self._company: tuple[int, ...] = ()
        self._recent: deque[float] = deque(maxlen=COMPARED_STEPS)
        self._forced_off: deque[int] = deque(maxlen=COMPARED_STEPS)
        self._tried: list[float] = []
        self._steps = 0  # since the last trial
        self._more_after = MORE_AFTER_STEPS
        self._refused: dict[int, float] = {}  # seconds of a step of so many rows when fewer threads did not pay

    @property
    def threads(self) -> int:
        """How many to use now."""
        return self._settled if self._trial is None else self._trial

    def observe(self, rows: int, company: tuple[int, ...], seconds: float, forced_off: int) -> None:
        """A step that only decoded: `rows` of it and of which requests, how long it took, and how often a thread was
        taken off its core."""
        if (rows, company) != (self._rows, self._company):  # nothing to compare with
            self._rows, self._company, self._trial = rows, company, None
            self._recent.clear()
            self._forced_off.clear()
        if self._trial is not None:
            self._observe_trial(seconds)
            return
        self._recent.append(seconds)
        self._forced_off.append(forced_off)
        self._steps += 1
        if len(self._recent) >= TRIAL_STEPS:
            self._trial = self._next_trial()
            self._tried = []

    def _next_trial(self) -> int | None:
        is_contended = sum(self._forced_off) >= FORCED_OFF_PER_STEP * len(self._forced_off)
        if is_contended and self._settled > 1 and self._steps >= FEWER_AFTER_STEPS and self._may_pay():
            return self._settled // 2
        more_after = self._more_after * (MORE_AFTER_CONTENDED if is_contended else 1)
        if self._settled < self._most and self._steps >= more_after:
            return min(2 * self._settled, self._most)
        return None

    def _may_pay(self) -> bool:
        if self._steps >= LONGEST_WAIT_STEPS:
            self._refused.clear()
        return median(self._recent) > SLOWER * self._refused.get(self._rows, 0.0)

    def _observe_trial(self, seconds: float) -> None:
        assert self._trial is not None
        self._tried.append(seconds)
        is_hopeless = seconds > HOPELESS * median(self._recent)
        if len(self._tried) < TRIAL_STEPS and not is_hopeless:
            return
        is_fewer = self._trial < self._settled
        is_faster = not is_hopeless and median(self._tried) < FASTER * median(self._recent)
        if is_faster:
            self._settled = self._trial
            self._recent.clear()
            self._recent.extend(self._tried)
            self._refused.clear()
        elif is_fewer:
            self._refused[self._rows] = median(self._recent)
        if not is_fewer:
            self._more_after = MORE_AFTER_STEPS if is_faster else min(2 * self._more_after, LONGEST_WAIT_STEPS)
        self._trial, self._steps = None, 0
