"""What one step of a model computes with: buffers for activations, masks and logits, never below what llama.cpp takes.

A step is written down as llama.cpp computes it (graph.py) and played in its allocator (tape.py), for each kind of layer
that the model has; then a margin is added. What cannot be known without the device, such as the workspace of its
kernels, is learned after loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from localllm.gguf import ArrayInfo, Header
from localllm.placement import graph, graph_mixers
from localllm.placement.cache import ENCODERS, CellCache, LayerMemory, stream_cells
from localllm.placement.graph import Inputs, Layer
from localllm.placement.shape import ContextShape
from localllm.placement.tape import Tape

_VOCABULARY_TENSORS = ("output.weight", "token_embd.weight")
_SMALL_TENSORS = 2**14
_MARGIN = 1.05  # for what a tape leaves out: small tensors, and the order of a few
_LAYERS_MOST = 8  # of more layers each kind is played three times: then the holes are where they stay
_KINDS_MOST = 6
_MASK_BYTES, _PLAIN_MASK_BYTES = 2, 4  # of a cell, when attention is computed in one pass, and when it is not
_NO_FLASH = frozenset(["grok", "t5", "t5encoder"])  # scores are bent, or something is added, before they are weighed
# More is kept at once than the tape says: several streams of activations, scores of an index. Measured on models of a
# few layers and rounded up; the last are like others in this and were not measured.
_BROADER = {
    "chatglm": 1.07,
    "deepseek32": 1.35,
    "deepseek4": 2.6,
    "gemma3n": 1.06,
    "gemma4": 1.03,
    "dots3note": 1.1,
    "glm-dsa": 1.35,
    "glm4": 1.07,
    "hrm_text": 1.12,
    "hy_v4": 1.25,
    "kimi-linear": 1.12,
    "lfm2": 1.02,
    "llama4": 1.07,
    "minimax-01": 1.15,
    "minimax-m3": 1.25,
    "mistral3": 1.03,
    "nemotron_h": 1.03,
    "nemotron_h_moe": 1.03,
    "phi3": 1.07,
    "rwkv6": 1.3,
    "t5": 2.5,
    "talkie": 1.1,
    "arwkv7": 1.3,
    "glm5-next": 2.6,
    "kimi-k3": 1.5,
    "qwen4exp": 2.6,
    "rwkv6qwen2": 1.3,
    "rwkv7": 1.3,
}


@dataclass(frozen=True, slots=True, eq=False)
class Widths:
    """What a model's buffers follow: its widths, and its layers, one of each kind."""

    architecture: str
    embedding: int
    vocabulary: int  # of the logits; 0 for a model that puts out vectors
    experts_used: int
    heads: int
    layers: tuple[Layer, ...]
    windows: tuple[int, ...]  # of each of `layers`
    masks: tuple[int, ...]  # the windows of those that attend
    order: tuple[int, ...] = ()  # the kind of each layer, by its place in `layers`
    per_layer: int = 0  # elements that the embedding gives to all layers beside the stream
    remembers: bool = True


@dataclass(frozen=True, slots=True)
class ComputeBytes:
    """Bytes of one device's compute buffer, by what lies on it. `whole`: everything, as on a CPU without a GPU.
    `layers`: some layers, not the output. `output`: some layers and the output. `input`: the embedding alone, as in
    host memory when every layer is on a GPU."""

    whole: int
    layers: int
    output: int
    input: int


def widths_of(header: Header, memories: Sequence[LayerMemory]) -> Widths:
    """The widths of a model."""
    kinds, order = _kinds(header, memories)
    return Widths(
        architecture=header.architecture,
        embedding=header.embedding_length,
        vocabulary=0 if header.architecture in ENCODERS else vocabulary_of(header),
        experts_used=_most(header, "expert_used_count"),
        heads=_most(header, "attention.head_count"),
        layers=tuple(layer for layer, _ in kinds),
        windows=tuple(window for _, window in kinds),
        masks=tuple({cache.window_tokens for memory in memories for cache in memory.caches}),
        order=order,
        per_layer=next((t.shape[0] for t in header.tensors if t.name == "per_layer_token_embd.weight"), 0),
        remembers=any(memory.caches or memory.state_elements for memory in memories),
    )


def _most(header: Header, suffix: str) -> int:
    """A count that the header says once or for each layer."""
    value = header.metadata.get(f"{header.architecture}.{suffix}")
    if isinstance(value, tuple):
        return max((int(count) for count in value if isinstance(count, int)), default=0)
    return header.architecture_integer(suffix)


def _kinds(header: Header, memories: Sequence[LayerMemory]) -> tuple[list[tuple[Layer, int]], tuple[int, ...]]:
    """A layer of each kind, and which kind each layer is; two are alike when their matrices and caches are."""
    kinds: dict[object, tuple[Layer, int]] = {}
    places: dict[object, int] = {}
    order = []
    for number, names in sorted(_shapes(header, len(memories)).items()):
        memory = memories[number]
        window = next((cache.window_tokens for cache in memory.caches), 0)
        key = (tuple(sorted(names.items())), memory)
        if key not in kinds:
            places[key] = len(kinds)
            kinds[key] = (_kind(header, names, memory), window)
        order.append(places[key])
    return list(kinds.values()), tuple(order)


def _shapes(header: Header, count: int) -> dict[int, dict[str, tuple[int, ...]]]:
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    for tensor in header.tensors:
        prefix, _, rest = tensor.name.partition("blk.")
        number, _, name = rest.partition(".")
        if number.isdigit() and prefix in ("", "dec.", "enc.") and int(number) < count:
            shapes.setdefault(int(number), {})[name.removesuffix(".weight")] = tensor.shape
    return shapes


def _kind(header: Header, names: dict[str, tuple[int, ...]], memory: LayerMemory) -> Layer:
    kernel = names.get("ssm_conv1d", names.get("shortconv.conv", (1,)))
    looked_back = (kernel[0] - 1) * (kernel[1] if len(kernel) > 1 else 1)
    return Layer(
        header.architecture,
        names,
        memory.key_elements,
        memory.value_elements,
        _most(header, "expert_used_count"),
        1,
        1,
        max(memory.state_elements - looked_back, 0),
        looked_back,
        index_heads=_most(header, "attention.indexer.head_count") if len(memory.caches) > 1 else 0,
        index_chosen=_most(header, "attention.indexer.top_k"),
    )


def vocabulary_of(header: Header) -> int:
    """Rows of the output matrix, or of the embedding, which may be more than there are tokens."""
    rows = {tensor.name: tensor.shape[-1] for tensor in header.tensors if tensor.name in _VOCABULARY_TENSORS}
    for name in _VOCABULARY_TENSORS:
        if name in rows:
            return rows[name]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, tuple) else tokens.length if isinstance(tokens, ArrayInfo) else 0


def compute_bytes(widths: Widths, shape: ContextShape) -> ComputeBytes:
    """A bound of what a step of `shape` takes."""
    if widths.architecture in _NO_FLASH:
        shape = replace(shape, flash_attention=False)
    rows = min(shape.batch_tokens, max(shape.cells, 1))
    rows = -(-rows // max(shape.sequences, 1)) * max(shape.sequences, 1)  # as many of each sequence
    outputs = min(rows, max(shape.outputs, shape.sequences))
    masks = sum(_mask_bytes(widths, shape, rows).values()) + _places_bytes(widths, shape, rows)
    logits = 4 * outputs * widths.vocabulary
    layers = _with_streams(widths, rows, masks, 0, _peak(widths, shape, rows, 0))
    whole = max(layers, _with_streams(widths, rows, masks, logits, _peak(widths, shape, rows, outputs)))
    return ComputeBytes(
        _more(widths, whole), _more(widths, layers), _more(widths, whole), _more(widths, masks, 2 * rows)
    )


def _with_streams(widths: Widths, rows: int, masks: int, logits: int, peak: int) -> int:
    """Gemma's inputs of every layer, made at the beginning in several steps, and Gemma 3n's other streams."""
    if not widths.per_layer:
        return peak
    given = 4 * rows * widths.per_layer
    streams = 4 * rows * 5 * widths.embedding if widths.architecture == "gemma3n" else 0
    stream = 4 * rows * widths.embedding
    at_first, at_last = 4 * given + stream, given + logits + 2 * stream
    return max(peak + given + streams, masks + streams + max(at_first, at_last))


def _more(widths: Widths, size: int, rows: int = 0) -> int:
    size += 4 * rows * widths.embedding
    return int(size * _MARGIN * _BROADER.get(widths.architecture, 1.0)) + _SMALL_TENSORS


def _peak(widths: Widths, shape: ContextShape, rows: int, outputs: int) -> int:
    """The buffer for the layers, and with `outputs` for what comes after them."""
    # Keys and values in fewer bits are spread first, where a head's width allows it: either way may take more.
    quantized = _is_quantized(shape.k_type) or _is_quantized(shape.v_type)
    ways = (False, True) if quantized and widths.remembers else (False,)
    return max(_played(widths, shape, rows, outputs, rotates) for rotates in ways)


def _is_quantized(type_name: str) -> bool:
    return type_name not in ("f32", "f16", "bf16")


@lru_cache(maxsize=512)  # a planner asks for one shape at many places
def _played(widths: Widths, shape: ContextShape, rows: int, outputs: int, rotates: bool) -> int:
    tape = Tape()
    width = widths.embedding
    inputs = _inputs(tape, widths, shape, rows, rotates=rotates)
    stream = tape.put(rows * width, tape.input(4 * rows))
    order = widths.order if len(widths.order) <= _LAYERS_MOST else (*range(min(len(widths.layers), _KINDS_MOST)),) * 3
    shaped = [replace(kind, streams=shape.streams, sequences=max(shape.sequences, 1)) for kind in widths.layers]
    for index, kind in enumerate(order):
        is_last = index == len(order) - 1
        stream = _layer(tape, widths, shaped[kind], inputs, stream, widths.windows[kind], outputs if is_last else 0)
    if outputs:
        normed = tape.put(outputs * width, stream, in_place=True)
        tape.put(outputs * widths.vocabulary, normed)
    return tape.peak_bytes()


def _layer(tape: Tape, widths: Widths, layer: Layer, inputs: Inputs, came_in: int, window: int, outputs: int) -> int:
    width, rows = widths.embedding, inputs.rows
    normed = tape.put(rows * width, came_in) if _is_normed_before(layer) else came_in
    mixed = _mixed(tape, widths, layer, inputs, normed, window)
    if outputs:
        rows = outputs
        mixed, came_in = tape.put(rows * width, mixed), tape.put(rows * width, came_in)
    if graph.is_parallel(layer.architecture):
        again = normed if not outputs else tape.put(rows * width, normed)
        made = graph.feed_forward(tape, layer, rows, width, again)
        return graph.add(tape, rows * width, graph.add(tape, rows * width, made, mixed), came_in)
    came_in = graph.add(tape, rows * width, mixed, came_in)
    if not any(name.startswith("ffn_") for name in layer.shapes):
        return came_in
    normed = tape.put(rows * width, came_in) if layer.has("ffn_norm") or _is_normed_before(layer) else came_in
    return graph.add(tape, rows * width, graph.feed_forward(tape, layer, rows, width, normed), came_in)


def _is_normed_before(layer: Layer) -> bool:
    """Not so encoders like BERT, which norm what comes out, where it lies."""
    return not (layer.has("attn_output_norm") and not layer.has("attn_norm"))


def _mixed(tape: Tape, widths: Widths, layer: Layer, inputs: Inputs, normed: int, window: int) -> int:
    """What a layer's mixers put out together, in the model's width."""
    rows, width = inputs.rows, widths.embedding
    outs = []
    if layer.has("attn_kv_a_mqa"):
        outs.append(graph_mixers.latent_attention(tape, layer, inputs, normed, widths.heads))
    elif layer.has("ssm_out", "attn_gate") or layer.has("ssm_ba"):
        outs.append(graph_mixers.gated_delta(tape, layer, rows, normed))
    elif layer.has("attn_q") or layer.has("attn_qkv"):
        outs.append(graph.attention(tape, layer, inputs, normed, windowed=window > 0))
    if layer.has("ssm_in", "ssm_conv1d") and not layer.has("ssm_ba"):
        outs.append(graph_mixers.selective_state(tape, layer, rows, normed))
    if layer.has("shortconv.in_proj"):
        outs.append(graph_mixers.short_convolution(tape, layer, rows, width, normed))
    if layer.has("time_mix_output"):
        outs.append(graph_mixers.moving_state(tape, layer, rows, width, normed))
    if not outs:
        return tape.put(rows * width, normed)
    made = [tape.put(rows * width, out) for out in outs]
    return made[0] if len(made) == 1 else graph.add(tape, rows * width, made[0], made[1])


def _inputs(tape: Tape, widths: Widths, shape: ContextShape, rows: int, *, rotates: bool) -> Inputs:
    """Everything that is filled from outside; an embedding given instead of tokens has its place too, always."""
    tape.input(4 * rows * widths.embedding)
    for size in (4, 4, 8, 8):  # tokens, positions, and where keys and values go
        tape.input(size * rows)
    masks = {window: tape.input(size) for window, size in _mask_bytes(widths, shape, rows).items()}
    tape.input(_places_bytes(widths, shape, rows))
    whole = masks.get(0, next(iter(masks.values()), tape.input(0)))
    window = next((number for size, number in masks.items() if size), whole)
    cells = rows
    if widths.remembers:
        cells = max((stream_cells(CellCache(1, 1, size), shape) for size in widths.windows), default=rows)
    return Inputs(
        whole,
        window,
        rows,
        widths.heads,
        cells,
        shape.flash_attention,
        rotates,
        halves_keys=widths.remembers and shape.k_type == "f32",
        halves_values=widths.remembers and shape.v_type == "f32",
        remembers=widths.remembers,
    )


def _places_bytes(widths: Widths, shape: ContextShape, rows: int) -> int:
    """Where each element of each value goes, in each cache: values that are kept turned are put down one by one."""
    if shape.flash_attention or not widths.remembers:
        return 0
    return 8 * rows * max(kind.values for kind in widths.layers) * len(set(widths.masks))


def _mask_bytes(widths: Widths, shape: ContextShape, rows: int) -> dict[int, int]:
    """A mask of every row over every cell, for each window that layers have."""
    size = _MASK_BYTES if shape.flash_attention else _PLAIN_MASK_BYTES
    if not widths.remembers:  # every row sees the other rows, and there is no cache
        return {0: rows * rows * _PLAIN_MASK_BYTES}
    return {window: rows * stream_cells(CellCache(1, 1, window), shape) * size for window in set(widths.masks)}
