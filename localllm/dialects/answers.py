"""What answers look like in Ollama's and llama-server's dialects, for the document of the API; see answers_v1 too.

Nothing is encoded with these: the encoders write bytes of their own, piece by piece. Tests hold what they write against
these shapes, in both directions: a field that only one of the two has fails. A field without a default is always there;
UNSET is a field that may be missing.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class Shape(msgspec.Struct):
    """Any of them."""


class OllamaError(Shape):
    """What went wrong, in a sentence; `code` is a word for programs, `hint` what to do next."""

    error: str
    code: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET


class OllamaVersion(Shape):
    """The version of Ollama's API, and ours."""

    version: str
    localllm: str


class OllamaDetails(Shape):
    """What a model's file is."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: int
    embedding_length: int


class OllamaModel(Shape):
    """A model there is; `digest` is hex."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails
    capabilities: list[str]


class OllamaModels(Shape):
    """Every model."""

    models: list[OllamaModel]


class OllamaShown(Shape):
    """Everything about one model."""

    license: str
    modelfile: str
    parameters: str
    template: str
    system: str
    details: OllamaDetails
    messages: list[dict[str, str]]
    model_info: dict[str, Any]
    tensors: list[dict[str, Any]]
    capabilities: list[str]
    modified_at: str
    projector: dict[str, Any] | UnsetType = UNSET
    requires: str | UnsetType = UNSET


class OllamaRunning(Shape):
    """A loaded model; sizes in bytes."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int
    state: Literal["loading", "ready", "stopping"]
    active: int
    waiting: int
    placement: dict[str, Any] | UnsetType = UNSET


class OllamaQueued(Shape):
    """A request that waits; durations in nanoseconds."""

    model: str
    position: int
    client: str
    priority: str
    waited_duration: int
    eta_duration: int | None


class OllamaLoaded(Shape):
    """What is loaded and who waits."""

    models: list[OllamaRunning]
    queue: list[OllamaQueued]


class OllamaFigures(Shape):
    """What the last object of an answer tells; durations in nanoseconds, left out when 0."""

    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    queue_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_cached_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    drafted_count: int | UnsetType = UNSET
    accepted_count: int | UnsetType = UNSET
    prompt_cache_miss: dict[str, Any] | UnsetType = UNSET
    dropped_messages: int | UnsetType = UNSET
    dropped_tokens: int | UnsetType = UNSET
    fallback: str | UnsetType = UNSET
    unfinished_tool_call: bool | UnsetType = UNSET
    done_reason: Literal["stop", "length", "load", "unload"] | UnsetType = UNSET
    debug_info: dict[str, Any] | UnsetType = msgspec.field(default=UNSET, name="_debug_info")


class OllamaMessage(Shape):
    """The assistant's turn, or a piece of it."""

    role: Literal["assistant"]
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[dict[str, Any]] | UnsetType = UNSET


class OllamaChat(OllamaFigures, kw_only=True):
    """An answer of /api/chat, or a piece of one: the last is `done`."""

    model: str
    created_at: str
    message: OllamaMessage
    done: bool
    logprobs: list[dict[str, Any]] | UnsetType = UNSET


class OllamaGenerated(OllamaFigures, kw_only=True):
    """An answer of /api/generate, or a piece of one: the last is `done`."""

    model: str
    created_at: str
    response: str
    done: bool
    thinking: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET
    context: list[int] | UnsetType = UNSET


class OllamaEmbedded(Shape):
    """A vector for each input."""

    model: str
    embeddings: list[list[float]]
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    truncated_count: int | UnsetType = UNSET


class OllamaEmbedding(Shape):
    """The vector of one text."""

    embedding: list[float]


class OllamaStatus(Shape):
    """How a pull or a create goes; the last one is "success"."""

    status: str
    digest: str | UnsetType = UNSET
    file: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


class LlamaCppErrorDetail(Shape):
    """What went wrong; `code` is the status."""

    code: int
    message: str
    type: str
    hint: str | UnsetType = UNSET


class LlamaCppError(Shape):
    """llama-server's error object."""

    error: LlamaCppErrorDetail


class LlamaCppCompletion(Shape):
    """A completion, or a piece of one; with `response_fields` only the values at those paths."""

    index: int | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tokens: list[int] | UnsetType = UNSET
    id_slot: int | UnsetType = UNSET
    stop: bool | UnsetType = UNSET
    model: str | UnsetType = UNSET
    stop_type: str | UnsetType = UNSET
    stopping_word: str | UnsetType = UNSET
    tokens_predicted: int | UnsetType = UNSET
    tokens_evaluated: int | UnsetType = UNSET
    tokens_cached: int | UnsetType = UNSET
    generation_settings: dict[str, Any] | UnsetType = UNSET
    prompt: str | list[str | int] | UnsetType = UNSET
    has_new_line: bool | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    timings: dict[str, Any] | UnsetType = UNSET
    completion_probabilities: list[dict[str, Any]] | UnsetType = UNSET
    prompt_progress: dict[str, int] | UnsetType = UNSET


class LlamaCppTokens(Shape):
    """Token ids, or with `with_pieces` objects of an id and its text or bytes."""

    tokens: list[int | dict[str, Any]]


class LlamaCppText(Shape):
    """The text of tokens."""

    content: str


class LlamaCppPrompt(Shape):
    """What a template made of a conversation, and the ids of its tokens."""

    prompt: str
    tokens: list[int]


class LlamaCppEmbedding(Shape):
    """A vector, as the only row of a matrix."""

    index: int
    embedding: list[list[float]]


class LlamaCppScore(Shape):
    """A document's place in the request and its score, in TEI's words."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class LlamaCppRanked(Shape):
    """A document's place in the request and its score, in Jina's words."""

    index: int
    relevance_score: float
    document: dict[str, str] | UnsetType = UNSET


class LlamaCppRanking(Shape):
    """The best documents, best first."""

    model: str
    object: str
    usage: dict[str, int]
    results: list[LlamaCppRanked]


class LlamaCppProperties(Shape):
    """What llama-server tells of its model."""

    default_generation_settings: dict[str, Any]
    total_slots: int
    model_path: str
    model_alias: str
    chat_template: str
    modalities: dict[str, bool]
    build_info: str


class LlamaCppSlot(Shape):
    """A place for one request."""

    id: int
    n_ctx: int
    is_processing: bool


class LlamaCppHealth(Shape):
    """ "ok" as long as the daemon answers."""

    status: str
