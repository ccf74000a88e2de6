"""OpenAI's embeddings: /v1/embeddings. Inputs may be texts or token ids; what does not fit is refused.

`options`, `num_ctx`, `keep_alive` and `truncate`, by which inputs are cut instead, are extensions.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from localllm.dialects.body import read, read_keep_alive
from localllm.dialects.framing import to_json
from localllm.dialects.ollama_embed import check_count, read_dimensions, read_num_ctx, vector_json
from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import InvalidFieldError


class _Body(msgspec.Struct):
    model: str | None = None
    input: Any = None
    dimensions: int | None = None
    encoding_format: str | None = None
    keep_alive: Any = None
    num_ctx: Any = None
    options: dict[str, Any] | None = None
    truncate: bool | None = None


_decoder = msgspec.json.Decoder(_Body)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/v1/embeddings": _Body}


def decode_embeddings(body: bytes) -> tuple[EmbedRequest, bool]:
    """The body of POST /v1/embeddings, and whether vectors are wanted as base64. Raises BadRequestError's kinds."""
    fields = read(body, _decoder)
    if not fields.model:
        raise InvalidFieldError("model is required", field="model")
    encoding = fields.encoding_format or "float"
    if encoding not in ("float", "base64"):
        message = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        raise InvalidFieldError(message, field="encoding_format")
    request = EmbedRequest(
        model=fields.model,
        inputs=_inputs(fields.input),
        truncates=bool(fields.truncate),
        dimensions=read_dimensions(fields.dimensions),
        num_ctx=read_num_ctx({"num_ctx": fields.num_ctx}) or read_num_ctx(fields.options),
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
    )
    return request, encoding == "base64"


def encode_embeddings(model: str, parts: Sequence[Embeddings], *, as_base64: bool) -> bytes:
    """The answer: a vector is an array of numbers, or the base64 of little-endian float32."""
    vectors = (vector for part in parts for vector in part.vectors)
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector_json(vector)}
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(part.prompt_tokens for part in parts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return to_json({"object": "list", "data": data, "model": model, "usage": usage})


def _base64(vector: bytes) -> str:
    values = array("f", array("d", vector))
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()


def _inputs(value: object) -> tuple[str | tuple[int, ...], ...]:
    """A text, texts, the token ids of a text, or of texts."""
    if _is_token_list(value):
        value = [value]
    inputs = [value] if isinstance(value, str) else value
    if not isinstance(inputs, list) or not inputs:
        raise InvalidFieldError("invalid input", field="input")
    if not all((isinstance(one, str) and one) or _is_token_list(one) for one in inputs):
        raise InvalidFieldError("invalid input", field="input")
    check_count(inputs)
    return tuple(one if isinstance(one, str) else tuple(one) for one in inputs)


def _is_token_list(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31 for one in value)
    )
