"""Ollama's embeddings: /api/embed, and /api/embeddings for one prompt, which is older.

On purpose different from Ollama: what was cut off because `truncate` was left at its default, true, is counted in the
answer (`truncated_count`); `dimensions` beyond the model's are refused.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from localllm.dialects.body import ignored_names, read, read_keep_alive
from localllm.dialects.framing import NANOSECONDS, to_json
from localllm.embedding import MOST_INPUTS, Embeddings, EmbedRequest
from localllm.errors import InvalidFieldError, ModelNotFoundError
from localllm.generation import parse_options


class _EmbedBody(msgspec.Struct):
    model: str | None = None
    name: str | None = None
    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class _EmbeddingsBody(msgspec.Struct):
    model: str | None = None
    name: str | None = None
    prompt: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class _OptionsBody(msgspec.Struct):
    options: dict[str, Any] | None = None


_options_decoder = msgspec.json.Decoder(_OptionsBody)
_embed_decoder = msgspec.json.Decoder(_EmbedBody)
_embeddings_decoder = msgspec.json.Decoder(_EmbeddingsBody)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/api/embed": _EmbedBody, "/api/embeddings": _EmbeddingsBody}


def decode_embed(body: bytes) -> EmbedRequest:
    """The body of POST /api/embed. Raises BadRequestError's kinds, ModelNotFoundError for an empty name."""
    fields = read(body, _embed_decoder)
    model = fields.model or fields.name or ""
    if not model:
        raise ModelNotFoundError("")
    return EmbedRequest(
        model=model,
        inputs=_inputs(fields.input),
        truncates=fields.truncate is not False,
        dimensions=read_dimensions(fields.dimensions),
        num_ctx=read_num_ctx(fields.options),
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
    )


def decode_embeddings(body: bytes) -> EmbedRequest:
    """The body of POST /api/embeddings; an empty prompt has no vector. Raises BadRequestError's kinds."""
    fields = read(body, _embeddings_decoder)
    model = fields.model or fields.name or ""
    if not model:
        raise InvalidFieldError("model is required", field="model")
    return EmbedRequest(
        model=model,
        inputs=(fields.prompt,) if fields.prompt else (),
        truncates=True,
        normalises=False,
        num_ctx=read_num_ctx(fields.options),
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
    )


def encode_embed(model: str, parts: Sequence[Embeddings], total_seconds: float, load_seconds: float) -> bytes:
    """The answer of /api/embed: durations in nanoseconds; the count of inputs that were cut is left out when 0."""
    truncated = sum(part.truncated_inputs for part in parts)
    return to_json(
        {
            "model": model,
            "embeddings": [vector_json(vector) for vector in _vectors(parts)],
            # All three, also when nothing was loaded: clients take no answer without them.
            "total_duration": round(total_seconds * NANOSECONDS),
            "load_duration": round(load_seconds * NANOSECONDS),
            "prompt_eval_count": sum(part.prompt_tokens for part in parts),
            **({"truncated_count": truncated} if truncated else {}),
        }
    )


def encode_embeddings(parts: Sequence[Embeddings]) -> bytes:
    """The answer of /api/embeddings: one vector, empty for an empty prompt."""
    return to_json({"embedding": next((vector_json(vector) for vector in _vectors(parts)), [])})


def read_dimensions(dimensions: int | None) -> int | None:
    """How many to keep; 0, as None, is all. Raises InvalidFieldError."""
    if dimensions is not None and not 0 <= dimensions < 2**31:
        raise InvalidFieldError(f"dimensions must not be {dimensions}", field="dimensions")
    return dimensions or None


def read_num_ctx(options: Mapping[str, object] | None) -> int | None:
    """The only option that vectors depend on; 0, as None, is the model's. Raises InvalidOptionError for any of them."""
    return parse_options(options or {})[0].num_ctx or None


def ignored_fields(body: bytes, shape: type[msgspec.Struct]) -> tuple[str, ...]:
    """What a body says and vectors do not depend on, options included."""
    said = read(body, _options_decoder).options or {}
    options = (f"options.{name}" for name, value in said.items() if name != "num_ctx" and value is not None)
    return (*ignored_names(body, shape), *options)


def check_count(inputs: Sequence[object]) -> None:
    """Raises InvalidFieldError for more inputs than one request may have."""
    if len(inputs) > MOST_INPUTS:
        raise InvalidFieldError(f"input has {len(inputs)} texts; {MOST_INPUTS} is the most at once", field="input")


def vector_json(vector: bytes) -> msgspec.Raw:
    """A JSON array of numbers: the text at once, since it is a tenth of the list's size."""
    return msgspec.Raw(to_json(array("d", vector).tolist()))


def _vectors(parts: Sequence[Embeddings]) -> Iterable[bytes]:
    return (vector for part in parts for vector in part.vectors)


def _inputs(value: object) -> tuple[str, ...]:
    if value in (None, ""):
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidFieldError("invalid input type", field="input")
    check_count(texts)
    return tuple(texts)
