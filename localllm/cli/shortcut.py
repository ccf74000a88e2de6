"""Bind a simple command line to a command's parameters without building typer's parser.

typer (0.29) makes a pydantic validator per parameter: 100 ms and 10 MB for every command, the daemon among them. Most
lines are words and plain flags; these are bound here, exactly as typer would, and every other line (an option with a
value, `--`, a missing or surplus word, `--help`) is left to typer. tests/unit/test_cli_shortcut.py compares both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

_ARGUMENT_KIND, _OPTION_KIND = type(typer.Argument()), type(typer.Option())
_LISTS = (list[str], list[str] | None)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A command's parameters: single words in order, then at most one list, and flags by their spelling."""

    words: tuple[str, ...]
    rest: str | None
    flags: dict[str, str]
    required: frozenset[str]


def bind(function: Callable[..., None], arguments: Sequence[str]) -> dict[str, Any] | None:
    """Keyword arguments for `function`, or None when typer has to look at the line."""
    shape = _shape_of(function)
    if shape is None:
        return None
    bound: dict[str, Any] = {shape.flags[word]: True for word in arguments if word in shape.flags}
    words = [word for word in arguments if word not in shape.flags]
    if any(word.startswith("-") for word in words):
        return None
    bound |= zip(shape.words, words, strict=False)
    rest = words[len(shape.words) :]
    if rest and shape.rest is None:
        return None
    if rest and shape.rest is not None:
        bound[shape.rest] = rest
    return bound if shape.required <= bound.keys() else None


def _shape_of(function: Callable[..., None]) -> _Shape | None:
    words: list[str] = []
    rest: str | None = None
    flags: dict[str, str] = {}
    required = set(_names_without_default(function))
    for name, hint in get_type_hints(function, include_extras=True).items():
        if name == "return":
            continue
        if get_origin(hint) is not Annotated:
            return None
        kind, info = get_args(hint)[:2]
        if isinstance(info, _ARGUMENT_KIND) and kind is str and rest is None:
            words.append(name)
        elif isinstance(info, _ARGUMENT_KIND) and kind in _LISTS and rest is None:
            rest = name
        elif isinstance(info, _OPTION_KIND) and kind is bool:
            flags |= dict.fromkeys(_spellings(info), name)
        elif not isinstance(info, _OPTION_KIND):
            return None
    return _Shape(tuple(words), rest, flags, frozenset(required))


def _spellings(option: Any) -> tuple[str, ...]:
    # Inside Annotated, typer takes the place of the default for the first spelling.
    return tuple(word for word in (option.default, *(option.param_decls or ())) if isinstance(word, str))


def _names_without_default(function: Callable[..., None]) -> tuple[str, ...]:
    count = function.__code__.co_argcount - len(function.__defaults__ or ())
    return function.__code__.co_varnames[:count]
