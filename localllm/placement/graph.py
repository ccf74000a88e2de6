"""What a layer computes, as a tape of tensors: read from the names and shapes of its weights. Pure.

The order is llama.cpp's, tensor by tensor, for attention, dense matrices, experts and what goes on between them; the
recurrent mixers are in `graph_mixers.py`. Weights and caches are not on the tape: they have buffers of their own. A
view is its tensor; what turns a view (RoPE, a norm) makes a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localllm.placement.tape import Tape

Shapes = Mapping[str, tuple[int, ...]]
# Attention and the matrices read the same norm, and both are added to what came in.
_PARALLEL = frozenset("command-r cohere2 cohere2moe phi2 plamo codeshell gptneox falcon stablelm".split())
_NO_ROPE = frozenset("gpt2 starcoder mpt bloom refact jais jais2 bert t5 t5encoder".split())


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer's weights, without ".weight", and what the header says of it beside them."""

    architecture: str
    shapes: Shapes
    keys: int  # elements of a key in the cache, and of a value
    values: int
    experts_used: int
    streams: int
    sequences: int
    state: int  # elements of a sequence's recurrent state
    looked_back: int  # elements that a convolution looks back at
    index_heads: int = 0  # of an index that chooses which cells are looked at, and how many it chooses
    index_chosen: int = 0

    def has(self, *names: str) -> bool:
        return all(name in self.shapes for name in names)

    def rows(self, name: str) -> int:
        """Elements that a matrix makes; 0 without it."""
        return self.shapes[name][1] if name in self.shapes and len(self.shapes[name]) > 1 else 0

    def columns(self, name: str) -> int:
        """Elements that a matrix takes."""
        return self.shapes[name][0] if name in self.shapes else 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What all layers read: the mask of all cells, and one of windowed layers."""

    mask: int
    window_mask: int
    rows: int
    heads: int
    cells: int
    flash: bool
    rotates: bool = False  # keys and values are spread before they are kept in fewer bits
    halves_keys: bool = False  # attention in one pass reads 16 bits: what is kept in 32 is copied for each layer
    halves_values: bool = False
    remembers: bool = True  # else keys and values are of this step alone, and stay until they were looked at


def attention(tape: Tape, layer: Layer, inputs: Inputs, normed: int, *, windowed: bool) -> int:
    """Queries, keys and values from `normed` to what attention puts out, before its output matrix."""
    rows = inputs.rows
    query, gate = _queries(tape, layer, inputs, normed)
    mask = inputs.window_mask if windowed else inputs.mask
    if layer.index_heads:
        mask = chosen_cells(tape, layer, inputs, normed)
    width = layer.columns("attn_output") or layer.rows("attn_q")
    out = _attend(tape, layer, inputs, query, mask, rows * width)
    if inputs.rotates:
        out = tape.put(rows * width, out)
    if gate is not None:
        opened = tape.put(rows * width, gate)
        out = tape.put(rows * width, out, opened, in_place=True)
    return out


def _queries(tape: Tape, layer: Layer, inputs: Inputs, normed: int) -> tuple[int, int | None]:
    """The queries, and a gate that is a part of them or beside them; keys and values go to their caches."""
    rows, turns = inputs.rows, layer.architecture not in _NO_ROPE
    gate = None
    if layer.has("attn_qkv"):
        fused = tape.put(rows * layer.rows("attn_qkv"), normed)
        width = layer.columns("attn_output") if layer.has("attn_output") else layer.rows("attn_qkv")
        query = tape.put(rows * width, fused) if turns else fused
        key_width = max(layer.rows("attn_qkv") - width - layer.values, 0)
        keys = tape.put(rows * key_width, fused) if turns else fused
        values = fused
        if inputs.rotates:
            query, keys = tape.put(rows * width, query), tape.put(rows * key_width, keys)
            values = tape.put(rows * layer.values, fused)
        tape.put(0, keys)
        tape.put(0, values)
        return query, gate
    query = tape.put(rows * layer.rows("attn_q"), normed)
    width = min(layer.rows("attn_q"), layer.columns("attn_output") or layer.rows("attn_q"))
    if layer.has("attn_q_norm") or turns:
        whole = query
        query = tape.put(rows * width, whole)
        if width < layer.rows("attn_q"):
            gate = whole
    values = tape.put(rows * layer.rows("attn_v"), normed)
    keys = tape.put(rows * layer.rows("attn_k"), normed)
    if layer.has("attn_k_norm") or turns:
        keys = tape.put(rows * layer.rows("attn_k"), keys)
    if inputs.rotates:
        query = tape.put(rows * width, query)
        keys = tape.put(rows * layer.rows("attn_k"), keys)
        values = tape.put(rows * layer.rows("attn_v"), values)
    tape.put(0, keys)
    tape.put(0, values)
    if layer.has("attn_gate") and not layer.has("ssm_out"):
        gate = tape.put(rows * layer.rows("attn_gate"), normed)
    return query, gate


def _attend(tape: Tape, layer: Layer, inputs: Inputs, query: int, mask: int, width: int) -> int:
    if inputs.flash:
        return tape.put(width, query, mask, *halved(tape, layer, inputs))
    # In several passes values are turned first, where no cache keeps them so.
    widths = () if inputs.remembers else (layer.rows("attn_k"), layer.rows("attn_v"), layer.rows("attn_v"))
    there = [tape.put(inputs.rows * (one or width // inputs.rows)) for one in widths]
    scores = tape.put(inputs.rows * inputs.cells * inputs.heads, query)
    scores = tape.put(inputs.rows * inputs.cells * inputs.heads, scores, mask, in_place=True)
    mixed = tape.put(width, scores, *there)
    return tape.put(width, mixed)


def halved(tape: Tape, layer: Layer, inputs: Inputs) -> list[int]:
    """Copies of all keys and values in 16 bits, for a pass that reads no more."""
    cells = inputs.cells * layer.streams
    pairs = ((inputs.halves_keys, layer.keys), (inputs.halves_values, layer.values or layer.keys))
    return [tape.put(cells * elements // 2) for is_halved, elements in pairs if is_halved]


def chosen_cells(tape: Tape, layer: Layer, inputs: Inputs, compressed: int) -> int:
    """An index scores every cell for every row; a mask lets through those with the best."""
    rows, cells = inputs.rows, inputs.cells
    width = layer.rows("indexer.attn_q_b") or layer.rows("indexer.q_proj") or layer.index_heads * 128
    filled = tape.put(rows * cells)
    query = tape.put(rows * width, compressed)
    turned = tape.put(rows * width, query)
    rotated = tape.put(rows * width, turned)
    scores = tape.put(rows * cells, rotated)
    best = tape.put(rows * min(layer.index_chosen, cells), scores)
    kept = tape.put(rows * min(layer.index_chosen, cells), best)
    opened = tape.put(rows * cells // 2, inputs.mask, kept, filled)
    return tape.put(rows * cells // 2, opened)


def add(tape: Tape, elements: int, made: int, came_in: int) -> int:
    """What was made, added to what came in."""
    return tape.put(elements, made, came_in, in_place=True)


def feed_forward(tape: Tape, layer: Layer, rows: int, width: int, normed: int) -> int:
    """Dense matrices, experts, or both, from `normed`."""
    if not layer.has("ffn_gate_inp"):
        inner = layer.columns("ffn_down") or layer.rows("ffn_up")
        if layer.rows("ffn_up") > inner:  # both halves in one matrix
            return tape.put(rows * width, tape.put(rows * inner, tape.put(rows * layer.rows("ffn_up"), normed)))
        return dense(tape, rows, width, normed, inner, gated=layer.has("ffn_gate"))
    out = experts(tape, layer, rows, width, normed)
    if layer.has("ffn_up_shexp"):
        shared = dense(tape, rows, width, normed, layer.rows("ffn_up_shexp"), gated=layer.has("ffn_gate_shexp"))
        if layer.has("ffn_gate_inp_shexp"):
            shared = tape.put(rows * width, shared, tape.put(rows, normed), in_place=True)
        out = add(tape, rows * width, out, shared)
    if layer.has("ffn_up"):  # beside the experts
        out = add(tape, rows * width, out, dense(tape, rows, width, normed, layer.rows("ffn_up"), gated=True))
    return out


def dense(tape: Tape, rows: int, width: int, normed: int, inner: int, *, gated: bool) -> int:
    """Two matrices with something between them, or three of which one is a gate."""
    if gated:
        gate = tape.put(rows * inner, normed)
        up = tape.put(rows * inner, normed)
        inner_out = tape.put(rows * inner, gate, up)
    else:
        inner_out = tape.put(rows * inner, normed)
    return tape.put(rows * width, inner_out)


def experts(tape: Tape, layer: Layer, rows: int, width: int, normed: int) -> int:
    """Scores of all experts, the best of them chosen, each computed, weighed and summed."""
    count, used = max(layer.rows("ffn_gate_inp"), 1), max(layer.experts_used, 1)
    logits = tape.put(rows * count, normed)
    scores = tape.put(rows * count, logits, in_place=True)
    order = tape.put(rows * count, scores)
    weights = tape.put(rows * used, scores, order)
    fused = layer.rows("ffn_gate_up_exps")
    inner = fused // 2 or layer.rows("ffn_up_exps")
    if fused:
        both = tape.put(rows * used * fused, normed, order)
        mixed = tape.put(rows * used * inner, both)
    else:
        gate = tape.put(rows * used * inner, normed, order) if layer.has("ffn_gate_exps") else None
        up = tape.put(rows * used * inner, normed, order)
        mixed = up if gate is None else tape.put(rows * used * inner, gate, up)
    down = tape.put(rows * used * width, mixed, order)
    weighed = tape.put(rows * used * width, down, weights, in_place=True)
    return tape.put(rows * width, weighed)


def is_parallel(architecture: str) -> bool:
    """Whether attention and matrices of a layer read the same."""
    return architecture in _PARALLEL
