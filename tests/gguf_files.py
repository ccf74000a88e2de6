"""Bytes of small GGUF files, whole or broken on purpose, for tests. An own writer, so that no library is trusted.

    path.write_bytes(gguf_bytes({"general.architecture": "llama"}, [Tensor("a", (256, 2), "Q4_K")]))

A metadata value is written as: str text, bool, int uint32 (or int64 when it does not fit), float float32, list of
these as an array; `Typed(type_id, raw)` writes any bytes under any type.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TYPE_IDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "MXFP4": 39}
_BLOCKS = {
    "F32": (1, 4),
    "F16": (1, 2),
    "Q4_0": (32, 18),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q6_K": (256, 210),
    "MXFP4": (32, 17),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of zeros. `offset` and `type_id` replace the true ones."""

    name: str
    shape: tuple[int, ...]
    type_name: str = "F32"
    offset: int | None = None
    type_id: int | None = None

    @property
    def size_bytes(self) -> int:
        elements, size = _BLOCKS[self.type_name]
        return math.prod(self.shape) // elements * size


@dataclass(frozen=True)
class Typed:
    """A value as raw bytes after its type id."""

    type_id: int
    raw: bytes


MODEL_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 15,
    "llama.context_length": 2048,
    "llama.embedding_length": 256,
    "llama.block_count": 1,
    "tokenizer.ggml.model": "gpt2",
}
MODEL_TENSORS = (Tensor("token_embd.weight", (256, 4), "Q4_K"), Tensor("output_norm.weight", (256,)))


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def typed(value: Any) -> tuple[int, bytes]:
    """(type id, bytes) of a metadata value."""
    if isinstance(value, Typed):
        return value.type_id, value.raw
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, str):
        return 8, text(value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, int):
        return (4, struct.pack("<I", value)) if 0 <= value < 2**32 else (11, struct.pack("<q", value))
    items = [typed(item) for item in value]
    type_id = items[0][0] if items else 4
    return 9, struct.pack("<IQ", type_id, len(items)) + b"".join(raw for _, raw in items)


def gguf_bytes(
    metadata: Mapping[str, Any] | Sequence[tuple[str, Any]] = MODEL_METADATA,
    tensors: Sequence[Tensor] = MODEL_TENSORS,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    hollow: bool = False,
) -> bytes:
    """A GGUF file. `counts` replaces the true numbers of (tensors, pairs); a hollow one ends where its data begins."""
    pairs = list(metadata.items()) if isinstance(metadata, Mapping) else list(metadata)
    out = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    for key, value in pairs:
        type_id, raw = typed(value)
        out += text(key) + struct.pack("<I", type_id) + raw
    alignment = next((value for key, value in pairs if key == "general.alignment" and isinstance(value, int)), 32)
    data_bytes = 0
    for tensor in tensors:
        offset = data_bytes if tensor.offset is None else tensor.offset
        type_id = TYPE_IDS[tensor.type_name] if tensor.type_id is None else tensor.type_id
        out += text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        out += struct.pack("<IQ", type_id, offset)
        data_bytes += _padded(tensor.size_bytes, alignment)
    if not tensors:
        return out
    return out + bytes(_padded(len(out), alignment) - len(out) + (0 if hollow else data_bytes))


def _padded(length: int, alignment: int) -> int:
    return -(-length // max(alignment, 1)) * max(alignment, 1)
