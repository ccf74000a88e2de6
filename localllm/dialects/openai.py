"""OpenAI's request body as a GenerationRequest: /v1/chat/completions.

Not here: the answers (openai_encode), the names and capabilities of models (server/).

Values the client leaves out stay out, so that the Modelfile's temperature and top_p count. A field nobody knows, or
that changes nothing here (prediction, store …), is ignored and its name told; one whose absence would change the shape
of the answer (functions, audio) is refused.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec

from localllm.dialects.body import (
    Decoded,
    call_arguments,
    goes_on,
    ignored_names,
    part_text,
    read,
    read_keep_alive,
    read_logprobs,
    read_role,
    read_text,
    read_tools,
    result_text,
    with_tool_names,
)
from localllm.dialects.constraint_fields import (
    read_constraint,
    read_thinking_budget,
    read_tool_choice,
    required_schema,
    schema_format,
)
from localllm.dialects.openai_fields import (
    EFFORTS,
    CompletionFields,
    includes_usage,
    read_count,
    read_options,
    with_own_seeds,
)
from localllm.dialects.openai_responses_tools import custom_arguments
from localllm.errors import InvalidFieldError, UnsupportedError
from localllm.generation import (
    GenerationRequest,
    Message,
    Options,
    Rendering,
    ResponseFormat,
    ToolCall,
    merge_options,
)


class _Reasoning(msgspec.Struct):
    effort: str | None = None
    enabled: bool | None = None  # OpenRouter's
    max_tokens: Any = None


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _ToolCall(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | list[_Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _JsonSchema(msgspec.Struct):
    schema: msgspec.Raw = msgspec.Raw()


class _ResponseFormat(msgspec.Struct):
    type: str | None = None
    json_schema: _JsonSchema | None = None
    schema: msgspec.Raw = msgspec.Raw()  # llama-server's, beside json_object
    pattern: str | None = None
    regex: str | None = None
    value: msgspec.Raw = msgspec.Raw()  # text-generation-inference's
    grammar: str | None = None


class _Thinking(msgspec.Struct):
    type: str | None = None
    budget_tokens: Any = None


class _ChatBody(CompletionFields):
    messages: list[_Message] | None = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    response_format: _ResponseFormat | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    audio: msgspec.Raw = msgspec.Raw()
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    reasoning: _Reasoning | None = None
    thinking: _Thinking | None = None
    thinking_token_budget: Any = None
    thinking_budget_tokens: Any = None
    thinking_budget: Any = None
    reasoning_budget: Any = None
    return_progress: bool | None = None  # llama-server's
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()  # of these three llama-server reads the first, vLLM all
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


_TEXT_PARTS = frozenset({None, "text", "input_text", "output_text"})
_TOLD_OTHERWISE = ("messages", "tools", "add_generation_prompt", "continue_final_message")
_chat_decoder = msgspec.json.Decoder(_ChatBody)
# What is read where, for the document of the API.
PATHS = ("/v1/chat/completions", "/chat/completions")  # the second is llama-server's
BODIES: dict[str, type[msgspec.Struct]] = dict.fromkeys((*PATHS, "/apply-template"), _ChatBody)


def decode_chat(body: bytes, *, needs_model: bool = True) -> Decoded:
    """The body of POST /v1/chat/completions. Raises BadRequestError's kinds."""
    fields = read(body, _chat_decoder)
    if not fields.model and needs_model:
        raise InvalidFieldError("model is required", field="model")
    if not fields.messages:
        raise InvalidFieldError("[] is too short - 'messages'", field="messages")
    _refuse_what_is_not_supported(fields)
    count = read_count(fields.n, "n")
    options, unknown = read_options(fields, "max_completion_tokens", "max_tokens")
    told: list[str] = []
    tools = read_tools(fields.tools, told)
    choice = read_tool_choice(fields.tool_choice, [tool.name for tool in tools], fields.parallel_tool_calls)
    messages = with_tool_names([_message(item, f"messages[{i}]", told) for i, item in enumerate(fields.messages)])
    form = read_constraint(fields, _response_format(fields.response_format))
    # What bears a name is another's: several agents talk, and the next one is asked.
    is_begun = goes_on(messages, form, choice) and not fields.messages[-1].name
    request = GenerationRequest(
        model=fields.model or "",
        messages=messages,
        tools=() if choice.mode == "none" else tools,
        tool_choice=choice,
        response_format=form,
        think=_think(fields),
        rendering=_rendering(fields, is_begun),
        options=merge_options(_thinking_budget(fields), options),
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
        logprobs=read_logprobs(fields.logprobs, fields.top_logprobs),
        early_arguments=bool(fields.stream),
        client=fields.user or "",
    )
    return Decoded(
        request,
        bool(fields.stream),
        include_usage=includes_usage(fields),
        unknown_options=unknown,
        ignored=(*ignored_names(body, _ChatBody), *told),
        choices=with_own_seeds(request, count) if count > 1 else (),
        candidates_per_prompt=count,
        service_tier=fields.service_tier,
        reports_progress=bool(fields.return_progress),
    )


def _refuse_what_is_not_supported(fields: _ChatBody) -> None:
    if fields.functions:
        raise UnsupportedError("functions is not supported", hint="send tools instead")
    if bytes(fields.audio) not in (b"", b"null"):
        raise UnsupportedError("audio is not supported: this version answers with text")


def _thinking_budget(fields: _ChatBody) -> Options:
    return read_thinking_budget(
        thinking_token_budget=fields.thinking_token_budget,
        thinking_budget_tokens=fields.thinking_budget_tokens,
        thinking_budget=fields.thinking_budget,
        reasoning_budget=fields.reasoning_budget,
        **{
            "reasoning.max_tokens": fields.reasoning.max_tokens if fields.reasoning else None,
            "thinking.budget_tokens": fields.thinking.budget_tokens if fields.thinking else None,
        },
    )


def _think(fields: _ChatBody) -> bool | str | None:
    if fields.thinking is not None and fields.thinking.type in ("enabled", "disabled"):
        return fields.thinking.type == "enabled"
    effort = fields.reasoning_effort or (fields.reasoning.effort if fields.reasoning else None)
    if not effort and fields.reasoning is not None and fields.reasoning.enabled is not None:
        return fields.reasoning.enabled
    if not effort:
        # Clients of vLLM switch it off so. On is the template's own to understand: some models cannot be told.
        said = read_text(bytes(fields.chat_template_kwargs) or b"null", "chat_template_kwargs")
        names = ("enable_thinking", "thinking")
        return False if isinstance(said, dict) and any(said.get(name) is False for name in names) else None
    if effort not in EFFORTS:
        raise InvalidFieldError(
            f'invalid reasoning value: "{effort}" '
            '(must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none")',
            field="reasoning_effort",
        )
    return EFFORTS[effort]


def _rendering(fields: _ChatBody, is_begun: bool) -> Rendering:
    """How the conversation is written. Whether it goes on from its last message, the client may say, as vLLM's do."""
    is_said = fields.continue_final_message is not None or fields.add_generation_prompt is not None
    continues = bool(fields.continue_final_message) if is_said else is_begun
    if continues and fields.add_generation_prompt:
        raise InvalidFieldError(
            "continue_final_message and add_generation_prompt exclude each other", field="continue_final_message"
        )
    prompts = fields.add_generation_prompt is not False
    return Rendering(_template_variables(fields), continues_final_message=continues, prompts=prompts)


def _template_variables(fields: _ChatBody) -> str | None:
    """The variables for the template, which may not be those that it is told the conversation by."""
    text = bytes(fields.chat_template_kwargs)
    value = read_text(text, "chat_template_kwargs") if text else None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidFieldError("chat_template_kwargs must be an object", field="chat_template_kwargs")
    taken = next((name for name in value if name in _TOLD_OTHERWISE), None)
    if taken is not None:
        field = f"chat_template_kwargs.{taken}"
        raise InvalidFieldError(f'{field}: send "{taken}" beside it, not in it', field=field)
    return text.decode() if value else None


def _response_format(wanted: _ResponseFormat | None) -> ResponseFormat | None:
    kind = wanted.type if wanted else None
    if wanted is None or kind in (None, "", "text"):
        return None
    if kind == "json_object":
        return schema_format(wanted.schema, "response_format.schema") or ResponseFormat("json_object")
    if kind == "regex":
        return _text_format("regex", wanted.pattern or wanted.regex, wanted.value)
    if kind == "grammar":
        return _text_format("grammar", wanted.grammar, wanted.value)
    field = "response_format.json_schema.schema"
    if kind != "json_schema":
        raise InvalidFieldError(
            f'response_format.type is "{kind}", but must be "text", "json_object", "json_schema", "regex" or "grammar"',
            field="response_format.type",
        )
    return required_schema(wanted.json_schema.schema if wanted.json_schema else wanted.schema, field)


def _text_format(kind: Literal["regex", "grammar"], text: str | None, value: msgspec.Raw) -> ResponseFormat:
    field = f"response_format.{'pattern' if kind == 'regex' else 'grammar'}"
    said = text or (read_text(bytes(value), "response_format.value") if bytes(value) else None)
    if not isinstance(said, str) or not said:
        raise InvalidFieldError(f"{field} must be a text", field=field)
    return ResponseFormat(kind, said)


def _message(item: _Message, field: str, told: list[str]) -> Message:
    calls = enumerate(item.tool_calls or ())
    role = read_role(item.role, f"{field}.role")
    return Message(
        role=role,
        content=_content(item.content, f"{field}.content", told if role == "tool" else None),
        thinking=item.reasoning_content or item.reasoning or None,
        tool_calls=tuple(_tool_call(call, f"{field}.tool_calls[{index}]") for index, call in calls),
        tool_name=(item.name or None) if role == "tool" else None,
        tool_call_id=item.tool_call_id or None,
    )


def _content(content: str | list[_Part] | None, field: str, told: list[str] | None) -> str:
    """The text; of a tool's result, which has `told`, what is no text is left out."""
    if not isinstance(content, list):
        return content or ""
    texts: list[str] = []
    for index, part in enumerate(content):
        where = f"{field}[{index}]"
        read = functools.partial(_text, part, where)
        texts.append(read() if told is None else result_text(part.type, where, told, read))
    return "\n".join(text for text in texts if text)


def _text(part: _Part, field: str) -> str:
    if part.type == "refusal":
        return part.refusal or ""
    return part_text(part.type, part.text, _TEXT_PARTS, field)


def _tool_call(call: _ToolCall, field: str) -> ToolCall:
    if call.function is None and call.custom is not None and call.custom.name:
        return ToolCall(call.id or "", call.custom.name, custom_arguments(call.custom.input or ""))
    if call.function is None or not call.function.name:
        raise InvalidFieldError(f"{field}.function.name is missing", field=f"{field}.function.name")
    arguments = call_arguments(call.function.arguments, f"{field}.function.arguments")
    return ToolCall(call.id or "", call.function.name, arguments)
