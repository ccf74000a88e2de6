"""A GGUF file taken apart, so that a mutation can change one thing and leave the rest in step. No checks of any kind.

    document = parse(data)      only for files of ours, which are well formed
    render(document) == data    for a document that nobody changed

Written apart from localllm.gguf on purpose: a reader and its attacker should not share a misunderstanding.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from localllm.gguf_types import TENSOR_TYPES

NUMBER_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
_LARGEST_RELAID = 16 * 2**20


@dataclass
class Pair:
    """One metadata pair; `raw` is what follows the type. `lies` when it states a length that is not its own."""

    key: bytes
    type_id: int
    raw: bytes
    lies: bool = False


@dataclass
class Tensor:
    """One row of the tensor table and its bytes. `offset` None is "where it falls"."""

    name: bytes
    shape: list[int]
    type_id: int
    data: bytes
    offset: int | None = None

    @property
    def size_bytes(self) -> int:
        _, elements, size = TENSOR_TYPES.get(self.type_id, ("", 1, 4))
        return math.prod(self.shape) // elements * size


@dataclass
class Document:
    """A file. `counts` replaces the true numbers of (tensors, pairs)."""

    pairs: list[Pair]
    tensors: list[Tensor]
    version: int = 3
    alignment: int = 32
    counts: tuple[int, int] | None = None


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> int:
        return int(struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0])

    def text(self) -> bytes:
        return self.take(self.number("Q"))

    def value(self, type_id: int) -> bytes:
        start = self.at
        if type_id == STRING:
            self.text()
        elif type_id == ARRAY:
            element, length = self.number("I"), self.number("Q")
            for _ in range(length):
                self.value(element)
        else:
            self.take(struct.calcsize(NUMBER_CODES[type_id]))
        return self.data[start : self.at]


def parse(data: bytes) -> Document:
    """Take a well-formed file apart."""
    cursor = _Cursor(data)
    cursor.take(4)
    version, tensor_count, pair_count = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    pairs = []
    for _ in range(pair_count):
        key, type_id = cursor.text(), cursor.number("I")
        pairs.append(Pair(key, type_id, cursor.value(type_id)))
    rows = []
    for _ in range(tensor_count):
        name = cursor.text()
        shape = [cursor.number("Q") for _ in range(cursor.number("I"))]
        rows.append((name, shape, cursor.number("I"), cursor.number("Q")))
    start = -(-cursor.at // 32) * 32
    tensors = []
    for name, shape, type_id, offset in rows:
        tensor = Tensor(name, shape, type_id, b"")
        tensor.data = data[start + offset : start + offset + tensor.size_bytes]
        tensors.append(tensor)
    return Document(pairs, tensors, version)


def text(value: bytes) -> bytes:
    """A string as it lies in a file."""
    return struct.pack("<Q", len(value)) + value


def array(type_id: int, items: list[bytes]) -> bytes:
    """An array as it lies in a file, of elements as they lie in one."""
    return struct.pack("<IQ", type_id, len(items)) + b"".join(items)


def array_items(raw: bytes) -> tuple[int, list[bytes]]:
    """(element type, elements) of an array."""
    cursor = _Cursor(raw)
    element, length = cursor.number("I"), cursor.number("Q")
    return element, [cursor.value(element) for _ in range(length)]


def render(document: Document) -> bytes:
    """The bytes of the file."""
    counts = document.counts or (len(document.tensors), len(document.pairs))
    out = bytearray(b"GGUF" + struct.pack("<IQQ", document.version, *counts))
    for pair in document.pairs:
        out += text(pair.key) + struct.pack("<I", pair.type_id) + pair.raw
    alignment = document.alignment
    data = bytearray()
    for tensor in document.tensors:
        offset = len(data) if tensor.offset is None else tensor.offset
        out += text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        out += struct.pack("<IQ", tensor.type_id, offset)
        size = min(tensor.size_bytes, _LARGEST_RELAID)
        data += tensor.data[:size].ljust(-(-size // alignment) * alignment, b"\0")
    if document.tensors:
        out += bytes(-len(out) % alignment)
    return bytes(out + data)
