"""What llama.cpp expects of groups of architectures, as tables. `gguf_rules.py` says what follows from them.

A group is of those whose code asserts the same thing, in the llama.cpp that pyproject.toml names. An architecture that
is missing here is not checked for it: then llama.cpp's own word, in a process that may die, is the check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

# All elements of a key are turned by its position: rope.dimension_count is the size of a key.
WHOLE_ROTATION = frozenset(
    """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5
    ernie4_5-moe exaone exaone-moe exaone4 falcon granite granite_swa granitemoe graniteswitch grok grovemoe
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama-embed llama4 maincoder
    mellum minicpm mistral3 olmo olmo2 olmoe orion paddleocr pangu-embedded plamo pockettts qwen2 qwen2moe qwen2vl
    qwen3 qwen3moe qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3 starcoder2 talkie xverse
    """.split()
)

# Keys and values are of one size.
EQUAL_HEADS = frozenset(
    """
    afmoe apertus arcee arctic baichuan bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cogvlm cohere2
    cohere2moe command-r dbrx deci deepseek deepseek4 dflash dots1 dream eagle3 ernie4_5 ernie4_5-moe eurobert
    exaone falcon glm4 glm4moe gpt2 gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 jina-bert-v2 jina-bert-v3 laguna lfm2 lfm2moe
    llada llada-moe llama llama-embed llama4 maincoder mellum minicpm minimax-01 minimax-m2 minimax-m3 mistral3
    modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe
    olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo pockettts qwen qwen2 qwen2moe
    qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss smallthinker
    smollm3 spark2_5 stablelm starcoder starcoder2 t5 t5encoder xverse
    """.split()
)

# Recurrent layers with heads of their own, and a gate for what they put out.
GATED_DELTA_NETS = frozenset(["qwen3next", "qwen35", "qwen35moe"])

# Their recurrent part works on twice the model's width.
INNER_TWICE_AS_WIDE = frozenset(["granitehybrid", "jamba"])

# attention.key_length is that of the latent and the turned key together, as it lies in the cache.
LATENT_KEYS = frozenset(
    """
    bailingmoe3 deepseek2 deepseek2-ocr deepseek32 dots3note glm-dsa kimi-k3 kimi-linear mistral4
    """.split()
)

# embedding_length is not that of token_embd.weight.
OTHER_WIDTHS = frozenset(["dflash", "eagle3", "gemma4-assistant", "wavtokenizer-dec"])

# Mixtures of experts that cannot be without: others without a count are read as plain models, or refused by llama.cpp.
ALWAYS_EXPERTS = frozenset(["bailingmoe2", "glm4moe", "grovemoe", "lfm2moe", "llada-moe", "smallthinker"])

# Mixtures of experts that must say how they weigh them; others have a default.
STATED_GATING = frozenset(
    """
    bailingmoe2 bailingmoe3 deepseek32 dots1 dots3note exaone-moe hy_v4 kimi-k3 kimi-linear lfm2moe minimax-m2
    minimax-m3 smallthinker
    """.split()
)

# Numbers that must not be zero: something is divided by them, or done so many times.
AT_LEAST_ONE = {
    "grovemoe": ("experts_per_group",),
    "hrm_text": ("hrm.layers_per_stack", "hrm.h_cycles", "hrm.l_cycles"),
    "minimax-m3": ("attention.indexer.block_size",),
}

# Two tokens are shifted into one another in each layer, and two must be stated.
TWO_SHIFTS = frozenset(["rwkv6", "rwkv7"])

# Some layers attend and some are recurrent; those are recurrent that have no heads of keys and values.
MIXED_BY_HEADS = frozenset(
    """
    bailingmoe3 glm5-next granitehybrid jamba kimi-k3 kimi-linear lfm2 lfm2moe nemotron_h nemotron_h_moe plamo2
    """.split()
)
# Of these a layer with a feed-forward width is neither.
NEITHER_WITH_FEED_FORWARD = frozenset(["nemotron_h", "nemotron_h_moe"])
# Here every so many layers one attends, and how many when the file does not say.
MIXED_BY_INTERVAL = {"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}

# One token is shifted in each layer, and that must be stated: two are the default.
ONE_SHIFT = frozenset(["arwkv7", "rwkv6qwen2"])

# As many heads of keys and values as of queries.
AS_MANY_HEADS = frozenset(["minicpm3", "modern-bert", "qwen"])

# Keys of the index are turned by a matrix, whose width is a power of two.
TURNED_INDEX = frozenset(["deepseek32", "deepseek4", "dots3note", "glm-dsa"])
INDEX_LEAST = 64

# Tokens that are built into the code.
LEAST_VOCABULARY = {"chameleon": 8196, "qwen3tts": 3072}

# A layer's tensors that make llama.cpp take another way, for which others are not loaded.
MISLEADING = {"rwkv6qwen2": "time_mix_first.weight"}

# Numbers that must be zero.
ALWAYS_ZERO = {"plamo2": ("ssm.group_count",)}

# Encoders with windowed layers between others, and how far apart those others are when the file does not say.
WINDOWED_ENCODERS = {"gemma-embedding": 6}


class Companions(NamedTuple):
    """Tensors that llama.cpp takes for optional and uses unseen: a layer with all `given` needs one of `needed`."""

    architectures: frozenset[str]
    given: frozenset[str]
    needed: tuple[frozenset[str], ...]


def _whole(name: str) -> str:
    return name if name.endswith(".bias") else f"{name}.weight"


def _companions(architectures: str, given: str, *needed: str) -> Companions:
    """Of names without their ".weight"; those of a bias are whole."""
    tensors = [frozenset(map(_whole, one.split())) for one in (given, *needed)]
    return Companions(frozenset(architectures.split()), tensors[0], tuple(tensors[1:]))


def _all_or_none(architectures: str, names: str) -> Iterator[Companions]:
    for name in names.split():
        yield _companions(architectures, name, " ".join(other for other in names.split() if other != name))


COMPANIONS = (
    *_all_or_none("hy_v3 kimi-k3 kimi-linear step35", "ffn_gate_shexp ffn_up_shexp ffn_down_shexp"),
    *_all_or_none("glm-dsa", "indexer.proj indexer.attn_k indexer.attn_q_b"),
    _companions("grok", "ffn_up", "ffn_gate ffn_down"),
    _companions("mimo2 step35", "ffn_gate_inp", "ffn_gate_exps ffn_up_exps ffn_down_exps"),
    _companions("phi3 pockettts", "attn_output", "attn_qkv", "attn_q attn_k attn_v"),
    _companions("qwen35 qwen35moe", "ssm_out", "attn_qkv attn_gate"),
    _companions("qwen3next", "ssm_out", "attn_qkv attn_gate", "ssm_in"),
    _companions("qwen3next", "ssm_out attn_qkv", "attn_gate"),
    _companions("hy_v3", "ffn_gate_inp", "ffn_down_exps ffn_gate_up_exps", "ffn_down_exps ffn_gate_exps ffn_up_exps"),
    _companions("falcon-h1 granitehybrid nemotron_h nemotron_h_moe", "ssm_conv1d", "ssm_conv1d.bias"),
    _companions(
        "rwkv6 rwkv6qwen2",
        "time_mix_w1",
        "time_mix_lerp_fused",
        "time_mix_lerp_w time_mix_lerp_k time_mix_lerp_v time_mix_lerp_r time_mix_lerp_g",
    ),
)

# Tokenizer → what it may put around a prompt: (key of the token, key of the switch, switched on when unsaid, token when
# unsaid or out of range).
ADDED_TOKENS: dict[str, tuple[tuple[str, str, bool, int | None], ...]] = {
    "llama": (("bos_token_id", "add_bos_token", True, 1), ("eos_token_id", "add_eos_token", False, 2)),
    "gpt2": (("bos_token_id", "add_bos_token", False, 11), ("eos_token_id", "add_eos_token", False, 11)),
    "gemma4": (("bos_token_id", "add_bos_token", True, None), ("eos_token_id", "add_eos_token", False, None)),
    "t5": (("bos_token_id", "add_bos_token", False, None), ("eos_token_id", "add_eos_token", True, 1)),
    # It always adds both, whatever the switches say.
    "bert": (("bos_token_id", "", True, 101), ("seperator_token_id", "", True, 102)),
}
