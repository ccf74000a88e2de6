"""GGUF files with random weights in any size, for tests and benchmarks: real tokenizers and architectures, no download.

    python tests/synthetic_models.py RECIPE VOCABULARY.gguf TARGET.gguf [--seed N] [--quantize Q4_K_M]

The tokenizer comes from a vocabulary file (llama.cpp's `models/ggml-vocab-*.gguf`, or any GGUF); llama.cpp itself
makes the tensors that the architecture wants, so a recipe is only its hyper-parameters. What such a model says is
noise: assert structure, determinism and equalities, never words.

`build` does the work in a child process, since llama.cpp aborts on misuse and must not be loaded where tests run. The
child is this file run as a program; it alone imports llama_cpp.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHILD_SECONDS = 600
_LIBRARIES = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
_QUANTIZATIONS = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}  # llama_ftype of llama.h
_GGUF_INT32 = 5  # gguf_type of gguf.h
_SCALES = (".scale", ".input_scale")
_HEADS = ("cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias")
Value = bool | int | float | tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters, under GGUF's names without the architecture in front (a `tokenizer.…` name is whole).

    An int is a uint32, a float a float32, a tuple an array of int32. llama.cpp makes every tensor that the architecture
    may have. Those in `left_out` (whole names, or endings that begin with a dot) are optional, absent from real files,
    and would only cost time: they are dropped.
    """

    architecture: str
    values: Mapping[str, Value]
    left_out: tuple[str, ...] = (*_SCALES, *_HEADS, ".bias", "rope_freqs.weight")


def _transformer(
    layers: int, width: int, heads: int, kv_heads: int, head_size: int, feed_forward: int, context_tokens: int
) -> dict[str, Value]:
    return {
        "context_length": context_tokens,
        "embedding_length": width,
        "block_count": layers,
        "feed_forward_length": feed_forward,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
        "rope.dimension_count": head_size,
    }


def _encoder(pooling: int) -> dict[str, Value]:
    return {
        **_transformer(2, 256, 4, 4, 64, 512, 512),
        "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False,
        "pooling_type": pooling,
        "tokenizer.ggml.token_type_count": 2,
    }


_EXPERTS: dict[str, Value] = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 256}
_DELTA_NET: dict[str, Value] = {
    "rope.dimension_sections": (8, 12, 12, 0),
    "full_attention_interval": 2,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 256,
    "ssm.state_size": 64,
    "ssm.time_step_rank": 4,
    "ssm.group_count": 2,
}
_MAMBA: dict[str, Value] = {
    "context_length": 4096,
    "embedding_length": 256,
    "block_count": 2,
    "feed_forward_length": 0,
    "attention.head_count": 0,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 512,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 16,
}
# With the usual scale a short convolution would all but silence what comes after it, and only the last token count.
# Nor may the router of a mixture be undecided: rounding would then choose other experts, and with them other tokens.
_SPREADS = {".ssm_conv1d.weight": 0.5, ".ssm_x.weight": 0.1, ".ssm_out.weight": 0.1, ".ffn_gate_inp.weight": 1.0}
_T5: dict[str, Value] = {
    "attention.relative_buckets_count": 32,
    "attention.layer_norm_epsilon": 1e-6,
    "decoder_start_token_id": 0,
    "decoder_block_count": 2,
}
# The output matrix is the embedding, as in the small Qwen3 models.
_TIED = (*Recipe.left_out, "output.weight")
_MEAN, _LAST, _RANK = 1, 3, 4  # llama_pooling_type of llama.h
RECIPES = {
    # Qwen3-0.6B's shape: with a vocabulary of 152k it has 0.6 B parameters.
    "qwen3-0.6b": Recipe("qwen3", _transformer(28, 1024, 16, 8, 128, 3072, 40960), _TIED),
    # The same with an output matrix of its own: it does not repeat one token for ever.
    "qwen3-0.6b-untied": Recipe("qwen3", _transformer(28, 1024, 16, 8, 128, 3072, 40960)),
    # Tiny ones load in milliseconds. Rows are multiples of 256, so that K-quants apply. They have an output matrix of
    # their own: a tied one of random weights likes the token that it was given best, and repeats it for ever.
    "qwen3-tiny": Recipe("qwen3", _transformer(2, 256, 4, 2, 64, 512, 4096)),
    "llama-tiny": Recipe("llama", _transformer(2, 256, 4, 2, 64, 512, 4096)),
    # Its vocabulary is guide's, whose last marks stand for those around a gap.
    "infill-tiny": Recipe(
        "llama",
        {
            **_transformer(2, 256, 4, 2, 64, 512, 4096),
            **{
                f"tokenizer.ggml.fim_{name}_token_id": 2810 + index
                for index, name in enumerate(("pre", "suf", "mid", "rep", "sep"))
            },
        },
    ),
    "qwen3moe-tiny": Recipe("qwen3moe", {**_transformer(2, 256, 4, 2, 64, 512, 4096), **_EXPERTS}),
    # Local and global attention take turns; a local layer sees 64 tokens.
    "gemma3-tiny": Recipe(
        "gemma3",
        {
            **_transformer(4, 256, 4, 2, 64, 512, 4096),
            "attention.sliding_window": 64,
            "attention.sliding_window_pattern": 2,
        },
    ),
    # Recurrent and attention layers take turns.
    "qwen35-tiny": Recipe(
        "qwen35",
        {**_transformer(4, 256, 4, 2, 64, 512, 4096), **_DELTA_NET},
        (*_SCALES, ".attn_q.bias", ".attn_k.bias", ".attn_v.bias"),
    ),
    "mamba-tiny": Recipe("mamba", _MAMBA, _SCALES),
    # An encoder and a decoder in one: it answers from one text, and goes on with none.
    "t5": Recipe("t5", {**_transformer(2, 256, 4, 4, 64, 512, 512), **_T5}),
    # These make vectors instead of text: of a bidirectional encoder, of a decoder's last token, and a score.
    "bert-tiny": Recipe("bert", _encoder(_MEAN), (*_SCALES, *_HEADS)),
    "qwen3-embedding-tiny": Recipe(
        "qwen3", {**_transformer(2, 256, 4, 2, 64, 512, 4096), "pooling_type": _LAST}, _TIED
    ),
    "bert-reranker-tiny": Recipe("bert", _encoder(_RANK), _SCALES),
}


def build(recipe: str, vocabulary: Path, target: Path, *, seed: int = 1, quantization: str | None = None) -> Path:
    """Write the model to `target` and return it. The same arguments give the same bytes. Raises RuntimeError."""
    command = [sys.executable, str(Path(__file__).resolve()), recipe, str(vocabulary), str(target), "--seed", str(seed)]
    if quantization:
        command += ["--quantize", quantization]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"building {recipe} ended with {done.returncode}: {done.stderr[-2000:]}")
    return target


def _ggml() -> ctypes.CDLL:
    """In the child: libggml-base, of whose functions the bindings know nothing."""
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(path for path in folder.iterdir() if path.name in _LIBRARIES)))
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("gguf_init_empty", pointer, []),
        ("gguf_init_from_file", pointer, [text, _GgufParameters]),
        ("gguf_free", None, [pointer]),
        ("gguf_set_kv", None, [pointer, pointer]),
        ("gguf_add_tensor", None, [pointer, pointer]),
        ("gguf_get_n_kv", ctypes.c_int64, [pointer]),
        ("gguf_get_key", text, [pointer, ctypes.c_int64]),
        ("gguf_write_to_file", ctypes.c_bool, [pointer, text, ctypes.c_bool]),
        ("gguf_remove_key", ctypes.c_int64, [pointer, text]),
        ("gguf_set_val_u32", None, [pointer, text, ctypes.c_uint32]),
        ("gguf_set_val_f32", None, [pointer, text, ctypes.c_float]),
        ("gguf_set_val_bool", None, [pointer, text, ctypes.c_bool]),
        ("gguf_set_val_str", None, [pointer, text, text]),
        ("gguf_set_arr_data", None, [pointer, text, ctypes.c_int, pointer, ctypes.c_size_t]),
        ("ggml_get_name", text, [pointer]),
        ("ggml_nelements", ctypes.c_int64, [pointer]),
        ("ggml_backend_tensor_set", None, [pointer, pointer, ctypes.c_size_t, ctypes.c_size_t]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _GgufParameters(ctypes.Structure):
    """gguf_init_params of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _metadata(base: ctypes.CDLL, recipe: Recipe, vocabulary: Path) -> int:
    """A gguf_context with the vocabulary file's tokenizer and the recipe's numbers, and nothing else of the file."""
    source = base.gguf_init_from_file(str(vocabulary).encode(), _GgufParameters(no_alloc=True, ctx=None))
    if not source:
        raise SystemExit(f"{vocabulary} cannot be read as GGUF")
    metadata = base.gguf_init_empty()
    base.gguf_set_kv(metadata, source)
    base.gguf_free(source)
    for key in [base.gguf_get_key(metadata, index) for index in range(base.gguf_get_n_kv(metadata))]:
        if not key.startswith(b"tokenizer."):
            base.gguf_remove_key(metadata, key)
    base.gguf_set_val_str(metadata, b"general.architecture", recipe.architecture.encode())
    base.gguf_set_val_str(metadata, b"general.name", f"synthetic {recipe.architecture}".encode())
    for name, value in recipe.values.items():
        key = name if name.startswith("tokenizer.") else f"{recipe.architecture}.{name}"
        _set_value(base, metadata, key.encode(), value)
    return int(metadata)


def _set_value(base: ctypes.CDLL, metadata: int, key: bytes, value: Value) -> None:
    if isinstance(value, tuple):
        base.gguf_set_arr_data(metadata, key, _GGUF_INT32, (ctypes.c_int32 * len(value))(*value), len(value))
    elif isinstance(value, bool):
        base.gguf_set_val_bool(metadata, key, value)
    elif isinstance(value, float):
        base.gguf_set_val_f32(metadata, key, value)
    else:
        base.gguf_set_val_u32(metadata, key, value)


def _write(base: ctypes.CDLL, recipe: Recipe, vocabulary: Path, target: Path, seed: int) -> None:
    """In the child: let llama.cpp make the model in memory and write it, weights in F32.

    llama_model_save_to_file would not do: it forgets the embedding of a model that has no output matrix.
    """
    import llama_cpp.llama_cpp as native
    import numpy as np

    random = np.random.default_rng(seed)
    tensors: dict[str, int] = {}  # an output that is the embedding again is told twice

    def fill(tensor: int, _user_data: object) -> None:
        size = base.ggml_nelements(tensor)
        name = base.ggml_get_name(tensor).decode()
        values = np.ones(size, dtype=np.float32)
        if name.endswith(".ssm_a"):
            values = -random.uniform(0.1, 1.0, size).astype(np.float32)  # a state must fade, or it grows without bound
        elif "norm" not in name or name.endswith(".bias"):
            # The scale keeps activations near one at any depth: logits stay finite, and ties are rare.
            spread = next((spread for ending, spread in _SPREADS.items() if name.endswith(ending)), 0.02)
            values = random.standard_normal(size, dtype=np.float32) * np.float32(spread)
        base.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)
        if not _is_listed(name, recipe.left_out):
            tensors.setdefault(name, tensor)

    callback = native.llama_model_set_tensor_data_t(fill)
    native.llama_backend_init()
    metadata = _metadata(base, recipe, vocabulary)
    model = native.llama_model_init_from_user(metadata, callback, None, native.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp could not make a {recipe.architecture} of this recipe")
    for tensor in tensors.values():
        base.gguf_add_tensor(metadata, tensor)
    if not base.gguf_write_to_file(metadata, str(target).encode(), False):
        raise SystemExit(f"{target} could not be written")
    native.llama_model_free(model)
    base.gguf_free(metadata)


def _is_listed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or (pattern[0] == "." and name.endswith(pattern)) for pattern in patterns)


def _quantize(source: Path, target: Path, quantization: str) -> None:
    """In the child: llama.cpp's own quantiser."""
    import llama_cpp.llama_cpp as native

    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = _QUANTIZATIONS[quantization]
    if native.llama_model_quantize(str(source).encode(), str(target).encode(), parameters) != 0:
        raise SystemExit(f"llama.cpp could not quantise to {quantization}")


def main(arguments: list[str]) -> None:
    """The child: build one file; a half-written one never bears its final name."""
    parser = argparse.ArgumentParser(prog="synthetic_models")
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quantize", choices=sorted(_QUANTIZATIONS))
    chosen = parser.parse_args(arguments)
    recipe = RECIPES[chosen.recipe]
    base = _ggml()
    with tempfile.TemporaryDirectory(dir=chosen.target.parent, prefix="synthetic-") as folder:
        made, small = (Path(folder) / f"{name}.gguf" for name in ("made", "small"))
        _write(base, recipe, chosen.vocabulary, made, chosen.seed)
        if chosen.quantize:
            _quantize(made, small, chosen.quantize)
        (small if chosen.quantize else made).replace(chosen.target)


if __name__ == "__main__":
    main(sys.argv[1:])
