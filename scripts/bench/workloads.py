"""What the load clients send: each workload as clients with turns, made of random words by a seed. Pure.

Nothing is shared between requests unless the workload says so: two seeds, or two clients of one seed, begin with other
words. Sizes are tokens, since every word is one (words.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_INPUT = 4
LEAST_OUTPUT = 4


@dataclass(frozen=True)
class Turn:
    """`text` of `new_tokens` words goes behind everything said before; the answer has `output_tokens`."""

    text: str
    new_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Client:
    """One conversation. `waits_for_streams`: it starts once all the others receive their answers."""

    turns: tuple[Turn, ...]
    start_seconds: float = 0.0
    waits_for_streams: bool = False

    @property
    def most_tokens(self) -> int:
        """The cells that its last turn fills."""
        return sum(turn.new_tokens + turn.output_tokens for turn in self.turns)


@dataclass(frozen=True)
class Workload:
    """Clients that run at once. `pool_tokens`: it wants a server whose pool has only so many cells."""

    name: str
    clients: tuple[Client, ...]
    pool_tokens: int | None = None

    @property
    def most_tokens(self) -> int:
        """The longest conversation."""
        return max(client.most_tokens for client in self.clients)


class Writer:
    """Makes turns of random words. `scale` shrinks every size, for a quick look at whether all works."""

    def __init__(self, words: Sequence[str], seed: str, scale: float) -> None:
        self._words = words
        self._random = random.Random(seed)
        self._scale = scale

    def size(self, tokens: int, least: int = LEAST_INPUT) -> int:
        """A size after scaling."""
        return max(least, round(tokens * self._scale))

    def text(self, tokens: int) -> list[str]:
        """So many words, after scaling."""
        return self._random.choices(self._words, k=self.size(tokens))

    def turn(self, words: list[str], output_tokens: int) -> Turn:
        """These words and the size of their answer."""
        return Turn("".join(words), len(words), self.size(output_tokens, LEAST_OUTPUT))

    def one(self, input_tokens: int, output_tokens: int) -> Client:
        """A client with one prompt that shares nothing."""
        return Client((self.turn(self.text(input_tokens), output_tokens),))


def _single(writer: Writer) -> Workload:
    """One stream: what a step costs when nothing can be batched."""
    return Workload("single", (writer.one(128, 128),))


def _unique(writer: Writer) -> Workload:
    """Eight prompts that share nothing: batching alone."""
    return Workload("unique", tuple(writer.one(700, 64) for _ in range(8)))


def _shared(writer: Writer) -> Workload:
    """Eight prompts at once with one long beginning that nobody has computed yet."""
    shared = writer.text(1400)
    return Workload("shared", tuple(Client((writer.turn(shared + writer.text(20), 32),)) for _ in range(8)))


def _chat(writer: Writer) -> Workload:
    """Eight conversations whose every turn repeats all before it."""
    clients = (Client(tuple(writer.turn(writer.text(60), 32) for _ in range(4))) for _ in range(8))
    return Workload("chat", tuple(clients))


def _long_prefill(writer: Writer) -> Workload:
    """Four running streams, and a long prompt that comes in between."""
    long = Client((writer.turn(writer.text(6000), 8),), waits_for_streams=True)
    return Workload("long-prefill", (*(writer.one(64, 160) for _ in range(4)), long))


def _agents(writer: Writer) -> Workload:
    """Bursts of prompts of mixed lengths, each beginning with the same instructions for 60 % of its length."""
    shared = writer.text(720)
    clients = []
    for burst in range(3):
        for input_tokens, output_tokens in ((300, 16), (500, 48), (700, 24), (900, 64), (1200, 32)):
            begin = shared[: writer.size(round(input_tokens * 0.6))]
            turn = writer.turn(begin + writer.text(round(input_tokens * 0.4)), output_tokens)
            clients.append(Client((turn,), start_seconds=2.0 * burst * min(1.0, writer.size(1000) / 1000)))
    return Workload("agents", tuple(clients))


def _pressure(writer: Writer) -> Workload:
    """Twelve requests that together need twice the pool."""
    clients = tuple(writer.one(600, 72) for _ in range(12))
    needed = sum(client.most_tokens for client in clients)
    return Workload("pressure", clients, pool_tokens=needed // 2)


MAKERS: dict[str, Callable[[Writer], Workload]] = {
    "single": _single,
    "unique": _unique,
    "shared": _shared,
    "chat": _chat,
    "long-prefill": _long_prefill,
    "agents": _agents,
    "pressure": _pressure,
}


def make_workload(name: str, words: Sequence[str], seed: str, scale: float = 1.0) -> Workload:
    """The workload of this name. The same arguments give the same texts."""
    return MAKERS[name](Writer(words, f"{name} {seed}", scale))
