"""The input items of OpenAI's Responses as turns of a conversation, and as the store keeps them.

    message                                   a turn; consecutive ones of the assistant's are one
    reasoning                                 the thinking of the assistant's turn that follows it
    function_call, custom_tool_call           a call of that turn
    …_output                                  a tool's turn
    item_reference                            an item of a stored response, by its id

So what one answer consists of becomes one turn again, and its prefix is still cached. Items of OpenAI's own tools
(web_search_call …) are skipped, and told. Refused are images, files and audio; a tool's output loses them, and that is
told.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from localllm.dialects.body import call_arguments, part_text, read_inside, read_role, result_text
from localllm.dialects.framing import to_json
from localllm.dialects.openai_responses_tools import custom_arguments, template_name
from localllm.errors import InvalidFieldError
from localllm.generation import Message, ToolCall

_SEALED_PREFIX = "localllm1."
_TEXT_PARTS = frozenset({None, "text", "input_text", "output_text", "summary_text", "reasoning_text"})
# What OpenAI's own tools and servers leave in a conversation; it says nothing to a model here.
_SKIPPED_ITEMS = frozenset(
    ("web_search_call", "file_search_call", "computer_call", "computer_call_output", "image_generation_call",
     "code_interpreter_call", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output",
     "apply_patch_call", "apply_patch_call_output", "mcp_list_tools", "mcp_approval_request",
     "mcp_approval_response", "mcp_call", "tool_search_call", "tool_search_output", "compaction",
     "compaction_trigger", "additional_tools")
)  # fmt: skip


class _Part(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: str | list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[_Part] | None = None


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """An item's JSON text, where it stands, for messages about it, and what it says."""

    text: bytes
    field: str
    item: _Item


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as the store keeps it: with an id, and whole."""

    id: str
    text: bytes


_decoder = msgspec.json.Decoder(_Item)


def place(text: bytes, field: str) -> PlacedItem:
    """The item that stands there. Raises InvalidFieldError."""
    return PlacedItem(text, field, read_inside(text, _decoder, field))


def place_items(items: str | Sequence[msgspec.Raw], find: Callable[[str], bytes | None]) -> list[PlacedItem]:
    """The items of `input`, references replaced by what `find` has of that id. Raises InvalidFieldError."""
    if isinstance(items, str):
        part = {"type": "input_text", "text": items}
        return [place(to_json({"type": "message", "role": "user", "content": [part]}), "input")]
    placed = []
    for index, raw in enumerate(items):
        where = f"input[{index}]"
        here = place(bytes(raw), where)
        item = here.item
        if item.type != "item_reference" and not (item.type is None and item.id and not item.role):
            placed.append(here)
            continue
        text = find(item.id or "")
        if text is None:
            raise InvalidFieldError(
                f"{where} refers to '{item.id or ''}', and there is no such item",
                field=f"{where}.id",
                hint="send the item itself; only those of stored responses can be referred to",
            )
        placed.append(place(text, where))
    return placed


def stored_items(items: Iterable[PlacedItem], new_id: Callable[[str, int], str]) -> tuple[StoredItem, ...]:
    """The items with ids; `new_id` makes one of a kind's prefix and the item's place."""
    return tuple(_stored(item, index, new_id) for index, item in enumerate(items))


def _stored(placed: PlacedItem, index: int, new_id: Callable[[str, int], str]) -> StoredItem:
    item = placed.item
    fields = read_inside(placed.text, _fields_decoder, placed.field)
    kind = item.type or "message"
    if isinstance(item.content, str):
        part = {"type": "output_text" if item.role == "assistant" else "input_text", "text": item.content}
        fields["content"] = msgspec.Raw(to_json([part]))
    item_id = item.id or new_id(_PREFIXES.get(kind, "item"), index)
    return StoredItem(item_id, to_json({"status": "completed", **fields, "type": kind, "id": item_id}))


_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def read_messages(items: Iterable[PlacedItem], told: list[str]) -> list[Message]:
    """The conversation; what is skipped is added to `told`. Raises BadRequestError's kinds."""
    turns = _Turns()
    for placed in items:
        _add(placed.item, placed.field, turns, told)
    return turns.all()


def _add(item: _Item, where: str, turns: _Turns, told: list[str]) -> None:
    kind = item.type or ("message" if item.role else "")
    if kind == "message":
        role = read_role(item.role, f"{where}.role")
        text = _text(item.content, f"{where}.content")
        if role == "assistant":
            turns.say(text)
        else:
            turns.add(Message(role, text))
    elif kind == "reasoning":
        turns.think(_thinking(item, where))
    elif kind in ("function_call", "custom_tool_call"):
        turns.call(_call(item, kind, where))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        turns.answer(item.call_id or "", _result(item.output, f"{where}.output", told), where)
    elif kind in _SKIPPED_ITEMS:
        told.append(where)
    else:
        raise InvalidFieldError(f'{where} has the type "{kind}", which is not known', field=f"{where}.type")


@dataclass(slots=True)
class _Turns:
    """The turns so far, and the assistant's turn that may still go on."""

    done: list[Message] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def think(self, text: str) -> None:
        if self.texts or self.calls:  # thinking begins a turn
            self._close()
        if text:
            self.thoughts.append(text)

    def say(self, text: str) -> None:
        self.texts.append(text)

    def call(self, call: ToolCall) -> None:
        self.calls.append(call)
        self.names[call.id] = call.name

    def answer(self, call_id: str, text: str, where: str) -> None:
        if call_id not in self.names:
            raise InvalidFieldError(
                f"No tool call found for function call output with call_id {call_id or '(none)'}.",
                field=f"{where}.call_id",
                hint="send the call before its output, or previous_response_id of the response that made it",
            )
        self.add(Message("tool", text, tool_name=self.names[call_id], tool_call_id=call_id))

    def add(self, message: Message) -> None:
        self._close()
        self.done.append(message)

    def all(self) -> list[Message]:
        self._close()
        return self.done

    def _close(self) -> None:
        if self.thoughts or self.texts or self.calls:
            text = "\n\n".join(text for text in self.texts if text)
            self.done.append(Message("assistant", text, "\n".join(self.thoughts) or None, tuple(self.calls)))
        self.thoughts, self.texts, self.calls = [], [], []


def _call(item: _Item, kind: str, where: str) -> ToolCall:
    for name, value in (("call_id", item.call_id), ("name", item.name)):
        if not value:
            raise InvalidFieldError(f"{where}.{name} is missing", field=f"{where}.{name}")
    name = template_name(item.name or "", item.namespace)
    if kind == "custom_tool_call":
        return ToolCall(item.call_id or "", name, custom_arguments(item.input or ""))
    return ToolCall(item.call_id or "", name, call_arguments(item.arguments, f"{where}.arguments"))


def _thinking(item: _Item, where: str) -> str:
    """The thinking itself, else what stands for it: ours sealed, else the summary."""
    if item.content:
        return _text(item.content, f"{where}.content")
    return unsealed(item.encrypted_content) or "\n".join(part.text or "" for part in item.summary or ())


def sealed(thinking: str) -> str:
    """`encrypted_content` for clients that send nothing else back. It is the thinking, encoded: it hides nothing."""
    return _SEALED_PREFIX + base64.b64encode(thinking.encode()).decode()


def unsealed(text: str | None) -> str:
    """The thinking in an `encrypted_content` of ours; "" for another's."""
    if not text or not text.startswith(_SEALED_PREFIX):
        return ""
    try:
        return base64.b64decode(text.removeprefix(_SEALED_PREFIX), validate=True).decode()
    except ValueError:  # not base64, or not UTF-8
        return ""


def _text(content: str | list[_Part] | None, where: str) -> str:
    if not isinstance(content, list):
        return content or ""
    return "\n".join(text for index, part in enumerate(content) if (text := _part(part, f"{where}[{index}]")))


def _result(output: str | list[_Part] | None, where: str, told: list[str]) -> str:
    if not isinstance(output, list):
        return output or ""
    places = ((f"{where}[{index}]", part) for index, part in enumerate(output))
    texts = (result_text(part.type, place, told, functools.partial(_part, part, place)) for place, part in places)
    return "\n".join(text for text in texts if text)


def _part(part: _Part, where: str) -> str:
    if part.type == "refusal":
        return part.refusal or ""
    return part_text(part.type, part.text, _TEXT_PARTS, where)
