"""What people write for --think, --format and --keepalive, in `run` and in the REPL: text in, API values out. Pure.

Every function that can refuse raises ValueError with the text and what is accepted, to follow "invalid value for …: ".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from localllm.durations import parse_keep_alive

_THINK_WORDS: dict[str, bool | str] = {
    "true": True, "false": False, "high": "high", "medium": "medium", "low": "low", "max": "max",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """What of an answer to show, and how."""

    hides_thinking: bool = False
    wraps_words: bool = True
    shows_statistics: bool = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `run` was asked for, parsed. `model` is a name the daemon knows."""

    model: str
    style: AnswerStyle
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None


def parse_think(text: str) -> bool | str:
    """true, false or a level."""
    if text in _THINK_WORDS:
        return _THINK_WORDS[text]
    raise ValueError(f'"{text}" (must be true, false, high, medium, low, or max)')


def parse_format(text: str) -> str | dict[str, Any]:
    """The word json, or a JSON schema as text."""
    if text == "json":
        return text
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        raise ValueError(f'"{text}" (must be json, or a JSON schema)') from None


def parse_keep_alive_argument(text: str) -> float | str:
    """Seconds, or a duration such as "10m"; negative is for ever. Returned as the API takes it."""
    try:
        value: float | str = float(text)
    except ValueError:  # not a plain number: a duration with units
        value = text
    parse_keep_alive(value)
    return value


def text_without_quotes(text: str) -> str:
    '''`text` without the """ around it, which open and close several lines.'''
    body = text.strip()
    if not body.startswith('"""'):
        return text
    return body[3:].removesuffix('"""').strip("\n")
