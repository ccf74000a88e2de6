"""Who waits for a place in the engine, in which order, and what each client has been given.

A client that was given much goes behind one that was given little. One that was away starts level with the least served
of those present, so that neither waiting nor silence earns a claim on the others' time.
"""

from __future__ import annotations

from localllm.engine.batch import service_order
from localllm.engine.sequence import Sequence


class WaitingRoom:
    """Sequences without a slot."""

    def __init__(self) -> None:
        self._waiting: list[Sequence] = []  # oldest first
        self._served: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All of them, oldest first."""
        return tuple(self._waiting)

    @property
    def best_priority(self) -> int:
        """The class of the most urgent one; there must be one."""
        return min(sequence.priority for sequence in self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Someone new, or someone preempted: places go by arrival."""
        self._waiting.append(sequence)
        self._waiting.sort(key=lambda one: one.arrived_at)
        client = sequence.request.client
        if client not in self._served:
            self._served[client] = min(self._served.values(), default=0.0)

    def remove(self, sequence: Sequence) -> None:
        """It got a slot, or left."""
        self._waiting = [one for one in self._waiting if one is not sequence]

    def in_order(self, now: float) -> list[Sequence]:
        """The waiting ones, first to be served first."""
        claims = [sequence.claim(now, self.served(sequence)) for sequence in self._waiting]
        order = service_order(claims, [sequence.to_compute for sequence in self._waiting])
        return [self._waiting[index] for index in order]

    def served(self, sequence: Sequence) -> float:
        """Tokens that were computed for its client."""
        return self._served.get(sequence.request.client, 0.0)

    def note_served(self, sequence: Sequence, tokens: int) -> None:
        """So many tokens were computed for it."""
        client = sequence.request.client
        self._served[client] = self._served.get(client, 0.0) + tokens

    def forget_clients(self, present: set[str]) -> None:
        """Keep accounts of those that are here only."""
        here = present | {sequence.request.client for sequence in self._waiting}
        self._served = {client: tokens for client, tokens in self._served.items() if client in here}
