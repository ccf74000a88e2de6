"""Anthropic's request body as a GenerationRequest: /v1/messages and /v1/messages/count_tokens.

Not here: the answers (anthropic_encode), the tools (anthropic_tools), the names and capabilities of models (server/).

A message's blocks become turns: text and thinking stay together, each tool_use is a call, each tool_result a turn of
its own. `cache_control` is accepted and needs nothing: every prefix is cached. What an agent writes anew for billing at
the head of each system prompt would end every cached prefix there; it is left out, and that is told. So are blocks of
tools that Anthropic's servers run. Documents and search results are read where they are text. Refused are images, other
documents, which a tool's result loses instead, and a last message of the assistant's that is no text to go on from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import msgspec

from localllm.dialects.anthropic_tools import ChangedTool, Toolbox, ToolFields
from localllm.dialects.body import (
    Decoded,
    ignored_names,
    is_begun,
    part_text,
    read,
    read_keep_alive,
    read_text,
    result_text,
    with_tool_names,
)
from localllm.dialects.constraint_fields import required_choice, required_schema
from localllm.dialects.openai_fields import EFFORTS
from localllm.errors import InvalidFieldError, UnsupportedError
from localllm.generation import (
    GenerationRequest,
    Message,
    Options,
    Rendering,
    ResponseFormat,
    ToolCall,
    ToolChoice,
    merge_options,
    parse_options,
)

BILLING_LINE = "x-anthropic-billing-header:"
# What nobody but its maker can read, and what Anthropic's own tools and servers leave in a conversation.
_SKIPPED_BLOCKS = frozenset(
    ("redacted_thinking", "server_tool_use", "web_search_tool_result", "web_fetch_tool_result",
     "code_execution_tool_result", "bash_code_execution_tool_result", "text_editor_code_execution_tool_result",
     "tool_search_tool_result", "mcp_tool_use", "mcp_tool_result", "container_upload", "compaction")
)  # fmt: skip
_TOOL_CHANGES = frozenset({"tool_addition", "tool_removal"})
_OPTION_OF = {"max_tokens": "num_predict", "stop_sequences": "stop", "thinking.budget_tokens": "thinking_budget"}


class _Source(msgspec.Struct):
    type: str | None = None
    data: str | None = None
    content: str | list[_Block] | None = None


class _Block(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    tool_use_id: str | None = None
    content: str | list[_Block] | _Block | None = None
    is_error: bool | None = None
    source: str | _Source | None = None
    title: str | None = None
    context: str | None = None
    tool_name: str | None = None
    tool: ChangedTool | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | list[_Block] | None = None


class _ToolChoice(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(msgspec.Struct):
    type: str | None = None
    budget_tokens: int | None = None
    display: str | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Format(msgspec.Struct):
    type: str | None = None
    schema: msgspec.Raw = msgspec.Raw()


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    messages: list[_Message] | None = None
    system: str | list[_Block] | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    stop_sequences: Any = None
    tools: list[ToolFields] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    metadata: _Metadata | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None
    # ours
    options: dict[str, Any] | None = None
    num_ctx: Any = None
    keep_alive: Any = None


_decoder = msgspec.json.Decoder(_Body)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {"/v1/messages": _Body, "/v1/messages/count_tokens": _Body}


def decode_messages(body: bytes) -> Decoded:
    """The body of POST /v1/messages. Raises BadRequestError's kinds."""
    fields = read(body, _decoder)
    if fields.max_tokens is None or fields.max_tokens < 1:
        raise InvalidFieldError("max_tokens is required and must be positive", field="max_tokens")
    return _decoded(fields, body)


def decode_count(body: bytes) -> Decoded:
    """The body of POST /v1/messages/count_tokens: a message's without what concerns the answer."""
    return _decoded(read(body, _decoder), body)


def _decoded(fields: _Body, body: bytes) -> Decoded:
    if not fields.model:
        raise InvalidFieldError("model is required", field="model")
    if not fields.messages:
        raise InvalidFieldError("messages is required", field="messages")
    told: list[str] = []
    if fields.thinking is not None and fields.thinking.display == "omitted":
        # An agent that does not get it cannot send it back, and the prefix of its next request would end there.
        told.append("thinking.display")
    options, unknown = _options(fields)
    toolbox = Toolbox(fields.tools or (), told)
    messages = _messages(fields, toolbox, told)
    tools = toolbox.tools()
    choice = _tool_choice(fields.tool_choice, [tool.name for tool in tools])
    request = GenerationRequest(
        model=fields.model,
        messages=messages,
        tools=() if choice.mode == "none" else tools,
        tool_choice=choice,
        response_format=_response_format(fields),
        think=_think(fields),
        rendering=Rendering(continues_final_message=is_begun(messages)),
        options=options,
        keep_alive_seconds=read_keep_alive(fields.keep_alive),
        early_arguments=bool(fields.stream),
        client=(fields.metadata.user_id if fields.metadata else None) or "",
    )
    return Decoded(
        request,
        bool(fields.stream),
        unknown_options=unknown,
        ignored=(*ignored_names(body, _Body), *told),
        thinks_if_it_can=True,
    )


def _options(fields: _Body) -> tuple[Options, tuple[str, ...]]:
    said = {"temperature": fields.temperature, "top_p": fields.top_p, "top_k": fields.top_k, "num_ctx": fields.num_ctx}
    said |= {"max_tokens": fields.max_tokens, "stop_sequences": fields.stop_sequences}
    if fields.thinking is not None and fields.thinking.type != "disabled":
        said["thinking.budget_tokens"] = fields.thinking.budget_tokens
    own, _ = parse_options(said, _OPTION_OF)
    extension, unknown = parse_options(fields.options or {})
    return merge_options(own, extension), unknown


def _think(fields: _Body) -> bool | str:
    """Off unless it is asked for, as Anthropic has it; an effort is a level."""
    kind = fields.thinking.type if fields.thinking else None
    if kind not in (None, "enabled", "adaptive", "disabled"):
        message = f'thinking.type is "{kind}", but must be "enabled", "adaptive" or "disabled"'
        raise InvalidFieldError(message, field="thinking.type")
    effort = fields.output_config.effort if fields.output_config else None
    if effort is not None and effort not in EFFORTS:
        raise InvalidFieldError(f'output_config.effort is "{effort}"', field="output_config.effort")
    if kind in (None, "disabled"):
        return False
    return EFFORTS[effort] if effort else True


def _response_format(fields: _Body) -> ResponseFormat | None:
    config = fields.output_config
    wanted, field = fields.output_format, "output_format"  # its name before
    if config is not None and config.format is not None:
        wanted, field = config.format, "output_config.format"
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        raise InvalidFieldError(
            f'{field}.type is "{wanted.type or ""}", but must be "json_schema"', field=f"{field}.type"
        )
    return required_schema(wanted.schema, f"{field}.schema")


def _tool_choice(choice: _ToolChoice | None, names: list[str]) -> ToolChoice:
    kind = choice.type if choice else None
    is_parallel = not (choice and choice.disable_parallel_tool_use)
    match kind:
        case None | "auto":
            return ToolChoice(parallel=is_parallel)
        case "none":
            return ToolChoice("none", parallel=is_parallel)
        case "any":
            return required_choice((), names, is_parallel)
        case "tool" if choice is not None and choice.name:
            return required_choice((choice.name,), names, is_parallel)
    raise InvalidFieldError(
        'tool_choice.type must be "auto", "any", "none", or "tool" with a name', field="tool_choice.type"
    )


def _messages(fields: _Body, toolbox: Toolbox, told: list[str]) -> tuple[Message, ...]:
    messages = fields.messages or []
    turns = [turn for index, item in enumerate(messages) for turn in _turns(item, f"messages[{index}]", toolbox, told)]
    if turns and turns[-1].role == "assistant" and not is_begun(turns):
        raise UnsupportedError(
            "the last message is the assistant's, and has no text alone to go on from", hint="end with a user message"
        )
    system = _system(fields.system, told)
    return with_tool_names([Message("system", system), *turns] if system else turns)


def _system(system: str | list[_Block] | None, told: list[str]) -> str:
    texts = [system] if isinstance(system, str) else [_text(one, f"system[{i}]") for i, one in enumerate(system or ())]
    if any(text.startswith(BILLING_LINE) for text in texts):
        told.append(f"system.{BILLING_LINE.removesuffix(':')}")
        texts = [text.partition("\n")[2].lstrip("\n") if text.startswith(BILLING_LINE) else text for text in texts]
    return "\n\n".join(text for text in texts if text)


def _turns(item: _Message, field: str, toolbox: Toolbox, told: list[str]) -> Iterator[Message]:
    placed = [(f"{field}.content[{index}]", block) for index, block in enumerate(_blocks(item.content))]
    told += (where for where, block in placed if block.type in _SKIPPED_BLOCKS)
    blocks = [(where, block) for where, block in placed if block.type not in _SKIPPED_BLOCKS]
    if item.role == "assistant":
        yield _assistant(blocks)
    elif item.role in ("user", "system"):
        yield from _user(blocks, item.role, toolbox)
    else:
        raise InvalidFieldError(
            f'{field}.role is "{item.role or ""}", but must be "user", "assistant" or "system"', field=f"{field}.role"
        )


def _blocks(content: str | list[_Block] | _Block | None) -> list[_Block]:
    if isinstance(content, str):
        return [_Block("text", content)]
    return [content] if isinstance(content, _Block) else content or []


def _user(blocks: list[tuple[str, _Block]], role: Any, toolbox: Toolbox) -> Iterator[Message]:
    """Text, and each result of a tool as a turn of its own, in the order they stand in."""
    texts: list[str] = []
    for where, block in blocks:
        if block.type != "tool_result":
            texts.append(_told(block, where, toolbox))
            continue
        if texts:
            yield Message(role, "\n".join(texts))
            texts = []
        yield _tool_result(block, where, toolbox)
    if texts or not blocks:
        yield Message(role, "\n".join(texts))


def _tool_result(block: _Block, field: str, toolbox: Toolbox) -> Message:
    if not block.tool_use_id:
        raise InvalidFieldError(f"{field}.tool_use_id is missing", field=f"{field}.tool_use_id")
    places = ((f"{field}.content[{index}]", part) for index, part in enumerate(_blocks(block.content)))
    text = "\n".join(
        result_text(part.type, place, toolbox.told, functools.partial(_told, part, place, toolbox))
        for place, part in places
    )
    # No template has a place for a failure; the model must not take its text for a result.
    return Message("tool", f"Error: {text}" if block.is_error else text, tool_call_id=block.tool_use_id)


def _assistant(blocks: list[tuple[str, _Block]]) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for where, block in blocks:
        if block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "tool_use":
            calls.append(_call(block, where))
        else:
            texts.append(_text(block, where))
    return Message("assistant", "".join(texts), "\n".join(thoughts) or None, tuple(calls))


def _call(block: _Block, field: str) -> ToolCall:
    for name, value in (("id", block.id), ("name", block.name)):
        if not value:
            raise InvalidFieldError(f"tool_use block missing required '{name}' field", field=f"{field}.{name}")
    text = bytes(block.input) or b"{}"
    if not isinstance(read_text(text, f"{field}.input"), dict):
        raise InvalidFieldError(f"{field}.input must be an object", field=f"{field}.input")
    return ToolCall(block.id or "", block.name or "", text.decode())


def _told(block: _Block, field: str, toolbox: Toolbox) -> str:
    """The text of a block, or what it says about a tool."""
    if block.type == "tool_reference":
        return toolbox.bring_in(block.tool_name, f"{field}.tool_name")
    if block.type in _TOOL_CHANGES:
        return toolbox.change(block.type, block.tool, f"{field}.tool")
    return _text(block, field)


def _text(block: _Block, field: str) -> str:
    """The text of a block, or of the document or search result that it is."""
    if block.type == "search_result" and isinstance(block.source, str):
        return _read(block.content, field, block.title, block.source)
    if block.type == "document" and isinstance(block.source, _Source):
        if block.source.type == "text" and block.source.data is not None:
            return _read(block.source.data, field, block.title, block.context)
        if block.source.type == "content":
            return _read(block.source.content, f"{field}.source", block.title, block.context)
        raise UnsupportedError(
            f'{field}.source has the type "{block.source.type or ""}", but this version reads only text',
            hint="send the document's text, as a source of the type text",
        )
    return _plain(block, field)


def _plain(block: _Block, field: str) -> str:
    return part_text(block.type, block.text, (None, "text"), field)


def _read(content: str | list[_Block] | _Block | None, field: str, *heads: str | None) -> str:
    """The texts of `content`, below what is said of them."""
    texts = (_plain(part, f"{field}.content[{index}]") for index, part in enumerate(_blocks(content)))
    return "\n".join(text for text in (*heads, *texts) if text)
