"""Token ids as arrays that grow, and how far two of them agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
_COMPARED_AT_ONCE = 4096  # most mismatches come early: the rest of a long context is not touched


class TokenArray:
    """An int32 array that can be appended to; views stay valid until the next append."""

    __slots__ = ("_buffer", "_size")

    def __init__(self, tokens: Sequence[int] | Tokens) -> None:
        self._size = len(tokens)
        self._buffer = np.empty(self._size + 256, dtype=np.int32)
        self._buffer[: self._size] = tokens

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> int:
        return int(self._buffer[: self._size][index])

    def append(self, token: int) -> None:
        """Add one token; O(1) on average."""
        if self._size == len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty(self._size, dtype=np.int32)])
        self._buffer[self._size] = token
        self._size += 1

    def view(self, start: int = 0, stop: int | None = None) -> Tokens:
        """The tokens [start, stop), shape (stop - start,), not copied."""
        return self._buffer[start : self._size if stop is None else min(stop, self._size)]

    def cut(self, start: int, stop: int) -> None:
        """Take the tokens [start, stop) out."""
        tail = self._buffer[stop : self._size].copy()
        self._buffer[start : start + len(tail)] = tail
        self._size = start + len(tail)


def common_prefix(one: Tokens, other: Tokens) -> int:
    """How many tokens from the start are equal in both."""
    size = min(len(one), len(other))
    for start in range(0, size, _COMPARED_AT_ONCE):
        stop = min(start + _COMPARED_AT_ONCE, size)
        different = one[start:stop] != other[start:stop]
        if different.any():
            return start + int(different.argmax())
    return size
