"""What each route takes and answers, beside its body: a row for every path of the table of routes.

Where one of a path's methods does something else, that has a row of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from localllm.dialects import answers as a
from localllm.dialects import answers_v1 as v1
from localllm.dialects.framing import NDJSON_MEDIA_TYPE
from localllm.dialects.llamacpp_rerank import PATHS as RERANK_PATHS
from localllm.dialects.openai import PATHS as CHAT_PATHS
from localllm.server.replies import LLAMACPP_PATHS, speaks_openai

_SSE = "text/event-stream"
_EVERYWHERE = (401, 403, 503)
_WITH_BODY = (400, 408, 413)
_LOOKING = frozenset((*_EVERYWHERE, 500))
_CHANGING = frozenset((*_EVERYWHERE, *_WITH_BODY, 404, 500))
_ASKING = frozenset((*_EVERYWHERE, *_WITH_BODY, 404, 500, 504))
_FETCHING = frozenset((*_EVERYWHERE, *_WITH_BODY, 404, 500, 502, 507))
_FINDING = _LOOKING | {400, 404}
_MESSAGES = [{"role": "user", "content": "How do I pull a model?"}]
_CHAT = {"model": "guide", "messages": _MESSAGES}
_GAP = {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n"}


class Operation(NamedTuple):
    """`answer` is the type of the JSON answer, `stream` a media type and the type of a stream's pieces. `good` and
    `bad` are all statuses there are; `required` fields without which nothing works; `waits`: it has a place in the
    queue, and headers that say what for."""

    answer: Any
    bad: frozenset[int]
    stream: tuple[str, Any] | None = None
    required: tuple[str, ...] = ()
    example: Mapping[str, Any] = {}
    good: tuple[int, ...] = (200,)
    query: Mapping[str, dict[str, Any]] = {}
    media_type: str = "application/json"
    other_media_types: tuple[str, ...] = ()
    takes_file: bool = False
    waits: bool = False


def _asking(answer: Any, stream: tuple[str, Any] | None, example: Mapping[str, Any], *required: str) -> Operation:
    return Operation(answer, _ASKING, stream, required, example, waits=True)


_MODEL_QUERY = {"model": {"type": "string"}}
_LLAMACPP = (a.LlamaCppCompletion | list[a.LlamaCppCompletion], (_SSE, a.LlamaCppCompletion))
_EMBEDDED = list[a.LlamaCppEmbedding]
_RANKED = a.LlamaCppRanking | list[a.LlamaCppScore]
_RANK = {"model": "bge-reranker", "query": "pull a model", "documents": ["localllm pull", "localllm stop"]}
_RESPONSE = {"model": "guide", "input": "How do I pull a model?"}
OPERATIONS: Mapping[str, Operation] = {
    "/": Operation(str, _LOOKING, media_type="text/plain", other_media_types=("text/html",)),
    "/docs": Operation(str, _LOOKING, media_type="text/html"),
    "/openapi.json": Operation(dict[str, Any], _LOOKING),
    "/metrics": Operation(str, _LOOKING, media_type="text/plain"),
    "/api/version": Operation(a.OllamaVersion, _LOOKING),
    "/api/status": Operation(dict[str, Any], _LOOKING),
    "/api/hello": Operation(dict[str, Any], _LOOKING),
    "/api/tags": Operation(a.OllamaModels, _LOOKING),
    "/api/show": Operation(a.OllamaShown, _CHANGING, example={"model": "guide"}),
    "/api/ps": Operation(a.OllamaLoaded, _LOOKING),
    "/api/plan": Operation(dict[str, Any], _FETCHING, example={"model": "llama3.2"}),
    "/api/generate": _asking(
        a.OllamaGenerated, (NDJSON_MEDIA_TYPE, a.OllamaGenerated), {"model": "guide", "prompt": "Hello"}
    ),
    "/api/chat": _asking(a.OllamaChat, (NDJSON_MEDIA_TYPE, a.OllamaChat), _CHAT),
    "/api/embed": _asking(a.OllamaEmbedded, None, {"model": "nomic-embed-text", "input": ["a", "b"]}),
    "/api/embeddings": _asking(a.OllamaEmbedding, None, {"model": "nomic-embed-text", "prompt": "a"}),
    "/api/pull": Operation(a.OllamaStatus, _FETCHING, (NDJSON_MEDIA_TYPE, a.OllamaStatus), (), {"model": "llama3.2"}),
    "/api/push": Operation(a.OllamaStatus, _CHANGING, example={"model": "guide"}),
    "/api/create": Operation(
        a.OllamaStatus, _FETCHING, (NDJSON_MEDIA_TYPE, a.OllamaStatus), (), {"model": "mine", "from": "guide"}
    ),
    "/api/copy": Operation(
        None, _CHANGING, required=("source", "destination"), example={"source": "guide", "destination": "mine"}
    ),
    "/api/blobs/{digest}": Operation(None, _FETCHING, good=(200, 201), takes_file=True),
    "/api/delete": Operation(None, _CHANGING, example={"model": "mine"}),
    **dict.fromkeys(("/v1/models", "/models"), Operation(v1.OpenAIModels, _LOOKING)),
    "/v1/models/{id:path}": Operation(v1.OpenAIModel, _FINDING),
    **dict.fromkeys(CHAT_PATHS, _asking(v1.OpenAIChat, (_SSE, v1.OpenAIChunk), _CHAT, "model", "messages")),
    "/v1/completions": _asking(
        v1.OpenAICompletion, (_SSE, v1.OpenAIChunk), {"model": "guide", "prompt": "Hello"}, "model", "prompt"
    ),
    "/v1/responses": _asking(v1.OpenAIResponse, (_SSE, v1.OpenAIEvent), _RESPONSE, "model")._replace(
        bad=_ASKING | {409}
    ),
    "/v1/responses/input_tokens": _asking(v1.OpenAICount, None, _RESPONSE, "model"),
    "/v1/responses/{id}": Operation(v1.OpenAIResponse, _FINDING, query={"stream": {"type": "boolean"}}),
    "DELETE /v1/responses/{id}": Operation(v1.OpenAIDeleted, _FINDING),
    "/v1/responses/{id}/cancel": Operation(v1.OpenAIResponse, _FINDING | {408, 413}),
    "/v1/responses/{id}/input_items": Operation(
        v1.OpenAIItems,
        _FINDING,
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": 100},
            "order": {"enum": ["asc", "desc"]},
            "after": {"type": "string"},
        },
    ),
    "/v1/messages": _asking(
        v1.AnthropicMessage, (_SSE, v1.AnthropicEvent), {**_CHAT, "max_tokens": 100}, "model", "messages", "max_tokens"
    ),
    "/v1/messages/count_tokens": _asking(v1.AnthropicCount, None, _CHAT, "model", "messages"),
    "/v1/embeddings": _asking(
        v1.OpenAIEmbeddings, None, {"model": "nomic-embed-text", "input": ["a", "b"]}, "model", "input"
    ),
    "/completion": _asking(*_LLAMACPP, {"prompt": "Hello", "n_predict": 16}, "prompt"),
    "/completions": _asking(*_LLAMACPP, {"prompt": "Hello", "n_predict": 16}, "prompt"),
    "/infill": _asking(*_LLAMACPP, _GAP, "input_prefix", "input_suffix"),
    "/tokenize": _asking(a.LlamaCppTokens, None, {"content": "Hello"}),
    "/detokenize": _asking(a.LlamaCppText, None, {"tokens": [1, 2]}, "tokens"),
    "/apply-template": _asking(a.LlamaCppPrompt, None, {"messages": _MESSAGES}, "messages"),
    "/embedding": _asking(_EMBEDDED, None, {"content": "a"}),
    "/embeddings": _asking(_EMBEDDED, None, {"content": "a"}),
    **dict.fromkeys(RERANK_PATHS, _asking(_RANKED, None, _RANK, "query")),
    "/props": Operation(a.LlamaCppProperties, _FINDING, query=_MODEL_QUERY),
    "/slots": Operation(
        list[a.LlamaCppSlot], _FINDING, query={**_MODEL_QUERY, "fail_on_no_slot": {"enum": ["0", "1"]}}
    ),
    **dict.fromkeys(("/health", "/v1/health"), Operation(a.LlamaCppHealth, _LOOKING)),
}


def error_of(path: str) -> type[a.Shape]:
    """What an error looks like at a path; the words are replies'."""
    if path.startswith("/v1/messages"):
        return v1.AnthropicError
    if path in LLAMACPP_PATHS:
        return a.LlamaCppError
    return v1.OpenAIError if speaks_openai(path) else a.OllamaError
