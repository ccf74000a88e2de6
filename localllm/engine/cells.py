"""Which KV cells are in use: exact accounting, because llama.cpp does not tell.

In a unified pool a cell may belong to several sequences: sharing a prefix takes no cell, and a cell is free again when
the last sequence that holds it lets go. The used cells are therefore the union over the sequences, counted here by
giving every cell a number and counting its holders. In separate streams nothing is shared and a slot has its own room.

Pure: nothing here touches a backend. Whoever calls the backend tells the same thing to its `Cells`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Cells(Protocol):
    """The accounts of one pool. Lengths are numbers of cells; slot `i` holds positions 0 to its length."""

    @property
    def used(self) -> int:
        """Cells that some slot holds."""

    @property
    def free(self) -> int:
        """Cells that the next decode may take, over all slots."""

    def extend(self, slot: int, count: int) -> None:
        """`count` more cells for the end of a slot."""

    def share(self, source: int, target: int, length: int) -> None:
        """The first `length` cells of `source` also belong to `target`, which is empty."""

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first `length` cells of a slot."""

    def cut(self, slot: int, start: int, stop: int) -> None:
        """Give back the cells [start, stop) of a slot."""

    def own(self, slot: int) -> int:
        """Cells that only this slot holds: what is free again when it lets go."""

    def reclaimable(self, slots: Sequence[int]) -> int:
        """Cells that would be free if all these slots let go."""

    def is_shared(self, slot: int, start: int) -> bool:
        """Whether any cell from `start` on belongs to another slot too."""


class UnifiedCells:
    """One pool for all slots; a cell has as many holders as sequences share it."""

    def __init__(self, pool_tokens: int, slots: int) -> None:
        self._pool_tokens = pool_tokens
        self._holders = np.zeros(pool_tokens, dtype=np.int32)
        self._free = np.arange(pool_tokens - 1, -1, -1, dtype=np.int32)  # a stack: the top is at _free_count - 1
        self._free_count = pool_tokens
        self._held = [np.empty(64, dtype=np.int32) for _ in range(slots)]
        self._lengths = [0] * slots

    @property
    def used(self) -> int:
        """Distinct cells in use."""
        return self._pool_tokens - self._free_count

    @property
    def free(self) -> int:
        """Cells nobody holds."""
        return self._free_count

    def extend(self, slot: int, count: int) -> None:
        """Take `count` free cells. Raises ValueError when there are fewer: the plan was wrong."""
        if count > self._free_count:
            raise ValueError(f"{count} cells wanted of {self._free_count}")
        taken = self._free[self._free_count - count : self._free_count]
        self._free_count -= count
        self._holders[taken] = 1
        self._append(slot, taken)

    def share(self, source: int, target: int, length: int) -> None:
        """One more holder for each cell."""
        cells = self._cells(source)[:length].copy()
        self._holders[cells] += 1
        self._append(target, cells)

    def truncate(self, slot: int, length: int) -> None:
        """Let go of everything behind `length`."""
        if length < self._lengths[slot]:
            self._release(self._cells(slot)[length:])
            self._lengths[slot] = length

    def cut(self, slot: int, start: int, stop: int) -> None:
        """Let go of a part in the middle."""
        cells = self._cells(slot)
        self._release(cells[start:stop])
        tail = cells[stop:].copy()
        cells[start : start + len(tail)] = tail
        self._lengths[slot] = start + len(tail)

    def own(self, slot: int) -> int:
        """Cells with this one holder."""
        return int((self._holders[self._cells(slot)] == 1).sum())

    def reclaimable(self, slots: Sequence[int]) -> int:
        """Cells whose holders are all among these slots."""
        held = self._holders.copy()
        for slot in slots:
            held[self._cells(slot)] -= 1
        return int(((held == 0) & (self._holders > 0)).sum())

    def is_shared(self, slot: int, start: int) -> bool:
        """Whether a cell from `start` on has other holders."""
        return bool((self._holders[self._cells(slot)[start:]] > 1).any())

    def _cells(self, slot: int) -> npt.NDArray[np.int32]:
        return self._held[slot][: self._lengths[slot]]

    def _append(self, slot: int, cells: npt.NDArray[np.int32]) -> None:
        length = self._lengths[slot]
        if length + len(cells) > len(self._held[slot]):
            grown = np.empty(max(2 * len(self._held[slot]), length + len(cells)), dtype=np.int32)
            grown[:length] = self._held[slot][:length]
            self._held[slot] = grown
        self._held[slot][length : length + len(cells)] = cells
        self._lengths[slot] = length + len(cells)

    def _release(self, cells: npt.NDArray[np.int32]) -> None:
        self._holders[cells] -= 1
        freed = cells[self._holders[cells] == 0]
        self._free[self._free_count : self._free_count + len(freed)] = freed
        self._free_count += len(freed)


class StreamCells:
    """A stream of its own for every slot; sharing copies. No slot can take another's room."""

    def __init__(self, pool_tokens: int, slots: int) -> None:
        self._pool_tokens = pool_tokens
        self._lengths = [0] * slots

    @property
    def used(self) -> int:
        """Cells of all slots together."""
        return sum(self._lengths)

    @property
    def free(self) -> int:
        """As much as anyone may ask for: a sequence is bounded by its stream when it is added."""
        return self._pool_tokens

    def extend(self, slot: int, count: int) -> None:
        """More of its own stream."""
        self._lengths[slot] += count

    def share(self, source: int, target: int, length: int) -> None:
        """A copy in the target's stream."""
        self._lengths[target] = length

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first cells."""
        self._lengths[slot] = min(length, self._lengths[slot])

    def cut(self, slot: int, start: int, stop: int) -> None:
        """Give back a part in the middle."""
        self._lengths[slot] -= stop - start

    def own(self, slot: int) -> int:
        """All that it holds."""
        return self._lengths[slot]

    def reclaimable(self, slots: Sequence[int]) -> int:
        """Nothing that anyone else could take."""
        return 0

    def is_shared(self, slot: int, start: int) -> bool:
        """Never."""
        return False
