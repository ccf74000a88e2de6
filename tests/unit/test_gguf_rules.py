"""What llama.cpp would abort on is refused before it is loaded, with the key and the numbers; the rest is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import Tensor, gguf_bytes
from gguf_fuzz.vocabularies import bpe, rwkv, spm, ugm, wpm

from localllm.errors import ModelFileError
from localllm.gguf import read_header
from localllm.gguf_rules import check_model

MODEL: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 128,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-6,
    "llama.rope.dimension_count": 16,
}
TENSORS = (
    Tensor("token_embd.weight", (64, 8)),
    Tensor("output_norm.weight", (64,)),
    Tensor("blk.0.attn_q.weight", (64, 64)),
    Tensor("blk.0.attn_k.weight", (64, 32)),
    Tensor("blk.0.attn_v.weight", (64, 32)),
    Tensor("blk.0.attn_output.weight", (64, 64)),
)


def check(folder: Path, metadata: dict[str, Any], tensors: Iterable[Tensor] = TENSORS) -> None:
    path = folder / "model.gguf"
    path.write_bytes(gguf_bytes(metadata, tuple(tensors)))
    check_model(read_header(path), path)


def replaced(name: str, tensor: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor if one.name == name else one for one in TENSORS)


def of(architecture: str, **more: Any) -> dict[str, Any]:
    """MODEL of another architecture, with other values."""
    renamed = {key.replace("llama.", f"{architecture}."): value for key, value in MODEL.items()}
    values = {f"{architecture}.{key}".replace("__", "."): value for key, value in more.items()}
    return {**renamed, "general.architecture": architecture, **values}


def test_a_model_that_says_nothing_wrong_passes(tmp_path):
    check(tmp_path, MODEL)
    check(tmp_path, {"general.architecture": "llama"}, TENSORS[:2])


def test_layers_that_attend_must_say_with_how_many_heads(tmp_path):
    with pytest.raises(ModelFileError, match="layer 0 attends, but has 0 heads"):
        check(tmp_path, {"general.architecture": "llama"})


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        (of("llama", block_count=0), "llama.block_count is 0, but must be 1 to 512"),
        (of("llama", block_count=513), "llama.block_count is 513, but must be 1 to 512"),
        (of("llama", nextn_predict_layers=2), "llama.nextn_predict_layers is 2, but must be 0 to 1"),
        (of("llama", attention__sliding_window=2**31), "llama.attention.sliding_window is 2147483648"),
        (of("llama", expert_count=1025, expert_used_count=2), "llama.expert_count is 1025, but must be 0 to 1024"),
        (of("llama", expert_count=4, expert_used_count=5), "it uses 5 of 4 experts"),
        (of("llama", expert_count=4, expert_used_count=0), "it uses 0 of 4 experts"),
        (of("llama", expert_used_count=2), "it uses 2 of 0 experts"),
        (of("llama", expert_count=4, expert_used_count=[2, 9]), "it uses 9 of 4 experts"),
        (of("llama", expert_count=4, expert_used_count=2, expert_group_count=4), "its 4 experts are in 4 groups"),
        (
            of("llama", expert_count=8, expert_used_count=2, expert_group_count=4, expert_group_used_count=4),
            "it uses 4 of 4 groups of its 8 experts",
        ),
        (of("llama", expert_gating_func=9), "llama.expert_gating_func is 9, but must be 0 to 4"),
        (of("minimax-m3", attention__indexer__block_size=0), "minimax-m3.attention.indexer.block_size is 0"),
        (of("glm4moe"), "its layers are mixtures, and the first uses 0 of 0 experts"),
        (of("grovemoe", expert_count=4, expert_used_count=[0, 2]), "the first uses 0 of 4 experts"),
        (of("smallthinker", expert_count=4, expert_used_count=2), "4 experts and no smallthinker.expert_gating_func"),
        (of("llama", attention__layer_norm_rms_epsilon=-1e-6), "layer_norm_rms_epsilon is -9.99"),
        (of("llama", attention__layer_norm_epsilon=float("nan")), "layer_norm_epsilon is nan"),
        (of("llama", rope__scaling__type="spiral"), "rope.scaling.type is 'spiral', but must be one of none, linear"),
        (of("llama", pooling_type=7), "llama.pooling_type is 7, which is no way of pooling"),
        (of("llama", rope__dimension_count=8), "llama.rope.dimension_count is 8, but its keys have 16 elements"),
        (of("phi2", rope__dimension_count=18), "phi2.rope.dimension_count is 18, of 16 elements of a key"),
        (of("phi2", rope__dimension_count=7), "phi2.rope.dimension_count is 7, of 16"),
        (of("phi2", rope__dimension_count=0), "phi2.rope.dimension_count is 0, of 16"),
        (of("gemma3", rope__dimension_count_swa=32), "gemma3.rope.dimension_count_swa is 32, of 16"),
        (of("llama", attention__value_length=8), "its keys have 16 elements and its values 8"),
        (of("llama", attention__key_length=0), "llama.attention.key_length is 0, but must be a count"),
        (of("llama", attention__value_length=0.5), "llama.attention.value_length is 0.5, but must be a count"),
        (of("gemma3", attention__head_count=8, attention__key_length=16, attention__value_length=16), "8 heads of 16"),
        (of("gemma3", attention__head_count_kv=3), "'blk.0.attn_k.weight' is 32 wide, but 3 heads of 16 make 48"),
        (
            of("deepseek2", attention__key_length_mla=24, attention__head_count_kv=2),
            "one latent for all heads, but deepseek2.attention.head_count_kv is not 1",
        ),
        (
            of("deepseek2", attention__key_length_mla=16, attention__head_count_kv=1),
            "deepseek2.rope.dimension_count is 16, and must leave some of 16 elements",
        ),
        (of("rwkv6", token_shift_count=1), "rwkv6.token_shift_count is 1, but must be 2 to 2"),
        (of("gemma-embedding", attention__sliding_window=32), "every 6th of 1 layers attends to all tokens"),
        (of("gemma3", attention__sliding_window=32, attention__sliding_window_pattern=1), "no layer with one"),
        (of("step35", attention__sliding_window=32, attention__sliding_window_pattern=[False]), "no layer with one"),
        (of("qwen35", full_attention_interval=0), "qwen35.full_attention_interval is 0, but must be 1 to 512"),
        (
            of("qwen35", ssm__inner_size=63, ssm__state_size=16, ssm__time_step_rank=4),
            "qwen35.ssm.inner_size is 63, but 4 heads of 16 make 64",
        ),
        (of("qwen35", ssm__time_step_rank=4, ssm__group_count=3), "its 4 recurrent heads share 3 keys"),
        (of("jamba", ssm__inner_size=100), "jamba.ssm.inner_size is 100, but must be twice the width of 64"),
        (of("rwkv7", wkv__head_size=48), "rwkv7.wkv.head_size is 48, of which no whole number makes the width of 64"),
        (of("rwkv6", wkv__head_size=16, attention__head_count_kv=3), "its 4 heads share 3 heads of keys and values"),
        (of("olmo2", attention__head_count=0), "layer 0 attends, but has 0 heads"),
        (of("llama", attention__head_count_kv=2**32 - 1), "layer 0 has 4 heads, and 4294967295 of keys and values"),
        (of("modern-bert", attention__head_count_kv=3), "it has 3 heads of keys and values, but must have as many as"),
        (of("afmoe"), "afmoe.attention.sliding_window is missing or 0"),
        (of("dots3note", attention__sliding_window_pattern=[1, 4]), "each of its layers has a window, and one at"),
        (of("deepseek2-ocr", rope__freq_base=2.0), "deepseek2-ocr.rope.freq_base is 2.0, but must be 10000"),
        (of("llama", embedding_length=32), "its width is 32, but 'token_embd.weight' has the shape [64, 8]"),
        (of("qwen35", rope__dimension_sections=[8, 9, 0, 0]), "rope.dimension_sections is [8, 9, 0, 0], of 16"),
        (of("qwen35", rope__dimension_sections=[0, 0, 0, 0]), "rope.dimension_sections is [0, 0, 0, 0], of 16"),
        (
            of("deepseek2", attention__key_length_mla=24, attention__head_count_kv=1, attention__kv_lora_rank=32),
            "it keeps 16 elements of a latent of 32 and a turned key of 16",
        ),
        (
            of("deepseek2", attention__key_length_mla=24, attention__head_count_kv=1, attention__temperature_scale=0.1),
            "attention.temperature_scale and no temperature_length",
        ),
    ],
)
def test_numbers_that_llama_cpp_aborts_on_are_refused(tmp_path, metadata, complaint):
    with pytest.raises(ModelFileError) as caught:
        check(tmp_path, metadata)
    assert complaint in caught.value.message
    assert f"{tmp_path / 'model.gguf'} is not a usable model: " in caught.value.message
    assert "fetch it again" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "metadata",
    [
        of("llama", block_count=512),
        of("llama", expert_count=4, expert_used_count=[0, 2, 4]),
        of("llama", expert_count=8, expert_used_count=2, expert_group_count=4, expert_group_used_count=2),
        of("llama", expert_count=4, expert_used_count=2, expert_group_count=1, expert_group_used_count=1),
        of("llama", rope__scaling__type="yarn"),
        of("llama", pooling_type=-1),
        of("phi2", rope__dimension_count=8),
        of("qwen3next", rope__dimension_count=4, block_count=4),
        of("qwen35", block_count=2, attention__recurrent_layers=[True, False]),
        of("gemma3", attention__value_length_swa=16, attention__key_length_swa=16),
        of("llama", block_count="many"),
    ],
)
def test_numbers_that_llama_cpp_can_load_or_refuses_itself_pass(tmp_path, metadata):
    check(tmp_path, metadata)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (Tensor("output_norm.weight", (64,), "F16"), "'output_norm.weight' is of type F16, but must be F32"),
        (Tensor("token_embd.weight", (64, 8), type_id=26), "'token_embd.weight' is of type I32, which is not for"),
        (Tensor("blk.0.attn_q.weight", (64, 64), type_id=25), "is of type I16, which is not for weights"),
        (Tensor("blk.0.attn_k.bias", (32,), "F16"), "'blk.0.attn_k.bias' is of type F16"),
        (Tensor("token_types.weight", (64, 2), "F16"), "'token_types.weight' is of type F16, but must be F32"),
        (Tensor("blk.0.ssm_conv1d.weight", (4, 64), "F16"), "'blk.0.ssm_conv1d.weight' is of type F16, but must be"),
    ],
)
def test_types_that_no_kernel_takes_are_refused(tmp_path, tensor, complaint):
    others = [one for one in TENSORS if one.name != tensor.name]
    with pytest.raises(ModelFileError) as caught:
        check(tmp_path, MODEL, (*others, tensor))
    assert complaint in caught.value.message


def test_matrices_may_have_any_type_that_is_multiplied_by_and_index_tables_whole_numbers(tmp_path):
    quantized = [Tensor(one.name, one.shape, "Q8_0" if len(one.shape) > 1 else "F32") for one in TENSORS]
    check(tmp_path, MODEL, [*quantized, Tensor("blk.0.ffn_gate_tid2eid.weight", (4, 8), type_id=26)])


def test_a_layer_of_phi3_has_one_matrix_for_queries_keys_and_values_or_three(tmp_path):
    check(tmp_path, of("phi3"))
    with pytest.raises(ModelFileError, match=r"layer 0 has attn_output\.weight, and not attn_qkv"):
        check(tmp_path, of("phi3"), [one for one in TENSORS if "attn_v" not in one.name])


def test_a_gated_recurrent_layer_has_both_of_its_projections_or_the_old_one(tmp_path):
    recurrent = [Tensor("token_embd.weight", (64, 8)), Tensor("blk.0.ssm_out.weight", (64, 64))]
    qkv, gate = Tensor("blk.0.attn_qkv.weight", (64, 64)), Tensor("blk.0.attn_gate.weight", (64, 64))
    check(tmp_path, of("qwen3next", block_count=4), [*recurrent, qkv, gate])
    check(tmp_path, of("qwen3next", block_count=4), [*recurrent, Tensor("blk.0.ssm_in.weight", (64, 64))])
    for architecture, tensors in (
        ("qwen3next", [qkv, Tensor("blk.0.ssm_in.weight", (64, 64))]),
        ("qwen3next", [gate]),
        ("qwen35", [qkv]),
    ):
        with pytest.raises(ModelFileError, match=r"layer 0 has .*ssm_out\.weight, and not "):
            check(tmp_path, of(architecture), [*recurrent, *tensors])


def test_a_convolution_that_is_always_followed_by_its_bias_has_one(tmp_path):
    convolution = [Tensor("token_embd.weight", (64, 8)), Tensor("blk.0.ssm_conv1d.weight", (4, 64))]
    both = of("nemotron_h", block_count=2, attention__head_count_kv=[0, 2], feed_forward_length=[0, 0])
    check(tmp_path, both, [*convolution, Tensor("blk.0.ssm_conv1d.bias", (64,))])
    with pytest.raises(ModelFileError, match=r"layer 0 has ssm_conv1d\.weight, and not ssm_conv1d\.bias"):
        check(tmp_path, of("nemotron_h"), convolution)


def test_another_width_of_the_output_needs_a_layer_that_makes_it(tmp_path):
    both = {"block_count": 2, "attention__head_count_kv": [2, 0]}
    check(tmp_path, of("lfm2", embedding_length_out=32, **both), [*TENSORS, Tensor("dense_2.weight", (64, 32))])
    with pytest.raises(ModelFileError, match="embedding_length_out is 32, and no dense layer makes that of 64"):
        check(tmp_path, of("bert", embedding_length_out=32))


def test_weights_must_lie_where_a_mapped_file_can_be_computed_with(tmp_path):
    check(tmp_path, {**MODEL, "general.alignment": 64})
    with pytest.raises(ModelFileError, match="not at a multiple of 32"):
        check(tmp_path, {**MODEL, "general.alignment": 8, "odd": "x"}, [Tensor("a", (2, 1)), Tensor("b", (2, 1))])


def test_a_layer_with_other_mixers_than_plain_attention_has_widths_of_its_own(tmp_path):
    jamba = of("jamba", attention__head_count=2, attention__head_count_kv=[2, 0], block_count=2)
    check(tmp_path, jamba, [*TENSORS, Tensor("blk.0.ssm_in.weight", (64, 64))])


@pytest.mark.parametrize(
    ("metadata", "tensors", "complaint"),
    [
        (of("plamo2", ssm__group_count=2), (), "plamo2.ssm.group_count is 2, but must be 0 to 0"),
        (of("arwkv7"), (), "arwkv7.token_shift_count must be 1"),
        (of("rwkv6qwen2", token_shift_count=2), (), "rwkv6qwen2.token_shift_count must be 1"),
        (
            of("rwkv6qwen2", token_shift_count=1),
            (Tensor("blk.0.time_mix_first.weight", (16, 4)),),
            "layer 0 has time_mix_first.weight, which rwkv6qwen2 must not have",
        ),
        (of("minicpm3"), (), "it has 2 heads of keys and values, but must have as many as of queries, 4"),
        (of("chameleon"), (), "it has 8 tokens, and chameleon at least 8196"),
        (of("qwen3tts"), (), "it has 8 tokens, and qwen3tts at least 3072"),
        (of("deepseek32", attention__indexer__key_length=32), (), "key_length is 32, but must be 64, 128, 256"),
        (of("glm-dsa", attention__indexer__key_length=192), (), "key_length is 192, but must be 64, 128, 256"),
        (
            of("glm-dsa", attention__indexer__key_length=64, rope__dimension_count=66, attention__key_length=80),
            (),
            "key_length is 64, but must be",
        ),
        (of("qwen3vl", block_count=2, n_deepstack_layers=2), (), "n_deepstack_layers is 2, but must be 0 to 1"),
        (
            of("hrm_text", block_count=3, hrm__layers_per_stack=1, hrm__h_cycles=2, hrm__l_cycles=1),
            (),
            "it has 3 layers, but its cycles make 4",
        ),
        (
            of("hy_v3"),
            (Tensor("blk.0.ffn_gate_inp.weight", (64, 4)), Tensor("blk.0.ffn_up_exps.weight", (64, 32, 4))),
            "layer 0 has ffn_gate_inp.weight, and not ffn_down_exps.weight, ffn_gate_up_exps.weight or ffn_down_exps",
        ),
        (
            of(
                "dots3note",
                attention__key_length_mla=24,
                attention__kv_lora_rank=32,
                rope__dimension_count=8,
                attention__key_length=20,
                attention__head_count_kv=1,
            ),
            (),
            "it keeps 20 elements of a latent of 32 and a turned key of 8",
        ),
        (
            of("step35"),
            (Tensor("blk.0.ffn_down_shexp.weight", (32, 64)), Tensor("blk.0.ffn_gate_shexp.weight", (64, 32))),
            "layer 0 has ffn_gate_shexp.weight, and not ffn_down_shexp.weight, ffn_up_shexp.weight",
        ),
        (
            of("arwkv7", token_shift_count=1),
            (Tensor("blk.0.time_mix_lerp_fused.weight", (64, 1, 1, 6)), Tensor("blk.0.time_mix_g1.weight", (64, 8))),
            "layer 0 has no gate, and 'blk.0.time_mix_lerp_fused.weight' the shape [64, 1, 1, 6]",
        ),
        (
            of("glm-dsa", block_count=2, attention__indexer__types=[1, 0]),
            (Tensor("blk.0.attn_q_a.weight", (64, 24)),),
            "layer 0 has no index of its own",
        ),
        (of("qwen"), (), "it has 2 heads of keys and values, but must have as many as of queries, 4"),
        (of("plm"), (), "this version of llama.cpp cannot compute the architecture plm"),
        (of("eagle3"), (), "it is a draft model, which runs only beside the model that it guesses for"),
        (of("wavtokenizer-dec"), (), "it makes sound of codes"),
        (of("nanbeige", block_count=200, num_loops=3), (), "nanbeige.num_loops is 3, but must be 1 to 2"),
        (of("bailingmoe3", kda__gate_lower_bound=1.0), (), "gate_lower_bound is 1.0, but must be below 0"),
        (of("bailingmoe3", kda__gate_lower_bound=float("nan")), (), "gate_lower_bound is nan, but must be below 0"),
        (of("bailingmoe3", kda__safe_gate=False), (), "kda.safe_gate is false"),
        (
            of("laguna"),
            (Tensor("blk.0.attn_gate.weight", (64, 5)),),
            "'blk.0.attn_gate.weight' is 5 wide, but 4 heads need 4 or 64",
        ),
        (of("gemma-embedding", dense_2_feat_in=32), (), "gemma-embedding.dense_2_feat_in is 32, but its width is 64"),
        (
            of("jina-bert-v2", feed_forward_length=96, attention__head_count_kv=4),
            (Tensor("blk.0.ffn_up.weight", (64, 95)),),
            "'blk.0.ffn_up.weight' is 95 wide, but must be 96 or 192",
        ),
        (
            of("glm5-next", attention__indexer__kpool=4, attention__indexer__top_k=6),
            (),
            "glm5-next.attention.indexer.kpool is 4, and its top_k 6",
        ),
    ],
)
def test_what_single_architectures_abort_on_is_refused(tmp_path, metadata, tensors, complaint):
    with pytest.raises(ModelFileError) as caught:
        check(tmp_path, metadata, (*TENSORS[:2], *tensors))
    assert complaint in caught.value.message
    assert caught.value.hint


def test_a_latent_for_all_heads_is_asked_of_the_layers_that_attend_alone(tmp_path):
    latent = {
        "attention__key_length_mla": 24,
        "attention__key_length": 40,
        "attention__kv_lora_rank": 32,
        "rope__dimension_count": 8,
        "attention__head_count": [4, 4],
        "block_count": 2,
    }
    check(tmp_path, of("kimi-linear", attention__head_count_kv=[0, 1], **latent), TENSORS[:2])
    windowed = {"attention__key_length_swa": 64, "attention__kv_lora_rank_swa": 32}
    with pytest.raises(ModelFileError, match="in windows it keeps 64 elements of a latent of 32 and a turned key of 8"):
        check(tmp_path, of("dots3note", attention__head_count_kv=[1, 1], **latent, **windowed), TENSORS[:2])
    longer = {**latent, "attention__key_length": 48}
    with pytest.raises(ModelFileError, match="keeps 48 elements of a latent of 32 and a turned key of 8"):
        check(tmp_path, of("kimi-linear", attention__head_count_kv=[0, 1], **longer), TENSORS[:2])
    with pytest.raises(ModelFileError, match="keeps one latent for all heads"):
        check(tmp_path, of("kimi-linear", attention__head_count_kv=[0, 2], **latent), TENSORS[:2])
    with pytest.raises(ModelFileError, match="keeps one latent for all heads"):
        check(tmp_path, of("deepseek2", attention__head_count_kv=[0, 1], **latent), TENSORS[:2])


@pytest.mark.parametrize(
    "metadata",
    [
        of("jamba", block_count=2, attention__head_count_kv=[2, 2]),
        of("jamba", block_count=2, attention__head_count_kv=[0, 0]),
        of("granitehybrid", block_count=2),
        of("granitehybrid", block_count=3, attention__head_count_kv=[0, 0, 2], nextn_predict_layers=1),
        of("nemotron_h", block_count=3, attention__head_count_kv=[0, 2, 2], feed_forward_length=[96, 0, 0]),
        of("nemotron_h", block_count=3, attention__head_count_kv=[0, 0, 2], feed_forward_length=[0, 0, 96]),
        of("qwen35", block_count=3),
        of("qwen35", block_count=4, full_attention_interval=1),
        of("qwen3next", block_count=2, attention__recurrent_layers=[True, True]),
        of("minimax-01", block_count=4),
    ],
)
def test_a_mixture_of_attending_and_recurrent_layers_has_both(tmp_path, metadata):
    with pytest.raises(ModelFileError, match="mixes layers that attend and recurrent ones, and it has not both"):
        check(tmp_path, metadata, TENSORS[:2])


@pytest.mark.parametrize("vocabulary", [bpe("qwen2"), spm(), wpm(), ugm(), rwkv()])
def test_whole_vocabularies_pass(tmp_path, vocabulary):
    check(tmp_path, {**MODEL, **vocabulary})


def without(vocabulary: dict[str, Any], *tokens: str) -> dict[str, Any]:
    left = [token for token in vocabulary["tokenizer.ggml.tokens"] if token not in tokens]
    return {**vocabulary, "tokenizer.ggml.tokens": left}


def put(vocabulary: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**vocabulary, **{f"tokenizer.ggml.{key}": value for key, value in more.items()}}


@pytest.mark.parametrize(
    ("vocabulary", "complaint"),
    [
        (without(spm(), "<0x0A>"), "no token for the byte 0x0A, and the tokenizer 'llama' needs all"),
        (without(rwkv(), "\\x41"), "no token for the byte 0x41, and the tokenizer 'rwkv' needs all"),
        (put(wpm(), seperator_token_id=10**6), "that its vocabulary has not: tokenizer.ggml.seperator_token_id"),
        (
            put({key: value for key, value in ugm().items() if "bos" not in key}, add_bos_token=True),
            "that its vocabulary has not: tokenizer.ggml.bos_token_id",
        ),
    ],
)
def test_a_vocabulary_that_some_prompt_cannot_be_written_in_is_refused(tmp_path, vocabulary, complaint):
    with pytest.raises(ModelFileError) as caught:
        check(tmp_path, {**MODEL, **vocabulary})
    assert complaint in caught.value.message


def test_a_letter_may_stand_for_its_byte(tmp_path):
    check(tmp_path, {**MODEL, **without(spm(), "<0x61>")})  # "a" is there
