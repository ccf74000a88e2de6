"""llama.cpp's samplers: the objects that `sampling` describes, one chain per request.

Only `engine.llama` makes them; they read that backend's logits and live no longer than it. Three kinds, each as cheap
as its parameters allow:

    GreedySampler      the likeliest token: numpy alone
    ShortlistSampler   top_k comes first: numpy finds those tokens, llama.cpp filters and draws among them
    ChainSampler       everything else: llama.cpp makes a candidate of every token

Biases and penalties come before all that, in numpy (adjustments.py) but for the last, whose chain has them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from localllm.engine import sampling as plans
from localllm.engine import shortlist
from localllm.engine.adjustments import Adjustments, Penalties
from localllm.engine.backend import NOT_FINITE, EngineError, Sampler
from localllm.generation import Sampling

_MIROSTAT_CANDIDATES = 100  # of which version 1 estimates its exponent, as in llama.cpp and in the paper
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("probability", np.float32)])  # llama_token_data
# The samplers that are made of a step's numbers alone, and the types of these.
_CONSTRUCTORS: dict[plans.Kind, tuple[Callable[..., object], tuple[type[float] | type[int], ...]]] = {
    "top_n_sigma": (native.llama_sampler_init_top_n_sigma, (float,)),
    "top_k": (native.llama_sampler_init_top_k, (int,)),
    "typical": (native.llama_sampler_init_typical, (float, int)),
    "top_p": (native.llama_sampler_init_top_p, (float, int)),
    "min_p": (native.llama_sampler_init_min_p, (float, int)),
    "xtc": (native.llama_sampler_init_xtc, (float, float, int, int)),
    "temperature": (native.llama_sampler_init_temp, (float,)),
    "draw": (native.llama_sampler_init_dist, (int,)),
    "mirostat_v2": (native.llama_sampler_init_mirostat_v2, (int, float, float)),
    "greedy": (native.llama_sampler_init_greedy, ()),
}
_DRY_KEPT = 8


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

    def place(self, row: int) -> int:
        """Which of llama.cpp's rows that is."""


class Samplers:
    """Makes the samplers of one backend, and remembers what is costly to make."""

    def __init__(self, source: LogitsSource) -> None:
        self._source = source
        self._dry: dict[tuple[object, ...], object] = {}  # one of each kind, to be cloned; the latest used last

    def new(self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], context_tokens: int) -> Sampler:
        """The cheapest sampler that does what `sampling` says; its penalties already know `recent_tokens`."""
        source = self._source
        steps = plans.chain(sampling, seed, context_tokens)
        if plans.is_greedy(sampling):
            return GreedySampler(source, self._adjustments(steps, sampling, recent_tokens))
        choosing = [step for step in steps if step.kind not in ("logit_bias", "penalties")]
        if choosing[0].kind == "top_k" and shortlist.is_worthwhile(source.vocabulary_size, sampling.top_k):
            adjustments = self._adjustments(steps, sampling, recent_tokens)
            return ShortlistSampler(source, sampling.top_k, self.chain(choosing[1:], sampling), adjustments)
        window = plans.history_window(sampling, context_tokens)
        recent = recent_tokens[-window:] if window else ()
        return ChainSampler(source, self.chain(steps, sampling), recent)

    def _adjustments(
        self, steps: Sequence[plans.Step], sampling: Sampling, recent_tokens: Sequence[int]
    ) -> Adjustments:
        bias = [(token, value) for token, value in sampling.logit_bias if 0 <= token < self._source.vocabulary_size]
        for step in steps:
            if step.kind == "penalties":
                window, *numbers = step.arguments
                return Adjustments(bias, Penalties(int(window), *numbers), recent_tokens)
        return Adjustments(bias)

    def chain(self, steps: Sequence[plans.Step], sampling: Sampling) -> object:
        """A llama.cpp chain of these steps, to be freed by whoever uses it. Raises EngineError."""
        chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
        for step in steps:
            sampler = self._sampler(step, sampling)
            if not sampler:
                native.llama_sampler_free(chain)
                raise EngineError(f"llama.cpp refused the sampler {step.kind} with {step.arguments}")
            native.llama_sampler_chain_add(chain, sampler)
        return chain

    def _sampler(self, step: plans.Step, sampling: Sampling) -> object:
        numbers, vocabulary_size = step.arguments, self._source.vocabulary_size
        match step.kind:
            case "logit_bias":
                return _bias_sampler(vocabulary_size, sampling.logit_bias)
            case "dry":
                return self._dry_sampler(numbers, sampling.dry_sequence_breakers)
            case "penalties":
                return native.llama_sampler_init_penalties(vocabulary_size, int(numbers[0]), *numbers[1:])
            case "mirostat":
                seed, tau, eta = int(numbers[0]), numbers[1], numbers[2]
                return native.llama_sampler_init_mirostat(vocabulary_size, seed, tau, eta, _MIROSTAT_CANDIDATES)
        constructor, types = _CONSTRUCTORS[step.kind]
        return constructor(*(kind(number) for kind, number in zip(types, numbers, strict=True)))

    def _dry_sampler(self, numbers: tuple[float, ...], breakers: tuple[str, ...]) -> object:
        """llama.cpp looks for each breaker in the whole vocabulary: 7 ms for each in 150k tokens; a clone takes 0.2."""
        key = (numbers, breakers)
        sampler = self._dry.pop(key, None) or _dry_sampler(self._source.context, numbers, breakers)
        if not sampler:
            return None
        self._dry[key] = sampler
        if len(self._dry) > _DRY_KEPT:
            native.llama_sampler_free(self._dry.pop(next(iter(self._dry))))
        return native.llama_sampler_clone(sampler)

    def close(self) -> None:
        """Free what is remembered; samplers that were made live on."""
        while self._dry:
            native.llama_sampler_free(self._dry.popitem()[1])


class GreedySampler:
    """The likeliest token."""

    def __init__(self, source: LogitsSource, adjustments: Adjustments) -> None:
        self._source = source
        self._adjustments = adjustments

    def sample(self, row: int) -> int:
        """Argmax of the logits after biases and penalties."""
        logits = self._source.logits(row)
        self._adjustments.apply(logits)
        token = _finite(logits, int(logits.argmax()))
        self._adjustments.undo(logits)
        self._adjustments.note(token)
        return token

    def close(self) -> None:
        """Nothing to free."""


class ChainSampler:
    """A llama.cpp sampler chain, which it owns, over all tokens."""

    def __init__(self, source: LogitsSource, chain: object, recent_tokens: Sequence[int]) -> None:
        self._source = source
        self._chain = chain
        for token in recent_tokens:
            native.llama_sampler_accept(self._chain, token)

    def sample(self, row: int) -> int:
        """Draw from the logits of a row and remember the token for the penalties."""
        logits = self._source.logits(row)
        token = native.llama_sampler_sample(self._chain, self._source.context, self._source.place(row))
        return _finite(logits, token)

    def close(self) -> None:
        """Free the chain and the samplers in it."""
        if self._chain:
            native.llama_sampler_free(self._chain)
            self._chain = None


class ShortlistSampler:
    """A chain, which it owns, over the `count` likeliest tokens only. For chains that remember no tokens."""

    def __init__(self, source: LogitsSource, count: int, chain: object, adjustments: Adjustments) -> None:
        self._source = source
        self._adjustments = adjustments
        self._count = count
        self._chain = chain
        self._candidates = np.zeros(count, dtype=_CANDIDATE)
        self._data = ctypes.cast(self._candidates.ctypes.data, native.llama_token_data_p)
        self._array = native.llama_token_data_array()

    def sample(self, row: int) -> int:
        """Draw among the likeliest tokens of a row."""
        logits = self._source.logits(row)
        self._adjustments.apply(logits)
        tokens = shortlist.largest(logits, self._count)
        candidates = self._candidates[: len(tokens)]
        candidates["id"] = tokens
        candidates["logit"] = logits[tokens]
        self._adjustments.undo(logits)
        token = _finite(logits, self._draw(len(tokens)))
        self._adjustments.note(token)
        return token

    def _draw(self, count: int) -> int:
        if not count:
            raise EngineError(NOT_FINITE)
        array = self._array
        # Set anew each time: samplers move the pointer and shrink the size.
        array.data, array.size, array.selected, array.sorted = self._data, count, -1, True
        native.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise EngineError(NOT_FINITE)
        return int(array.data[array.selected].id)

    def close(self) -> None:
        """Free the chain and the samplers in it."""
        if self._chain:
            native.llama_sampler_free(self._chain)
            self._chain = None


def _bias_sampler(vocabulary_size: int, logit_bias: Sequence[tuple[int, float]]) -> object:
    bias = [(token, value) for token, value in logit_bias if token < vocabulary_size]
    biases = (native.llama_logit_bias * len(bias))(*bias)
    return native.llama_sampler_init_logit_bias(vocabulary_size, len(bias), biases)


def _dry_sampler(context: int, numbers: tuple[float, ...], breakers: Sequence[str]) -> object:
    multiplier, base, allowed_length, window = numbers
    texts = [text.encode("utf-8", "replace") for text in breakers]
    pointers = (ctypes.c_char_p * len(texts))(*texts)
    vocabulary = native.llama_model_get_vocab(native.llama_get_model(context))
    return native.llama_sampler_init_dry(
        vocabulary, multiplier, base, int(allowed_length), int(window), pointers, len(texts)
    )


def _finite(logits: npt.NDArray[np.float32], token: int) -> int:
    """`token`, unless its logit shows that the computation went wrong."""
    if not 0 <= token < len(logits) or not np.isfinite(logits[token]):
        raise EngineError(NOT_FINITE)
    return token
