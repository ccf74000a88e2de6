"""How long a busy source is waited for, and who hears of it."""

from __future__ import annotations

import pytest

from localllm.store.answers import SourceBusyError
from localllm.store.source import patiently


@pytest.mark.parametrize(
    ("asks_for", "slept_told", "slept_untold"),
    [(None, [0.5, 1, 2], [0.5, 1, 2]), (0, [0.5] * 3, [0.5] * 3), (30, [30] * 3, [10] * 3), (900, [60] * 3, [10] * 3)],
)
def test_what_a_source_asks_for_is_waited_within_bounds_and_said_where_somebody_listens(
    asks_for, slept_told, slept_untold
):
    def busy() -> None:
        raise SourceBusyError("the hub answered 429", retry_after_seconds=asks_for)

    for slept_for, listens in ((slept_told, True), (slept_untold, False)):
        slept: list[float] = []
        told: list[str] = []
        with pytest.raises(SourceBusyError):
            patiently(busy, slept.append, told.append if listens else None)
        assert slept_for == slept
        long = [f"the hub answered 429: trying again in {seconds:.0f} s" for seconds in slept if seconds >= 2]
        assert (long if listens else []) == told


def test_an_answer_ends_the_waiting():
    answers: list[object] = [SourceBusyError("busy"), SourceBusyError("busy"), "here"]

    def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    slept: list[float] = []
    assert ("here", [0.5, 1]) == (patiently(ask, slept.append), slept)
