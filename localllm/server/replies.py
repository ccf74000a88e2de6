"""Small answers: JSON, text, and errors in the words of the dialect whose route was asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from localllm.dialects import anthropic_encode, llamacpp_encode, ollama_encode, openai_encode
from localllm.dialects.framing import JSON_MEDIA_TYPE, to_json
from localllm.dialects.llamacpp_rerank import PATHS as RERANK_PATHS
from localllm.errors import (
    DiskFullError,
    InvalidFieldError,
    InvalidOptionError,
    LocalllmError,
    PayloadTooLargeError,
    QueueFullError,
    RequestTimeoutError,
    ResponseCancelledError,
    SlowBodyError,
    UnauthorizedError,
)
from localllm.failures import failed_from
from localllm.generation import Failed
from localllm.logs import request_id

IGNORED_HEADER = "x-localllm-ignored"
FULL_QUEUE_HEADERS = ("x-localllm-queue-length", "x-localllm-queue-limit")
_HEADER_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_MOST_TOLD = 32
LLAMACPP_PATHS = frozenset(
    ("/completion", "/completions", "/infill", "/tokenize", "/detokenize", "/apply-template", "/embedding",
     "/embeddings", *RERANK_PATHS, "/props", "/slots", "/health", "/v1/health")
)  # fmt: skip
OPENAI_PATHS = frozenset(("/chat/completions", "/models"))  # besides those below /v1
ANTHROPIC_PATH = "/v1/messages"
TEXT_MEDIA_TYPE = "text/plain; charset=utf-8"
INTERNAL = Failed(
    code="internal_error",
    status=500,
    message="something went wrong inside localllm",
    hint="the daemon's log has the details",
)


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(to_json(value), status, media_type=JSON_MEDIA_TYPE)


def text_response(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`text` as it is."""
    return Response(text, status, headers, TEXT_MEDIA_TYPE)


def speaks_openai(path: str) -> bool:
    """Whether a path is OpenAI's, unless it is Anthropic's or llama-server's."""
    return path.startswith("/v1/") or path in OPENAI_PATHS


def _error_body(failed: Failed, path: str, param: str | None = None) -> bytes:
    """A failure in the dialect that a route speaks."""
    if path.startswith(ANTHROPIC_PATH):
        return anthropic_encode.error_body(failed, request_id.get())
    if path in LLAMACPP_PATHS:
        return llamacpp_encode.error_body(failed)
    if speaks_openai(path):
        return openai_encode.error_body(failed, param)
    return ollama_encode.error_body(failed)


def error_response(error: LocalllmError, path: str) -> Response:
    """An error as the client of `path` expects it, with the headers that belong to it."""
    failed = failed_from(error)
    param = error.field if isinstance(error, InvalidFieldError) else None
    param = error.option if isinstance(error, InvalidOptionError) else param
    return Response(_error_body(failed, path, param), failed.status, error_headers(error), JSON_MEDIA_TYPE)


def failed_response(failed: Failed, path: str, headers: dict[str, str] | None = None) -> Response:
    """A failed event as a whole answer."""
    return Response(_error_body(failed, path), failed.status, headers, JSON_MEDIA_TYPE)


def no_route_response(failed: Failed, path: str, headers: dict[str, str] | None = None) -> Response:
    """That there is no such route, or not by that method: a dialect's error where one is spoken, else Ollama's text."""
    if speaks_openai(path) or path in LLAMACPP_PATHS:
        return failed_response(failed, path, headers)
    return text_response(failed.message, failed.status, headers)


def told_headers(ignored: Sequence[str]) -> dict[str, str]:
    """The header that names the fields of a request which changed nothing; odd names are left out of it."""
    names = [name for name in ignored if _HEADER_NAME.fullmatch(name)][:_MOST_TOLD]
    return {IGNORED_HEADER: ", ".join(names)} if names else {}


def error_headers(error: LocalllmError | None) -> dict[str, str]:
    """The headers that tell a client when and how to try again."""
    if isinstance(error, QueueFullError):
        figures = zip(FULL_QUEUE_HEADERS, (str(error.waiting), str(error.limit)), strict=True)
        return {"retry-after": str(error.retry_after_seconds), **dict(figures)}
    if isinstance(error, (RequestTimeoutError, ResponseCancelledError)):
        return {"x-should-retry": "false"}  # OpenAI's and Anthropic's clients would send it twice more, as for any 5xx
    if isinstance(error, UnauthorizedError):
        return {"www-authenticate": "Bearer"}
    if isinstance(
        error, (PayloadTooLargeError, DiskFullError, SlowBodyError)
    ):  # the rest of the body is still on its way
        return {"connection": "close"}
    return {}
