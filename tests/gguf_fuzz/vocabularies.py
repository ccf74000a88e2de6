"""Whole tokenizers of a few hundred tokens, one of each kind that llama.cpp knows, as metadata for gguf_bytes."""

from __future__ import annotations

import struct
from typing import Any

from gguf_files import Typed

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def _floats(values: list[float]) -> Typed:
    return Typed(9, struct.pack(f"<IQ{len(values)}f", 6, len(values), *values))


def _ints(values: list[int]) -> Typed:
    return Typed(9, struct.pack(f"<IQ{len(values)}i", 5, len(values), *values))


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte if byte in plain else 256 + sum(b not in plain for b in range(byte))) for byte in range(256)]


def bpe(pre: str, *more: str) -> dict[str, Any]:
    pairs = "t h|th e|i n|a n|Ġ t|Ġ a|o n|e r|r e|Ġt he|an d|Ġ and|in g|Ċ Ċ|o u|Ġ i|l l".split("|")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", *more]
    tokens = [*_byte_letters(), *("".join(pair.split()) for pair in pairs), *specials]
    tokens = list(dict.fromkeys(tokens))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": _ints([_CONTROL if token in specials else _NORMAL for token in tokens]),
        "tokenizer.ggml.merges": pairs,
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.fim_pre_token_id": tokens.index("<|fim_prefix|>"),
        "tokenizer.ggml.fim_suf_token_id": tokens.index("<|fim_suffix|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    }


def _pieces() -> list[str]:
    words = "the a and of to in is it you that he was for on are with as his they at be this from".split()
    return [*(f"▁{word}" for word in words), *(chr(letter) for letter in range(97, 123)), "▁", "th", "er", "ing"]


def spm(model: str = "llama") -> dict[str, Any]:
    specials = ["<unk>", "<s>", "</s>"]
    data = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*specials, *data, *_pieces()]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(_pieces())]
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": _floats([-float(number) for number in range(len(tokens))]),
        "tokenizer.ggml.token_type": _ints(kinds),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def wpm() -> dict[str, Any]:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(letter) for letter in range(97, 123)]
    tokens = [*specials, *(f"▁{letter}" for letter in letters), *letters, "▁the", "▁and", "ing", "▁.", "▁,", "s2"]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": _ints([_CONTROL] * 5 + [_NORMAL] * (len(tokens) - 5)),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.mask_token_id": 4,
    }


def ugm() -> dict[str, Any]:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *_pieces()]
    kinds = [_CONTROL, _CONTROL, _CONTROL, _UNKNOWN, *[_NORMAL] * len(_pieces())]
    # A table of characters of the right form that maps nothing: its size, an array of the root alone, one replacement.
    charsmap = struct.pack("<I256I", 1024, *[0] * 256) + b"x\0"
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": _floats([-float(number) for number in range(len(tokens))]),
        "tokenizer.ggml.token_type": _ints(kinds),
        "tokenizer.ggml.precompiled_charsmap": Typed(9, struct.pack("<IQ", 0, len(charsmap)) + charsmap),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }


def rwkv() -> dict[str, Any]:
    data = ["<s>", *(f"\\x{byte:02x}" for byte in range(256)), "the", " and", "\\n\\n", "it\\'s"]
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": data,
        "tokenizer.ggml.token_type": _ints([_NORMAL] * len(data)),
        "tokenizer.ggml.eos_token_id": 0,
    }


def plamo2() -> dict[str, Any]:
    made = spm("plamo2")
    made["tokenizer.ggml.tokens"] = ["<|plamo:unk|>", "<|plamo:bos|>", *made["tokenizer.ggml.tokens"][2:]]
    return made
