"""Reads a GGUF file of ours back: its weights as a state to train on from, and its tokenizer.

Quantised weights come back as the numbers they stand for. The training goes on from them when the weights in full
precision are gone, and it then learns around what quantising has rounded.
"""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from tokenizers import Tokenizer
from torch import Tensor

from guide.network import Shape
from guide.vocabulary import CONTROL_TOKENS, VISIBLE_TOKENS, build_tokenizer


def read_state(path: Path, shape: Shape) -> dict[str, Tensor]:
    """The weights under the network's names; matrices that GGUF holds apart are fused again."""
    arrays = {tensor.name: _numbers(tensor) for tensor in gguf.GGUFReader(path).tensors}
    state = {"embedding.weight": arrays["token_embd.weight"], "output_gain": arrays["output_norm.weight"]}
    for layer in range(shape.layers):
        here, there = f"blocks.{layer}.", f"blk.{layer}."
        fused = {
            "query_key_value": ("attn_q", "attn_k", "attn_v"),
            "attention_output": ("attn_output",),
            "gate_up": ("ffn_gate", "ffn_up"),
            "down": ("ffn_down",),
        }
        for name, parts in fused.items():
            state[f"{here}{name}.weight"] = np.concatenate([arrays[f"{there}{part}.weight"] for part in parts])
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}


def _numbers(tensor: gguf.ReaderTensor) -> np.ndarray:
    """A tensor in F32, with as many rows as llama.cpp's last dimension."""
    rows = tuple(int(length) for length in reversed(tensor.shape))
    return dequantize(tensor.data, tensor.tensor_type).reshape(rows).astype(np.float32)


def read_tokenizer(path: Path, target: Path) -> Tokenizer:
    """The tokenizer of the file, written to `target` as the training keeps it."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(text.split(" ", 1)) for text in fields["tokenizer.ggml.merges"].contents()]
    special = {*CONTROL_TOKENS, *VISIBLE_TOKENS}
    vocabulary = {token: index for index, token in enumerate(tokens) if token not in special}
    return build_tokenizer(vocabulary, merges, target)
