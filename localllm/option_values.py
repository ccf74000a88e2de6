"""Which values an option may have: types, bounds, and the words that say so. Which options there are: generation.py.

Floats are accepted for integers, as the Python clients send them, and truncated.
"""

from __future__ import annotations

import math
import sys

from localllm.errors import InvalidOptionError

# Bounds keep numbers that llama.cpp stores as int32 or feeds to exp() inside what it can hold (demand.md: engines have
# been crashed by negative counts).
_MOST = 2**31 - 1
_BOUNDS: dict[str, tuple[float, float]] = {
    "num_keep": (-1, _MOST), "num_predict": (-2, _MOST), "top_k": (-1, _MOST), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0), "repeat_last_n": (-1, _MOST), "temperature": (0.0, 100.0), "repeat_penalty": (0.0, 100.0),
    "presence_penalty": (-100.0, 100.0), "frequency_penalty": (-100.0, 100.0), "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0), "dry_allowed_length": (0, _MOST), "dry_penalty_last_n": (-1, _MOST),
    "xtc_probability": (0.0, 1.0), "xtc_threshold": (0.0, 1.0), "top_n_sigma": (-1.0, 100.0), "mirostat": (0, 2),
    "mirostat_tau": (0.0, 100.0), "mirostat_eta": (0.0, 100.0), "num_ctx": (0, _MOST), "num_batch": (0, _MOST),
    "num_gpu": (-1, _MOST), "main_gpu": (0, _MOST), "num_thread": (0, _MOST), "thinking_budget": (-1, _MOST),
}  # fmt: skip
_INTEGERS = frozenset(
    (
        "num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n",
        "mirostat", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "thinking_budget",
    )
)  # fmt: skip
# llama.cpp looks for each breaker in the whole vocabulary, about 7 ms for 150k tokens, and cuts longer ones.
_MOST_BREAKERS, _BREAKER_BYTES = 16, 40
_SEED_MODULUS = 2**32


def read_option(option: str, value: object, name: str) -> object:
    """A value from JSON as `option` holds it. Raises InvalidOptionError that says what it accepts.

    `name` is what the client called it: the same, or its dialect's word.
    """
    if option == "stop":
        return _strings(name, value)
    if option == "dry_sequence_breakers":
        return _breakers(name, _strings(name, value))
    if option == "logit_bias":
        return _biases(name, value)
    if option == "use_mmap":
        if isinstance(value, bool):
            return value
        raise _wrong(name, "must be of type boolean")
    return _number(option, value, name)


def _number(option: str, value: object, name: str) -> int | float:
    kind = "integer" if option in _INTEGERS else "float32"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(name, f"must be of type {kind}")
    if not abs(value) <= sys.float_info.max:  # NaN neither; math.isfinite() raises for integers beyond all floats
        raise _wrong(name, "must be a finite number")
    number: int | float = int(value) if option in _INTEGERS else float(value)
    if option == "seed":
        # -1 is "random" in every dialect; other values wrap to the 32 bits llama.cpp's generators take.
        return number if number == -1 else int(number) % _SEED_MODULUS
    low, high = _BOUNDS[option]
    if not low <= number <= high:
        raise _wrong(name, f"must be between {low:.12g} and {high:.12g}, not {number}")
    return max(number, 0) if option == "top_k" else number  # -1 is vLLM's word for all tokens, 0 llama.cpp's


def _strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(item for item in value if item)
    raise _wrong(name, "must be of type an array of strings")


def _breakers(name: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(texts) > _MOST_BREAKERS or any(len(text.encode("utf-8", "replace")) > _BREAKER_BYTES for text in texts):
        raise _wrong(name, f"holds at most {_MOST_BREAKERS} texts of at most {_BREAKER_BYTES} bytes")
    return texts


def _biases(name: str, value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        raise _wrong(name, "must be an object of token id to number")
    try:
        pairs = tuple((int(token), float(bias)) for token, bias in value.items())
    except (TypeError, ValueError, OverflowError):
        raise _wrong(name, "must be an object of token id to number") from None
    if any(token < 0 or token >= 2**31 or not math.isfinite(bias) for token, bias in pairs):
        raise _wrong(name, "has an impossible token id or value")
    return pairs


def _wrong(name: str, what: str) -> InvalidOptionError:
    return InvalidOptionError(f'option "{name}" {what}', option=name)
