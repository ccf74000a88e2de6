"""What the header of a LoRA adapter must say so that llama.cpp applies it to a model, whole, and does not abort on it.

An adapter changes matrices of a model: for each it has two thin ones, which are multiplied and added to what the matrix
makes of its input. GGUF spells shapes fastest dimension first:

    matrix   blk.0.attn_q.weight            [in, out]          an expert's has a third dimension, their number
    pair     blk.0.attn_q.weight.lora_a     [in, rank]         token_embd.weight, which is looked up row by row,
             blk.0.attn_q.weight.lora_b     [rank, out]        has [rank, vocabulary] and [rank, width]

llama.cpp itself compares two of the numbers, and aborts in the first step when the others do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import ModelFileError
from localllm.gguf import Header, TensorInfo
from localllm.gguf_rules import NO_WEIGHTS

MOST_ADAPTERS = 4  # each makes llama.cpp's graph longer, for which it does not make room in every architecture
ENDINGS = (".lora_a", ".lora_b")
_EMBEDDING = "token_embd.weight"
_NEVER_APPLIED = ("per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
_WITHOUT_SCALES = "NVFP4"  # llama.cpp aborts where such a matrix has a scale of its own and an adapter
_CONVERT = "convert_lora_to_gguf.py of llama.cpp makes one: --base FOLDER_OF_THE_MODEL FOLDER_OF_THE_ADAPTER"


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What is worth telling of an adapter. `remarks` say what of it llama.cpp leaves out."""

    rank: int
    alpha: float
    matrices: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two matrices for the model's tensor of that name."""

    name: str
    a: TensorInfo
    b: TensorInfo


def is_adapter_tensor(name: str) -> bool:
    """Whether a tensor's name is one of an adapter's."""
    return name.endswith(ENDINGS)


def check_adapter(adapter: Header, base: Header, path: Path) -> AdapterFacts:
    """What the adapter at `path` is. Raises ModelFileError when it is none, or none of the model with header `base`."""
    _refuse_other_files(adapter, path)
    if adapter.architecture != base.architecture:
        raise _unfit(path, f"it was made for the architecture '{adapter.architecture}', not '{base.architecture}'")
    alpha = adapter.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha):
        raise _damaged(path, f"its adapter.lora.alpha is {alpha!r}")
    pairs = list(_pairs(adapter, path))
    if not pairs:
        raise _damaged(path, "it holds no matrices")
    tensors = {tensor.name: tensor for tensor in base.tensors}
    for pair in pairs:
        _check_pair(pair, tensors, base, path)
    norms = sum(1 for tensor in adapter.tensors if not is_adapter_tensor(tensor.name))
    left_out = (f"left out of {path.name}: {norms} norms, which llama.cpp does not take from an adapter",)
    return AdapterFacts(max(_four(pair.b)[0] for pair in pairs), alpha, len(pairs), left_out if norms else ())


def _refuse_other_files(adapter: Header, path: Path) -> None:
    kind = adapter.text("general.type")
    if kind != "adapter":
        what = f"its general.type is {kind!r}" if kind else "it does not say that it is one (general.type)"
        raise ModelFileError(f"{path} is no adapter: {what}", hint=f"ADAPTER names a LoRA adapter; {_CONVERT}")
    made = adapter.text("adapter.type")
    if made != "lora":
        raise ModelFileError(f"{path} is an adapter of the type {made!r}, and only 'lora' can be applied")
    if "adapter.alora.invocation_tokens" in adapter.metadata:
        raise ModelFileError(
            f"{path} is an activated adapter (aLoRA), which begins to apply at certain words; that is not supported",
            hint="use an adapter that always applies",
        )
    if (adapter.integer("split.count") or 1) > 1:
        raise ModelFileError(f"{path} is a part of an adapter", hint="join them: llama-gguf-split --merge")


def _pairs(adapter: Header, path: Path) -> Iterator[_Pair]:
    """The pairs, by the tensor they change. Raises ModelFileError for one without its other, and for other tensors."""
    halves: dict[str, dict[str, TensorInfo]] = {}
    for tensor in adapter.tensors:
        ending = next((ending for ending in ENDINGS if tensor.name.endswith(ending)), None)
        if ending is not None:
            name = tensor.name.removesuffix(ending)
            # llama.cpp takes these endings away wherever they stand.
            if any(other in name for other in ENDINGS):
                raise _damaged(path, f"'{tensor.name}' cannot be the name of a tensor")
            halves.setdefault(name, {})[ending] = tensor
        elif not tensor.name.endswith("_norm.weight"):
            raise _damaged(path, f"'{tensor.name}' is neither {' nor '.join(ENDINGS)}")
    for name, found in halves.items():
        for ending in ENDINGS:
            if ending not in found:
                raise _damaged(path, f"'{name}{ending}' is missing")
        yield _Pair(name, *(found[ending] for ending in ENDINGS))


def _check_pair(pair: _Pair, tensors: Mapping[str, TensorInfo], base: Header, path: Path) -> None:
    tensor = tensors.get(pair.name)
    if tensor is None:
        raise _unfit(path, f"it changes '{pair.name}', which the model does not have")
    if reason := _inapplicable(tensor, tensors, base):
        raise ModelFileError(
            f"{path} cannot be applied: it changes '{pair.name}', {reason}",
            hint="train it without that tensor, or merge it into the model with llama.cpp's llama-export-lora",
        )
    for half in (pair.a, pair.b):
        if half.type_name in NO_WEIGHTS:
            raise _damaged(path, f"'{half.name}' is of type {half.type_name}, which is not for weights")
    rank = _four(pair.b)[0]
    first, second, *rest = _four(tensor)
    wanted = ((first, rank, *rest), (rank, second, *rest))
    if pair.name == _EMBEDDING:
        wanted = ((rank, second, *rest), (rank, first, *rest))
    for half, shape in zip((pair.a, pair.b), wanted, strict=True):
        if _four(half) != shape:
            raise _unfit(path, f"'{half.name}' has the shape {list(half.shape)}, and {_shown(shape)} would fit")


def _inapplicable(tensor: TensorInfo, tensors: Mapping[str, TensorInfo], base: Header) -> str:
    """Why llama.cpp would abort on an adapter to this tensor, or leave it out in silence; empty when it would not."""
    layer = tensor.name.split(".")[1] if tensor.name.startswith("blk.") else ""
    ahead = base.architecture_integer("nextn_predict_layers")
    if layer.isdecimal() and ahead and int(layer) >= base.block_count - ahead:
        return "in a layer that guesses tokens ahead, which is not loaded"
    if tensor.name in _NEVER_APPLIED:
        return "which llama.cpp only looks up"
    if not 2 <= len(_shape(tensor)) <= 3:
        return "which is no matrix"
    if tensor.type_name == _WITHOUT_SCALES:
        return f"which is of type {_WITHOUT_SCALES}, to which llama.cpp applies none"
    if tensor.name == _EMBEDDING and "output.weight" not in tensors:
        return "which is the output matrix of this model too"
    return ""


def _shape(tensor: TensorInfo) -> tuple[int, ...]:
    """Without the ones at its end."""
    shape = tensor.shape
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _four(tensor: TensorInfo) -> tuple[int, ...]:
    return (*tensor.shape, 1, 1, 1, 1)[:4]


def _shown(shape: tuple[int, ...]) -> str:
    return str(list(shape[:2] if shape[2:] == (1, 1) else shape[:3]))


def _damaged(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path} is not a usable adapter: {what}", hint=f"make it anew: {_CONVERT}")


def _unfit(path: Path, what: str) -> ModelFileError:
    hint = "name the model it was trained on in FROM, in any quantization"
    return ModelFileError(f"{path} does not fit the model: {what}", hint=hint)
