"""Numbers and tensors of a header as the rules of gguf_rules.py and gguf_memory_rules.py ask for them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from localllm.gguf import Header, TensorInfo

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
Complaints = Iterator[str]


def number_of(header: Header, suffix: str) -> int | None:
    """The whole number that the header says for its architecture."""
    return header.integer(f"{header.architecture}.{suffix}")


def out_of_range(header: Header, suffix: str, least: int, most: int) -> Complaints:
    """A complaint about a number that is stated and out of range."""
    value = number_of(header, suffix)
    if value is not None and not least <= value <= most:
        yield f"{header.architecture}.{suffix} is {value}, but must be {least} to {most}"


def per_layer(header: Header, suffix: str) -> tuple[int, ...] | None:
    """A value for every layer, said once or for each; None when it is absent or no whole numbers."""
    value = header.metadata.get(f"{header.architecture}.{suffix}")
    if isinstance(value, int):
        return (value,) * max(1, min(header.block_count, MAX_LAYERS))
    if isinstance(value, tuple) and value and all(isinstance(item, int) for item in value):
        return tuple(int(item) for item in value)
    return None


def head_sizes(header: Header) -> tuple[int, int]:
    """Elements of a key and of a value; (0, 0) for a model without heads."""
    heads = (per_layer(header, "attention.head_count") or (0,))[0]
    if heads <= 0:
        return 0, 0
    share = header.embedding_length // heads
    key, value = (number_of(header, f"attention.{name}_length") for name in ("key", "value"))
    return share if key is None else key, share if value is None else value


def by_layer(tensors: Iterable[TensorInfo]) -> dict[int, dict[str, TensorInfo]]:
    """The tensors of each layer, by their names without "blk.N."."""
    layers: dict[int, dict[str, TensorInfo]] = defaultdict(dict)
    for tensor in tensors:
        if found := _LAYER.fullmatch(tensor.name):
            layers[int(found[1])][found[2]] = tensor
    return layers
