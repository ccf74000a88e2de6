"""Turns and tools as the plain dicts that chat templates read. Pure; the rendering is template.py's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from localllm.errors import TemplateError
from localllm.generation import Message, Tool, ToolCall

_MISTRAL_CALL_ID_CHARACTERS = 9


def turn(message: Message, call_id: Callable[[str], str]) -> dict[str, object]:
    """A message as templates expect it: keys that say nothing are left out, for templates ask `is defined`."""
    said: dict[str, object] = {"role": message.role, "content": message.content}
    if message.thinking is not None:
        # Qwen and most others read the first name, gpt-oss the second.
        said |= {"reasoning_content": message.thinking, "thinking": message.thinking}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "type": "function",
                "id": call_id(call.id),
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in message.tool_calls
        ]
    if message.tool_name is not None:
        said["name"] = message.tool_name
    if message.tool_call_id is not None:
        said["tool_call_id"] = call_id(message.tool_call_id)
    return said


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
    # Qwen and most others read enable_thinking; DeepSeek V3.1, Granite and Kimi read thinking.
    variables: dict[str, object] = {"enable_thinking": bool(think), "thinking": bool(think)}
    if isinstance(think, str):
        variables["reasoning_effort"] = think
    return variables


def with_system_in_user_turn(messages: Sequence[Message]) -> list[Message]:
    """The conversation for a template without a system role: the first user turn begins with the system's text."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    turns = [message for message in messages if message.role != "system"]
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        return [Message("user", system), *turns]
    content = f"{system}\n\n{turns[first].content}" if turns[first].content else system
    return [*turns[:first], Message("user", content), *turns[first + 1 :]]


def with_call(call_id: str) -> list[Message]:
    """The shortest conversation with a call and its result, to see whether a template takes such an id."""
    call = Message("assistant", tool_calls=(ToolCall(call_id, "probe", "{}"),))
    return [Message("user", "probe"), call, Message("tool", "probe", tool_name="probe", tool_call_id=call_id)]


def nine_characters(call_id: str) -> str:
    """An id in Mistral's form; the end of ours is the random part."""
    letters = "".join(character for character in call_id if character.isascii() and character.isalnum())
    return letters[-_MISTRAL_CALL_ID_CHARACTERS:].rjust(_MISTRAL_CALL_ID_CHARACTERS, "0")
