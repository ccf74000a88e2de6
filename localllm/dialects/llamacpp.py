"""llama-server's request bodies: /completion and /infill as GenerationRequests, and questions about tokens.

Not here: the answers (llamacpp_encode), which model is meant where none is named (server/llamacpp).

Options have llama-server's names, and the Modelfile's values or ours where the client says nothing. A prompt may be a
text, token ids, or both in turn. `/infill` cuts what does not fit around the gap, as llama-server does, and the answer
says so. What changes nothing here (samplers, cache_prompt since every prompt is cached, id_slot …) is ignored and its
name told.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec

from localllm.dialects.body import Decoded, ignored_names, read
from localllm.dialects.constraint_fields import ConstraintFields, read_constraint
from localllm.errors import InvalidFieldError, UnsupportedError
from localllm.generation import (
    MOST_LOGPROBS,
    ContextFile,
    FillIn,
    GenerationRequest,
    Options,
    parse_options,
)

MOST_PROMPTS = 128
Pieces = tuple[str | int, ...]  # texts and token ids in turn
_MILLISECONDS = 1000
_FORBIDDEN = -1e9  # a bias that no logit outweighs, for llama-server's `false`
_OPTIONS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold",
    "repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base",
    "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta",
    "seed", "stop",
)  # fmt: skip
_OPTION_OF = {"n_predict": "num_predict", "n_keep": "num_keep"}


class _Fields(ConstraintFields):
    model: str | None = None
    prompt: Any = None
    stream: bool | None = None
    n_predict: Any = None
    n_keep: Any = None
    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    min_p: Any = None
    typical_p: Any = None
    top_n_sigma: Any = None
    xtc_probability: Any = None
    xtc_threshold: Any = None
    repeat_last_n: Any = None
    repeat_penalty: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    dry_multiplier: Any = None
    dry_base: Any = None
    dry_allowed_length: Any = None
    dry_penalty_last_n: Any = None
    dry_sequence_breakers: Any = None
    mirostat: Any = None
    mirostat_tau: Any = None
    mirostat_eta: Any = None
    seed: Any = None
    stop: Any = None
    logit_bias: Any = None
    n_probs: int | None = None
    t_max_prompt_ms: float | None = None
    t_max_predict_ms: float | None = None
    response_fields: list[str] | None = None
    return_progress: bool | None = None
    return_tokens: bool | None = None
    timings_per_token: bool | None = None


class _File(msgspec.Struct):
    text: str | None = None
    filename: str | None = None


class _InfillFields(_Fields):
    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[_File] | None = None


_completion_decoder = msgspec.json.Decoder(_Fields)
_infill_decoder = msgspec.json.Decoder(_InfillFields)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/completion": _Fields, "/completions": _Fields, "/infill": _InfillFields}


def decode_completion(body: bytes) -> Decoded:
    """The body of POST /completion: prompts for the model as they are. Raises BadRequestError's kinds."""
    fields = read(body, _completion_decoder)
    request = _request(fields)
    prompts = _prompts(fields.prompt)
    requests = tuple(_with_prompt(request, prompt) for prompt in prompts)
    mixed = {place: one for place, one in enumerate(prompts) if not isinstance(one, str) and _has_text(one)}
    return replace(
        _decoded(fields, requests[0], ignored_names(body, _Fields)),
        choices=requests if len(requests) > 1 else (),
        mixed_prompts=mixed,
    )


def decode_infill(body: bytes) -> Decoded:
    """The body of POST /infill: the text around a gap, and files it belongs to. Raises BadRequestError's kinds."""
    fields = read(body, _infill_decoder)
    for name in ("input_prefix", "input_suffix"):
        if getattr(fields, name) is None:
            raise InvalidFieldError(f'"{name}" is required', field=name)
    beginning = fields.prompt or ""
    if not isinstance(beginning, str):
        raise InvalidFieldError('"prompt" must be a text here: what the filled text begins with', field="prompt")
    files = tuple(ContextFile(one.filename or "tmp", one.text or "") for one in fields.input_extra or ())
    request = msgspec.structs.replace(
        _request(fields),
        prompt=(fields.input_prefix or "") + beginning,
        fill_in=FillIn(fields.input_suffix or "", files),
        context_policy="truncate",
    )
    return _decoded(fields, request, ignored_names(body, _InfillFields))


def _decoded(fields: _Fields, request: GenerationRequest, ignored: tuple[str, ...]) -> Decoded:
    return Decoded(
        request,
        bool(fields.stream),
        ignored=ignored,
        response_fields=tuple(fields.response_fields or ()),
        reports_progress=bool(fields.return_progress),
        reports_timings=bool(fields.timings_per_token),
    )


def _request(fields: _Fields) -> GenerationRequest:
    if fields.n_probs is not None and not 0 <= fields.n_probs <= MOST_LOGPROBS:
        raise InvalidFieldError(f"n_probs must be between 0 and {MOST_LOGPROBS}", field="n_probs")
    return GenerationRequest(
        model=fields.model or "",
        raw=True,
        options=_options(fields),
        response_format=read_constraint(fields),
        logprobs=fields.n_probs or None,
        returns_context=bool(fields.return_tokens),
        prefill_seconds_most=_seconds(fields.t_max_prompt_ms, "t_max_prompt_ms"),
        decode_seconds_most=_seconds(fields.t_max_predict_ms, "t_max_predict_ms"),
    )


def _options(fields: _Fields) -> Options:
    said = {name: getattr(fields, name) for name in _OPTIONS}
    said |= {name: getattr(fields, name) for name in _OPTION_OF} | {"logit_bias": _biases(fields.logit_bias)}
    return parse_options(said, _OPTION_OF)[0]


def _biases(value: object) -> object:
    """llama-server's pairs as the object that the option is; `false` as a number forbids a token."""
    if not isinstance(value, list):
        return value
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise InvalidFieldError("logit_bias must hold pairs of a token id and a number or false", field="logit_bias")
    if any(isinstance(pair[0], str) for pair in value):
        raise UnsupportedError("logit_bias for a text is not supported", hint="send token ids, which /tokenize tells")
    return {str(token): _FORBIDDEN if bias is False else bias for token, bias in value}


def _seconds(milliseconds: float | None, field: str) -> float | None:
    """A time limit; 0 and less is none."""
    if milliseconds is None or milliseconds <= 0:
        return None
    if not math.isfinite(milliseconds):
        raise InvalidFieldError(f"{field} must be a finite number of milliseconds", field=field)
    return milliseconds / _MILLISECONDS


def _prompts(value: object) -> list[str | Pieces]:
    """A text, token ids, texts and token ids in turn, or several of these. Raises InvalidFieldError."""
    one = _prompt(value)
    prompts = [_prompt(each) for each in value] if one is None and isinstance(value, list) else [one]
    found = [one for one in prompts if one is not None]
    if not found or len(found) < len(prompts) or len(found) > MOST_PROMPTS:
        message = f'"prompt" must be a text, token ids, or an array of 1 to {MOST_PROMPTS} of these'
        raise InvalidFieldError(message, field="prompt")
    return found


def _prompt(value: object) -> str | Pieces | None:
    """One prompt; an array of nothing but texts is several."""
    if isinstance(value, str):
        return value
    pieces = read_pieces(value)
    return None if pieces is None or all(isinstance(piece, str) for piece in pieces) else pieces


def _has_text(pieces: Pieces) -> bool:
    return any(isinstance(piece, str) for piece in pieces)


def read_tokens(value: object) -> tuple[int, ...] | None:
    """`value` if it is an array of at least one token id."""
    return tuple(value) if isinstance(value, list) and value and all(map(_is_token, value)) else None


def read_pieces(value: object) -> Pieces | None:
    """`value` if it is an array of texts and token ids, and not empty."""
    if not isinstance(value, list) or not value:
        return None
    return tuple(value) if all(isinstance(one, str) or _is_token(one) for one in value) else None


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _with_prompt(request: GenerationRequest, prompt: str | Pieces) -> GenerationRequest:
    if isinstance(prompt, str):
        return msgspec.structs.replace(request, prompt=prompt)
    # The texts among token ids become tokens where the model is.
    return msgspec.structs.replace(request, prompt_tokens=tuple(one for one in prompt if not isinstance(one, str)))
