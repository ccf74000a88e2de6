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


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters, under GGUF's names without the architecture in front; an int is a uint32, a float a float32.

    llama.cpp makes every tensor that the architecture may have. Those in `left_out` (whole names, or endings that begin
    with a dot) are optional, absent from real files, and would only cost time: they are dropped.
    """

    architecture: str
    values: Mapping[str, int | float]
    left_out: tuple[str, ...] = (".scale", ".input_scale", ".bias", "rope_freqs.weight", "cls.output.weight")


def _transformer(
    layers: int, width: int, heads: int, kv_heads: int, head_size: int, feed_forward: int, context_tokens: int
) -> dict[str, int | float]:
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


# The output matrix is the embedding, as in the small Qwen3 models.
_TIED = (*Recipe.left_out, "output.weight")
RECIPES = {
    # Qwen3-0.6B's shape: with a vocabulary of 152k it has 0.6 B parameters.
    "qwen3-0.6b": Recipe("qwen3", _transformer(28, 1024, 16, 8, 128, 3072, 40960), _TIED),
    # Tiny ones load in milliseconds. Rows are multiples of 256, so that K-quants apply.
    "qwen3-tiny": Recipe("qwen3", _transformer(2, 256, 4, 2, 64, 512, 4096), _TIED),
    "llama-tiny": Recipe("llama", _transformer(2, 256, 4, 2, 64, 512, 4096)),
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
        ("gguf_get_n_tensors", ctypes.c_int64, [pointer]),
        ("gguf_get_tensor_name", text, [pointer, ctypes.c_int64]),
        ("gguf_write_to_file", ctypes.c_bool, [pointer, text, ctypes.c_bool]),
        ("gguf_remove_key", ctypes.c_int64, [pointer, text]),
        ("gguf_set_val_u32", None, [pointer, text, ctypes.c_uint32]),
        ("gguf_set_val_f32", None, [pointer, text, ctypes.c_float]),
        ("gguf_set_val_str", None, [pointer, text, text]),
        ("ggml_get_name", text, [pointer]),
        ("ggml_get_tensor", pointer, [pointer, text]),
        ("ggml_free", None, [pointer]),
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
    base.gguf_remove_key(metadata, b"general.file_type")
    base.gguf_set_val_str(metadata, b"general.architecture", recipe.architecture.encode())
    base.gguf_set_val_str(metadata, b"general.name", f"synthetic {recipe.architecture}".encode())
    for name, value in recipe.values.items():
        key = f"{recipe.architecture}.{name}".encode()
        if isinstance(value, float):
            base.gguf_set_val_f32(metadata, key, value)
        else:
            base.gguf_set_val_u32(metadata, key, value)
    return int(metadata)


def _write(base: ctypes.CDLL, recipe: Recipe, vocabulary: Path, target: Path, seed: int) -> None:
    """In the child: let llama.cpp make the model in memory and save it, weights in F32."""
    import llama_cpp.llama_cpp as native
    import numpy as np

    random = np.random.default_rng(seed)

    def fill(tensor: int, _user_data: object) -> None:
        size = base.ggml_nelements(tensor)
        values = np.ones(size, dtype=np.float32)
        if "norm" not in base.ggml_get_name(tensor).decode():
            # The scale keeps activations near one at any depth: logits stay finite, and ties are rare.
            values = random.standard_normal(size, dtype=np.float32) * np.float32(0.02)
        base.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)

    callback = native.llama_model_set_tensor_data_t(fill)
    native.llama_backend_init()
    metadata = _metadata(base, recipe, vocabulary)
    model = native.llama_model_init_from_user(metadata, callback, None, native.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp could not make a {recipe.architecture} of this recipe")
    native.llama_model_save_to_file(model, str(target).encode())
    native.llama_model_free(model)
    base.gguf_free(metadata)


def _is_listed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or (pattern[0] == "." and name.endswith(pattern)) for pattern in patterns)


def _leave_out(base: ctypes.CDLL, left_out: tuple[str, ...], source: Path, target: Path) -> None:
    """In the child: copy a GGUF without some tensors."""
    tensors = ctypes.c_void_p()
    parameters = _GgufParameters(no_alloc=False, ctx=ctypes.addressof(tensors))
    read = base.gguf_init_from_file(str(source).encode(), parameters)
    kept = base.gguf_init_empty()
    base.gguf_set_kv(kept, read)
    for index in range(base.gguf_get_n_tensors(read)):
        name = base.gguf_get_tensor_name(read, index)
        if not _is_listed(name.decode(), left_out):
            base.gguf_add_tensor(kept, base.ggml_get_tensor(tensors, name))
    if not base.gguf_write_to_file(kept, str(target).encode(), False):
        raise SystemExit(f"{target} could not be written")
    base.gguf_free(kept)
    base.gguf_free(read)
    base.ggml_free(tensors)


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
        made, lean, small = (Path(folder) / f"{name}.gguf" for name in ("made", "lean", "small"))
        _write(base, recipe, chosen.vocabulary, made, chosen.seed)
        _leave_out(base, recipe.left_out, made, lean)
        made.unlink()
        if chosen.quantize:
            _quantize(lean, small, chosen.quantize)
        (small if chosen.quantize else lean).replace(chosen.target)


if __name__ == "__main__":
    main(sys.argv[1:])
