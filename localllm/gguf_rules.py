"""What a model's header must say so that llama.cpp does not abort on it: numbers in range, shapes and types that agree.

llama.cpp answers much of what is wrong with an error of its own, and the rest with abort() or a read past the end,
which end the runner and every request in it. The rules here are about the rest. Each is a generator of complaints; a
value that is absent, or of a type that llama.cpp itself refuses, is none.

They are general on purpose: what holds for a group of architectures is a table of the group (gguf_architectures.py),
never a test for one file. `scripts/fuzz_gguf` is where they come from and what keeps them true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from localllm.errors import ModelFileError
from localllm.gguf import Header, TensorInfo
from localllm.gguf_architectures import (
    ADDED_TOKENS,
    ALWAYS_EXPERTS,
    AS_MANY_HEADS,
    AT_LEAST_ONE,
    COMPANIONS,
    EQUAL_HEADS,
    LEAST_VOCABULARY,
    MISLEADING,
    ONE_SHIFT,
    OTHER_WIDTHS,
    STATED_GATING,
    TWO_SHIFTS,
    WHOLE_ROTATION,
)
from localllm.gguf_memory_rules import index, latent, mixed, states, windows
from localllm.gguf_numbers import MAX_LAYERS, Complaints, by_layer, head_sizes, number_of, out_of_range, per_layer
from localllm.gguf_single_rules import needs_other, single

MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_WINDOW = 2**24
MAPPED_ALIGNMENT = 32  # TENSOR_ALIGNMENT of ggml
_POOLINGS = (0, 1, 2, 3, 4, -1, 2**32 - 1)  # llama_pooling_type, and "unspecified" as both signs write it
_SCALINGS = ("none", "linear", "yarn", "longrope")
# Made for dot products or for indices: no kernel multiplies by them, and some read past their end.
NO_WEIGHTS = frozenset(["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"])
_INDEX_TENSORS = re.compile(r"d2t|t2d|.*tid2eid.*")
# Added, multiplied or convolved element by element, which the CPU does in F32 alone.
_ELEMENTWISE = re.compile(
    r".*norm.*|.*\.bias|.*ssm_(conv1d|a|d)\b.*|.*shortconv\.conv\b.*|.*time_mix_(first|decay|lerp|w0|a0|v0|k_k|k_a|r_k).*"
    r"|.*(attn_sinks|rope_freqs|rope_factors|token_types).*"
)
_OTHER_MIXERS = ("ssm_", "attn_kv_", "attn_q_a", "kda_")


def check_model(header: Header, path: Path) -> None:
    """Raises ModelFileError for a model whose file is in order and whose words are not."""
    if why := needs_other(header):
        raise ModelFileError(f"{path} cannot be used: {why}", hint="choose a model of another architecture")
    for rule in _RULES:
        for complaint in rule(header):
            raise ModelFileError(
                f"{path} is not a usable model: {complaint}",
                hint="the file is damaged or was converted wrongly: fetch it again, or from someone else",
            )


def _layers(header: Header) -> Complaints:
    yield from out_of_range(header, "block_count", 1, MAX_LAYERS)
    yield from out_of_range(header, "nextn_predict_layers", 0, header.block_count)
    yield from out_of_range(header, "attention.sliding_window", 0, MAX_WINDOW)
    # Each such layer adds to all rows of a batch, of which the last layer keeps only some.
    yield from out_of_range(header, "n_deepstack_layers", 0, max(header.block_count - 1, 0))
    for suffix in AT_LEAST_ONE.get(header.architecture, ()):
        yield from out_of_range(header, suffix, 1, 2**31 - 1)
    if header.architecture in TWO_SHIFTS:
        yield from out_of_range(header, "token_shift_count", 2, 2)
    if header.architecture in ONE_SHIFT and number_of(header, "token_shift_count") != 1:
        yield f"{header.architecture}.token_shift_count must be 1"


def _experts(header: Header) -> Complaints:
    yield from out_of_range(header, "expert_count", 0, MAX_EXPERTS)
    count = number_of(header, "expert_count") or 0
    used_by_layer = per_layer(header, "expert_used_count") or (0,)
    used = max(used_by_layer)
    least = 1 if count else 0
    if not least <= used <= count:
        yield f"it uses {used} of {count} experts"
    if header.architecture in ALWAYS_EXPERTS and not (count and used_by_layer[0]):  # llama.cpp looks at the first alone
        yield f"its layers are mixtures, and the first uses {used_by_layer[0]} of {count} experts"
    groups, used_groups = (number_of(header, f"expert_group_{name}") or 0 for name in ("count", "used_count"))
    if groups and groups >= max(count, 1):
        yield f"its {count} experts are in {groups} groups"
    if groups > 1 and (count % groups or not 0 < used_groups < groups):
        yield f"it uses {used_groups} of {groups} groups of its {count} experts"
    least_gating = 1 if header.architecture in STATED_GATING and count else 0
    yield from out_of_range(header, "expert_gating_func", least_gating, 4)
    if least_gating and number_of(header, "expert_gating_func") is None:
        yield f"it has {count} experts and no {header.architecture}.expert_gating_func"


def _numerals(header: Header) -> Complaints:
    for key, value in header.metadata.items():
        if key.endswith("_epsilon") and isinstance(value, float) and not 0 <= value < math.inf:
            yield f"{key} is {value}, but must not be negative"
    scaling = header.text(f"{header.architecture}.rope.scaling.type")
    if scaling is not None and scaling not in _SCALINGS:
        yield f"{header.architecture}.rope.scaling.type is {scaling[:40]!r}, but must be one of {', '.join(_SCALINGS)}"
    for suffix in ("pooling_type", "classifier.pooling_type"):
        pooling = number_of(header, suffix)
        if pooling is not None and pooling not in _POOLINGS:
            yield f"{header.architecture}.{suffix} is {pooling}, which is no way of pooling"


def _rotation(header: Header) -> Complaints:
    for name in ("key", "value"):
        said = header.metadata.get(f"{header.architecture}.attention.{name}_length", 1)
        if not isinstance(said, int) or isinstance(said, bool) or said < 1:
            yield f"{header.architecture}.attention.{name}_length is {said!r}, but must be a count"
    key, value = head_sizes(header)
    if not key:
        return
    if key != value and header.architecture in EQUAL_HEADS:
        yield f"its keys have {key} elements and its values {value}; {header.architecture} has as many of both"
    turned = number_of(header, "rope.dimension_count")
    if turned is not None and header.architecture in WHOLE_ROTATION and turned != key:
        yield f"{header.architecture}.rope.dimension_count is {turned}, but its keys have {key} elements"
    for name, size in (("", key), ("_swa", number_of(header, "attention.key_length_swa") or key)):
        count = number_of(header, f"rope.dimension_count{name}")
        largest = max(size, number_of(header, "attention.key_length_mla") or 0)
        if count is not None and (count % 2 or not 0 < count <= largest):
            yield f"{header.architecture}.rope.dimension_count{name} is {count}, of {largest} elements of a key"
    sections = per_layer(header, "rope.dimension_sections")
    if sections is not None and (min(sections) < 0 or not 0 < sum(sections) <= key):
        yield f"{header.architecture}.rope.dimension_sections is {list(sections)}, of {key} elements of a key"
    yield from latent(header)


def _attention(header: Header) -> Complaints:
    """The width of plain attention's matrices is heads times the size of one."""
    heads = per_layer(header, "attention.head_count")
    if f"{header.architecture}.attention.head_count" not in header.metadata:
        heads = (0,) * max(1, min(header.block_count, MAX_LAYERS))  # unsaid is none to llama.cpp, which divides by it
    kv_heads = per_layer(header, "attention.head_count_kv") or heads
    if heads is None or kv_heads is None:
        return
    if header.architecture in AS_MANY_HEADS and heads != kv_heads:
        yield f"it has {kv_heads[0]} heads of keys and values, but must have as many as of queries, {heads[0]}"
    for number, tensors in by_layer(header.tensors).items():
        if number >= min(len(heads), len(kv_heads)) or "attn_output.weight" not in tensors:
            continue
        if any(name.startswith(_OTHER_MIXERS) for name in tensors):
            continue
        if heads[number] < 1:
            yield f"layer {number} attends, but has {heads[number]} heads"
        if kv_heads[number] > heads[number]:
            yield f"layer {number} has {heads[number]} heads, and {kv_heads[number]} of keys and values to share"
        if kv_heads[number] < 1:  # an attention that keeps no keys, with widths of its own
            continue
        yield from _widths(header, number, tensors, (heads[number], kv_heads[number]))


def _widths(header: Header, layer: int, tensors: Mapping[str, TensorInfo], heads: tuple[int, int]) -> Complaints:
    """Of one layer with `heads` for queries and for keys and values; windowed layers may have sizes of their own."""
    key, value = head_sizes(header)
    keys, values = (
        {size, number_of(header, f"attention.{name}_length_swa") or size}
        for name, size in (("key", key), ("value", value))
    )
    for name, axis, count, sizes in (
        ("attn_output", 0, heads[0], values),
        ("attn_k", -1, heads[1], keys),
        ("attn_v", -1, heads[1], values),
    ):
        tensor = tensors.get(f"{name}.weight")
        if tensor is None or len(tensor.shape) < 2:
            continue
        width = tensor.shape[axis]
        if width not in {count * size for size in sizes}:
            yield f"'{tensor.name}' is {width} wide, but {count} heads of {max(sizes)} make {count * max(sizes)}"


def _tensor_types(header: Header) -> Complaints:
    for tensor in header.tensors:
        if tensor.type_name in NO_WEIGHTS and not _INDEX_TENSORS.fullmatch(tensor.name):
            yield f"tensor '{tensor.name}' is of type {tensor.type_name}, which is not for weights"
        is_vector = all(size == 1 for size in tensor.shape[1:])
        if (is_vector or _ELEMENTWISE.fullmatch(tensor.name)) and tensor.type_name not in ("F32", *NO_WEIGHTS):
            yield f"tensor '{tensor.name}' is of type {tensor.type_name}, but must be F32"


def _embedding(header: Header) -> Complaints:
    width = number_of(header, "embedding_length")
    if width is None or header.architecture in OTHER_WIDTHS:
        return
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and tensor.shape[:1] != (width,):
            yield f"its width is {width}, but '{tensor.name}' has the shape {list(tensor.shape)}"
        least = LEAST_VOCABULARY.get(header.architecture, 0)
        if tensor.name == "token_embd.weight" and tensor.elements < least * width:
            yield f"it has {tensor.elements // max(width, 1)} tokens, and {header.architecture} at least {least}"
    out = number_of(header, "embedding_length_out")
    if out and out != width and not any(tensor.name.startswith("dense_") for tensor in header.tensors):
        yield f"{header.architecture}.embedding_length_out is {out}, and no dense layer makes that of {width}"


def _places(header: Header) -> Complaints:
    """Weights are used where the file is mapped, and kernels load them by the vector."""
    for tensor in header.tensors:
        if tensor.offset % MAPPED_ALIGNMENT:
            yield f"tensor '{tensor.name}' lies at byte {tensor.offset}, not at a multiple of {MAPPED_ALIGNMENT}"


def _companions(header: Header) -> Complaints:
    rules = [rule for rule in COMPANIONS if header.architecture in rule.architectures]
    misleading = MISLEADING.get(header.architecture)
    for number, tensors in by_layer(header.tensors).items() if rules or misleading else ():
        if misleading in tensors:
            yield f"layer {number} has {misleading}, which {header.architecture} must not have"
        for rule in rules:
            if tensors.keys() >= rule.given and not any(tensors.keys() >= needed for needed in rule.needed):
                wanted = " or ".join(", ".join(sorted(needed)) for needed in rule.needed)
                yield f"layer {number} has {', '.join(sorted(rule.given))}, and not {wanted}"


def _vocabulary(header: Header) -> Complaints:
    kind = header.tokenizer_model
    spelled = {"llama": header.vocabulary.bytes, "rwkv": header.vocabulary.escaped_bytes}.get(kind or "")
    if spelled is not None and len(spelled) < 256:
        missing = min(set(range(256)) - spelled)
        yield f"its vocabulary has no token for the byte 0x{missing:02X}, and the tokenizer '{kind}' needs all"
    for token, flag, by_default, default_id in ADDED_TOKENS.get(kind or "", ()):
        said = header.metadata.get(f"tokenizer.ggml.{flag}")
        adds = said if isinstance(said, bool) else by_default
        number = header.integer(f"tokenizer.ggml.{token}")
        known = [one for one in (number, default_id) if one is not None and 0 <= one < header.vocabulary.size]
        if adds and not known:
            yield f"it puts a token into every prompt that its vocabulary has not: tokenizer.ggml.{token}"


_RULES: tuple[Callable[[Header], Complaints], ...] = (
    _layers,
    _embedding,
    _experts,
    _numerals,
    states,
    _rotation,
    _attention,
    _companions,
    _tensor_types,
    _places,
    windows,
    _vocabulary,
    index,
    single,
    mixed,
)
