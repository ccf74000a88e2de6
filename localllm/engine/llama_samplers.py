"""llama.cpp's samplers: the objects that `sampling` describes, one chain per request.

Only `engine.llama` makes them; they read that backend's logits and live no longer than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from localllm.engine import sampling as plans
from localllm.engine.backend import EngineError, Sampler
from localllm.generation import Sampling


class LogitsSource(Protocol):
    """The backend as its samplers see it. `context` is the llama_context; logits have shape (vocabulary_size,)."""

    @property
    def context(self) -> int:
        """The llama_context whose last batch is sampled."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens that may be chosen."""

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """A view of the logits of a row of the last batch."""


def new_sampler(
    source: LogitsSource, sampling: Sampling, seed: int, recent_tokens: Sequence[int], context_tokens: int
) -> Sampler:
    """Greedy needs no chain: the largest of the logits is found without building a candidate per token."""
    bias = [(token, value) for token, value in sampling.logit_bias if token < source.vocabulary_size]
    if plans.is_plain_greedy(sampling):
        return GreedySampler(source, bias)
    window = plans.penalty_window(sampling, context_tokens)
    recent = recent_tokens[-window:] if window and plans.uses_penalties(sampling) else ()
    return ChainSampler(source, plans.chain(sampling, seed, context_tokens), bias, recent)


class GreedySampler:
    """The likeliest token."""

    def __init__(self, source: LogitsSource, bias: Sequence[tuple[int, float]]) -> None:
        self._source = source
        self._bias = bias

    def sample(self, row: int) -> int:
        """Argmax of the logits after the biases."""
        logits = self._source.logits(row)
        for token, value in self._bias:
            logits[token] += value
        return _finite(logits, int(logits.argmax()))

    def close(self) -> None:
        """Nothing to free."""


class ChainSampler:
    """A llama.cpp sampler chain, built once per request."""

    def __init__(
        self,
        source: LogitsSource,
        steps: Sequence[plans.Step],
        bias: Sequence[tuple[int, float]],
        recent_tokens: Sequence[int],
    ) -> None:
        self._source = source
        self._chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for step in steps:
            native.llama_sampler_chain_add(self._chain, _sampler(step, source.vocabulary_size, bias))
        for token in recent_tokens:
            native.llama_sampler_accept(self._chain, token)

    def sample(self, row: int) -> int:
        """Draw from the logits of a row and remember the token for the penalties."""
        logits = self._source.logits(row)
        token = native.llama_sampler_sample(self._chain, self._source.context, row)
        return _finite(logits, token)

    def close(self) -> None:
        """Free the chain and the samplers in it."""
        if self._chain:
            native.llama_sampler_free(self._chain)
            self._chain = None


def _sampler(step: plans.Step, vocabulary_size: int, bias: Sequence[tuple[int, float]]) -> object:
    numbers = step.arguments
    match step.kind:
        case "logit_bias":
            biases = (native.llama_logit_bias * len(bias))(*bias)
            return native.llama_sampler_init_logit_bias(vocabulary_size, len(bias), biases)
        case "penalties":
            return native.llama_sampler_init_penalties(vocabulary_size, int(numbers[0]), *numbers[1:])
        case "top_k":
            return native.llama_sampler_init_top_k(int(numbers[0]))
        case "typical":
            return native.llama_sampler_init_typical(numbers[0], int(numbers[1]))
        case "top_p":
            return native.llama_sampler_init_top_p(numbers[0], int(numbers[1]))
        case "min_p":
            return native.llama_sampler_init_min_p(numbers[0], int(numbers[1]))
        case "temperature":
            return native.llama_sampler_init_temp(numbers[0])
        case "draw":
            return native.llama_sampler_init_dist(int(numbers[0]))
        case "greedy":
            return native.llama_sampler_init_greedy()


def _finite(logits: npt.NDArray[np.float32], token: int) -> int:
    """`token`, unless its logit shows that the computation went wrong."""
    if not 0 <= token < len(logits) or not np.isfinite(logits[token]):
        raise EngineError("the model computed non-finite logits; the file may be damaged")
    return token


