"""Idle prefixes in host memory: out of the pool, where they would slow every step, and a copy away when wanted again.

On a CPU each row looks past all cells in use, so a prefix nobody runs on costs time in every step; and when the pool is
full it would have to go. Copying a thousand tokens' state out takes tens of milliseconds, computing them again seconds.
Pure bookkeeping: `pool` saves and restores.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.engine.backend import State
from localllm.engine.tokens import Tokens, common_prefix


@dataclass(frozen=True, slots=True, eq=False)
class Shelved:
    """The saved state of `tokens`, which request `request_id` computed and `shares` others used."""

    tokens: Tokens
    state: State
    request_id: int
    shares: int


class Shelf:
    """At most `bytes_most` of states; what was put here longest ago goes first."""

    def __init__(self, bytes_most: int) -> None:
        self._bytes_most = bytes_most
        self._shelved: list[Shelved] = []  # oldest first

    @property
    def bytes(self) -> int:
        """Host memory in use."""
        return sum(len(one.state) for one in self._shelved)

    def has_room(self, state_bytes: int) -> bool:
        """Whether a state of that size may lie here beside the others."""
        return self._bytes_most > 0 and self.bytes + state_bytes <= self._bytes_most

    def fits(self, state_bytes: int) -> bool:
        """Whether a state of that size may lie here if others go."""
        return self._bytes_most > 0 and state_bytes <= self._bytes_most

    def put(self, shelved: Shelved) -> None:
        """Keep it; older ones that are its beginning, or for which there is no room any more, go."""
        self.drop_beginnings_of(shelved.tokens)
        self._shelved.append(shelved)
        while self.bytes > self._bytes_most:
            self._shelved.pop(0)

    def best(self, prompt: Tokens, at_least: int) -> Shelved | None:
        """The one that agrees with `prompt` longest, if for `at_least` tokens; the prompt's last does not count."""
        matches = [(common_prefix(prompt[:-1], one.tokens), at) for at, one in enumerate(self._shelved)]
        length, at = max(matches, default=(0, 0))
        return self._shelved[at] if matches and length >= at_least else None

    def take(self, shelved: Shelved) -> None:
        """It lies in the pool again."""
        self._shelved.remove(shelved)

    def drop_beginnings_of(self, tokens: Tokens) -> None:
        """Forget those that are wholly the beginning of `tokens`."""
        self._shelved = [one for one in self._shelved if common_prefix(one.tokens, tokens) < len(one.tokens)]

    def clear(self) -> None:
        """Forget all."""
        self._shelved = []
