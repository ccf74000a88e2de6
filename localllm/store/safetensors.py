"""A folder with a model in safetensors, as Hugging Face lays it out: looked at before anything of it is converted.

    config.json                        what the model is
    model.safetensors                  its weights, or
    model-00001-of-00002.safetensors   … parts of them, which model.safetensors.index.json may list
    tokenizer.json, tokenizer.model …  its tokenizer

Headers are read here, never weights. What is missing, cut short or of a type that cannot be converted is refused by
name; so are weights in pickles, which may run code when they are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from localllm.errors import ModelFileError, UnsupportedError

T = TypeVar("T")
# Bytes of one element, by what safetensors calls the types that llama.cpp's converter reads.
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
PICKLES = (".bin", ".pth", ".pt", ".ckpt")
_INDEX = "model.safetensors.index.json"
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_MOST_JSON_BYTES = 64 * 2**20
_MOST_SHOWN = 4
_NO_CODE = "convert them to safetensors where you trust them, or pull a GGUF: localllm search WORD"
_AGAIN = "copy or download the folder again, whole"
_PLAIN = re.compile(r"[^/\\\0]+")
# The architectures whose extra layers the converter looks for unless it is told that there are none.
_WITH_DRAFTS = ("Qwen3Next", "Qwen3_5")
_DRAFT = re.compile(r"(model\.)?mtp\.")
_TOKENIZER = re.compile(
    r"(tokenizer|vocab|sentencepiece|spiece|rwkv_vocab.*|.*bpe)\.(json|jsonl|model|txt|tiktoken)|tekken\.json"
    r"|.+\.(tiktoken|model)|rwkv_vocab.*"
)


class Tensor(msgspec.Struct):
    """An entry of a header: where a tensor's bytes lie among the file's, from the first to behind the last."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class _Part(msgspec.Struct):
    architectures: list[str] | None = None


class _Config(msgspec.Struct):
    architectures: list[str] | None = None
    text_config: _Part | None = None
    vision_config: Any = None
    audio_config: Any = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class Weights:
    """What lies in a folder. `elements` are those of matrices by their type, `other_elements` those of the rest.

    `half_type` is the first 16-bit type among the matrices, BF16 or F16, in which the converter writes all; None for a
    model without one. `more_than_text`: it reads images or sounds too. `lacks_drafts`: the layers that guess tokens
    ahead, which config.json may speak of, are not there, as in what Transformers has saved.
    """

    architecture: str
    size_bytes: int
    tensor_count: int
    elements: Mapping[str, int]
    other_elements: int
    half_type: str | None
    more_than_text: bool
    lacks_drafts: bool = False


def is_safetensors_folder(folder: Path) -> bool:
    """Whether a folder holds weights in safetensors."""
    return any(path.name.lower().endswith(".safetensors") for path in folder.iterdir() if path.is_file())


def read_weights(folder: Path) -> Weights:
    """Look at the folder of a model. Raises ModelFileError, and UnsupportedError for what cannot be converted."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        config = _config(folder, names)
        listed = _listed(folder, names)
        parts = sorted(set(listed.values())) or [name for name in names if _is_part(name)]
        _refuse_missing(folder, names, parts)
        headers = {name: read_header(folder / name) for name in parts}
    except OSError as error:
        raise ModelFileError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    tensors = {name: tensor for header in headers.values() for name, tensor in header.items()}
    _refuse_lost_tensors(folder, listed, tensors)
    if not any(map(_TOKENIZER.fullmatch, names)):
        raise ModelFileError(
            f"{folder} holds no tokenizer (such as tokenizer.json or tokenizer.model)",
            hint="copy it there from where the weights came from",
        )
    return _weights(config, tensors)


def _is_part(name: str) -> bool:
    return name.startswith("model") and name.endswith(".safetensors")


def _config(folder: Path, names: Sequence[str]) -> _Config:
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise UnsupportedError(
                f"{folder} holds an adapter, not a model",
                hint="name it after ADAPTER in a Modelfile, and its model in FROM",
            )
        raise ModelFileError(f"{folder} has no config.json, which says what the model is", hint=_AGAIN)
    return read_json(folder / "config.json", _Config)


def _listed(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Which part holds which tensor, as far as the folder says."""
    if _INDEX not in names:
        return {}
    listed = read_json(folder / _INDEX, _Index).weight_map
    for name in listed.values():
        if name.lower().endswith(PICKLES):
            raise UnsupportedError(_pickles(folder, name), hint=_NO_CODE)
        if not _PLAIN.fullmatch(name) or not name.endswith(".safetensors"):
            raise ModelFileError(f"{folder / _INDEX} names {name!a}, which is no file of its folder", hint=_AGAIN)
    return listed


def _refuse_missing(folder: Path, names: Sequence[str], parts: Sequence[str]) -> None:
    if missing := [name for name in parts if name not in names]:
        count = f"{len(missing)} of {len(parts)} files of its weights"
        raise ModelFileError(f"{folder} lacks {count}: {shown(missing)}", hint=_AGAIN)
    if parts:
        return
    for name in names:
        if name.lower().endswith(PICKLES):
            raise UnsupportedError(_pickles(folder, name), hint=_NO_CODE)
    others = [name for name in names if name.endswith(".safetensors")]
    message = f"{folder} holds no model.safetensors"
    if others:
        message += f", only {shown(others)}, which Transformers would not read either"
    raise ModelFileError(message, hint="name the folder of a model as Hugging Face lays it out")


def _pickles(folder: Path, name: str) -> str:
    return f"{folder / name} is a pickle, which may run code when it is read; localllm converts safetensors alone"


def read_json(path: Path, kind: type[T]) -> T:
    """A small file, as far as `kind` has fields for it. Raises ModelFileError, OSError."""
    data = _read_bounded(path, path.stat().st_size, 0, _MOST_JSON_BYTES)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}", hint=_AGAIN) from error


def _read_bounded(path: Path, count: int, start: int, most: int) -> bytes:
    if count > most:
        raise ModelFileError(f"{path} has {count} bytes where {most} is the most", hint=_AGAIN)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, each within it. Raises ModelFileError, UnsupportedError, OSError."""
    size = path.stat().st_size
    length = int.from_bytes(_read_bounded(path, 8, 0, 8), "little")
    if size < 8 or length > size - 8:
        raise ModelFileError(f"{path} is cut short, or no safetensors: it has {size} bytes", hint=_AGAIN)
    data = _read_bounded(path, length, 8, _MOST_HEADER_BYTES)
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(entry, type=Tensor) for name, entry in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFileError(f"{path} is no safetensors: {error}", hint=_AGAIN) from error
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor, size - 8 - length)
    return tensors


def _check_tensor(path: Path, name: str, tensor: Tensor, data_bytes: int) -> None:
    """Raises ModelFileError for one that is not as long as it should be, or not there."""
    if tensor.dtype not in WIDTHS:
        raise UnsupportedError(
            f"{path.name}: the tensor {name!a} is {tensor.dtype[:20]!a}, and these can be converted: "
            f"{', '.join(WIDTHS)}",
            hint="convert the original weights, or pull a GGUF: localllm search WORD",
        )
    begin, end = tensor.data_offsets
    if end > data_bytes:
        message = f"{path} is cut short: its header speaks of {end} bytes of weights, and it has {max(0, data_bytes)}"
        raise ModelFileError(message, hint=_AGAIN)
    size = tensor.elements * WIDTHS[tensor.dtype]
    if begin < 0 or end - begin != size or any(length < 0 for length in tensor.shape):
        message = f"{path} is damaged: {name!a} takes {end - begin} bytes and should take {size}"
        raise ModelFileError(message, hint=_AGAIN)


def _refuse_lost_tensors(folder: Path, listed: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    lost = [f"{name} ({part})" for name, part in listed.items() if name not in tensors]
    if lost:
        raise ModelFileError(f"{folder} lacks tensors that {_INDEX} lists: {shown(lost)}", hint=_AGAIN)


def _weights(config: _Config, named: Mapping[str, Tensor]) -> Weights:
    tensors, inner = list(named.values()), config.text_config.architectures if config.text_config else None
    architecture = next(iter(inner or config.architectures or ()), "a model of no kind it names")
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    elements: dict[str, int] = {}
    for tensor in matrices:
        elements[tensor.dtype] = elements.get(tensor.dtype, 0) + tensor.elements
    return Weights(
        architecture=architecture,
        size_bytes=sum(tensor.data_offsets[1] - tensor.data_offsets[0] for tensor in tensors),
        tensor_count=len(tensors),
        elements=elements,
        other_elements=sum(tensor.elements for tensor in tensors if len(tensor.shape) <= 1),
        half_type=next((tensor.dtype for tensor in matrices if tensor.dtype in ("BF16", "F16")), None),
        more_than_text=config.vision_config is not None or config.audio_config is not None,
        lacks_drafts=architecture.startswith(_WITH_DRAFTS) and not any(map(_DRAFT.match, named)),
    )


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more
