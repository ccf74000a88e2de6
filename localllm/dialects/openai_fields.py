"""What OpenAI's bodies have in common: sampling fields, the extension fields, usage in a stream, several answers.

Besides OpenAI's own fields: `options`, `keep_alive`, `num_ctx`, llama.cpp's sampling options under their names, and
those of constraint_fields.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from localllm.dialects.constraint_fields import ConstraintFields
from localllm.errors import InvalidFieldError
from localllm.generation import GenerationRequest, Options, merge_options, parse_options

MOST_CHOICES = 128
_SEED_MODULUS = 2**32
# How hard to think, in the words of OpenAI and Anthropic, and in ours.
EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = None


class SamplingFields(ConstraintFields):
    """The fields that are options under the same name; `Any`, since options say best what is wrong with a value."""

    temperature: Any = None
    top_p: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    seed: Any = None
    stop: Any = None
    logit_bias: Any = None
    num_ctx: Any = None
    top_k: Any = None
    min_p: Any = None
    repeat_penalty: Any = None
    repetition_penalty: Any = None
    dry_multiplier: Any = None
    dry_base: Any = None
    dry_allowed_length: Any = None
    dry_penalty_last_n: Any = None
    dry_sequence_breakers: Any = None
    xtc_probability: Any = None
    xtc_threshold: Any = None
    top_n_sigma: Any = None
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None


_SAMPLING_NAMES = tuple(
    name for name in SamplingFields.__struct_fields__ if name not in ConstraintFields.__struct_fields__
)


_OPTION_OF = {"repetition_penalty": "repeat_penalty"}  # vLLM's word


class CommonFields(SamplingFields):
    """What every body that generates may say."""

    model: str | None = None
    stream: bool | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None
    user: str | None = None
    service_tier: str | None = None


class CompletionFields(CommonFields):
    """What the completions of chats and of texts may say."""

    stream_options: StreamOptions | None = None
    n: int | None = None


def read_options(fields: CommonFields, *limits: str) -> tuple[Options, tuple[str, ...]]:
    """The options of a body, and names in `options` that nobody knows.

    The first of the fields `limits` that is said is the most tokens there may be.
    """
    said = {name: value for name in _SAMPLING_NAMES if (value := getattr(fields, name)) is not None}
    limit = next((name for name in limits if getattr(fields, name) is not None), limits[0])
    own, _ = parse_options({**said, limit: getattr(fields, limit)}, {**_OPTION_OF, limit: "num_predict"})
    extension, unknown = parse_options(fields.options or {})
    return merge_options(own, extension), unknown


def read_count(value: int | None, field: str, prompts: int = 1) -> int:
    """How many answers each of `prompts` is to get; 1 when not said. Raises InvalidFieldError."""
    count = 1 if value is None else value
    if not 1 <= count * prompts <= MOST_CHOICES:
        each = f" for each of {prompts} prompts" if prompts > 1 else ""
        raise InvalidFieldError(f"{field} is {count}{each}, but 1 to {MOST_CHOICES} answers are possible", field=field)
    return count


def with_own_seeds(request: GenerationRequest, count: int) -> tuple[GenerationRequest, ...]:
    """The same request `count` times, each with the next seed; without one each gets a random seed anyway."""
    seed = request.options.seed
    if seed is None or seed == -1:
        return (request,) * count
    seeds = ((seed + index) % _SEED_MODULUS for index in range(count))
    options = (msgspec.structs.replace(request.options, seed=one) for one in seeds)
    return tuple(msgspec.structs.replace(request, options=one) for one in options)


def includes_usage(fields: CompletionFields) -> bool:
    """Whether a stream is to end with the usage."""
    return bool(fields.stream_options and fields.stream_options.include_usage)
