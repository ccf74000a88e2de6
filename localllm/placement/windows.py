"""Which layers of a model look at a window of its context only, by the rules of pyproject.toml's llama.cpp.

Tables of architectures, and what the header says over them: `attention.sliding_window` and its pattern, a period or a
flag for each layer. An architecture that is missing here attends to everything, whatever its header says.
"""

from __future__ import annotations

from typing import NamedTuple

from localllm.gguf import Header


class WindowRule(NamedTuple):
    """`period` 4: three layers with a window, then one without; `dense_first` begins with the one without. Period 0:
    all have one; None: the header flags each layer. `window` is what holds when the header does not say."""

    period: int | None
    dense_first: bool = False
    window: int = 0


_RULES = {
    "afmoe": WindowRule(4),
    "cohere2": WindowRule(4),
    "cohere2moe": WindowRule(4, dense_first=True),
    "deepseek4": WindowRule(0),
    "dflash": WindowRule(None),
    "dots3note": WindowRule(None),
    "exaone-moe": WindowRule(4, window=128),
    "exaone4": WindowRule(4, window=4096),
    "gemma2": WindowRule(2, window=4096),
    "gemma3": WindowRule(6),
    "gemma3n": WindowRule(5),
    "gemma4": WindowRule(None),
    "gemma4-assistant": WindowRule(None),
    "gpt-oss": WindowRule(2),
    "granite_swa": WindowRule(None),
    "laguna": WindowRule(4, dense_first=True),
    "lfm2": WindowRule(0),
    "llama4": WindowRule(4, window=8192),
    "maple": WindowRule(None),
    "mellum": WindowRule(4),
    "mimo2": WindowRule(None),
    "muse-glimmer": WindowRule(4),
    "olmo2": WindowRule(4),
    "plamo3": WindowRule(8),
    "smallthinker": WindowRule(4, dense_first=True),
    "spark2_5": WindowRule(None),
    "step35": WindowRule(None),
}
_WINDOWED_LAYERS_OF_EXAONE = 64  # its smaller models attend to everything
_FIXED = {"llama4": 8192, "smallthinker": 4096}  # whatever window the header states, as long as it states one
_PATTERN = "attention.sliding_window_pattern"


def windows_of(header: Header, trunk_layers: int) -> tuple[int, ...]:
    """Tokens that each layer sees, 0 for all of them; one entry per layer of the header's block_count."""
    rule = _RULES.get(header.architecture)
    everything = (0,) * header.block_count
    if rule is None or (header.architecture == "exaone4" and trunk_layers != _WINDOWED_LAYERS_OF_EXAONE):
        return everything
    said = header.integer(f"{header.architecture}.attention.sliding_window")
    if said is not None and said <= 0:
        return everything
    window = _FIXED.get(header.architecture, said or rule.window)
    if header.architecture in _FIXED and said is None and not rule.window:
        return everything
    flags = _flags(header, rule, trunk_layers)
    return tuple(window if flag else 0 for flag in flags)


def _flags(header: Header, rule: WindowRule, trunk_layers: int) -> tuple[bool, ...]:
    pattern = header.metadata.get(f"{header.architecture}.{_PATTERN}") if rule.period != 0 else None
    if isinstance(pattern, tuple):
        flags = tuple(bool(flag) for flag in pattern[: header.block_count])
        return flags + (False,) * (header.block_count - len(flags))
    period = pattern if isinstance(pattern, int) and not isinstance(pattern, bool) else rule.period
    return tuple(
        _has_window(layer, period, dense_first=rule.dense_first)
        and (layer < trunk_layers or header.architecture == "deepseek4")
        for layer in range(header.block_count)
    )


def _has_window(layer: int, period: int | None, *, dense_first: bool) -> bool:
    if period is None:
        return False
    if period <= 0:
        return True
    return layer % period != 0 if dense_first else layer % period < period - 1
