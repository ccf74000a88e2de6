"""Lengths of time as people and Ollama's clients write them: `300`, `"5m"`, `"1h30m"`, `-1` for ever, `0` at once."""

from __future__ import annotations

import math
import re

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration such as "1h30m" or "-1m"; "0" needs no unit.

    Raises ValueError with Ollama's words for a missing unit, since clients show them.
    """
    body = text.strip()
    sign = -1.0 if body.startswith("-") else 1.0
    body = body.lstrip("+-")
    if body == "0":
        return 0.0
    if re.fullmatch(r"\d+(\.\d*)?|\.\d+", body):
        raise ValueError(f'time: missing unit in duration "{text}"')
    parts = list(_PART.finditer(body))
    if not parts or "".join(part.group(0) for part in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * sum(float(part.group(1)) * _UNIT_SECONDS[part.group(2)] for part in parts)


def parse_keep_alive(value: object) -> float:
    """Seconds to keep a model after its last request; negative means for ever (infinity).

    A number is seconds, a string a Go duration. Raises ValueError for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"Unsupported type: '{value}'")
    try:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
    except OverflowError:  # an integer of more than 308 digits
        raise ValueError("time: invalid duration: the number of seconds is too large") from None
    if math.isnan(seconds):
        raise ValueError(f'time: invalid duration "{value}"')
    return math.inf if seconds < 0 else seconds


def format_duration(seconds: float) -> str:
    """A Go duration with whole seconds: 300 → "5m0s", infinity → "-1"."""
    if math.isinf(seconds):
        return "-1"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"
