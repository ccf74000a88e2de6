"""OpenAI's Responses body as a GenerationRequest: /v1/responses.

    read_body(bytes) ─▶ Body ──┐
    what the store has of      ├─▶ decode() ─▶ DecodedResponse: the request, and what its answer repeats of it
    previous_response_id ──────┘

Not here: the answers (openai_responses_encode), the store (server/), items and tools (openai_responses_items, _tools).

As in chat completions, what the client leaves out stays out, and a field that changes nothing is told. Refused is what
would change the shape of things: background, conversation, prompt. `truncation` "auto" drops the oldest turns that do
not fit; otherwise such a prompt is refused with both counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from localllm.dialects.body import Decoded, ignored_names, read, read_keep_alive, read_logprobs
from localllm.dialects.constraint_fields import read_constraint, required_schema
from localllm.dialects.framing import to_json
from localllm.dialects.openai_fields import EFFORTS, CommonFields, read_options
from localllm.dialects.openai_responses_items import PlacedItem, place_items, read_messages
from localllm.dialects.openai_responses_tools import CalledTool, chosen, read_tools
from localllm.errors import InvalidFieldError, UnsupportedError
from localllm.generation import GenerationRequest, Message, ResponseFormat, Tool

LOGPROBS, SEALED_THINKING = "message.output_text.logprobs", "reasoning.encrypted_content"


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None  # the older name


class _Format(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    schema: msgspec.Raw = msgspec.Raw()


class _Text(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


class Body(CommonFields):
    """The fields of the body. `input` and `tools` are read when what they refer to is known."""

    input: str | list[msgspec.Raw] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    conversation: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    tools: list[msgspec.Raw] | None = None
    tool_choice: msgspec.Raw = msgspec.Raw()
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None
    max_output_tokens: Any = None
    top_logprobs: int | None = None
    truncation: str | None = None
    metadata: dict[str, msgspec.Raw] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


@dataclass(frozen=True, slots=True)
class DecodedResponse:
    """A body, understood. `tools` say what the functions in the request stand for, `echo` what the answer repeats.

    `summarizes`: thinking is told as a summary. `seals_thinking`: it is told encoded, too, for clients that only send
    that back.
    """

    decoded: Decoded
    items: tuple[PlacedItem, ...]
    tools: Mapping[str, CalledTool]
    echo: Mapping[str, Any]
    summarizes: bool
    seals_thinking: bool


_decoder = msgspec.json.Decoder(Body)


def read_body(body: bytes) -> Body:
    """The body's fields. Raises InvalidFieldError, UnsupportedError for what is not done here."""
    fields = read(body, _decoder)
    if not fields.model:
        raise InvalidFieldError("model is required", field="model")
    if fields.input is None and not fields.previous_response_id:
        raise InvalidFieldError("input is required", field="input", hint="send a text or a list of items")
    if fields.background:
        raise UnsupportedError(
            "background is not supported: an answer is made while its client waits for it",
            hint="leave background out; `stream`: true shows the answer as it comes",
        )
    for name, hint in (
        ("conversation", "send previous_response_id, or the whole conversation in input"),
        ("prompt", "send instructions and input"),
    ):
        if bytes(getattr(fields, name)) not in (b"", b"null"):
            raise UnsupportedError(f"{name} is not supported", hint=hint)
    return fields


def decode(
    fields: Body, body: bytes, earlier: Sequence[PlacedItem], find_item: Callable[[str], bytes | None]
) -> DecodedResponse:
    """The request. `earlier` is the conversation that input goes on from. Raises BadRequestError's kinds."""
    told: list[str] = []
    items = tuple(place_items(fields.input or (), find_item))
    messages = read_messages((*earlier, *items), told)
    all_tools, called = read_tools(fields.tools, told)
    tools, choice = chosen(bytes(fields.tool_choice), all_tools, called, fields.parallel_tool_calls)
    options, unknown = read_options(fields, "max_output_tokens")
    request = GenerationRequest(
        model=fields.model or "",
        messages=_with_instructions(fields.instructions, messages),
        tools=tools,
        tool_choice=choice,
        response_format=read_constraint(fields, _response_format(fields.text)),
        think=_think(fields.reasoning),
        options=options,
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
        context_policy=_context_policy(fields.truncation),
        logprobs=_logprobs(fields),
        early_arguments=bool(fields.stream),
        client=fields.user or fields.safety_identifier or fields.prompt_cache_key or "",
    )
    decoded = Decoded(
        request,
        bool(fields.stream),
        unknown_options=unknown,
        ignored=(*ignored_names(body, Body), *_ignored(fields), *told),
        thinks_if_it_can=True,
    )
    return DecodedResponse(
        decoded,
        items,
        called,
        _echo(fields),
        summarizes=_summary(fields.reasoning) is not None,
        seals_thinking=SEALED_THINKING in (fields.include or ()),
    )


def _with_instructions(instructions: str | None, messages: list[Message]) -> tuple[Message, ...]:
    """Templates need a turn to answer: agents probe with an empty input."""
    turns = messages if any(message.role != "system" for message in messages) else [*messages, Message("user", "")]
    return (Message("system", instructions), *turns) if instructions else tuple(turns)


def _think(reasoning: _Reasoning | None) -> bool | str | None:
    effort = reasoning.effort if reasoning else None
    if not effort:
        return None
    if effort not in EFFORTS:
        wanted = ", ".join(f'"{name}"' for name in EFFORTS)
        raise InvalidFieldError(
            f'reasoning.effort is "{effort}", but must be one of {wanted}', field="reasoning.effort"
        )
    return EFFORTS[effort]


def _summary(reasoning: _Reasoning | None) -> str | None:
    summary = (reasoning.summary or reasoning.generate_summary) if reasoning else None
    return None if summary == "none" else summary or None


def _response_format(text: _Text | None) -> ResponseFormat | None:
    wanted = text.format if text else None
    kind = wanted.type if wanted else None
    if wanted is None or kind in (None, "", "text"):
        return None
    if kind == "json_object":
        return ResponseFormat("json_object")
    if kind != "json_schema":
        raise InvalidFieldError(
            f'text.format.type is "{kind}", but must be "text", "json_object" or "json_schema"',
            field="text.format.type",
        )
    return required_schema(wanted.schema, "text.format.schema")


def _context_policy(truncation: str | None) -> Literal["refuse", "truncate"]:
    if truncation not in (None, "", "auto", "disabled"):
        raise InvalidFieldError(f'truncation is "{truncation}", but must be "auto" or "disabled"', field="truncation")
    return "truncate" if truncation == "auto" else "refuse"


def _logprobs(fields: Body) -> int | None:
    asks = LOGPROBS in (fields.include or ()) or bool(fields.top_logprobs)
    return read_logprobs(asks, fields.top_logprobs)


def _ignored(fields: Body) -> list[str]:
    """What is read, to be repeated, and changes nothing."""
    told = [f"include.{name}" for name in fields.include or () if name not in (LOGPROBS, SEALED_THINKING)]
    if fields.text and fields.text.verbosity:
        told.append("text.verbosity")
    return told


def _echo(fields: Body) -> dict[str, Any]:
    """The fields that every response object repeats."""
    reasoning = {"effort": fields.reasoning.effort if fields.reasoning else None, "summary": _summary(fields.reasoning)}
    tools: Sequence[Tool | msgspec.Raw] = fields.tools or ()
    return {
        "model": fields.model,
        "instructions": fields.instructions,
        "previous_response_id": fields.previous_response_id,
        "max_output_tokens": fields.max_output_tokens,
        "max_tool_calls": None,
        "metadata": fields.metadata or {},
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "prompt_cache_key": fields.prompt_cache_key,
        "reasoning": reasoning,
        "safety_identifier": fields.safety_identifier,
        "service_tier": "default",
        "temperature": fields.temperature,
        "text": _echoed_text(fields.text),
        "tool_choice": fields.tool_choice if bytes(fields.tool_choice) not in (b"", b"null") else "auto",
        "tools": tools,
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": fields.top_p,
        "truncation": fields.truncation or "disabled",
        "user": fields.user,
    }


def _echoed_text(text: _Text | None) -> dict[str, Any]:
    wanted = text.format if text else None
    said: dict[str, Any] = {"type": (wanted.type if wanted else None) or "text"}
    if wanted is not None and said["type"] == "json_schema":
        said |= {"name": wanted.name or "response", "schema": wanted.schema, "strict": True}
    return {"format": said, **({"verbosity": text.verbosity} if text and text.verbosity else {})}


def echo_json(echo: Mapping[str, Any], *, store: bool) -> bytes:
    """The repeated fields as the end of an object, from its first comma on."""
    return b"," + to_json({**echo, "store": store, "background": False})[1:]
