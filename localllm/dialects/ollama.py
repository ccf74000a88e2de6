"""Ollama's request bodies: /api/generate and /api/chat as GenerationRequests, and those that only name a model.

Not here: the answers (ollama_encode), the names and capabilities of models (server/).

On purpose different from Ollama: a prompt that does not fit the context is refused with both counts, unless `truncate`
is true in the request; an answer that reaches its end stops there, unless `shift` is true; what this version cannot do
(images …) is refused, not ignored.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from localllm.dialects.body import (
    Decoded,
    call_arguments,
    goes_on,
    ignored_names,
    read,
    read_keep_alive,
    read_logprobs,
    read_role,
    read_text,
    read_tools,
    with_tool_names,
)
from localllm.dialects.constraint_fields import read_tool_choice
from localllm.errors import InvalidFieldError, ModelNotFoundError, UnsupportedError
from localllm.generation import FillIn, GenerationRequest, Message, Rendering, ResponseFormat, ToolCall, parse_options
from localllm.template_syntax import is_go

THINK_LEVELS = ("high", "medium", "low", "max")
_THINK_WORDS = '"high", "medium", "low", "max", true, or false'


class _Common(msgspec.Struct):
    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    format: msgspec.Raw = msgspec.Raw()
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    think: Any = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")


class _GenerateBody(_Common):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[Any] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None


class _ChatBody(_Common):
    messages: list[_Message] | None = None
    tools: list[msgspec.Raw] | None = None
    # ours, as OpenAI has them
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None


class _NameBody(msgspec.Struct):
    model: str | None = None
    name: str | None = None
    verbose: bool | None = None


_name_decoder = msgspec.json.Decoder(_NameBody)
_generate_decoder = msgspec.json.Decoder(_GenerateBody)
_chat_decoder = msgspec.json.Decoder(_ChatBody)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {
    "/api/generate": _GenerateBody,
    "/api/chat": _ChatBody,
    "/api/show": _NameBody,
    "/api/delete": _NameBody,
    "/api/push": _NameBody,
}


def decode_generate(body: bytes) -> Decoded:
    """The body of POST /api/generate. Raises BadRequestError's kinds, ModelNotFoundError for an empty name."""
    fields = read(body, _generate_decoder)
    logprobs = read_logprobs(fields.logprobs, fields.top_logprobs)  # Ollama looks at these before the name
    model = fields.model or fields.name or ""
    if not model:
        raise ModelNotFoundError("")
    if fields.raw and (fields.template or fields.system or fields.context):
        raise InvalidFieldError("raw mode does not support template, system, or context", field="raw")
    if fields.template and fields.suffix:
        raise InvalidFieldError("a suffix is written without a template", field="template")
    if fields.context and fields.suffix:
        raise InvalidFieldError("a suffix cannot go on from a context", field="suffix")
    _refuse_images(fields.images, "images")
    request, unknown = _request(fields, model)
    prompt = fields.prompt or ""
    request = msgspec.structs.replace(
        request,
        prompt=prompt,
        raw=bool(fields.raw),
        system=fields.system or None,
        logprobs=logprobs,
        fill_in=FillIn(fields.suffix) if fields.suffix else None,
        context_tokens=_context(fields.context),
        template=_template(fields.template),
        returns_context=not fields.raw and not fields.suffix,
    )
    action = "render" if fields.debug_render_only else _action(bool(prompt or fields.suffix), request)
    ignored = _ignored(body, _GenerateBody, unknown)
    return Decoded(request, fields.stream is not False, action, unknown_options=unknown, ignored=ignored)


def _template(text: str | None) -> str | None:
    """A template that stands in for the model's. Only Go's language ends by itself, whatever is written in it."""
    if text and not is_go(text):
        raise UnsupportedError(
            "template must be in Go's template language, as in Modelfiles",
            hint='such as "{{ .System }} {{ .Prompt }}"; a Jinja one belongs into a model: localllm create',
        )
    return text or None


def _context(tokens: list[int] | None) -> tuple[int, ...] | None:
    """The tokens of an earlier exchange; an empty array is none."""
    if not tokens:
        return None
    wrong = next((token for token in (min(tokens), max(tokens)) if not 0 <= token < 2**31), None)  # there are many
    if wrong is not None:
        raise InvalidFieldError(f"context has {wrong}, which is no token", field="context")
    return tuple(tokens)


def decode_chat(body: bytes) -> Decoded:
    """The body of POST /api/chat. Raises BadRequestError's kinds."""
    fields = read(body, _chat_decoder)
    logprobs = read_logprobs(fields.logprobs, fields.top_logprobs)
    model = fields.model or fields.name or ""
    if not model:
        raise InvalidFieldError("model is required", field="model")
    request, unknown = _request(fields, model)
    messages = with_tool_names([_message(item, f"messages[{i}]") for i, item in enumerate(fields.messages or ())])
    told: list[str] = []
    tools = read_tools(fields.tools, told)
    choice = read_tool_choice(fields.tool_choice, [tool.name for tool in tools], fields.parallel_tool_calls)
    if choice.mode == "none":
        tools = ()
    rendering = Rendering(continues_final_message=goes_on(messages, request.response_format, choice))
    request = msgspec.structs.replace(
        request, messages=messages, tools=tools, tool_choice=choice, logprobs=logprobs, rendering=rendering
    )
    action = "render" if fields.debug_render_only else _action(bool(messages), request)
    ignored = (*_ignored(body, _ChatBody, unknown), *told)
    return Decoded(request, fields.stream is not False, action, unknown_options=unknown, ignored=ignored)


def decode_name(body: bytes) -> tuple[str, bool]:
    """The body of /api/show and /api/delete: the model's name, and whether `verbose` was asked for.

    Raises InvalidFieldError.
    """
    fields = read(body, _name_decoder)
    name = fields.model or fields.name or ""
    if not name:
        raise InvalidFieldError("model is required", field="model")
    return name, bool(fields.verbose)


def read_think(value: object) -> bool | str | None:
    """A `think` value. Raises InvalidFieldError with Ollama's words."""
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise InvalidFieldError(f"think must be a boolean or string ({_THINK_WORDS})", field="think")
    if value not in THINK_LEVELS:
        raise InvalidFieldError(f'invalid think value: "{value}" (must be {_THINK_WORDS})', field="think")
    return value


def _refuse_images(images: list[Any] | None, field: str) -> None:
    if images:
        raise UnsupportedError(f"{field}: this version does not read images")


def _request(fields: _Common, model: str) -> tuple[GenerationRequest, tuple[str, ...]]:
    options, unknown = parse_options(fields.options or {})
    request = GenerationRequest(
        model=model,
        response_format=_format(fields.format),
        think=read_think(fields.think),
        options=options,
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
        context_policy="truncate" if fields.truncate else "refuse",
        shifts_context=bool(fields.shift),
    )
    return request, unknown


def _ignored(body: bytes, shape: type[_Common], unknown_options: tuple[str, ...]) -> tuple[str, ...]:
    return (*ignored_names(body, shape), *(f"options.{name}" for name in unknown_options))


def _action(has_prompt: bool, request: GenerationRequest) -> Literal["generate", "load", "unload"]:
    if has_prompt:
        return "generate"
    return "unload" if request.keep_alive_seconds == 0 else "load"


def _format(raw: msgspec.Raw) -> ResponseFormat | None:
    value = read_text(bytes(raw), "format") if bytes(raw) else None
    if value in (None, ""):
        return None
    if value == "json":
        return ResponseFormat("json_object")
    if isinstance(value, dict):
        return ResponseFormat("json_schema", bytes(raw).decode())
    text = bytes(raw).decode()
    raise InvalidFieldError(f'invalid format: {text}; expected "json" or a valid JSON Schema object', field="format")


def _message(item: _Message, field: str) -> Message:
    _refuse_images(item.images, f"{field}.images")
    calls = enumerate(item.tool_calls or ())
    return Message(
        role=read_role(item.role, f"{field}.role"),
        content=item.content or "",
        thinking=item.thinking or None,
        tool_calls=tuple(_tool_call(call, f"{field}.tool_calls[{index}]") for index, call in calls),
        tool_name=item.tool_name or item.name or None,
        tool_call_id=item.tool_call_id or None,
    )


def _tool_call(call: _ToolCall, field: str) -> ToolCall:
    if call.function is None or not call.function.name:
        raise InvalidFieldError(f"{field}.function.name is missing", field=f"{field}.function.name")
    where = f"{field}.function.arguments"
    text = bytes(call.function.arguments) or b"{}"
    value = read_text(text, where)
    if isinstance(value, str):  # as OpenAI's clients write them
        return ToolCall(call.id or "", call.function.name, call_arguments(value, where))
    if value is None:
        return ToolCall(call.id or "", call.function.name, "{}")
    if not isinstance(value, dict):
        raise InvalidFieldError(f"{where} must be an object", field=where)
    return ToolCall(call.id or "", call.function.name, text.decode())
