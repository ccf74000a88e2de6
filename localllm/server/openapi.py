"""The document of the API (OpenAPI 3.1), made of the table of routes and of the types that bodies are decoded with.

What a body may hold is what its decoder's struct says; fields that the struct leaves to the code (options, prompts) are
described in FIELDS. What an answer looks like says dialects/answers. A route without an operation here, or an operation
without a route, is caught by a test, as is an answer of another shape or status than the document promises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from localllm.dialects import (
    anthropic,
    llamacpp,
    llamacpp_rerank,
    llamacpp_tokens,
    ollama,
    ollama_create,
    ollama_embed,
    ollama_pull,
    openai,
    openai_completion,
    openai_embed,
    openai_responses,
    plans,
)
from localllm.generation import Options
from localllm.server.operations import OPERATIONS, Operation, error_of
from localllm.server.replies import LLAMACPP_PATHS, speaks_openai
from localllm.server.schemas import Schemas
from localllm.server.terms import PRIORITY_HEADER, SESSION_HEADERS, TIMEOUT_HEADER
from localllm.version import __version__

BODIES: Mapping[str, type[msgspec.Struct]] = {
    path: body
    for module in (anthropic, llamacpp, llamacpp_rerank, llamacpp_tokens, ollama, ollama_create, ollama_embed,
                   ollama_pull, openai, openai_completion, openai_embed, plans)
    for path, body in module.BODIES.items()
} | dict.fromkeys(("/v1/responses", "/v1/responses/input_tokens"), openai_responses.Body)  # fmt: skip

_TEXTS: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_TEXTS_OR_TOKENS: dict[str, Any] = {
    "anyOf": [*_TEXTS["anyOf"], {"type": "array", "items": {"type": "integer", "minimum": 0}}]
}
_NUMBER, _INTEGER, _FLAG = {"type": "number"}, {"type": "integer"}, {"type": "boolean"}
_KINDS: dict[str, dict[str, Any]] = {"int": _INTEGER, "float": _NUMBER, "bool": _FLAG, "tuple": _TEXTS}
_BIASES = {"type": "object", "additionalProperties": _NUMBER, "description": "a number for each token id"}
OPTIONS: Mapping[str, dict[str, Any]] = {
    name: _KINDS[kind.partition(" ")[0].partition("[")[0]] for name, kind in Options.__annotations__.items()
} | {"logit_bias": _BIASES}
# What the structs leave to the code, by the field's name.
FIELDS: Mapping[str, dict[str, Any]] = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "n_keep"), _INTEGER),
    "keep_alive": {"anyOf": [_NUMBER, {"type": "string"}], "description": 'seconds or "5m"; -1 for ever, 0 not at all'},
    "think": {"anyOf": [{"type": "boolean"}, {"enum": ["high", "medium", "low", "max"]}]},
    "format": {"anyOf": [{"const": "json"}, {"type": "object"}], "description": '"json", or a JSON Schema'},
    "stop_sequences": _TEXTS,
    "prompt": _TEXTS_OR_TOKENS,
    "input": _TEXTS_OR_TOKENS,
    "content": _TEXTS_OR_TOKENS,
    "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    "tool_choice": {"anyOf": [{"enum": ["auto", "none", "required"]}, {"type": "object"}]},
    **OPTIONS,
    "options": {
        "type": "object",
        "properties": OPTIONS,
        "description": "Options under Ollama's names, or else llama.cpp's",
    },
    "schema": {"type": "object", "description": "a JSON Schema"},
    "json_schema": {"type": "object", "description": "a JSON Schema"},
    "input_schema": {"type": "object", "description": "a JSON Schema"},
    "guided_json": {"type": "object", "description": "a JSON Schema"},
    **dict.fromkeys(("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget", "budget_tokens"), _INTEGER),
}
_OPEN_TAGS = (("/v1/messages", "Anthropic"), ("/v1/", "OpenAI"), ("/api/", "Ollama"))
_REASONS = {
    200: "The answer", 201: "It was taken", 400: "The request cannot be served as asked", 401: "A key is needed",
    403: "A foreign Host or Origin, or a key without the scope", 404: "No such model, file or response",
    405: "Another method", 408: "The body came too slowly", 409: "Somebody cancelled it",
    413: "The body is too large", 431: "The headers are too large", 500: "The model's process failed",
    502: "The hub, the registry or the way to it failed", 503: "Too many wait, or the daemon is stopping",
    504: "The request's own time has passed", 507: "The disk is full",
}  # fmt: skip
JSON, TEXT = "application/json", "text/plain"


class Row(Protocol):
    """A row of the table of routes."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def purpose(self) -> str: ...


def document(rows: Iterable[Row]) -> dict[str, Any]:
    """The whole document."""
    schemas = Schemas(FIELDS)
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        path = row.path.replace(":path", "")
        for method in row.method.split("|"):
            operation = OPERATIONS.get(f"{method} {row.path}") or OPERATIONS[row.path]
            paths.setdefault(path, {})[method.lower()] = _operation(row, method, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "localllm",
            "version": __version__,
            "description": "Ollama's, OpenAI's, Anthropic's and llama-server's APIs, served by one daemon.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.known.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _operation(row: Row, method: str, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    path = row.path
    name = path.replace(":path", "").translate({ord("/"): "_", ord("{"): None, ord("}"): None})
    said: dict[str, Any] = {
        "summary": row.purpose.replace("`", ""),
        "operationId": f"{method.lower()}{name}",
        "tags": [_tag(path)],
        "responses": _responses(path, method, operation, schemas),
    }
    parameters = _parameters(path, operation)
    if parameters:
        said["parameters"] = parameters
    body = BODIES.get(path) if method in ("POST", "DELETE") else None
    if body is not None:
        schema = schemas.of(body, operation.required)
        said["requestBody"] = {"required": True, "content": {JSON: {"schema": schema, "example": operation.example}}}
    elif operation.takes_file and method == "POST":
        said["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    return said


def _responses(path: str, method: str, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    content = {} if method == "HEAD" else _content(operation, schemas)
    good = {str(status): _response(status, content if status == 200 else {}) for status in operation.good}
    error = {} if method == "HEAD" else {JSON: {"schema": schemas.of(error_of(path))}}
    # Where a part of the path is the client's, there may be no such route at all, which is said in Ollama's words.
    may_miss = "{" in path and method != "HEAD" and not path.startswith("/v1/")
    missing = error | ({TEXT: {"schema": {"type": "string"}}} if may_miss else {})
    bad = {str(status): _response(status, missing if status == 404 else error) for status in sorted(operation.bad)}
    return good | bad


def _response(status: int, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": _REASONS[status], **({"content": content} if content else {})}


def _content(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content[operation.media_type] = {"schema": schemas.of(operation.answer)}
    for media_type in operation.other_media_types:
        content[media_type] = {"schema": {"type": "string"}}
    if operation.stream is not None:
        media_type, piece = operation.stream
        schemas.of(piece)
        about = f"Text of which each line, or each event's data, is a {piece.__name__}"
        content[media_type] = {"schema": {"description": about}}
    return content


def _parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{" in path:
        name = path.partition("{")[2].partition("}")[0].partition(":")[0]
        found.append({"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    found += [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    if operation.waits:
        said: tuple[tuple[str, dict[str, Any], str], ...] = (
            (PRIORITY_HEADER, {"enum": ["interactive", "agent", "batch"]}, "How urgent it is"),
            (SESSION_HEADERS[0], {"type": "string"}, "Who asks, when one program asks for several"),
            (TIMEOUT_HEADER, {"type": "number", "minimum": 1}, "Seconds until the answer must be complete"),
        )
        found += [
            {"name": name, "in": "header", "schema": schema, "description": about} for name, schema, about in said
        ]
    return found


def _tag(path: str) -> str:
    if path in LLAMACPP_PATHS:
        return "llama.cpp"
    found = next((tag for start, tag in _OPEN_TAGS if path.startswith(start)), None)
    return found or ("OpenAI" if speaks_openai(path) else "localllm")
