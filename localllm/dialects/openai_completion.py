"""OpenAI's older body as GenerationRequests: /v1/completions. The prompt goes to the model without a chat template.

A prompt is a text or token ids, or several of either; each gets `n` answers, numbered prompt by prompt. With `suffix`
the model fills the gap between prompt and suffix, if its vocabulary has tokens for that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from localllm.dialects.body import Decoded, ignored_names, read, read_keep_alive
from localllm.dialects.constraint_fields import read_constraint
from localllm.dialects.openai_fields import (
    CompletionFields,
    includes_usage,
    read_count,
    read_options,
    with_own_seeds,
)
from localllm.errors import InvalidFieldError, UnsupportedError
from localllm.generation import MOST_LOGPROBS, FillIn, GenerationRequest, Options, merge_options

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class _Body(CompletionFields):
    prompt: Any = None
    suffix: str | None = None
    max_tokens: Any = None
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None


_decoder = msgspec.json.Decoder(_Body)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/v1/completions": _Body}


def decode_completion(body: bytes) -> Decoded:
    """The body of POST /v1/completions. Raises BadRequestError's kinds."""
    fields = read(body, _decoder)
    if not fields.model:
        raise InvalidFieldError("model is required", field="model")
    prompts = _prompts(fields.prompt)
    answers = read_count(fields.n, "n", len(prompts))
    candidates = read_count(fields.best_of, "best_of", len(prompts)) if fields.best_of is not None else answers
    _check(fields, answers, candidates)
    options, unknown = read_options(fields, "max_tokens")
    request = GenerationRequest(
        model=fields.model,
        raw=True,
        options=merge_options(options, Options(num_predict=DEFAULT_MAX_TOKENS)),
        response_format=read_constraint(fields),
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
        logprobs=0 if fields.logprobs is None and candidates > answers else fields.logprobs,
        prompt_logprobs=fields.logprobs if fields.echo else None,
        client=fields.user or "",
    )
    requests = [_with_prompt(request, prompt, fields.suffix) for prompt in prompts]
    decoded = Decoded(requests[0], bool(fields.stream), include_usage=includes_usage(fields), unknown_options=unknown)
    return replace(
        decoded,
        choices=tuple(one for each in requests for one in with_own_seeds(each, candidates)),
        candidates_per_prompt=candidates,
        answers_per_prompt=answers,
        echoes=bool(fields.echo),
        shows_logprobs=fields.logprobs is not None,
        ignored=ignored_names(body, _Body, "service_tier"),
    )


def _prompts(value: object) -> list[str | tuple[int, ...]]:
    """Texts and token ids. Raises InvalidFieldError for anything else."""
    if value is None:
        raise InvalidFieldError("prompt is required", field="prompt")
    several = isinstance(value, list) and _tokens(value) is None
    prompts = [_prompt(item) for item in value] if isinstance(value, list) and several else [_prompt(value)]
    if not prompts:
        raise InvalidFieldError("prompt is empty", field="prompt")
    return prompts


def _prompt(value: object) -> str | tuple[int, ...]:
    prompt = value if isinstance(value, str) else _tokens(value)
    if prompt is None:
        raise InvalidFieldError("prompt must be a text, an array of texts, or token ids", field="prompt")
    return prompt


def _tokens(value: object) -> tuple[int, ...] | None:
    """`value` if it is token ids."""
    if not isinstance(value, list) or not value:
        return None
    are_ids = all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31 for one in value)
    return tuple(value) if are_ids else None


def _check(fields: _Body, answers: int, candidates: int) -> None:
    if candidates < answers:
        raise InvalidFieldError(f"best_of is {candidates}, but must be at least n, which is {answers}", field="best_of")
    if candidates > answers and fields.stream:
        raise InvalidFieldError("best_of cannot be streamed: the best is known at the end only", field="best_of")
    if fields.logprobs is not None and not 0 <= fields.logprobs <= MOST_LOGPROBS:
        raise InvalidFieldError(f"logprobs must be between 0 and {MOST_LOGPROBS}", field="logprobs")
    if fields.echo and fields.logprobs is not None and fields.suffix:
        raise UnsupportedError(
            "echo with logprobs and suffix is not supported: the model's prompt is another text then",
            hint="leave one of the three out",
        )


def _with_prompt(request: GenerationRequest, prompt: str | tuple[int, ...], suffix: str | None) -> GenerationRequest:
    if isinstance(prompt, str):
        fill_in = FillIn(suffix) if suffix else None
        return msgspec.structs.replace(request, prompt=prompt, fill_in=fill_in)
    if suffix:
        raise InvalidFieldError("suffix needs a prompt that is text, not token ids", field="suffix")
    return msgspec.structs.replace(request, prompt_tokens=prompt)
