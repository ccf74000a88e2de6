"""Well-known models' hyper-parameters by architecture, for hollow files (shape_models.py): a few layers of each.

The widths are those of real models, or of their smaller siblings; vocabularies are cut, since only their size matters.
"""

from __future__ import annotations

from typing import Any

from shape_models import ShapeModel, quantized


def dense(
    layers: int, width: int, heads: int, kv_heads: int, head_size: int, feed_forward: int, **more: Any
) -> dict[str, Any]:
    """The numbers of a plain transformer; a name in `more` has __ for a dot."""
    return {
        "context_length": 32768,
        "embedding_length": width,
        "block_count": layers,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.layer_norm_epsilon": 1e-5,
        "rope.freq_base": 1e6,
        "rope.dimension_count": head_size,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def _experts(count: int, used: int, feed_forward: int) -> dict[str, Any]:
    return {"expert_count": count, "expert_used_count": used, "expert_feed_forward_length": feed_forward}


_MAMBA: dict[str, Any] = {
    "ssm.conv_kernel": 4,
    "ssm.state_size": 128,
    "ssm.group_count": 1,
}
_LATENT: dict[str, Any] = {
    **dense(6, 2048, 16, 1, 576, 10944),
    "attention.value_length": 512,
    "attention.kv_lora_rank": 512,
    "attention.q_lora_rank": 1536,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "rope.dimension_count": 64,
    "leading_dense_block_count": 1,
    "expert_shared_count": 2,
    "expert_weights_scale": 1.0,
    "expert_gating_func": 1,
    **_experts(64, 6, 1408),
}
_SCALES = (".scale", ".input_scale")
RECIPES: dict[str, ShapeModel] = {
    "llama": ShapeModel("llama", dense(4, 4096, 32, 8, 128, 14336), 128256),
    "qwen3": ShapeModel("qwen3", dense(4, 2560, 32, 8, 128, 9728), 32000),
    "qwen2": ShapeModel("qwen2", dense(4, 3584, 28, 4, 128, 18944), 32000),
    "qwen3moe": ShapeModel("qwen3moe", dense(4, 2048, 32, 4, 128, 6144) | _experts(128, 8, 768), 32000),
    "gpt-oss": ShapeModel(
        "gpt-oss",
        dense(4, 2880, 64, 8, 64, 2880, attention__sliding_window=128) | _experts(32, 4, 2880),
        32000,
        left_out=(*_SCALES, "rope_freqs.weight"),
    ),
    "gemma2": ShapeModel("gemma2", dense(4, 2304, 8, 4, 256, 9216, attention__sliding_window=4096), 64000),
    "gemma3": ShapeModel("gemma3", dense(12, 2560, 8, 4, 256, 10240, attention__sliding_window=1024), 64000),
    "gemma3n": ShapeModel("gemma3n", dense(30, 2048, 8, 2, 256, 8192, attention__sliding_window=512), 32000),
    "gemma4": ShapeModel(
        "gemma4",
        {
            **dense(15, 1536, 8, 1, 512, 6144, attention__sliding_window=512),
            "attention.key_length_swa": 256,
            "attention.value_length_swa": 256,
            "rope.dimension_count_swa": 256,
            "attention.shared_kv_layers": 5,
            "attention.sliding_window_pattern": [index % 5 != 4 for index in range(15)],
            "embedding_length_per_layer_input": 256,
        },
        32000,
        left_out=(".bias", *_SCALES),
    ),
    "deepseek2": ShapeModel("deepseek2", _LATENT, 32000),
    "qwen35": ShapeModel(
        "qwen35",
        {
            **dense(8, 2560, 16, 4, 256, 9216),
            "rope.dimension_count": 64,
            "rope.dimension_sections": [11, 11, 10, 0],
            "full_attention_interval": 4,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 4096,
            "ssm.state_size": 128,
            "ssm.time_step_rank": 32,
            "ssm.group_count": 16,
        },
        32000,
        left_out=(*_SCALES, ".attn_q.bias", ".attn_k.bias", ".attn_v.bias"),
    ),
    "mamba": ShapeModel(
        "mamba",
        {
            "context_length": 32768,
            "embedding_length": 2560,
            "block_count": 6,
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 5120,
            "ssm.state_size": 16,
            "ssm.time_step_rank": 160,
        },
        32000,
        left_out=_SCALES,
    ),
    "granitehybrid": ShapeModel(
        "granitehybrid",
        {
            **dense(8, 1536, 12, 4, 128, 512, **{"ssm__inner_size": 3072, "ssm__time_step_rank": 48}),
            **_MAMBA,
            "attention.head_count_kv": [0, 0, 0, 4, 0, 0, 0, 4],
            "expert_shared_feed_forward_length": 1024,
            **_experts(62, 6, 512),
        },
        32000,
        left_out=(*_SCALES, "rope_freqs.weight"),
    ),
    "lfm2": ShapeModel(
        "lfm2",
        dense(8, 2048, 32, 8, 64, 8192, shortconv__l_cache=3) | {"attention.head_count_kv": [0, 0, 8, 0, 0, 8, 0, 8]},
        32000,
    ),
    "phi3": ShapeModel("phi3", dense(4, 3072, 32, 32, 96, 8192), 32064),
    "phi2": ShapeModel(
        "phi2", dense(4, 2560, 32, 32, 80, 10240) | {"rope.dimension_count": 32}, 51200, left_out=_SCALES
    ),
    "command-r": ShapeModel("command-r", dense(4, 4096, 32, 8, 128, 14336, logit_scale=0.06), 64000),
    "bert": ShapeModel(
        "bert",
        {
            **dense(6, 1024, 16, 16, 64, 4096),
            "context_length": 512,
            "attention.causal": False,
            "pooling_type": 1,
            "tokenizer.ggml.token_type_count": 2,
        },
        30522,
        left_out=(*_SCALES, "cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"),
        types=quantized("Q8_0", "Q8_0"),
    ),
}
