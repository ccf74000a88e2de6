"""Writes the GGUF file: metadata, vocabulary, chat template and weights in F32; then quantises it.

The weights are written as they were trained: `network.py` already has llama.cpp's layout. Quantising is
llama.cpp's own work and runs in a child process, like everything that loads that library.
"""

import hashlib
import json
import subprocess
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from guide.network import Shape
from guide.template import template_source
from guide.vocabulary import CONTROL_TOKENS, VISIBLE_TOKENS, merges_of, tokens_by_id

Q4_K_M = 15
DESCRIPTION = (
    "The small model bundled with localllm. It answers questions about localllm and knows nothing else; "
    "trained from scratch by scripts/train_guide.py."
)


def add_metadata(writer: gguf.GGUFWriter, shape: Shape, context_tokens: int, size_label: str) -> None:
    writer.add_type("model")
    writer.add_name("guide")
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_size_label(size_label)
    writer.add_languages(["en"])
    writer.add_float32("general.sampling.temp", 0.0)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = tokens_by_id(tokenizer)
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    for token in CONTROL_TOKENS:
        kinds[tokens.index(token)] = gguf.TokenType.CONTROL
    for token in VISIBLE_TOKENS:
        kinds[tokens.index(token)] = gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges_of(tokenizer))
    # Without an id llama.cpp takes token 11 for the start of text; add_bos_token keeps it out of prompts.
    writer.add_bos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_pad_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_eot_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template_source())


def weights_by_name(state: dict[str, Tensor], shape: Shape) -> dict[str, np.ndarray]:
    """The tensors under llama.cpp's names; fused matrices are taken apart, norms without gain are ones."""
    arrays = {name: tensor.float().numpy() for name, tensor in state.items()}
    ones = np.ones(shape.width, dtype=np.float32)
    named = {"token_embd.weight": arrays["embedding.weight"], "output_norm.weight": arrays["output_gain"]}
    for layer in range(shape.layers):
        here, there = f"blocks.{layer}.", f"blk.{layer}."
        cuts = (shape.width, shape.width + shape.key_width)
        query, key, value = np.split(arrays[here + "query_key_value.weight"], cuts)
        gate, up = np.split(arrays[here + "gate_up.weight"], 2)
        parts = {
            "attn_norm": ones,
            "attn_q": query,
            "attn_k": key,
            "attn_v": value,
            "attn_output": arrays[here + "attention_output.weight"],
            "ffn_norm": ones,
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": arrays[here + "down.weight"],
        }
        named |= {f"{there}{name}.weight": np.ascontiguousarray(array) for name, array in parts.items()}
    return named


def size_label(state: dict[str, Tensor]) -> str:
    return f"{sum(tensor.numel() for tensor in state.values()) / 1e6:.1f}M"


def write_gguf(path: Path, state: dict[str, Tensor], shape: Shape, tokenizer: Tokenizer, context_tokens: int) -> None:
    """Write the model in F32."""
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, shape, context_tokens, size_label(state))
    add_vocabulary(writer, tokenizer)
    for name, array in weights_by_name(state, shape).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, target: Path, engine_python: str) -> None:
    """Q4_K_M by llama.cpp, in a child process of the Python that has llama-cpp-python."""
    decode = Path(__file__).with_name("decode.py")
    order = {"quantise": str(source), "to": str(target), "file_type": Q4_K_M}
    subprocess.run([engine_python, decode], input=json.dumps(order), text=True, check=True, capture_output=True)


def write_checksum(path: Path, checksum_path: Path) -> str:
    """Write `path`'s SHA-256 as sha256sum prints it; returns the digest."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    checksum_path.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return digest


def load_state(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state
