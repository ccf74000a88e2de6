"""How one model wants to be loaded, beyond what Ollama's options can say: parsed values, and what cannot be said yet.

A Modelfile's PARAMETER sets these, and so does `parameters` of /api/create; they hold for every request of the model
and go before the daemon's settings of the same name. None is "not said". The effect is placement's. The names are
llama.cpp's own where it has one, with underscores.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, get_args

import msgspec

from localllm.config import CacheType, FlashAttention, KvLayout
from localllm.errors import InvalidOptionError

MOST_PARALLEL = 256  # LLAMA_MAX_SEQ
MOST_LAYERS = 2**31 - 1
MOST_DEVICES = 16  # llama_max_devices()
MOST_OVERRIDES = 256
MOST_DRAFTED = 1024
SplitMode = Literal["layer", "none"]
_OVERRIDE = re.compile(r"[^=]+=\w+")
_SWITCH = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


class LoadOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field per parameter; those of config.Settings mean the same there.

    `override_tensor` are "REGULAR EXPRESSION=DEVICE", the device "CPU" or a GPU's name; `tensor_split` shares of the
    GPUs in their order; `n_cpu_moe` counts layers from the first. `draft_max` bounds the tokens that a draft model
    guesses at once, 0 for none; `draft_p_min` is how probable each must be for it, 0 to 1.
    """

    num_parallel: int | None = None
    kv_layout: KvLayout | None = None
    stream_slowdown: float | None = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    flash_attn: FlashAttention | None = None
    cpu_moe: bool | None = None
    n_cpu_moe: int | None = None
    tensor_split: tuple[float, ...] | None = None
    split_mode: SplitMode | None = None
    override_tensor: tuple[str, ...] | None = None
    draft_max: int | None = None
    draft_p_min: float | None = None


# llama.cpp's launch options that people write into Modelfiles, and what each would do. They change where a model lies
# or what it computes: leaving one out in silence would be a model that is not the one that was asked for.
NOT_YET = {
    "rope_scaling": "a stretched context",
    "rope_scale": "a stretched context",
    "rope_freq_base": "a stretched context",
    "rope_freq_scale": "a stretched context",
    "yarn_orig_ctx": "a stretched context",
    "pooling": "how an embedding is made of a text's tokens",
    "lora_scale": "the strength of an adapter",
    "draft_min": "how many tokens a draft model guesses at least",
}
# Other tools' names for what is here, which stand for several options or for one of another name.
ALSO_CALLED = {
    "kv_cache_type": ("cache_type_k", "cache_type_v"),
    "flash_attention": ("flash_attn",),
    "draft_num_predict": ("draft_max",),
}
# A Modelfile's own word is DRAFT; these are llama.cpp's.
DRAFT_NAMES = ("draft", "draft_model", "model_draft")
_WORDS: dict[str, tuple[str, ...]] = {
    "kv_layout": get_args(KvLayout),
    "cache_type_k": get_args(CacheType),
    "cache_type_v": get_args(CacheType),
    "flash_attn": get_args(FlashAttention),
    "split_mode": get_args(SplitMode),
}
_COUNTS = {"num_parallel": (1, MOST_PARALLEL), "n_cpu_moe": (0, MOST_LAYERS), "draft_max": (0, MOST_DRAFTED)}


def parse_load_option(name: str, value: object) -> Any:
    """The value of one option, from JSON or from a Modelfile's text. Raises InvalidOptionError that says what it takes.

    `name` is a field of LoadOptions.
    """
    if name in _WORDS:
        return _word(name, value)
    if name in _COUNTS:
        return _count(name, value)
    if name == "cpu_moe":
        return _switch(name, value)
    if name == "tensor_split":
        return _shares(name, value)
    if name == "override_tensor":
        return _overrides(name, value)
    number = _number(value)
    if name == "draft_p_min":
        if number is not None and 0 <= number <= 1:
            return number
        raise InvalidOptionError(f'option "draft_p_min" must be a number between 0 and 1, not {_shown(value)}')
    assert name == "stream_slowdown"
    if number is not None and number > 1:
        return number
    raise InvalidOptionError(f'option "stream_slowdown" must be a number above 1, not {_shown(value)}')


def merge_load_options(*layers: LoadOptions) -> LoadOptions:
    """Lay options over each other: for each name the first layer that says something wins."""
    fields = LoadOptions.__struct_fields__
    values = {name: [value for layer in layers if (value := getattr(layer, name)) is not None] for name in fields}
    return LoadOptions(**{name: said[0] for name, said in values.items() if said})


def load_option_text(value: object) -> str:
    """A value as `parse_load_option` reads it."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _word(name: str, value: object) -> str:
    if name == "flash_attn" and (switch := _read_switch(value)) is not None:
        return "on" if switch else "off"
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _WORDS[name]:
        return word
    if name == "split_mode" and word in ("row", "tensor"):
        raise InvalidOptionError(f'option "split_mode" {word} is not supported: several GPUs share a model by layers')
    raise InvalidOptionError(f'option "{name}" must be {", ".join(_WORDS[name])}, not {_shown(value)}')


def _count(name: str, value: object) -> int:
    low, high = _COUNTS[name]
    number = _number(value)
    if number is not None and number == int(number) and low <= number <= high:
        return int(number)
    raise InvalidOptionError(f'option "{name}" must be an integer between {low} and {high}, not {_shown(value)}')


def _switch(name: str, value: object) -> bool:
    switch = _read_switch(value)
    if switch is None:
        raise InvalidOptionError(f'option "{name}" must be true or false, not {_shown(value)}')
    return switch


def _read_switch(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return _SWITCH.get(str(value).strip().lower()) if isinstance(value, (int, str)) else None


def _shares(name: str, value: object) -> tuple[float, ...]:
    items = re.split(r"[,/]", value) if isinstance(value, str) else value
    shares = [_number(item) for item in items] if isinstance(items, (list, tuple)) else []
    known = [share for share in shares if share is not None and 0 <= share < 2**24]
    if known and len(known) == len(shares) <= MOST_DEVICES and sum(known) > 0:
        return tuple(known)
    raise InvalidOptionError(
        f'option "{name}" must be at most {MOST_DEVICES} shares of the GPUs such as 3,1, not {_shown(value)}'
    )


def _overrides(name: str, value: object) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    texts = [item.strip() for item in items if isinstance(item, str)] if isinstance(items, (list, tuple)) else []
    if texts and len(texts) <= MOST_OVERRIDES and all(map(_is_override, texts)):
        return tuple(texts)
    raise InvalidOptionError(
        f'option "{name}" must be at most {MOST_OVERRIDES} of PATTERN=DEVICE such as ffn_up_exps=CPU, not '
        f"{_shown(value)}"
    )


def _is_override(text: str) -> bool:
    if _OVERRIDE.fullmatch(text) is None:
        return False
    try:
        re.compile(text.partition("=")[0])
    except re.error:  # llama.cpp's std::regex throws through C, which ends the process
        return False
    return True


def _number(value: object) -> float | None:
    """A finite number, or text of one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and "_" not in str(value) else None


def _shown(value: object) -> str:
    return repr(value)[:40]
