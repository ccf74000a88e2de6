"""Rules of gguf_rules.py about what a model remembers: latents, indices, windows, recurrent states, their mixtures."""

from __future__ import annotations

from localllm.gguf import Header
from localllm.gguf_architectures import (
    ALWAYS_ZERO,
    GATED_DELTA_NETS,
    INDEX_LEAST,
    INNER_TWICE_AS_WIDE,
    LATENT_KEYS,
    MIXED_BY_HEADS,
    MIXED_BY_INTERVAL,
    NEITHER_WITH_FEED_FORWARD,
    TURNED_INDEX,
    WINDOWED_ENCODERS,
)
from localllm.gguf_numbers import MAX_LAYERS, Complaints, head_sizes, number_of, out_of_range, per_layer


def latent(header: Header) -> Complaints:
    """Attention to a compressed latent: one head of it for all, and a part of each key that is not turned."""
    key = number_of(header, "attention.key_length_mla")
    if not key:
        return
    kv_heads = per_layer(header, "attention.head_count_kv") or per_layer(header, "attention.head_count") or (1,)
    attending = {count for count in kv_heads if count or header.architecture not in MIXED_BY_HEADS}
    if attending != {1}:
        yield f"it keeps one latent for all heads, but {header.architecture}.attention.head_count_kv is not 1"
    kept = number_of(header, "attention.key_length") or head_sizes(header)[0]
    turned = number_of(header, "rope.dimension_count")
    turned = kept if turned is None else turned
    if turned >= key:
        yield f"{header.architecture}.rope.dimension_count is {turned}, and must leave some of {key} elements of a key"
    rank = number_of(header, "attention.kv_lora_rank")
    if header.architecture in LATENT_KEYS and rank is not None and kept != rank + turned:
        yield f"it keeps {kept} elements of a latent of {rank} and a turned key of {turned}"
    kept_swa, rank_swa = (number_of(header, f"attention.{name}_swa") for name in ("key_length", "kv_lora_rank"))
    turned_swa = number_of(header, "rope.dimension_count_swa") or turned
    if kept_swa is not None and rank_swa is not None and kept_swa != rank_swa + turned_swa:
        yield f"in windows it keeps {kept_swa} elements of a latent of {rank_swa} and a turned key of {turned_swa}"
    scale = header.metadata.get(f"{header.architecture}.attention.temperature_scale")
    if header.architecture in LATENT_KEYS and scale and not number_of(header, "attention.temperature_length"):
        yield f"it has {header.architecture}.attention.temperature_scale and no temperature_length"


def index(header: Header) -> Complaints:
    """An index chooses which cells are looked at; its keys are turned by a matrix of their own width."""
    length, turned = number_of(header, "attention.indexer.key_length"), number_of(header, "rope.dimension_count") or 0
    if header.architecture not in TURNED_INDEX or length is None:
        return
    if length < max(INDEX_LEAST, turned) or length & (length - 1):
        yield f"{header.architecture}.attention.indexer.key_length is {length}, but must be {INDEX_LEAST}, 128, 256 …"


def states(header: Header) -> Complaints:
    """Recurrent layers: what they keep of a sequence is cut into heads that must come out even."""
    width = header.embedding_length
    inner = number_of(header, "ssm.inner_size")
    if header.architecture in INNER_TWICE_AS_WIDE and inner is not None and inner != 2 * width:
        yield f"{header.architecture}.ssm.inner_size is {inner}, but must be twice the width of {width}"
    if header.architecture in GATED_DELTA_NETS:
        state, heads, groups = (
            number_of(header, f"ssm.{name}") for name in ("state_size", "time_step_rank", "group_count")
        )
        if inner is not None and state is not None and heads is not None and inner != state * heads:
            yield f"{header.architecture}.ssm.inner_size is {inner}, but {heads} heads of {state} make {state * heads}"
        if heads and groups is not None and (groups < 1 or heads % groups):
            yield f"its {heads} recurrent heads share {groups} keys"
    for suffix in ALWAYS_ZERO.get(header.architecture, ()):
        yield from out_of_range(header, suffix, 0, 0)
    yield from out_of_range(header, "full_attention_interval", 1, MAX_LAYERS)
    yield from _wind(header, width)


def mixed(header: Header) -> Complaints:
    """Of layers that attend and layers that are recurrent there must be one each: each kind has its own memory, and
    llama.cpp aborts when one of them is empty."""
    count = min(header.block_count, MAX_LAYERS) - (number_of(header, "nextn_predict_layers") or 0)
    kinds = set()
    if header.architecture in MIXED_BY_HEADS:
        heads = per_layer(header, "attention.head_count_kv") or per_layer(header, "attention.head_count") or ()
        widths = (0,) * count
        if header.architecture in NEITHER_WITH_FEED_FORWARD:
            widths = per_layer(header, "feed_forward_length") or widths
        kinds = {kv_heads == 0 for kv_heads, width in zip(heads[:count], widths[:count], strict=False) if width == 0}
    elif interval := MIXED_BY_INTERVAL.get(header.architecture):
        flags = header.metadata.get(f"{header.architecture}.attention.recurrent_layers")
        interval = max(number_of(header, "full_attention_interval") or interval, 1)
        by_interval = tuple((layer + 1) % interval != 0 for layer in range(count))
        kinds = {bool(flag) for flag in (flags[:count] if isinstance(flags, tuple) else by_interval)}
    else:
        return
    if kinds != {True, False}:
        yield f"{header.architecture} mixes layers that attend and recurrent ones, and it has not both"


def _wind(header: Header, width: int) -> Complaints:
    """RWKV's heads."""
    size = number_of(header, "wkv.head_size")
    if size is None:
        return
    if not 0 < size <= width or width % size:
        yield f"{header.architecture}.wkv.head_size is {size}, of which no whole number makes the width of {width}"
    for kv_heads in set(
        per_layer(header, "attention.head_count_kv") or per_layer(header, "attention.head_count") or ()
    ):
        if kv_heads and (kv_heads < 0 or (width // size) % kv_heads):
            yield f"its {width // size} heads share {kv_heads} heads of keys and values"


def windows(header: Header) -> Complaints:
    """Models with two kinds of layers allocate what each kind needs, and abort when one kind has no layer."""
    if not number_of(header, "attention.sliding_window"):
        return
    pattern = number_of(header, "attention.sliding_window_pattern")
    flags = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if pattern == 1 or (isinstance(flags, tuple) and not any(flags)):
        yield "it has a window for its attention, and no layer with one"
    default = WINDOWED_ENCODERS.get(header.architecture)
    if default is not None and (pattern or default) > header.block_count:
        yield f"every {pattern or default}th of {header.block_count} layers attends to all tokens, and that is none"
