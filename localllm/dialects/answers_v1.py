"""What answers look like in OpenAI's and Anthropic's dialects, for the document of the API; more in answers."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from localllm.dialects.answers import Shape


class OpenAIErrorDetail(Shape):
    """What went wrong; `param` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | int | None
    hint: str | UnsetType = UNSET


class OpenAIError(Shape):
    """OpenAI's error object."""

    error: OpenAIErrorDetail


class OpenAIUsage(Shape):
    """Tokens; what concerns only us stands under `localllm`."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | UnsetType = UNSET
    prompt_tokens_details: dict[str, int] | UnsetType = UNSET
    completion_tokens_details: dict[str, int] | UnsetType = UNSET
    localllm: dict[str, Any] | UnsetType = UNSET


class OpenAIModel(Shape):
    """A model there is; who sends `anthropic-version` gets `id` and, from `type` on, Anthropic's fields."""

    id: str
    object: Literal["model"] | UnsetType = UNSET
    created: int | UnsetType = UNSET
    owned_by: str | UnsetType = UNSET
    type: Literal["model"] | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    created_at: str | UnsetType = UNSET
    lifecycle: str | UnsetType = UNSET
    max_input_tokens: int | UnsetType = UNSET


class OpenAIModels(Shape):
    """Every model; Anthropic's clients get the page that it is of."""

    data: list[OpenAIModel]
    object: Literal["list"] | UnsetType = UNSET
    first_id: str | UnsetType | None = UNSET
    last_id: str | UnsetType | None = UNSET
    has_more: bool | UnsetType = UNSET


class OpenAIMessage(Shape):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[dict[str, Any]] | UnsetType = UNSET


class OpenAIChoice(Shape):
    """One of the answers."""

    index: int
    message: OpenAIMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: dict[str, Any] | None


class OpenAIChat(Shape):
    """An answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[OpenAIChoice]
    usage: OpenAIUsage
    system_fingerprint: str
    service_tier: str | UnsetType = UNSET


class OpenAIChunk(Shape):
    """The data of one event of a stream, which `[DONE]` ends."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: OpenAIUsage | UnsetType = UNSET
    system_fingerprint: str | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    prompt_progress: dict[str, int] | UnsetType = UNSET


class OpenAITextChoice(Shape):
    """One of the texts."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"] | None


class OpenAICompletion(Shape):
    """An answer of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[OpenAITextChoice]
    usage: OpenAIUsage
    system_fingerprint: str


class OpenAIEmbedding(Shape):
    """A vector: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIEmbeddings(Shape):
    """A vector for each input."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIResponse(Shape):
    """A response; it repeats what it was asked."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    previous_response_id: str | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: str
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: str
    user: str | None
    store: bool
    background: bool
    localllm: dict[str, Any] | UnsetType = UNSET


class OpenAIEvent(Shape):
    """The data of one event of a response's stream; which fields it has is its type's matter."""

    type: str
    sequence_number: int
    response: OpenAIResponse | UnsetType = UNSET
    output_index: int | UnsetType = UNSET
    item: dict[str, Any] | UnsetType = UNSET
    item_id: str | UnsetType = UNSET
    content_index: int | UnsetType = UNSET
    summary_index: int | UnsetType = UNSET
    part: dict[str, Any] | UnsetType = UNSET
    delta: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    input: str | UnsetType = UNSET


class OpenAIDeleted(Shape):
    """A response that is kept no longer."""

    id: str
    object: Literal["response"]
    deleted: bool


class OpenAIItems(Shape):
    """A page of what the model was given."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class OpenAICount(Shape):
    """How many tokens it would be."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class AnthropicErrorDetail(Shape):
    """What went wrong."""

    type: str
    message: str
    hint: str | UnsetType = UNSET


class AnthropicError(Shape):
    """Anthropic's error object."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


class AnthropicMessage(Shape):
    """An answer of /v1/messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: dict[str, int]


class AnthropicEvent(Shape):
    """The data of one event of a stream; which fields it has is its type's matter."""

    type: str
    message: AnthropicMessage | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: dict[str, Any] | UnsetType = UNSET
    delta: dict[str, Any] | UnsetType = UNSET
    usage: dict[str, int] | UnsetType = UNSET
    error: AnthropicErrorDetail | UnsetType = UNSET
    request_id: str | UnsetType = UNSET


class AnthropicCount(Shape):
    """How many tokens it would be."""

    input_tokens: int
