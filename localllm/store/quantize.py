"""Write a model's weights anew in another type, with llama.cpp in a process of its own. Owns no name: create.py does.

    source GGUF ─▶ engine.llama_quantize ─▶ <blobs>/.<random>.partial ─▶ hashed ─▶ <blobs>/sha256-<hex>

Only weights that are still whole (F32, F16, BF16) are written anew: what is quantized already would lose twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from localllm.creating import CreateProgress, Quantized, QuantizeEvent, QuantizeRequest, TensorStarted
from localllm.errors import BadRequestError, LocalllmError, UnsupportedError
from localllm.failures import error_from
from localllm.generation import Failed
from localllm.gguf import TensorInfo
from localllm.store.blobs import BlobWriter, refuse_too_large
from localllm.store.model import Facts
from localllm.store.processes import lines_from

# Name → (llama_ftype of llama.h, bits per weight, roughly). Those that need an importance matrix are left out: without
# one llama.cpp refuses them, or makes a model that is no use.
TARGETS = {
    "Q4_K_M": (15, 4.9), "Q8_0": (7, 8.5), "Q6_K": (18, 6.6), "Q5_K_M": (17, 5.7), "Q5_K_S": (16, 5.5),
    "Q4_K_S": (14, 4.6), "Q3_K_L": (13, 4.3), "Q3_K_M": (12, 3.9), "Q3_K_S": (11, 3.5), "Q2_K": (10, 3.2),
    "Q5_1": (9, 6.0), "Q5_0": (8, 5.5), "Q4_1": (3, 5.0), "Q4_0": (2, 4.6), "IQ4_NL": (25, 4.6), "IQ4_XS": (30, 4.4),
    "BF16": (32, 16.0), "F16": (1, 16.0), "F32": (0, 32.0),
}  # fmt: skip
_ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M", "FP16": "F16", "FP32": "F32"}
_WHOLE = ("F32", "F16", "BF16")
_MODULE = "localllm.engine.llama_quantize"
_decoder: msgspec.json.Decoder[QuantizeEvent] = msgspec.json.Decoder(QuantizeEvent)


@dataclass(frozen=True, slots=True)
class Source:
    """What is written anew: its first file, what its header says, and the tensors of all its files."""

    file: Path
    facts: Facts
    tensors: Sequence[TensorInfo]


@dataclass(frozen=True, slots=True)
class QuantizedFile:
    """The last event: where the new file lies."""

    path: Path


def parse_target(text: str) -> str:
    """A type's name as llama.cpp spells it. Raises BadRequestError with those there are."""
    name = text.upper().replace("-", "_")
    name = _ALIASES.get(name, name)
    if name not in TARGETS:
        raise BadRequestError(f"unknown quantization type '{text}'", hint=f"there are {', '.join(TARGETS)}")
    return name


def refuse_source(facts: Facts, target: str) -> None:
    """Raises UnsupportedError for weights that are quantized already, or of the wanted type."""
    if facts.file_type == target:
        raise UnsupportedError(f"the model is {target} already", hint="leave --quantize out")
    if facts.file_type not in _WHOLE:
        raise UnsupportedError(
            f"quantization is only supported for F16, BF16 and F32 models, and this one is {facts.file_type}",
            hint="name a GGUF with the original weights in FROM: quantized ones would lose again",
        )


async def quantize(source: Source, target: str, folder: Path) -> AsyncGenerator[CreateProgress | QuantizedFile, None]:
    """Progress, then the new blob in `folder`. Raises UnsupportedError, DiskFullError, LocalllmError when it fails."""
    refuse_source(source.facts, target)
    number, bits_per_weight = TARGETS[target]
    await asyncio.to_thread(refuse_too_large, folder, int(source.facts.parameter_count * bits_per_weight / 8))
    text = f"quantizing {source.facts.file_type} model to {target}"
    sizes = {tensor.name: tensor.size_bytes for tensor in source.tensors}
    total = sum(sizes.values())
    with await asyncio.to_thread(BlobWriter, folder) as writer:
        request = QuantizeRequest(str(source.file), str(writer.path), number)
        completed, current = 0, ""
        async with aclosing(_events(request)) as events:
            async for name in events:
                completed += sizes.get(current, 0)
                current = name
                yield CreateProgress(text, total, min(completed, total))
        yield CreateProgress(text, total, total)
        await asyncio.to_thread(writer.hash_file)
        yield QuantizedFile(await asyncio.to_thread(writer.keep))


async def _events(request: QuantizeRequest) -> AsyncGenerator[str, None]:
    """The name of each tensor as its turn comes; ends when the file is whole."""
    async with aclosing(lines_from(_MODULE, request)) as lines:
        async for line in lines:
            match _decoder.decode(line):
                case TensorStarted(name=name):
                    yield name
                case Quantized():
                    return
                case Failed() as failed:
                    raise error_from(failed)
    raise LocalllmError("the quantization ended without a result")
