"""How one model wants to be loaded, beyond what Ollama's options can say: parsed values, and what cannot be said yet.

A Modelfile's PARAMETER sets these, and so does `parameters` of /api/create; they hold for every request of the model
and go before the daemon's settings of the same name. None is "not said". The effect is placement's.
"""

from __future__ import annotations

import math
from typing import Any, get_args

import msgspec

from localllm.config import KvLayout
from localllm.errors import InvalidOptionError

MOST_PARALLEL = 256  # LLAMA_MAX_SEQ


class LoadOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field per parameter; names and meaning are those of config.Settings."""

    num_parallel: int | None = None
    kv_layout: KvLayout | None = None
    stream_slowdown: float | None = None


# llama.cpp's launch options that people write into Modelfiles, and what each would do. They change where a model lies
# or what it computes: leaving one out in silence would be a model that is not the one that was asked for.
NOT_YET = {
    "cache_type_k": "the type of the cached keys",
    "cache_type_v": "the type of the cached values",
    "kv_cache_type": "the type of the cached keys and values",
    "flash_attn": "the kind of attention",
    "cpu_moe": "experts on the CPU",
    "n_cpu_moe": "experts of some layers on the CPU",
    "override_tensor": "single tensors on a device",
    "tensor_split": "shares of several GPUs",
    "split_mode": "how several GPUs share a model",
    "rope_scaling": "a stretched context",
    "rope_scale": "a stretched context",
    "rope_freq_base": "a stretched context",
    "rope_freq_scale": "a stretched context",
    "yarn_orig_ctx": "a stretched context",
    "pooling": "how an embedding is made of a text's tokens",
    "lora_scale": "the strength of an adapter",
    "draft_max": "how many tokens a draft model guesses",
    "draft_min": "how many tokens a draft model guesses",
}


def parse_load_option(name: str, value: object) -> Any:
    """The value of one option, from JSON or from a Modelfile's text. Raises InvalidOptionError that says what it takes.

    `name` is a field of LoadOptions.
    """
    if name == "kv_layout":
        layout = value.lower() if isinstance(value, str) else value
        if layout in get_args(KvLayout):
            return layout
        raise InvalidOptionError(f'option "kv_layout" must be {", ".join(get_args(KvLayout))}, not {_shown(value)}')
    number = _number(value)
    if name == "num_parallel":
        if number is not None and number == int(number) and 1 <= number <= MOST_PARALLEL:
            return int(number)
        raise InvalidOptionError(
            f'option "num_parallel" must be an integer between 1 and {MOST_PARALLEL}, not {_shown(value)}'
        )
    assert name == "stream_slowdown"
    if number is not None and number > 1:
        return number
    raise InvalidOptionError(f'option "stream_slowdown" must be a number above 1, not {_shown(value)}')


def merge_load_options(*layers: LoadOptions) -> LoadOptions:
    """Lay options over each other: for each name the first layer that says something wins."""
    fields = LoadOptions.__struct_fields__
    values = {name: [value for layer in layers if (value := getattr(layer, name)) is not None] for name in fields}
    return LoadOptions(**{name: said[0] for name, said in values.items() if said})


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
