"""Seeds of the rarer architectures, in groups of those that are content with the same numbers; seeds.py writes them.

What stands in no group has numbers of its own. Not here: architectures that need another model beside them (drafts,
projectors), and those whose numbers nobody found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gguf_fuzz.vocabularies import bpe, rwkv, wpm

Numbers = dict[str, Any]
EXPERTS: Numbers = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
STATE: Numbers = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 2,
}
ENCODER: Numbers = {"attention.causal": False, "attention.head_count_kv": 4, "tokenizer.ggml.token_type_count": 2}
LATENT: Numbers = {
    "attention.head_count_kv": 1,
    "attention.key_length": 40,
    "attention.value_length": 32,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 16,
    "attention.kv_lora_rank": 32,
    "attention.q_lora_rank": 24,
    "rope.dimension_count": 8,
    "expert_gating_func": 2,
}
WIND: Numbers = {
    "wkv.head_size": 16,
    "attention.head_count": 0,
    "attention.head_count_kv": 0,
    "token_shift_count": 2,
    "rescale_every_n_layers": 6,
}
WINDOW: Numbers = {"attention.sliding_window": 32, "attention.sliding_window_pattern": 2}
EVERY_SECOND: Numbers = {"attention.head_count_kv": (0, 2)}
SHARED: Numbers = {"expert_shared_count": 1, "leading_dense_block_count": 1, "expert_weights_scale": 1.0}
SHARED_WIDTH: Numbers = {"expert_shared_feed_forward_length": 32}
RANKS = ("decay_lora_rank", "iclr_lora_rank", "value_residual_mix_lora_rank", "gate_lora_rank")
LORAS: Numbers = {f"attention.{name}": 8 for name in RANKS}
DELTA: Numbers = {
    "rope.dimension_sections": (4, 2, 2, 0),
    "full_attention_interval": 2,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 64,
}
_FLAGS: Numbers = {"attention.sliding_window": 32, "attention.sliding_window_pattern": (0, 1)}
_SECTIONS: Numbers = {"rope.dimension_sections": (4, 2, 2, 0)}
_ALL_SHARED: Numbers = {**EXPERTS, **SHARED, **SHARED_WIDTH, "expert_gating_func": 2}
_SCALED: Numbers = {"logit_scale": 1.0, "residual_scale": 1.0, "embedding_scale": 1.0}
_INDEX: Numbers = {
    "attention.indexer.head_count": 2,
    "attention.indexer.key_length": 64,
    "attention.indexer.top_k": 8,
}
_LARGE: Numbers = {
    "attention.head_count_kv": 4,
    "block_count": 4,
    "logit_scale": 1.0,
    "attention.clamp_kqv": 1.0,
    "attention.max_alibi_bias": 8.0,
    "attention.sliding_window": 32,
    "use_parallel_residual": False,
}
_LARGE_EXPERTS: Numbers = {
    "attention.head_count_kv": 4,
    "block_count": 4,
    "logit_scale": 1.0,
    **EXPERTS,
    **SHARED,
    **SHARED_WIDTH,
    "interleave_moe_layer_step": 1,
    "attention.sliding_window": 32,
}
_TURNS: Numbers = {"attention.head_count": (4, 4), "attention.head_count_kv": (0, 1), "kda.head_dim": 16}

_GROUPS: tuple[tuple[str, Numbers], ...] = (
    (
        """
        arcee baichuan codeshell cogvlm command-r deci ernie4_5 eurobert exaone exaone4 gemma glm4 hunyuan-dense
        hunyuan_vl internlm2 jais jais2 llama-embed maincoder minicpm mistral3 modern-bert mpt nanbeige nemotron
        neo-bert olmo openelm orion pangu-embedded plamo plamo3 pockettts refact seed_oss smollm3 starcoder xverse
        """,
        {},
    ),
    ("qwen", {"attention.head_count_kv": 4}),
    ("arctic grok hunyuan-moe hy_v3 mellum phimoe qwen2moe", EXPERTS),
    ("bailingmoe deepseek laguna", {**EXPERTS, **SHARED}),
    ("bailingmoe2 minimax-m2", {**_ALL_SHARED, "expert_gating_func": 1}),
    ("dots1", {**_ALL_SHARED, "attention.head_count_kv": 4}),
    ("afmoe exaone-moe", {**WINDOW, **EXPERTS, **SHARED, "expert_gating_func": 2}),
    ("gemma3n", WINDOW),
    ("cohere2 gemma2 gptneox granitemoe muse-glimmer talkie", _LARGE),
    ("cohere2moe deepseek2-ocr ernie4_5-moe llama4 olmoe", _LARGE_EXPERTS),
    ("mimo2 step35 spark2_5", {**_FLAGS, **EXPERTS, **SHARED_WIDTH, "expert_gating_func": 2}),
    ("maple", {**_FLAGS, **EXPERTS, "swiglu_clamp_exp": 1.0, "expert_gating_func": 1}),
    ("granite_swa", {**_FLAGS, **_SCALED, "attention.scale": 0.1}),
    ("paddleocr qwen2vl qwen3vl", _SECTIONS),
    ("qwen3vlmoe", {**_SECTIONS, **EXPERTS}),
    ("dbrx", {**EXPERTS, "attention.clamp_kqv": 1.0}),
    (
        "grovemoe",
        {**EXPERTS, "expert_group_scale": 1.0, "expert_chunk_feed_forward_length": 32, "experts_per_group": 2},
    ),
    ("hrm_text", {"hrm.layers_per_stack": 1, "hrm.h_cycles": 1, "hrm.l_cycles": 1}),
    (
        "minicpm3",
        {
            "attention.head_count_kv": 4,
            "attention.q_lora_rank": 24,
            "attention.kv_lora_rank": 32,
            "attention.key_length": 24,
            "rope.dimension_count": 8,
        },
    ),
    ("mistral4", {**LATENT, **EXPERTS, **SHARED}),
    ("deepseek32 glm-dsa", {**LATENT, **_ALL_SHARED, **_INDEX}),
    (
        "dots3note",
        {
            **LATENT,
            **_ALL_SHARED,
            **_INDEX,
            **_FLAGS,
            "attention.kv_lora_rank_swa": 32,
            "attention.key_length_swa": 40,
            "attention.value_length_swa": 32,
            "attention.key_length_mla_swa": 24,
            "attention.value_length_mla_swa": 16,
            "rope.freq_base_swa": 1e4,
            "attention.indexer.types": (1, 0),
        },
    ),
    (
        "minimax-m3",
        {**_ALL_SHARED, **_INDEX, "attention.indexer.block_size": 4, "attention.indexer.local_blocks": 1}
        | {"attention.indexer.key_length": 16},
    ),
    ("minimax-01", {**EXPERTS, "residual_scale": 1.0, "full_attention_interval": 2}),
    ("qwen35moe", {**STATE, **DELTA, **EXPERTS, **SHARED_WIDTH}),
    ("plamo2", {**STATE, **EVERY_SECOND, "ssm.group_count": 0}),
    ("nemotron_h_moe", {**STATE, **_ALL_SHARED, **EVERY_SECOND, "feed_forward_length": (0, 0)}),
    (
        "lfm2moe",
        {**EVERY_SECOND, **EXPERTS, "shortconv.l_cache": 3, "expert_gating_func": 2, "leading_dense_block_count": 1},
    ),
    ("kimi-linear", {**LATENT, **_ALL_SHARED, **_TURNS, "ssm.conv_kernel": 4}),
    (
        "bailingmoe3",
        {**LATENT, **_ALL_SHARED, **_TURNS, "ssm.conv_kernel": 4, "kda.safe_gate": True, "kda.gate_lower_bound": -5.0},
    ),
)
_ENCODERS = "dream jina-bert-v2 jina-bert-v3 llada nomic-bert-moe"
_QWEN_WIND: Numbers = {"attention.head_count": 4, "attention.head_count_kv": 2, "token_shift_count": 1}


def rare_seeds() -> Iterator[tuple[str, Mapping[str, Any], Numbers, tuple[str, ...]]]:
    """Architecture, vocabulary, numbers, and tensors that must be left out."""
    for names, numbers in _GROUPS:
        for name in names.split():
            yield name, bpe("gpt-2"), numbers, ()
    for name in _ENCODERS.split():
        yield name, wpm(), {**ENCODER, "pooling_type": 1}, ()
    yield "arwkv7", rwkv(), {**WIND, **LORAS, **_QWEN_WIND}, ()
    old = {**WIND, **_QWEN_WIND, "time_mix_extra_dim": 8, "time_decay_extra_dim": 8}
    yield "rwkv6qwen2", rwkv(), old, (".time_mix_first.weight",)
