"""How sampling parameters become a chain of samplers: order and arguments as data, llama.cpp's objects elsewhere.

The order is llama.cpp's own: biases, penalties, then the filters from the bluntest to the finest, then temperature and
the draw. A filter that would change nothing is left out, since each one walks all candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from localllm.generation import Sampling

Kind = Literal["logit_bias", "penalties", "top_k", "typical", "top_p", "min_p", "temperature", "draw", "greedy"]
MIN_KEEP = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One sampler: its kind, and its numbers in the order of llama.cpp's constructor."""

    kind: Kind
    arguments: tuple[float, ...] = ()


def uses_penalties(sampling: Sampling) -> bool:
    """Whether earlier tokens change the choice of the next."""
    neutral = sampling.repeat_penalty == 1.0 and not sampling.presence_penalty and not sampling.frequency_penalty
    return not neutral and sampling.repeat_last_n != 0


def is_plain_greedy(sampling: Sampling) -> bool:
    """Whether the next token is simply the likeliest, up to biases: no chain is needed."""
    return (sampling.temperature == 0.0 or sampling.top_k == 1) and not uses_penalties(sampling)


def penalty_window(sampling: Sampling, context_tokens: int) -> int:
    """How many of the latest tokens are penalised; -1 asks for the whole context."""
    return context_tokens if sampling.repeat_last_n < 0 else min(sampling.repeat_last_n, context_tokens)


def chain(sampling: Sampling, seed: int, context_tokens: int) -> tuple[Step, ...]:
    """The samplers to run, in order; the last one chooses."""
    steps: list[Step] = []
    if sampling.logit_bias:
        steps.append(Step("logit_bias"))
    if uses_penalties(sampling):
        window = penalty_window(sampling, context_tokens)
        numbers = (window, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        steps.append(Step("penalties", numbers))
    if sampling.temperature == 0.0:
        return (*steps, Step("greedy"))
    if sampling.top_k > 0:
        steps.append(Step("top_k", (sampling.top_k,)))
    if sampling.typical_p < 1.0:
        steps.append(Step("typical", (sampling.typical_p, MIN_KEEP)))
    if sampling.top_p < 1.0:
        steps.append(Step("top_p", (sampling.top_p, MIN_KEEP)))
    if sampling.min_p > 0.0:
        steps.append(Step("min_p", (sampling.min_p, MIN_KEEP)))
    return (*steps, Step("temperature", (sampling.temperature,)), Step("draw", (seed,)))
