"""Folders with models in safetensors, whole or broken on purpose, for tests. An own writer: no library is trusted.

folder_of(tmp_path / "model", {"a.weight": ("BF16", (4, 8))}, stand_in="copy")
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf_files import MODEL_METADATA, Tensor, gguf_bytes

_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I32": 4, "U8": 1, "F8_E4M3": 1, "F4": 1}
TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.embed_tokens.weight": ("BF16", (4, 256)),
    "model.norm.weight": ("F32", (256,)),
}
MADE = gguf_bytes(
    {**MODEL_METADATA, "general.file_type": 1},
    [Tensor("token_embd.weight", (256, 4), "F16"), Tensor("output_norm.weight", (256,))],
)


def safetensors_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], **changes: Any) -> bytes:
    """A file of tensors of zeros. `changes` replace whole entries of its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "shape": "words"}}
    offset = 0
    for name, (kind, shape) in tensors.items():
        size = math.prod(shape) * _WIDTHS[kind]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({**header, **changes}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(offset)


def folder_of(
    folder: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = TENSORS,
    *,
    tokenizer: str = "tokenizer.json",
    **config: Any,
) -> Path:
    """A folder with a model. `config` joins its config.json; made.data is what a stand-in converter makes of it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / tokenizer).write_text("{}")
    (folder / "made.data").write_bytes(MADE)
    return folder
