"""How sampling parameters become a chain of samplers: order and arguments as data, llama.cpp's objects elsewhere.

The order is llama.cpp's own: biases, then what earlier tokens make less likely, then the filters from the bluntest to
the finest, then temperature and the draw. A filter that would change nothing is left out, since each one walks all
candidates. Mirostat chooses by itself how many candidates stay, so it stands in place of all filters. A temperature of
0 takes the likeliest token after the penalties, whatever else is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from localllm.generation import Sampling

Kind = Literal[
    "logit_bias", "penalties", "dry", "top_n_sigma", "top_k", "typical", "top_p", "min_p", "xtc", "temperature", "draw",
    "mirostat", "mirostat_v2", "greedy",
]  # fmt: skip
MIN_KEEP = 1
# XTC drops what comes before the last token this likely: above one half there is at most one such token.
XTC_MOST_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """One sampler: its kind, and its numbers in the order of llama.cpp's constructor."""

    kind: Kind
    arguments: tuple[float, ...] = ()


def uses_penalties(sampling: Sampling) -> bool:
    """Whether tokens that came before are made less likely."""
    neutral = sampling.repeat_penalty == 1.0 and not sampling.presence_penalty and not sampling.frequency_penalty
    return not neutral and sampling.repeat_last_n != 0


def uses_dry(sampling: Sampling) -> bool:
    """Whether tokens that would go on with a repetition are made less likely."""
    return sampling.dry_multiplier != 0.0 and sampling.dry_penalty_last_n != 0


def is_greedy(sampling: Sampling) -> bool:
    """Whether the next token is the likeliest after biases and penalties: no chain is needed."""
    takes_likeliest = sampling.temperature == 0.0 or (sampling.top_k == 1 and not sampling.mirostat)
    return takes_likeliest and not uses_dry(sampling)


def history_window(sampling: Sampling, context_tokens: int) -> int:
    """How many of the latest tokens change the choice of the next."""
    penalties = _window(sampling.repeat_last_n, context_tokens) if uses_penalties(sampling) else 0
    dry = _window(sampling.dry_penalty_last_n, context_tokens) if uses_dry(sampling) else 0
    return max(penalties, dry)


def _window(last_n: int, context_tokens: int) -> int:
    """-1 asks for the whole context."""
    return context_tokens if last_n < 0 else min(last_n, context_tokens)


def chain(sampling: Sampling, seed: int, context_tokens: int) -> tuple[Step, ...]:
    """The samplers to run, in order; the last one chooses."""
    steps = _adjustments(sampling, context_tokens)
    if sampling.temperature == 0.0:
        return (*steps, Step("greedy"))
    temperature = Step("temperature", (sampling.temperature,))
    if sampling.mirostat:
        kind: Kind = "mirostat" if sampling.mirostat == 1 else "mirostat_v2"
        return (*steps, temperature, Step(kind, (seed, sampling.mirostat_tau, sampling.mirostat_eta)))
    return (*steps, *_filters(sampling, seed), temperature, Step("draw", (seed,)))


def _adjustments(sampling: Sampling, context_tokens: int) -> list[Step]:
    """What changes logits, of any token there is."""
    steps: list[Step] = []
    if sampling.logit_bias:
        steps.append(Step("logit_bias"))
    if uses_penalties(sampling):
        window = _window(sampling.repeat_last_n, context_tokens)
        numbers = (window, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        steps.append(Step("penalties", numbers))
    if uses_dry(sampling):
        window = _window(sampling.dry_penalty_last_n, context_tokens)
        steps.append(Step("dry", (sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length, window)))
    return steps


def _filters(sampling: Sampling, seed: int) -> list[Step]:
    """What takes candidates away."""
    steps: list[Step] = []
    if sampling.top_n_sigma > 0.0:
        steps.append(Step("top_n_sigma", (sampling.top_n_sigma,)))
    if sampling.top_k > 0:
        steps.append(Step("top_k", (sampling.top_k,)))
    if sampling.typical_p < 1.0:
        steps.append(Step("typical", (sampling.typical_p, MIN_KEEP)))
    if sampling.top_p < 1.0:
        steps.append(Step("top_p", (sampling.top_p, MIN_KEEP)))
    if sampling.min_p > 0.0:
        steps.append(Step("min_p", (sampling.min_p, MIN_KEEP)))
    if sampling.xtc_probability > 0.0 and sampling.xtc_threshold <= XTC_MOST_THRESHOLD:
        steps.append(Step("xtc", (sampling.xtc_probability, sampling.xtc_threshold, MIN_KEEP, seed)))
    return steps
