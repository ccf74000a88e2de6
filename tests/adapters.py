"""LoRA adapters for tests, written with the `gguf` package: random ones for any model, and models they are merged into.

write_adapter(path, base)                 changes every matrix that an adapter may change
merged(base, adapter, target)             a model of F32 weights with the adapter in them: what must come out
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from localllm.gguf import TensorInfo, read_header
from localllm.gguf_adapters import ENDINGS

ALPHA, RANK = 8.0, 4
EMBEDDING = "token_embd.weight"
SPREAD = 0.05


def is_changed(tensor: TensorInfo) -> bool:
    """Matrices that llama.cpp multiplies in the usual way, in the architectures that tests use."""
    return len(tensor.shape) > 1 and tensor.name.startswith("blk.") and "conv1d" not in tensor.name


def write_adapter(
    path: Path,
    base: Path,
    *,
    seed: int = 3,
    rank: int = RANK,
    spread: float = SPREAD,
    is_zero: bool = False,
    data_type: type[np.floating] = np.float32,
    changes: Callable[[TensorInfo], bool] = is_changed,
) -> Path:
    """An adapter of `base` for the tensors that `changes` names; one that `is_zero` changes nothing."""
    header = read_header(base)
    writer = gguf.GGUFWriter(str(path), header.architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    random = np.random.default_rng(seed)
    for tensor in filter(changes, header.tensors):
        first, second, *more = tensor.shape
        shapes = ((*more, rank, first), (*more, second, rank))
        if tensor.name == EMBEDDING:  # a row for each token, and as many columns as the rank
            shapes = ((second, rank), (first, rank))
        a = random.standard_normal(shapes[0]) * spread
        b = random.standard_normal(shapes[1]) * (0.0 if is_zero else spread)
        for ending, values in zip(ENDINGS, (a, b), strict=True):
            writer.add_tensor(f"{tensor.name}{ending}", values.astype(data_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(base: Path, adapter: Path, target: Path) -> Path:
    """`base`, of F32 matrices, with what the adapter adds to each."""
    data, halves = bytearray(base.read_bytes()), read_header(adapter)
    added = adapter.read_bytes()
    tensors = {tensor.name: tensor for tensor in read_header(base).tensors}
    found = {tensor.name: _values(added, tensor) for tensor in halves.tensors}
    for name, tensor in tensors.items():
        if f"{name}{ENDINGS[0]}" in found:
            a, b = (found[f"{name}{ending}"] for ending in ENDINGS)
            added_to_it = a @ b.T / a.shape[-1] if name == EMBEDDING else b @ a / a.shape[-2]
            whole = _values(data, tensor) + ALPHA * added_to_it
            data[tensor.offset : tensor.offset + tensor.size_bytes] = whole.astype(np.float32).tobytes()
    target.write_bytes(data)
    return target


def _values(data: bytes | bytearray, tensor: TensorInfo) -> np.ndarray:
    assert "F32" == tensor.type_name
    values = np.frombuffer(bytes(data[tensor.offset : tensor.offset + tensor.size_bytes]), dtype=np.float32)
    return values.reshape(tensor.shape[::-1])
