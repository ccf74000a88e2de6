"""Headers of well-known models, made of their published shapes: what their GGUF files say, without their weights.

    SHAPES["llama3-70b"].header("Q4_K_M")          a Header, as if the file had been read
    header_bytes(SHAPES["llama3-70b"], "Q4_K_M")   the beginning of that file: metadata, tensor table, no data

Quantised as llama.cpp quantises: Q4_K_M keeps the output and some matrices in Q6_K.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gguf_files import Typed, text, typed

from localllm.gguf import ArrayInfo, Header, TensorInfo
from localllm.gguf_types import TENSOR_TYPES

_SIZES = {name: (elements, size) for name, elements, size in TENSOR_TYPES.values()}
_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_FILE_TYPES = {"Q4_K_M": 15, "Q8_0": 7, "F16": 1, "MXFP4": 38}
_ALIGNMENT = 32


@dataclass(frozen=True)
class Shape:
    """A model's numbers, under llama.cpp's names. `extra` are more metadata, without the architecture in front."""

    name: str
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    context: int
    experts: int = 0
    experts_used: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def header(self, quant: str) -> Header:
        """The header of the file in this quantisation."""
        tensors, offset = [], 0
        for name, shape, kind in self.tensors(quant):
            size = _bytes(kind, shape)
            tensors.append(TensorInfo(name, shape, kind, offset, size))
            offset += _padded(size)
        metadata = {**self.metadata(quant), "tokenizer.ggml.tokens": ArrayInfo("string", self.vocabulary)}
        return Header(3, MappingProxyType(metadata), tuple(tensors), offset, 0)

    def metadata(self, quant: str) -> dict[str, Any]:
        """Everything but the vocabulary."""
        own = {
            "context_length": self.context,
            "embedding_length": self.width,
            "block_count": self.layers,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_size,
            "attention.value_length": self.head_size,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.freq_base": 500000.0,
            "rope.dimension_count": self.head_size,
            **({"expert_count": self.experts, "expert_used_count": self.experts_used} if self.experts else {}),
            **self.extra,
        }
        return {
            "general.architecture": self.architecture,
            "general.name": self.name,
            "general.file_type": _FILE_TYPES[quant],
            **{f"{self.architecture}.{key}": value for key, value in own.items()},
            "tokenizer.ggml.model": "gpt2",
        }

    def tensors(self, quant: str) -> list[tuple[str, tuple[int, ...], str]]:
        """(name, shape, type) of every tensor."""
        kinds = _MIXES[quant]
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        rows = [("token_embd.weight", (self.width, self.vocabulary), kinds("token_embd", 0, self.layers))]
        for layer in range(self.layers):

            def add(name: str, *shape: int, kind: str = "", layer: int = layer) -> None:
                rows.append((f"blk.{layer}.{name}", shape, kind or kinds(name.partition(".")[0], layer, self.layers)))

            add("attn_norm.weight", self.width, kind="F32")
            add("attn_q.weight", self.width, queries)
            add("attn_k.weight", self.width, keys)
            add("attn_v.weight", self.width, keys)
            add("attn_output.weight", queries, self.width)
            add("ffn_norm.weight", self.width, kind="F32")
            if self.experts:
                add("ffn_gate_inp.weight", self.width, self.experts, kind="F32")
                for name in ("ffn_gate_exps", "ffn_up_exps"):
                    add(f"{name}.weight", self.width, self._expert_width, self.experts)
                add("ffn_down_exps.weight", self._expert_width, self.width, self.experts)
            else:
                add("ffn_gate.weight", self.width, self.feed_forward)
                add("ffn_up.weight", self.width, self.feed_forward)
                add("ffn_down.weight", self.feed_forward, self.width)
        return [
            *rows,
            ("output_norm.weight", (self.width,), "F32"),
            ("output.weight", (self.width, self.vocabulary), kinds("output", 0, self.layers)),
        ]

    @property
    def _expert_width(self) -> int:
        return int(self.extra.get("expert_feed_forward_length", self.feed_forward))


def _q4_k_m(name: str, layer: int, layers: int) -> str:
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if name == "output" or (name in ("attn_v", "ffn_down", "ffn_down_exps") and more):
        return "Q6_K"
    return "Q5_K" if name == "attn_v" and layers == 80 else "Q4_K"


def _mxfp4(name: str, layer: int, layers: int) -> str:
    return "MXFP4" if name.endswith("_exps") else "Q8_0"


_MIXES: dict[str, Callable[[str, int, int], str]] = {
    "Q4_K_M": _q4_k_m,
    "MXFP4": _mxfp4,
    "Q8_0": lambda name, layer, layers: "Q8_0",
    "F16": lambda name, layer, layers: "F16",
}
_GPT_OSS = {
    "expert_feed_forward_length": 2880,
    "attention.sliding_window": 128,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 32.0,
    "rope.scaling.original_context_length": 4096,
}
SHAPES = {
    "llama3-8b": Shape("Llama 3 8B", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 8192),
    "llama3-70b": Shape("Llama 3 70B", "llama", 80, 8192, 64, 8, 128, 28672, 128256, 8192),
    "qwen3-30b-a3b": Shape(
        "Qwen3 30B A3B", "qwen3moe", 48, 2048, 32, 4, 128, 6144, 151936, 40960, 128, 8,
        {"expert_feed_forward_length": 768},
    ),
    "gpt-oss-20b": Shape("gpt-oss 20b", "gpt-oss", 24, 2880, 64, 8, 64, 2880, 201088, 131072, 32, 4, _GPT_OSS),
    "gpt-oss-120b": Shape("gpt-oss 120b", "gpt-oss", 36, 2880, 64, 8, 64, 2880, 201088, 131072, 128, 4, _GPT_OSS),
}  # fmt: skip


def header_bytes(shape: Shape, quant: str, part: int = 0, parts: int = 1) -> bytes:
    """The beginning of a GGUF file: all but the data, with a vocabulary of as many and as long texts as real ones.

    Of a model in several files the first has all of the metadata, each its share of the tensors.
    """
    tensors = _part(shape.tensors(quant), part, parts)
    split = {"split.no": Typed(2, struct.pack("<H", part)), "split.count": Typed(2, struct.pack("<H", parts))}
    pairs = {"general.architecture": shape.architecture} if part else shape.metadata(quant)
    pairs |= split if parts > 1 else {}
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs) + (0 if part else 2)))
    for key, value in pairs.items():
        type_id, raw = typed(value)
        out += text(key) + struct.pack("<I", type_id) + raw
    out += b"" if part else _vocabulary(shape.vocabulary)
    offset = 0
    for name, dimensions, kind in tensors:
        out += text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        out += struct.pack("<IQ", _NUMBERS[kind], offset)
        offset += _padded(_bytes(kind, dimensions))
    return bytes(out) + bytes(_padded(len(out)) - len(out))


def _vocabulary(size: int) -> bytes:
    words = b"".join(text(f"word{index:07}") for index in range(size))
    kinds = struct.pack("<i", 1) * size
    return (
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, size) + words
        + text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, size) + kinds
    )  # fmt: skip


def data_bytes(shape: Shape, quant: str, part: int = 0, parts: int = 1) -> int:
    """How much data follows the header in a whole file."""
    tensors = _part(shape.tensors(quant), part, parts)
    return sum(_padded(_bytes(kind, dimensions)) for _, dimensions, kind in tensors)


def _part(tensors: list[tuple[str, tuple[int, ...], str]], part: int, parts: int) -> list:
    size = -(-len(tensors) // parts)
    return tensors[part * size : (part + 1) * size]


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    elements, size = _SIZES[kind]
    return math.prod(shape) // elements * size


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
