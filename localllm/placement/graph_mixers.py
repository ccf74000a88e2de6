"""What the mixers beside plain attention compute: compressed latents, gated states, short convolutions. Pure.

As `graph.py` for attention: llama.cpp's order, tensor by tensor, where one is large enough to matter.
"""

from __future__ import annotations

from localllm.placement import graph
from localllm.placement.graph import Inputs, Layer
from localllm.placement.tape import Tape


def latent_attention(tape: Tape, layer: Layer, inputs: Inputs, normed: int, heads: int) -> int:
    """Queries taken into the space of one latent for all heads, and what is read of it taken back."""
    rows, latent = inputs.rows, layer.columns("attn_v_b") or layer.rows("attn_kv_b")
    compressed = normed
    if layer.has("attn_q_a"):
        first = tape.put(rows * layer.rows("attn_q_a"), normed)
        compressed = tape.put(rows * layer.rows("attn_q_a"), first, in_place=True)
    query = tape.put(rows * (layer.rows("attn_q_b") or layer.rows("attn_q")), compressed)
    kept = layer.rows("attn_kv_a_mqa")
    turned = max(kept - latent, 0)
    absorbed = tape.put(rows * heads * latent, query)
    turned_query = tape.put(rows * heads * turned, query)
    whole = tape.put(rows * heads * (latent + turned), absorbed, turned_query)
    latents = tape.put(rows * kept, normed)
    kept_latents = tape.put(rows * latent, latents)
    turned_key = tape.put(rows * turned, latents)
    key = tape.put(rows * kept, kept_latents, turned_key)
    tape.put(0, key)
    mask = graph.chosen_cells(tape, layer, inputs, compressed) if layer.index_heads else inputs.mask
    if inputs.flash:
        read = tape.put(rows * heads * latent, whole, mask, *graph.halved(tape, layer, inputs))
    else:
        cells = inputs.cells * layer.streams
        turned_cells = tape.put(cells * latent if inputs.halves_keys else cells * latent // 2)
        scores = tape.put(rows * inputs.cells * heads, whole)
        scores = tape.put(rows * inputs.cells * heads, scores, mask, in_place=True)
        read = tape.put(rows * heads * latent, scores, turned_cells)
    out = rows * layer.columns("attn_output")
    return tape.put(out, tape.put(out, read))


def gated_delta(tape: Tape, layer: Layer, rows: int, normed: int) -> int:
    """Qwen 3.5's: a convolution over queries, keys and values, a state per head, and a gate."""
    width, inner = layer.rows("attn_qkv") or layer.rows("ssm_in"), layer.columns("ssm_out")
    before = tape.put(layer.sequences * layer.looked_back)
    mixed = tape.put(rows * width, normed)
    joined = tape.put(rows * width + layer.sequences * layer.looked_back, before, mixed)
    state = tape.put(layer.sequences * layer.state)
    convolved = tape.put(rows * width, joined)
    convolved = tape.put(rows * width, convolved, in_place=True)
    keys = max(width - inner, 0) // 2
    query = tape.put(rows * keys, convolved)
    key = tape.put(rows * keys, convolved)
    out = tape.put(rows * inner + layer.sequences * layer.state, query, key, convolved, state)
    normed_out = tape.put(rows * inner, out)
    gate = tape.put(rows * inner, normed)
    return tape.put(rows * inner, normed_out, gate, in_place=True)


def selective_state(tape: Tape, layer: Layer, rows: int, normed: int) -> int:
    """Mamba's, first and second."""
    inner = layer.columns("ssm_out")
    before = tape.put(layer.sequences * layer.looked_back)
    both = tape.put(rows * layer.rows("ssm_in"), normed)
    convolved_width = layer.columns("ssm_conv1d") and layer.rows("ssm_conv1d")
    joined = tape.put(rows * convolved_width + layer.sequences * layer.looked_back, before, both)
    convolved = tape.put(rows * convolved_width, joined)
    convolved = tape.put(rows * convolved_width, convolved, in_place=True)
    chosen = convolved
    if layer.has("ssm_x"):
        parts = tape.put(rows * layer.rows("ssm_x"), convolved)
        steps = tape.put(rows * inner, parts)
        scanned = tape.put(rows * inner + layer.sequences * layer.state, convolved, steps, parts)
    else:
        scanned = tape.put(rows * inner + layer.sequences * layer.state, convolved, both)
    gate = tape.put(rows * inner, both)
    passed = tape.put(rows * inner, chosen)
    summed = tape.put(rows * inner, scanned, passed)
    return tape.put(rows * inner, gate, summed)


def short_convolution(tape: Tape, layer: Layer, rows: int, width: int, normed: int) -> int:
    """LFM's: three parts of one product, a convolution of the last few, and gates before and after it."""
    parts = tape.put(rows * layer.rows("shortconv.in_proj"), normed)
    gated = tape.put(rows * width, parts)
    before = tape.put(layer.sequences * layer.looked_back)
    joined = tape.put(rows * width + layer.sequences * layer.looked_back, before, gated)
    convolved = tape.put(rows * width, joined)
    return tape.put(rows * width, parts, convolved)


def moving_state(tape: Tape, layer: Layer, rows: int, width: int, normed: int) -> int:
    """RWKV's: the last token mixed into this one five or six ways, and a matrix of state per head."""
    shifted = tape.put(rows * width, normed)
    ways = tape.put(6 * rows * width, normed, shifted)
    receptance, key, value = (tape.put(rows * width, ways) for _ in range(3))
    gate = tape.put(rows * width, ways)
    decay = tape.put(rows * width, ways)
    out = tape.put(rows * width + layer.sequences * layer.state, receptance, key, value, decay)
    mixed = tape.put(rows * width, out)
    return tape.put(rows * width, mixed, gate, in_place=True)
