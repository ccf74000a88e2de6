"""The accounts of KV cells, against a naive model: every slot is a list of numbered cells, what is used is their union.

The model knows nothing of stacks and holder counts; it only says which cells a slot holds.
"""

import itertools
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from localllm.engine.cells import StreamCells, UnifiedCells

POOL_TOKENS = 400  # more than a slot has room for at first
SLOTS = 4
slot_numbers = st.integers(0, SLOTS - 1)


class UnifiedCellsMachine(RuleBasedStateMachine):
    """Every change is made to both; after each, every question must have the same answer.

    `reached` collects over all runs what they came to: a search that never shares a cell would prove nothing.
    """

    reached: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.cells = UnifiedCells(POOL_TOKENS, SLOTS)
        self.numbers = itertools.count()
        self.held: list[list[int]] = [[] for _ in range(SLOTS)]

    def union(self, slots: list[int]) -> set[int]:
        return {number for slot in slots for number in self.held[slot]}

    def others(self, slots: list[int]) -> list[int]:
        return [slot for slot in range(SLOTS) if slot not in slots]

    @rule(slot=slot_numbers, count=st.one_of(st.integers(0, 9), st.integers(0, 300)))
    def extend(self, slot: int, count: int) -> None:
        if count > POOL_TOKENS - len(self.union(list(range(SLOTS)))):
            with pytest.raises(ValueError):
                self.cells.extend(slot, count)
            self.reached.add("refused")
            return
        self.cells.extend(slot, count)
        self.held[slot] += itertools.islice(self.numbers, count)
        self.reached |= {"own"} if count else set()

    @precondition(lambda self: not all(self.held))
    @rule(source=slot_numbers, part=st.floats(0, 1))
    def share_into_an_empty_slot(self, source: int, part: float) -> None:
        target = next(slot for slot in range(SLOTS) if not self.held[slot])
        length = round(part * len(self.held[source]))
        if target != source:
            self.cells.share(source, target, length)
            self.held[target] = self.held[source][:length]
            self.reached |= {"shared"} if length else set()

    @rule(slot=slot_numbers, length=st.integers(0, POOL_TOKENS))
    def truncate_to_any_length(self, slot: int, length: int) -> None:
        self.truncate(slot, length)

    @rule(slot=slot_numbers, fewer=st.integers(0, 3))
    def truncate_by_a_few(self, slot: int, fewer: int) -> None:
        self.truncate(slot, max(0, len(self.held[slot]) - fewer))

    def truncate(self, slot: int, length: int) -> None:
        self.cells.truncate(slot, length)
        del self.held[slot][length:]

    @rule(slot=slot_numbers, first=st.floats(0, 1), second=st.floats(0, 1))
    def cut(self, slot: int, first: float, second: float) -> None:
        start, stop = sorted(round(part * len(self.held[slot])) for part in (first, second))
        self.cells.cut(slot, start, stop)
        del self.held[slot][start:stop]

    @rule(slots=st.sets(slot_numbers))
    def reclaimable_are_the_cells_that_nobody_else_holds(self, slots: set[int]) -> None:
        chosen = sorted(slots)
        assert len(self.union(chosen) - self.union(self.others(chosen))) == self.cells.reclaimable(chosen)

    @invariant()
    def is_shared_asks_only_for_what_comes_after_a_place(self) -> None:
        for slot, held in enumerate(self.held):
            elsewhere = self.union(self.others([slot]))
            for start in {0, len(held) // 2, len(held) - 1, len(held)} - {-1}:
                assert any(number in elsewhere for number in held[start:]) == self.cells.is_shared(slot, start)

    @invariant()
    def used_and_free_count_each_cell_once(self) -> None:
        used = len(self.union(list(range(SLOTS))))
        assert (used, POOL_TOKENS - used) == (self.cells.used, self.cells.free)

    @invariant()
    def own_are_the_cells_of_one_holder(self) -> None:
        expected = [len(self.union([slot]) - self.union(self.others([slot]))) for slot in range(SLOTS)]
        assert expected == [self.cells.own(slot) for slot in range(SLOTS)]


def test_the_accounts_of_one_pool_are_those_of_sets_of_cells():
    run_state_machine_as_test(
        UnifiedCellsMachine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None)
    )
    assert {"refused", "shared", "own"} == UnifiedCellsMachine.reached


def test_a_shared_cell_is_free_again_when_its_last_holder_lets_go():
    cells = UnifiedCells(10, slots=3)
    cells.extend(0, 6)
    cells.share(0, 1, 4)
    cells.truncate(0, 0)
    assert (4, 6) == (cells.used, cells.free)
    cells.truncate(1, 0)
    assert (0, 10) == (cells.used, cells.free)


def test_one_pool_refuses_more_cells_than_are_free_and_takes_none():
    cells = UnifiedCells(10, slots=2)
    cells.extend(0, 6)
    with pytest.raises(ValueError):
        cells.extend(1, 5)
    assert (6, 0) == (cells.used, cells.own(1))


def test_streams_count_every_copy_and_share_nothing():
    cells = StreamCells(pool_tokens=30, slots=3)
    cells.extend(0, 8)
    cells.share(0, 1, 5)
    assert (13, [8, 5, 0]) == (cells.used, [cells.own(slot) for slot in range(3)])
    assert (False, 0) == (cells.is_shared(0, 0), cells.reclaimable([0, 1]))


def test_a_stream_gives_back_its_tail_and_its_middle():
    cells = StreamCells(pool_tokens=30, slots=2)
    cells.extend(0, 8)
    cells.cut(0, 2, 5)
    assert 5 == cells.own(0)
    cells.truncate(0, 9)
    assert 5 == cells.own(0)
    cells.truncate(0, 3)
    assert (3, 3) == (cells.own(0), cells.used)


def test_a_stream_has_the_same_room_whatever_the_others_hold():
    cells = StreamCells(pool_tokens=30, slots=3)
    cells.extend(0, 10)
    assert 30 == cells.free
