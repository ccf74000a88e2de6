"""What a model takes, from its header: bytes by class, what each layer remembers, the room a step needs."""

from __future__ import annotations

import time
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from localllm.errors import ModelFileError
from localllm.gguf import Header, TensorInfo
from localllm.placement.cache import CellCache, LayerMemory, memory_of
from localllm.placement.estimate import Estimate, estimate
from localllm.placement.shape import ContextShape, row_bytes
from localllm.placement.tape import Tape
from localllm.placement.weights import class_of

PLAIN: dict[str, Any] = {
    "context_length": 8192,
    "embedding_length": 4096,
    "block_count": 4,
    "feed_forward_length": 14336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}


def header(architecture: str = "llama", tensors: dict[str, tuple[int, ...]] | None = None, **values: Any) -> Header:
    """A header of these numbers; a value of None takes one away. Tensors are of Q4_K, norms of F32."""
    said = {key.replace("__", "."): value for key, value in values.items()}
    metadata = {f"{architecture}.{key}": value for key, value in (PLAIN | said).items() if value is not None}
    table, offset = [], 0
    for name, shape in (tensors or {}).items():
        elements = 1
        for size in shape:
            elements *= size
        kind = "F32" if "norm" in name else "Q4_K"
        size_bytes = elements * 4 if kind == "F32" else elements // 256 * 144
        table.append(TensorInfo(name, shape, kind, offset, size_bytes))
        offset += size_bytes
    return Header(3, MappingProxyType({"general.architecture": architecture} | metadata), tuple(table), offset, 0)


def layers_of(**tensors: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The same tensors in each of four layers."""
    return {f"blk.{index}.{name.replace('__', '.')}": shape for index in range(4) for name, shape in tensors.items()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("attn_q.weight", "attention"),
        ("attn_kv_a_mqa.weight", "attention"),
        ("indexer.attn_k.weight", "attention"),
        ("attn_norm.weight", "other"),
        ("attn_q_norm.weight", "other"),
        ("ffn_up.weight", "dense_ffn"),
        ("ffn_gate_inp.weight", "dense_ffn"),
        ("ffn_gate_exps.weight", "experts"),
        ("ffn_gate_up_exps.weight", "experts"),
        ("ffn_down_chexps.weight", "experts"),
        ("ffn_down.7.weight", "experts"),
        ("ffn_down_exps.bias", "experts"),
        ("ffn_up_shexp.weight", "shared_experts"),
        ("ssm_out.weight", "recurrent"),
        ("shortconv.in_proj.weight", "recurrent"),
        ("time_mix_key.weight", "recurrent"),
        ("exp_probs_b.bias", "other"),
        ("post_ffw_norm.weight", "other"),
    ],
)
def test_tensors_are_sorted_by_what_they_do(name, kind):
    assert kind == class_of(name)


def test_a_layers_bytes_are_told_by_class_and_experts_can_be_left_out():
    tensors = layers_of(
        attn_q__weight=(256, 256),
        ffn_up__weight=(256, 512),
        ffn_up_exps__weight=(256, 256, 8),
        attn_norm__weight=(256,),
    )
    layer = estimate(header(tensors=tensors)).layers[0]
    assert (36864, 73728, 294912, 1024) == (layer.attention, layer.dense_ffn, layer.experts, layer.other)
    assert (36864 + 73728 + 1024, 406528) == (layer.without_experts, layer.total)
    assert (256 * 256 + 256 * 512 + 256, 256 * 256 * 8) == (layer.active_parameters, layer.expert_parameters)
    assert 294912 == layer.largest_expert_tensor


def test_an_output_of_its_own_counts_once_and_a_tied_one_only_on_another_device():
    embedding = {"token_embd.weight": (256, 1000)}
    tied = estimate(header(tensors=embedding))
    own = estimate(header(tensors=embedding | {"output.weight": (256, 1000), "output_norm.weight": (256,)}))
    assert (144000, 144000, 144000) == (tied.embedding_bytes, tied.output_bytes, tied.weight_bytes)
    assert (144000, 145024, 289024) == (own.embedding_bytes, own.output_bytes, own.weight_bytes)
    assert 0 == estimate(header("bert", tensors=embedding)).output_bytes


def test_layers_that_guess_ahead_are_neither_loaded_nor_remembered_unless_asked_for():
    tensors = layers_of(attn_q__weight=(256, 256))
    guessing = estimate(header("glm4moe", tensors, nextn_predict_layers=1))
    assert [False, False, False, True] == [layer.is_mtp for layer in guessing.layers]
    assert (3 * 36864, 36864) == (guessing.weight_bytes, guessing.mtp_bytes)
    assert 0 == guessing.kv_bytes(ContextShape(4096, 1), 3) < guessing.kv_bytes(ContextShape(4096, 1), 2)


def per_cell(estimated: Estimate, **shape: Any) -> float:
    return estimated.kv_bytes(ContextShape(4096, 1, **shape)) / 4096


def test_keys_and_values_are_counted_by_their_own_heads_and_types():
    grouped = estimate(header())
    assert 4 * 8 * 128 * 2 * 2 == per_cell(grouped)
    assert 4 * 8 * 128 * 2 * 34 / 32 == per_cell(grouped, k_type="q8_0", v_type="q8_0")
    assert 4 * 8 * 128 * (34 / 32 + 2) == per_cell(grouped, k_type="q8_0")
    assert 4 * 32 * 128 * 2 * 2 == per_cell(estimate(header(attention__head_count_kv=None)))
    assert 4 * 8 * (96 + 64) * 2 == per_cell(estimate(header(attention__key_length=96, attention__value_length=64)))
    assert (0 + 8 + 4 + 4) * 128 * 2 * 2 == per_cell(estimate(header("deci", attention__head_count_kv=(0, 8, 4, 4))))


def test_a_latent_is_kept_once_for_all_heads():
    latent = {
        "attention__head_count_kv": 1,
        "attention__key_length": 576,
        "attention__value_length": 512,
        "attention__key_length_mla": 192,
        "attention__value_length_mla": 128,
    }
    assert 4 * 576 * 2 == per_cell(estimate(header("deepseek2", **latent)))
    indexed = estimate(header("deepseek32", attention__indexer__key_length=128, **latent))
    assert 4 * (576 + 128) * 2 == per_cell(indexed)


def test_windowed_layers_keep_their_window_for_each_sequence_and_a_batch():
    windowed = estimate(header("gemma3", attention__sliding_window=1024, block_count=6))
    whole, one = 8 * 128 * 2 * 2, ContextShape(32768, 4)
    assert [True] * 5 + [False] == [windowed.kv_bytes(one, layer) < 32768 * whole for layer in range(6)]
    assert (4 * 1024 + 512) * whole == windowed.kv_bytes(one, 0)
    streams = replace(one, is_unified=False)
    assert 4 * (1024 + 512) * whole == windowed.kv_bytes(streams, 0)
    assert 32768 * whole == windowed.kv_bytes(replace(one, keeps_whole_window=True), 0)


@pytest.mark.parametrize(
    ("architecture", "values", "windowed"),
    [
        ("gpt-oss", {"attention__sliding_window": 128}, [True, False, True, False]),
        ("gemma4", {"attention__sliding_window": 64, "attention__sliding_window_pattern": (1, 0, 0, 1)}, [1, 0, 0, 1]),
        ("cohere2moe", {"attention__sliding_window": 64}, [False, True, True, True]),
        ("gemma3", {"attention__sliding_window": 64, "attention__sliding_window_pattern": 2}, [1, 0, 1, 0]),
        ("gemma3", {}, [0, 0, 0, 0]),
        ("phi3", {"attention__sliding_window": 64}, [0, 0, 0, 0]),
        ("llama4", {}, [1, 1, 1, 0]),
        ("llama4", {"attention__sliding_window": 0}, [0, 0, 0, 0]),
        ("qwen2", {"attention__sliding_window": 64}, [0, 0, 0, 0]),
        ("exaone4", {"attention__sliding_window": 64}, [0, 0, 0, 0]),
    ],
)
def test_which_layers_have_a_window_depends_on_the_architecture(architecture, values, windowed):
    memories = memory_of(header(architecture, **values))
    assert [bool(flag) for flag in windowed] == [bool(memory.caches[0].window_tokens) for memory in memories]


def test_layers_that_share_the_caches_of_others_keep_nothing():
    shared = memory_of(header("gemma4", attention__shared_kv_layers=2, attention__sliding_window=64))
    assert [1, 1, 0, 0] == [len(memory.caches) for memory in shared]


def test_recurrent_layers_keep_a_state_for_each_sequence_whatever_the_context():
    values = {"ssm__conv_kernel": 4, "ssm__inner_size": 256, "ssm__state_size": 16, "attention__head_count": 0}
    mamba = estimate(header("mamba", **values))
    state = (3 * 256 + 16 * 256) * 4
    assert 4 * 8 * state == mamba.kv_bytes(ContextShape(4096, 8)) == mamba.kv_bytes(ContextShape(65536, 8))


def test_a_hybrid_keeps_cells_in_some_layers_and_states_in_others():
    delta = {"ssm__conv_kernel": 4, "ssm__inner_size": 256, "ssm__state_size": 64, "ssm__group_count": 2}
    hybrid = memory_of(header("qwen35", full_attention_interval=2, **delta))
    state = 3 * (256 + 2 * 2 * 64) + 64 * 256
    assert [(0, state), (1, 0), (0, state), (1, 0)] == [(len(one.caches), one.state_elements) for one in hybrid]
    short = memory_of(header("lfm2", attention__head_count_kv=(0, 8, 0, 8), shortconv__l_cache=3))
    assert [(0, 2 * 4096), (1, 0), (0, 2 * 4096), (1, 0)] == [(len(one.caches), one.state_elements) for one in short]


def test_states_that_can_be_taken_back_are_kept_for_each_step():
    delta = {"ssm__conv_kernel": 4, "ssm__inner_size": 256, "ssm__state_size": 64}
    shape = ContextShape(4096, 1)
    for architecture, times in (("qwen35", 3), ("qwen3next", 1)):
        hybrid = estimate(header(architecture, **delta))
        assert times * hybrid.kv_bytes(shape, 0) == hybrid.kv_bytes(replace(shape, rollback_states=2), 0)


def test_compressed_caches_keep_a_cell_for_several_tokens_in_each_sequence():
    values = {
        "attention__compress_ratios": (0, 4, 128, 4),
        "attention__sliding_window": 128,
        "attention__head_count_kv": 1,
        "attention__indexer__key_length": 128,
    }
    memories = memory_of(header("deepseek4", **values))
    window = CellCache(128, 0, 128, per_sequence=True)
    fine = CellCache(128, 0, cells_ratio=4, per_sequence=True)
    coarse = CellCache(128, 0, cells_ratio=128, per_sequence=True)
    assert [(window,), (window, fine, fine), (window, coarse), (window, fine, fine)] == [one.caches for one in memories]


def test_an_encoder_remembers_nothing():
    assert [LayerMemory()] * 4 == list(memory_of(header("bert")))


def test_streams_are_rounded_each_for_itself():
    assert (1024, 256, 4) == (
        (shape := ContextShape(1000, 4, is_unified=False)).stream_cells * shape.streams,
        shape.stream_cells,
        shape.streams,
    )
    assert 1024 == ContextShape(1000, 4).stream_cells


@pytest.mark.parametrize(("kind", "size"), [("f16", 256), ("q8_0", 136), ("q4_0", 72), ("f32", 512), ("iq4_nl", 72)])
def test_a_row_takes_whole_blocks(kind, size):
    assert size == row_bytes(kind, 128)


ATTENDING = layers_of(
    attn_norm__weight=(4096,),
    attn_q__weight=(4096, 4096),
    attn_k__weight=(4096, 1024),
    attn_v__weight=(4096, 1024),
    attn_output__weight=(4096, 4096),
    ffn_norm__weight=(4096,),
    ffn_gate__weight=(4096, 14336),
    ffn_up__weight=(4096, 14336),
    ffn_down__weight=(14336, 4096),
) | {"token_embd.weight": (4096, 128256), "output.weight": (4096, 128256), "output_norm.weight": (4096,)}


def test_a_step_needs_room_by_rows_by_cells_and_by_rows_of_logits():
    llama = estimate(header(tensors=ATTENDING))
    usual = ContextShape(4096, 8)
    measured = 125841472  # by llama.cpp, of Llama 3 8B in this shape
    assert measured < llama.compute_bytes(usual).whole < 1.1 * measured
    half = llama.compute_bytes(replace(usual, batch_tokens=256)).whole
    assert half < 0.55 * llama.compute_bytes(usual).whole
    longer = llama.compute_bytes(replace(usual, cells=131072)).whole
    assert longer > llama.compute_bytes(usual).whole + 512 * (131072 - 4096) * 2
    wordy = llama.compute_bytes(replace(usual, outputs=512))
    assert wordy.output > 512 * 128256 * 4 > wordy.layers > wordy.input


@pytest.mark.parametrize(("in_place", "peak"), [(True, 2 * 4096), (False, 3 * 4096)])
def test_a_tape_overwrites_what_nobody_else_reads_and_fills_holes(in_place, peak):
    tape = Tape()
    first = tape.put(1024)
    second = tape.put(1024, first)
    total = tape.put(1024, second, first, in_place=in_place)
    tape.put(512, total)  # where `first` was
    assert peak == tape.peak_bytes()


def test_what_is_filled_from_outside_has_its_place_before_anything_is_computed():
    tape = Tape()
    early = tape.put(1024)
    late = tape.input(4096)
    tape.put(1024, early, late, in_place=True)
    assert 2 * 4096 == tape.peak_bytes()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"block_count": 10**9}, "llama with 1000000000 layers"),
        ({"block_count": 0}, "llama with 0 layers"),
        ({"block_count": None}, "llama with 0 layers"),
        ({"attention__head_count": 0}, "layer 0 attends, but has 0 heads"),
        ({"attention__head_count_kv": 10**9}, "attention.head_count_kv|would keep"),
        ({"attention__key_length": 2**31}, "attention.key_length is 2147483648, which no model has"),
        ({"embedding_length": 2**40, "attention__head_count": 1}, "would keep"),
    ],
)
def test_absurd_numbers_are_refused_at_once_with_the_number(values, complaint):
    began = time.process_time()
    with pytest.raises(ModelFileError, match=complaint):
        estimate(header(tensors=ATTENDING, **values))
    assert time.process_time() - began < 1


def test_a_header_without_an_architecture_is_no_model():
    with pytest.raises(ModelFileError, match="a model with 0 layers"):
        estimate(Header(3, MappingProxyType({}), (), 0, 0))
