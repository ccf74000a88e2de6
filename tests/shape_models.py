"""GGUF files with a model's true shapes and no weights: as large as the real ones, and taking no room on the disk.

    python tests/shape_models.py HEADER.gguf …      tensor names and shapes, one list each

llama.cpp itself says which tensors an architecture has, in a child process, from the hyper-parameters alone; the file
is written with their types by a rule, and ends in a hole. llama.cpp reads such a file as a model of zeros: it can be
measured, and a small one loaded, at no cost. All shapes of one call come from one child.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf_files import Tensor, gguf_bytes
from synthetic_models import CHILD_SECONDS, _ggml, _GgufParameters

_TENSOR_MAP = "_Z29llama_internal_get_tensor_mapB5cxx11PK11llama_model"
_PAIR_BYTES, _POINTER_AT, _SHAPE_AT = 40, 32, 16  # std::pair<std::string, ggml_tensor *>; ggml_tensor.ne
_OPTIONAL = (".bias", ".scale", ".input_scale")
TypeRule = Callable[[str, tuple[int, ...]], str]


def quantized(matrices: str, output: str = "Q6_K") -> TypeRule:
    """Matrices with whole blocks in one type, the output and the embedding in another, all else in F32."""

    def rule(name: str, shape: tuple[int, ...]) -> str:
        is_matrix = len([size for size in shape if size > 1]) > 1 and shape[0] % 256 == 0
        if not is_matrix or any(word in name for word in ("norm", "conv1d", "shortconv.conv", "gate_inp", "time_mix")):
            return "F32"
        return output if name.startswith(("output.", "token_embd.")) else matrices

    return rule


@dataclass(frozen=True)
class ShapeModel:
    """Hyper-parameters under GGUF's names without the architecture in front. Tensors in `left_out` (whole names, or
    endings that begin with a dot) are optional and absent from the real file."""

    architecture: str
    values: Mapping[str, Any]
    vocabulary: int = 4096
    left_out: tuple[str, ...] = (*_OPTIONAL, "rope_freqs.weight")
    types: TypeRule = field(default=quantized("Q4_K"))

    def metadata(self) -> dict[str, Any]:
        named = {
            key if key.startswith("tokenizer.") else f"{self.architecture}.{key}": value
            for key, value in self.values.items()
        }
        return {
            "general.architecture": self.architecture,
            "general.name": f"shape of {self.architecture}",
            "tokenizer.ggml.model": "none",
            f"{self.architecture}.vocab_size": self.vocabulary,
            **named,
        }


def write_shapes(models: Mapping[str, ShapeModel], folder: Path) -> dict[str, Path]:
    """Write every model to `folder`/NAME.gguf. Raises RuntimeError for one that llama.cpp cannot have."""
    tables = tensor_tables(list(models.values()))
    files = {}
    for (name, model), table in zip(models.items(), tables, strict=True):
        tensors = [
            Tensor(tensor, shape, model.types(tensor, shape))
            for tensor, shape in table
            if not any(tensor == end or (end[0] == "." and tensor.endswith(end)) for end in model.left_out)
        ]
        files[name] = folder / f"{name}.gguf"
        write_hollow(files[name], model.metadata(), tensors)
    return files


def write_hollow(path: Path, metadata: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    """A GGUF file whose tensors are a hole at its end."""
    head = gguf_bytes(metadata, tensors, hollow=True)
    path.write_bytes(head)
    with path.open("r+b") as file:
        file.truncate(len(head) + sum(-(-tensor.size_bytes // 32) * 32 for tensor in tensors))


def tensor_tables(models: Sequence[ShapeModel]) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Names and shapes of all tensors that llama.cpp would make for each model."""
    with tempfile.TemporaryDirectory() as folder:
        headers = [Path(folder) / f"{index}.gguf" for index in range(len(models))]
        for header, model in zip(headers, models, strict=True):
            header.write_bytes(gguf_bytes(model.metadata(), []))
        command = [sys.executable, str(Path(__file__).resolve()), *map(str, headers)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the shapes' child ended with {done.returncode}: {done.stderr[-2000:]}")
    return [[(name, tuple(shape)) for name, shape in table] for table in json.loads(done.stdout)]


def _table(header: str, base: ctypes.CDLL, native: Any) -> list[tuple[str, list[int]]]:
    """In the child: one model, made without memory, and its tensors."""
    stated = base.gguf_init_from_file(header.encode(), _GgufParameters(no_alloc=True, ctx=None))
    parameters = native.llama_model_default_params()
    parameters.no_alloc, parameters.load_mode, parameters.load_mtp = True, 0, True
    fill = native.llama_model_set_tensor_data_t(lambda tensor, data: None)
    model = native.llama_model_init_from_user(stated, fill, None, parameters)
    if not model:
        raise SystemExit("llama.cpp could not make a model of these numbers")
    ask = getattr(native._lib, _TENSOR_MAP)
    ask.restype, ask.argtypes = ctypes.POINTER(ctypes.c_size_t * 2), [ctypes.c_void_p]
    first, end = ask(model).contents
    rows = []
    for at in range(first, end, _PAIR_BYTES):
        tensor = ctypes.c_size_t.from_address(at + _POINTER_AT).value
        shape = list((ctypes.c_int64 * 4).from_address(tensor + _SHAPE_AT))
        while len(shape) > 1 and shape[-1] == 1:
            shape.pop()
        rows.append((base.ggml_get_name(tensor).decode(), shape))
    unique = dict(rows)  # an output that is the embedding again is told twice
    native.llama_model_free(model)
    return list(unique.items())


def main() -> None:
    """The child."""
    import llama_cpp.llama_cpp as native

    silent = native.llama_log_callback(
        lambda level, text, data: sys.stderr.write(text.decode()) if level == 4 else None
    )
    native.llama_log_set(silent, None)
    native.llama_backend_init()
    base = _ggml()
    sys.stdout.write(json.dumps([_table(header, base, native) for header in sys.argv[1:]]))


if __name__ == "__main__":
    main()
