"""Turns and tools as the plain dicts that chat templates read. Pure; the rendering is template.py's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from localllm.errors import TemplateError
from localllm.generation import Message, Tool, ToolCall

_MISTRAL_CALL_ID_CHARACTERS = 9


@dataclass(frozen=True, slots=True)
class Form:
    """How a turn is written down for one template.

    `short_call_ids` makes ids Mistral's nine characters; `text_arguments` leaves arguments the JSON text they are;
    `parts` makes content a list of typed parts; `no_text` makes a call's empty text none at all;
    `empty_part` makes an empty content a list of one empty part;
    `listed_results` makes the content of a result a list of one text;
    `metadata` makes a call a text with the tool's name beside it, and a result an observation, as GLM-4 has them.
    """

    short_call_ids: bool = False
    text_arguments: bool = False
    parts: bool = False
    no_text: bool = False
    empty_part: bool = False
    listed_results: bool = False
    metadata: bool = False


PLAIN = Form()


def turn(message: Message, form: Form = PLAIN) -> dict[str, object]:
    """A message as templates expect it: keys that say nothing are left out, for templates ask `is defined`."""
    if form.metadata and message.tool_calls:
        call = message.tool_calls[0]
        return {"role": "assistant", "metadata": call.name, "content": call.arguments}
    role = "observation" if form.metadata and message.role == "tool" else message.role
    said: dict[str, object] = {"role": role, "content": message.content}
    if form.parts:
        said["content"] = [{"type": "text", "text": message.content}] if message.content else []
    if form.empty_part and not message.content:
        said["content"] = [{"type": "text", "text": ""}]
    if form.no_text and message.tool_calls and not message.content:
        said["content"] = None
    if form.listed_results and message.role == "tool":
        said["content"] = [message.content]
    if message.thinking is not None:
        # Qwen and most others read the first name, gpt-oss the second.
        said |= {"reasoning_content": message.thinking, "thinking": message.thinking}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "type": "function",
                "id": _call_id(call.id, form),
                "function": {
                    "name": call.name,
                    "arguments": call.arguments if form.text_arguments else _arguments(call),
                },
            }
            for call in message.tool_calls
        ]
    if message.tool_name is not None:
        said["name"] = message.tool_name
    if message.tool_call_id is not None:
        said["tool_call_id"] = _call_id(message.tool_call_id, form)
    return said


def with_tools(turns: Sequence[Mapping[str, object]], tools: object) -> list[Mapping[str, object]]:
    """The turns with the tools in the system's, or in one of their own before them."""
    first, *rest = turns or [{}]
    if first.get("role") == "system":
        return [{**first, "tools": tools}, *rest]
    return [{"role": "system", "content": "", "tools": tools}, *turns]


def functions_text(definitions: list[object], indent: int | None = None) -> str:
    """The functions of tools as a text of JSON."""
    functions = [one.get("function", one) if isinstance(one, dict) else one for one in definitions]
    return json.dumps(functions, indent=indent, ensure_ascii=False)


def _call_id(call_id: str, form: Form) -> str:
    """Mistral's form keeps the end of an id, for that is the random part of ours."""
    if not form.short_call_ids:
        return call_id
    letters = "".join(character for character in call_id if character.isascii() and character.isalnum())
    return letters[-_MISTRAL_CALL_ID_CHARACTERS:].rjust(_MISTRAL_CALL_ID_CHARACTERS, "0")


def _arguments(call: ToolCall) -> object:
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        # A client may send back what another model garbled; the template prints it as it is.
        return call.arguments


def definition(tool: Tool) -> object:
    """A tool as the client defined it, keys in its order. Raises TemplateError when it is not JSON."""
    try:
        return json.loads(tool.definition)
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"the definition of tool '{tool.name}' is not JSON") from error


def thinking_variables(think: bool | str | None) -> dict[str, object]:
    """The variables by which templates switch thinking; none at all for None, so that their default holds."""
    if think is None:
        return {}
    # Qwen and most others read enable_thinking; DeepSeek V3.1, Granite and Kimi read thinking; GigaChat 3.5 reasoning;
    # MiniMax M3 the last.
    is_on = bool(think)
    mode = "enabled" if is_on else "disabled"
    return {"enable_thinking": is_on, "thinking": is_on, "reasoning": is_on, "thinking_mode": mode}


def with_system_in_user_turn(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template without a system role: the first user turn begins with the system's text."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    turns = [message for message in messages if message.role != "system"]
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        return [Message("user", system), *turns]
    content = "\n\n".join(text for text in (system, turns[first].content) if text)
    return [*turns[:first], Message("user", content), *turns[first + 1 :]]


def with_neighbours_merged(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template that refuses two turns of one side in a row: their texts become one."""
    merged: list[Message] = []
    for message in messages:
        if merged and _can_merge(merged[-1], message):
            before = merged.pop()
            texts = [text for text in (before.content, message.content) if text]
            merged.append(replace_content(before, "\n\n".join(texts)))
        else:
            merged.append(message)
    return merged


def _can_merge(one: Message, other: Message) -> bool:
    is_plain = not (one.tool_calls or other.tool_calls or one.thinking or other.thinking)
    return one.role == other.role and one.role in ("user", "assistant") and is_plain


def replace_content(message: Message, content: str) -> Message:
    """The message with another text."""
    return msgspec.structs.replace(message, content=content)


def with_one_call_per_turn(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template that shows one call of a turn: parallel calls become calls one after another.

    Each call is followed by its own result, found by its id, or else by its place.
    """
    single: list[Message] = []
    waiting = list(messages)
    while waiting:
        message = waiting.pop(0)
        if len(message.tool_calls) < 2:
            single.append(message)
            continue
        results = [waiting.pop(0) for _ in range(_leading_results(waiting))]
        single += _one_by_one(message, results)
    return single


def _leading_results(messages: Sequence[Message]) -> int:
    return next((index for index, message in enumerate(messages) if message.role != "tool"), len(messages))


def _one_by_one(message: Message, results: list[Message]) -> Iterator[Message]:
    turn = message
    for index, call in enumerate(message.tool_calls):
        yield msgspec.structs.replace(turn, tool_calls=(call,))
        turn = Message("assistant")
        own = next((result for result in results if result.tool_call_id and result.tool_call_id == call.id), None)
        # Without ids the results lie in the order of the calls, and those that are used are gone.
        own = own or (results[0] if results and not results[0].tool_call_id else None)
        if own is not None:
            results.remove(own)
            yield own
        if index == len(message.tool_calls) - 1:
            yield from results


def with_named_ids(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template that writes a call's id and leaves its name to be read in it.

    The ids are Kimi K2's, of the tool's name and the number of the call; results have those of their calls.
    """
    numbers, named = itertools.count(), dict[str, str]()

    def renamed(call: ToolCall) -> ToolCall:
        named[call.id] = f"functions.{call.name}:{next(numbers)}"
        return msgspec.structs.replace(call, id=named[call.id])

    return [
        msgspec.structs.replace(
            message,
            tool_calls=tuple(map(renamed, message.tool_calls)),
            tool_call_id=named.get(message.tool_call_id or "", message.tool_call_id),
        )
        for message in messages
    ]


def with_text_before_calls(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template that leaves out the calls of a turn with text: the text is a turn before it."""
    return [
        turn
        for message in messages
        for turn in (
            (
                msgspec.structs.replace(message, tool_calls=()),
                msgspec.structs.replace(message, content="", thinking=None),
            )
            if message.tool_calls and message.content
            else (message,)
        )
    ]


def with_text_in_thinking(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template that takes thinking or text before a call, not both: they become one thought."""
    return [
        msgspec.structs.replace(message, content="", thinking=f"{message.thinking}\n\n{message.content}")
        if says_all_before_call(message)
        else message
        for message in messages
    ]


def says_all_before_call(message: Message) -> bool:
    """Whether a turn with calls has both thinking and text."""
    return bool(message.tool_calls and message.thinking and message.content)
