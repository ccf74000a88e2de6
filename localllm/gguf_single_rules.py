"""Rules of gguf_rules.py for single architectures: what the loader of one alone asserts.

needs_other(header)    why a file of this architecture can never be run by itself, or at all
single(header)         complaints
"""

from __future__ import annotations

from collections.abc import Callable

from localllm.gguf import Header
from localllm.gguf_numbers import MAX_LAYERS, Complaints, by_layer, head_sizes, number_of, out_of_range, per_layer

_DRAFT = "it is a draft model, which runs only beside the model that it guesses for"
_UNUSABLE = {
    "dflash": _DRAFT,
    "eagle3": _DRAFT,
    "gemma4-assistant": _DRAFT,
    "plm": "this version of llama.cpp cannot compute the architecture plm",
    "wavtokenizer-dec": "it makes sound of codes, and no text",
}


def needs_other(header: Header) -> str:
    """Why the model cannot be used, whatever its numbers; empty when it can."""
    return _UNUSABLE.get(header.architecture, "")


def single(header: Header) -> Complaints:
    """What is asked of this architecture alone."""
    rule = _RULES.get(header.architecture)
    return rule(header) if rule else iter(())


def _cycles(header: Header) -> Complaints:
    """Layers that are gone through several times: the file counts each time as one."""
    stack, slow, fast = (number_of(header, f"hrm.{name}") for name in ("layers_per_stack", "h_cycles", "l_cycles"))
    if stack is not None and slow is not None and fast is not None:
        count = stack * slow * (fast + 1)
        if count != header.block_count:
            yield f"it has {header.block_count} layers, but its cycles make {count}"


def _loops(header: Header) -> Complaints:
    """Layers that are gone through several times: the file counts them once."""
    yield from out_of_range(header, "num_loops", 1, MAX_LAYERS // max(header.block_count, 1))


def _kda(header: Header) -> Complaints:
    bound = header.metadata.get("bailingmoe3.kda.gate_lower_bound")
    if isinstance(bound, float) and not bound < 0:
        yield f"bailingmoe3.kda.gate_lower_bound is {bound}, but must be below 0"
    if header.metadata.get("bailingmoe3.kda.safe_gate") is False:
        yield "bailingmoe3.kda.safe_gate is false, which cannot be computed"


def _shifts(header: Header) -> Complaints:
    """What is shifted for a gate is there if the gate is."""
    for layer, tensors in by_layer(header.tensors).items():
        shifted = tensors.get("time_mix_lerp_fused.weight")
        has_gate = {"time_mix_g1.weight", "time_mix_g2.weight"} <= tensors.keys()
        if shifted is not None and (*shifted.shape, 1, 1, 1)[3] != (6 if has_gate else 5):
            gate = "a gate" if has_gate else "no gate"
            yield f"layer {layer} has {gate}, and '{shifted.name}' the shape {list(shifted.shape)}"


def _gates(header: Header) -> Complaints:
    """A gate for each head, or for each of its elements."""
    heads, size = per_layer(header, "attention.head_count") or (), head_sizes(header)[0]
    for layer, tensors in by_layer(header.tensors).items():
        gate = tensors.get("attn_gate.weight")
        if gate is None or layer >= len(heads):
            continue
        width = (*gate.shape, 1, 1)[1]
        if width not in (heads[layer], heads[layer] * size):
            wanted = f"{heads[layer]} or {heads[layer] * size}"
            yield f"'{gate.name}' is {width} wide, but {heads[layer]} heads need {wanted}"


def _dense(header: Header) -> Complaints:
    for suffix in ("dense_2_feat_in", "dense_3_feat_out"):
        width = number_of(header, suffix)
        if width and width != header.embedding_length:
            yield f"{header.architecture}.{suffix} is {width}, but its width is {header.embedding_length}"


def _full_index(header: Header) -> Complaints:
    """Layers with an index of their own, the first of them at least; others look where the one before looked."""
    said = header.metadata.get(f"{header.architecture}.attention.indexer.types")
    # Without a word the earlier models, of shorter contexts, have one in every layer.
    count = header.block_count - (number_of(header, "nextn_predict_layers") or 0)
    flags = said if isinstance(said, tuple) else (1,) * (min(count, MAX_LAYERS) if header.context_length < 2**20 else 1)
    layers = by_layer(header.tensors)
    for layer, flag in enumerate(flags):
        tensors = layers.get(layer, {})
        if "attn_q_a.weight" in tensors and "indexer.proj.weight" not in tensors and (flag or layer == 0):
            yield f"layer {layer} has no index of its own"


def _gated_or_not(header: Header) -> Complaints:
    inner = number_of(header, "feed_forward_length") or 0
    for tensors in by_layer(header.tensors).values():
        up = tensors.get("ffn_up.weight")
        if up is not None and (*up.shape, 1, 1)[1] not in (inner, 2 * inner):
            yield f"'{up.name}' is {(*up.shape, 1, 1)[1]} wide, but must be {inner} or {2 * inner}"


def _pooled_index(header: Header) -> Complaints:
    yield from out_of_range(header, "hyper_connection.count", 4, 4)
    pool, most = number_of(header, "attention.indexer.kpool"), number_of(header, "attention.indexer.top_k")
    if pool is not None and (pool < 2 or (most or 0) % pool):
        yield f"{header.architecture}.attention.indexer.kpool is {pool}, and its top_k {most}"


def _windowed(header: Header) -> Complaints:
    """Attention that is always computed with windows."""
    if not number_of(header, "attention.sliding_window"):
        yield f"{header.architecture}.attention.sliding_window is missing or 0"


def _not_only_windows(header: Header) -> Complaints:
    flags = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(flags, tuple) and all(flags):
        yield "each of its layers has a window, and one at least must attend to all tokens"


def _fixed_rotation(header: Header) -> Complaints:
    base = header.metadata.get(f"{header.architecture}.rope.freq_base")
    if isinstance(base, float) and not abs(base - 10_000.0) < 1e-4:
        yield f"{header.architecture}.rope.freq_base is {base}, but must be 10000"


_RULES: dict[str, Callable[[Header], Complaints]] = {
    "afmoe": _windowed,
    "arwkv7": _shifts,
    "bailingmoe3": _kda,
    "deepseek2-ocr": _fixed_rotation,
    "dots3note": _not_only_windows,
    "gemma-embedding": _dense,
    "glm-dsa": _full_index,
    "glm5-next": _pooled_index,
    "hrm_text": _cycles,
    "jina-bert-v2": _gated_or_not,
    "laguna": _gates,
    "nanbeige": _loops,
}
