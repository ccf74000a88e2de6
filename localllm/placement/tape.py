"""A step's computing as a tape of tensors, and the bytes that ggml's allocator needs to play it. Pure.

ggml gives each tensor the best-fitting hole of those that are free, or room at the end; a tensor that may overwrite its
source does so when nobody else reads that; a source is freed after its last reader. What is needed is therefore more
than what lives at once, and follows from the order alone: so the order is written down here and played.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

_ALIGNMENT = 128  # of CUDA; a CPU's is 64, and takes no more
_ENDLESS = 2**62


@dataclass(frozen=True, slots=True)
class Node:
    """One tensor: its bytes, the nodes it is made from, and whether it may take the place of one of them."""

    size_bytes: int
    sources: tuple[int, ...]
    in_place: bool
    is_input: bool


class Tape:
    """Nodes in the order in which they are computed. A node is known by its number; a view by that of its tensor."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def input(self, size_bytes: int) -> int:
        """A tensor that is filled from outside, before anything is computed."""
        self.nodes.append(Node(size_bytes, (), in_place=False, is_input=True))
        return len(self.nodes) - 1

    def put(self, elements: int, *sources: int, in_place: bool = False) -> int:
        """A tensor of so many 32-bit elements."""
        self.nodes.append(Node(4 * elements, sources, in_place, is_input=False))
        return len(self.nodes) - 1

    def peak_bytes(self) -> int:
        """The size of the buffer in which all of it can be computed."""
        readers = [0] * len(self.nodes)
        for node in self.nodes:
            for source in node.sources:
                readers[source] += 1
        heap = _Heap()
        places: dict[int, tuple[int, int]] = {
            number: heap.take(node.size_bytes) for number, node in enumerate(self.nodes) if node.is_input
        }
        for number, node in enumerate(self.nodes):
            if not node.is_input:
                places[number] = _place(node, self.nodes, readers, places, heap)
            for source in node.sources:
                readers[source] -= 1
                if readers[source] == 0 and source in places:
                    heap.give(*places.pop(source))
        return heap.most_bytes


def _place(
    node: Node, nodes: list[Node], readers: list[int], places: dict[int, tuple[int, int]], heap: _Heap
) -> tuple[int, int]:
    for source in node.sources if node.in_place else ():
        if readers[source] == 1 and source in places and nodes[source].size_bytes == node.size_bytes:
            return places.pop(source)
    return heap.take(node.size_bytes)


class _Heap:
    """Free holes by their start; the last one is endless."""

    def __init__(self) -> None:
        self.holes: list[tuple[int, int]] = [(0, _ENDLESS)]
        self.most_bytes = 0

    def take(self, size: int) -> tuple[int, int]:
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        fitting = [(hole[1], -index) for index, hole in enumerate(self.holes[:-1]) if hole[1] >= size]
        index = -min(fitting)[1] if fitting else len(self.holes) - 1
        start, room = self.holes.pop(index)
        if room > size:
            self.holes.insert(index, (start + size, room - size))
        self.most_bytes = max(self.most_bytes, start + size)
        return start, size

    def give(self, start: int, size: int) -> None:
        if size == 0:
            return
        insort(self.holes, (start, size))
        index = self.holes.index((start, size))
        if start + size == self.holes[index + 1][0]:
            _, room = self.holes.pop(index + 1)
            self.holes[index] = (start, size + room)
        if index and sum(self.holes[index - 1]) == start:
            before, room = self.holes.pop(index - 1)
            self.holes[index - 1] = (before, room + self.holes[index - 1][1])
