"""The well-formed models that mutations start from: small ones of every kind of tokenizer, memory and tensor layout.

    python -m gguf_fuzz.seeds FOLDER        writes what is missing there; some minutes

llama.cpp makes the tensors (tests/synthetic_models.py, a child per file); with the vocabularies of vocabularies.py, of
a few hundred tokens, a file has some 400 KB and loads in milliseconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import synthetic_models
from gguf_files import gguf_bytes
from gguf_fuzz.document import Document, Pair, Tensor
from gguf_fuzz.rare_seeds import (
    DELTA,
    ENCODER,
    EVERY_SECOND,
    EXPERTS,
    LATENT,
    LORAS,
    SHARED,
    SHARED_WIDTH,
    STATE,
    WIND,
    WINDOW,
    rare_seeds,
)
from gguf_fuzz.vocabularies import bpe, plamo2, rwkv, spm, ugm, wpm
from synthetic_models import Recipe

_TESTS = Path(__file__).resolve().parents[1]
_QUIET = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": f"{_TESTS}:{_TESTS.parent}"}


def _transformer(**more: Any) -> dict[str, Any]:
    return {
        "context_length": 256,
        "embedding_length": 64,
        "block_count": 2,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.layer_norm_epsilon": 1e-6,
        "rope.freq_base": 1e4,
        "rope.dimension_count": 16,
        **more,
    }


_PLAIN = Recipe.left_out
_PHI3 = (*_PLAIN, "rope_factors_long.weight", "rope_factors_short.weight")
_BIASED = (
    ".scale",
    ".input_scale",
    "rope_freqs.weight",
    "cls.weight",
    "cls.bias",
    "cls.output.weight",
    "cls.output.bias",
)
Seed = tuple[Recipe, Mapping[str, Any], str | None]  # how, vocabulary, quantisation


def _seed(architecture: str, vocabulary: Mapping[str, Any], left_out: tuple[str, ...] = _BIASED, **more: Any) -> Seed:
    return Recipe(architecture, _transformer(**more), left_out), vocabulary, None


def _quantized(seed: Seed, quantization: str) -> Seed:
    return seed[0], seed[1], quantization


SEEDS: Mapping[str, Seed] = {
    "llama-spm": _seed("llama", spm(), _PLAIN),
    "llama-bpe-q4_0": _quantized(_seed("llama", bpe("llama-bpe"), _PLAIN), "Q4_0"),
    "llama-moe": _seed("llama", spm(), _PLAIN, **EXPERTS),
    "llama-plamo2": _seed("llama", plamo2(), _PLAIN),
    "qwen2-q8_0": _quantized(_seed("qwen2", bpe("qwen2")), "Q8_0"),
    "qwen3-k": _quantized(
        _seed("qwen3", bpe("qwen2"), _PLAIN, embedding_length=256, feed_forward_length=256), "Q4_K_M"
    ),
    "qwen3moe": _seed("qwen3moe", bpe("qwen2"), _PLAIN, **EXPERTS),
    "gemma3": _seed("gemma3", spm(), _PLAIN, **WINDOW),
    "phi2": _seed("phi2", bpe("gpt-2"), **{"attention.head_count_kv": 4, "rope.dimension_count": 8}),
    "phi3": _seed("phi3", bpe("gpt-2", "</s>", "<unk>", "<s>"), _PHI3, **{"attention.sliding_window": 32}),
    "gpt2": _seed("gpt2", bpe("gpt-2"), **{"attention.head_count_kv": 4}),
    "falcon": _seed("falcon", bpe("falcon"), **{"attention.head_count_kv": 1}),
    "stablelm": _seed("stablelm", bpe("gpt-2"), **{"rope.dimension_count": 4, "use_parallel_residual": True}),
    "starcoder2": _seed("starcoder2", bpe("starcoder")),
    "bloom": _seed("bloom", bpe("bloom"), **{"attention.head_count_kv": 4}),
    "chatglm": _seed("chatglm", bpe("chatglm-bpe"), **{"rope.dimension_count": 8}),
    "bitnet": _seed("bitnet", spm()),
    "olmo2": _seed("olmo2", bpe("olmo"), _PLAIN),
    "granite": _seed("granite", bpe("starcoder"), _PLAIN, **{"attention.scale": 0.1, "logit_scale": 8.0}),
    "gptoss": _seed("gpt-oss", bpe("gpt-4o"), **EXPERTS, **WINDOW),
    "glm4moe": _seed("glm4moe", bpe("qwen2"), **EXPERTS, **SHARED, **{"rope.dimension_count": 8}),
    "smallthinker": _seed("smallthinker", bpe("qwen2"), _PLAIN, **EXPERTS, expert_gating_func=1),
    "deepseek2": _seed("deepseek2", bpe("deepseek-llm"), _PLAIN, **EXPERTS, **SHARED, **LATENT),
    "mamba": _seed("mamba", bpe("gpt-2"), **STATE, **{"attention.head_count": 0}),
    "mamba2": _seed("mamba2", bpe("gpt-2"), **STATE, **{"attention.head_count": 0}),
    "jamba": _seed("jamba", bpe("gpt-2"), **STATE, **EXPERTS, **EVERY_SECOND),
    "falcon-h1": _seed("falcon-h1", bpe("falcon"), **STATE),
    "nemotron_h": _seed("nemotron_h", bpe("tekken"), **STATE, **EVERY_SECOND, feed_forward_length=(0, 0)),
    "granitehybrid": _seed("granitehybrid", bpe("starcoder"), **STATE, **EVERY_SECOND),
    "lfm2": _seed("lfm2", bpe("lfm2"), **EVERY_SECOND, **{"shortconv.l_cache": 3}),
    "qwen35": _seed("qwen35", bpe("qwen2"), **{**STATE, **DELTA}),
    "qwen3next": _seed("qwen3next", bpe("qwen2"), **{**STATE, **DELTA, **EXPERTS}, **SHARED_WIDTH),
    "rwkv6": _seed("rwkv6", rwkv(), **WIND, time_mix_extra_dim=8, time_decay_extra_dim=8),
    "rwkv7": _seed("rwkv7", rwkv(), **WIND, **LORAS),
    "bert": _seed("bert", wpm(), **ENCODER, pooling_type=1),
    "bert-ugm": _seed("bert", ugm(), **ENCODER, pooling_type=2),
    "nomic-bert": _seed("nomic-bert", wpm(), **ENCODER, pooling_type=1),
    "gemma-embedding": _seed("gemma-embedding", spm(), _PLAIN, **WINDOW, pooling_type=1),
    "qwen3-embedding": _seed("qwen3", bpe("qwen2"), _PLAIN, pooling_type=3),
    "t5": _seed("t5", ugm(), _PLAIN, **{"attention.relative_buckets_count": 32, "attention.head_count_kv": 4}),
    **{
        name: _seed(name, vocabulary, (*_BIASED, *left_out), **numbers)
        for name, vocabulary, numbers, left_out in rare_seeds()
    },
}


def write_seeds(folder: Path, names: tuple[str, ...] = tuple(SEEDS)) -> list[Path]:
    """The seeds' paths, those that are not there yet being made. Raises RuntimeError with llama.cpp's words."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        target = folder / f"{name}.gguf"
        if not target.exists():
            _, vocabulary, quantization = SEEDS[name]
            source = folder / f"{name}.vocab"
            source.write_bytes(gguf_bytes({"general.architecture": "llama", **vocabulary}, ()))
            command = [sys.executable, "-m", "gguf_fuzz.seeds", name, str(source), str(target)]
            if quantization:
                command += ["--quantize", quantization]
            done = subprocess.run(command, capture_output=True, text=True, cwd=_TESTS, env=_QUIET, check=False)
            if done.returncode:
                raise RuntimeError(f"{name} cannot be built: {done.stderr[-2000:]}")
            source.unlink()
    return [folder / f"{name}.gguf" for name in names]


def split(document: Document) -> Iterator[Document]:
    """One model as the two files that llama.cpp's splitter would make of it."""
    half = len(document.tensors) // 2
    for number, tensors in enumerate((document.tensors[:half], document.tensors[half:])):
        said: list[tuple[bytes, int, int]] = [
            (b"split.no", 2, number), (b"split.count", 2, 2), (b"split.tensors.count", 5, len(document.tensors)),
        ]  # fmt: skip
        pairs = [Pair(key, kind, value.to_bytes(2 if kind == 2 else 4, "little")) for key, kind, value in said]
        rows = [Tensor(one.name, list(one.shape), one.type_id, one.data) for one in tensors]
        yield Document([*(document.pairs if number == 0 else ()), *pairs], rows)


def main() -> None:
    """One seed in this process, which loads llama.cpp; or, given a folder alone, all of them in children."""
    if len(sys.argv) == 2:
        write_seeds(Path(sys.argv[1]))
        return
    synthetic_models.RECIPES.update({name: recipe for name, (recipe, _, _) in SEEDS.items()})
    synthetic_models.main(sys.argv[1:])


if __name__ == "__main__":
    main()
