"""Models of zeros in the true shapes of well-known ones, with a vocabulary that speaks: files that take no room.

A model of zeros finds every token as likely as any other. What it says means nothing; what it takes and how fast it is
are those of the real one.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf_files import Typed
from shape_models import ShapeModel, write_shapes
from shape_recipes import dense

from localllm.gguf import read_header

GUIDE = Path(__file__).resolve().parent.parent.parent / "modelfiles" / "guide" / "guide.gguf"
LARGE = {
    "dense-1b": ShapeModel("llama", dense(16, 2048, 32, 8, 64, 8192)),
    "dense-8b": ShapeModel("llama", dense(32, 4096, 32, 8, 128, 14336)),
    "moe-30b-a3b": ShapeModel(
        "qwen3moe",
        dense(48, 2048, 32, 4, 128, 6144)
        | {"expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 768},
    ),
}
SMALL = {
    "dense-small": ShapeModel("llama", dense(4, 512, 8, 4, 64, 1536)),
    "moe-small": ShapeModel(
        "qwen3moe",
        dense(4, 512, 8, 4, 64, 1536) | {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 256},
    ),
}
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of GGUF's value types
_TEXT, _ARRAY = 8, 9


def write_models(models: dict[str, ShapeModel], folder: Path) -> dict[str, Path]:
    """The files, with the vocabulary of `guide`."""
    pairs = tokenizer_pairs(GUIDE.read_bytes())
    size = next(tensor.shape[1] for tensor in read_header(GUIDE).tensors if tensor.name == "token_embd.weight")
    speaking = {
        name: replace(model, values={**model.values, **pairs}, vocabulary=size) for name, model in models.items()
    }
    return write_shapes(speaking, folder)


def tokenizer_pairs(data: bytes) -> dict[str, Any]:
    """The metadata of a GGUF file about its tokens, as it stands there."""
    (count,) = struct.unpack_from("<Q", data, 16)
    at, pairs = 24, {}
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, at)
        key = data[at + 8 : at + 8 + length].decode()
        at += 8 + length
        (kind,) = struct.unpack_from("<I", data, at)
        end = _end(data, at + 4, kind)
        if key.startswith("tokenizer."):
            pairs[key] = Typed(kind, data[at + 4 : end])
        at = end
    return pairs


def _end(data: bytes, at: int, kind: int) -> int:
    """Where a value ends."""
    if kind == _TEXT:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != _ARRAY:
        return at + _SIZES[kind]
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind != _TEXT:
        return at + _SIZES[kind] * int(count)
    for _ in range(count):
        at = _end(data, at, _TEXT)
    return at
