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
    """A model there is; for a client that sends `anthropic-version`, Anthropic's shape."""

    id: str


class OpenAIModels(Shape):
    """Every model."""

    data: list[OpenAIModel]


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
    status: str
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    previous_response_id: str | None
    localllm: dict[str, Any] | UnsetType = UNSET


class OpenAIEvent(Shape):
    """The data of one event of a response's stream."""

    type: str
    sequence_number: int


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
    """The data of one event of a stream."""

    type: str


class AnthropicCount(Shape):
    """How many tokens it would be."""

    input_tokens: int
