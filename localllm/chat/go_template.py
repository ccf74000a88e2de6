"""A Go chat template, as Ollama's Modelfiles have them: a conversation in, the text of the prompt out.

A template with .Messages is given the whole conversation, consecutive turns of one role joined. An older one, with
.Prompt, .System and .Response, is run once per exchange; the last time only up to .Response, where the answer goes.
Such a template is a stranger's program like a Jinja one: chat/go runs it, and bounds what it can make.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from localllm.chat import conversation
from localllm.chat.go import nodes
from localllm.chat.go.evaluator import Run
from localllm.chat.go.functions import EARLY, functions
from localllm.chat.go.nodes import Body, Node, Operand, Pipeline
from localllm.chat.go.parser import Parsed, parse
from localllm.chat.go.values import Document, Documents, Record, TypeNames
from localllm.errors import TemplateError
from localllm.generation import Message, Tool

MAX_SOURCE_CHARACTERS = 2**20
_TOO_DEEP = "the chat template nests too deep"


class GoTemplate:
    """One parsed template, with what formats.detect and the runner ask of a template.

    Raises TemplateError for a source that cannot be parsed, naming the line.
    """

    is_default = False
    missing_prompt = ""

    def __init__(self, source: str, *, today: Callable[[], datetime]) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise TemplateError(f"the chat template is longer than {MAX_SOURCE_CHARACTERS} characters")
        self.source = source
        self._functions = functions(today)
        try:
            self._parsed = parse(source, frozenset((*self._functions, *EARLY)))
            fields = _fields(self._parsed)
        except RecursionError:
            raise TemplateError(_TOO_DEEP) from None
        self._takes_messages = "Messages" in fields
        if not self._takes_messages and "Response" not in fields:
            answer = nodes.Action(0, Pipeline(0, ((nodes.Chain(0, nodes.Dot(0), ("Response",)),),)))
            self._parsed = Parsed((*self._parsed.body, answer), self._parsed.defined)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        think: bool | str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt's text. Whether an answer is to begin, or to go on, the template sees at the last message's role.

        Raises TemplateError with the line when the template fails or makes too much.
        """
        if variables:
            raise TemplateError("this model's template is in Go's language, which has no variables to set")
        switches: dict[str, Any] = {"Think": bool(think), "ThinkLevel": think if isinstance(think, str) else ""}
        switches["IsThinkSet"] = think is not None
        turns = _joined(messages)
        try:
            if self._takes_messages:
                return self._run(self._parsed.body, _conversation(messages, turns, tools) | switches)
            return self._exchanges(turns, switches, cuts=add_generation_prompt)
        except RecursionError:
            raise TemplateError(_TOO_DEEP) from None

    def _run(self, body: Body, data: Mapping[str, Any]) -> str:
        return Run(self._parsed.defined, self._functions).text(body, data)

    def _exchanges(self, turns: Sequence[Message], switches: dict[str, Any], *, cuts: bool) -> str:
        """The older form: a render per exchange, each with a system text, a prompt and an answer."""
        pieces: list[str] = []
        said: dict[str, Any] = dict.fromkeys(("System", "Prompt", "Response"), "")
        for turn in turns:
            name = {"system": "System", "assistant": "Response"}.get(turn.role, "Prompt")
            # A tool's result, which this form does not know, is another prompt rather than nothing.
            if name != "Response" and (said["Prompt"] or said["Response"]):
                pieces.append(self._run(self._parsed.body, said | switches))
                said = dict.fromkeys(said, "")
            said[name] = turn.content
        body = until_response(self._parsed.body)[0] if cuts else self._parsed.body
        return "".join([*pieces, self._run(body, said | switches)])


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Consecutive turns of one role as one, as Ollama does; results of tools stay apart."""
    turns: list[Message] = []
    for message in messages:
        last = turns[-1] if turns else None
        if last is None or last.role != message.role or message.role == "tool":
            turns.append(message)
            continue
        content = f"{last.content}\n\n{message.content}" if last.content else message.content
        turns[-1] = Message(
            message.role,
            content,
            thinking=message.thinking or last.thinking,
            tool_calls=last.tool_calls + message.tool_calls,
        )
    return turns


def _conversation(messages: Sequence[Message], turns: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    return {
        "System": system,
        "Messages": [_turn(turn) for turn in turns],
        "Tools": Documents(_tool(conversation.definition(tool)) for tool in tools),
        "Response": "",
    }


def _turn(message: Message) -> Record:
    calls = [
        Record(
            {
                "ID": call.id,
                "Function": Record({"Index": index, "Name": call.name, "Arguments": _arguments(call.arguments)}),
            }
        )
        for index, call in enumerate(message.tool_calls)
    ]
    return Record(
        {
            "Role": message.role,
            "Content": message.content,
            "Thinking": message.thinking or "",
            "Images": [],
            "ToolCalls": calls,
            "ToolName": message.tool_name or "",
            "ToolCallID": message.tool_call_id or "",
        }
    )


def _arguments(text: str) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text  # a client may send back what another model garbled: it prints as it is
    return Document(value) if isinstance(value, dict) else value


def _tool(definition: object) -> Record:
    """A tool as Go's struct has it; its JSON stays the client's own."""
    document = definition if isinstance(definition, dict) else {}
    function = _mapping(document.get("function"))
    parameters = _mapping(function.get("parameters"))
    described = {
        "Name": _text(function.get("name")),
        "Description": _text(function.get("description")),
        "Parameters": Record(
            {
                "Type": _text(parameters.get("type")),
                "Defs": parameters.get("$defs"),
                "Items": parameters.get("items"),
                "Required": _texts(parameters.get("required")),
                "Properties": _properties(parameters.get("properties")),
            },
            parameters,
            prints_document=True,
        ),
    }
    fields = {
        "Type": _text(document.get("type")) or "function",
        "Items": document.get("items"),
        "Function": Record(described, function, prints_document=True),
    }
    return Record(fields, document, prints_document=True)


def _properties(value: object) -> Document:
    return Document((str(name), _schema(schema)) for name, schema in _mapping(value).items())


def _schema(value: object) -> Record:
    schema = _mapping(value)
    kind = schema.get("type")
    members = schema.get("anyOf")
    fields: dict[str, Any] = {
        "AnyOf": [_schema(member) for member in members] if isinstance(members, list) else [],
        "Type": TypeNames([kind] if isinstance(kind, str) else _texts(kind)),
        "Items": schema.get("items"),
        "Description": _text(schema.get("description")),
        "Enum": schema["enum"] if isinstance(schema.get("enum"), list) else [],
        "Properties": _properties(schema.get("properties")),
        "Required": _texts(schema.get("required")),
    }
    return Record(fields, schema)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def until_response(body: Body) -> tuple[Body, bool]:
    """`body` up to the action that prints .Response, and whether there is one; what stands behind it is left out."""
    kept: list[Node] = []
    for node in body:
        found = False
        if isinstance(node, nodes.Action):
            found = "Response" in _named(node.pipeline)
        elif isinstance(node, (nodes.Branch, nodes.Range)):
            node, found = _cut(node)
        kept.append(node)
        if found:
            return tuple(kept), True
    return tuple(kept), False


def _cut(node: nodes.Branch | nodes.Range) -> tuple[nodes.Branch | nodes.Range, bool]:
    first, found_first = until_response(node.body)
    second, found_second = until_response(node.otherwise)
    if isinstance(node, nodes.Branch):
        return nodes.Branch(node.line, node.kind, node.pipeline, first, second), found_first or found_second
    return nodes.Range(node.line, node.pipeline, first, second), found_first or found_second


def _fields(parsed: Parsed) -> set[str]:
    """Every field that a template names anywhere."""
    names: set[str] = set()
    waiting: list[Node] = [node for body in (parsed.body, *parsed.defined.values()) for node in body]
    while waiting:
        node = waiting.pop()
        pipeline = getattr(node, "pipeline", None)
        if pipeline is not None:
            names |= _named(pipeline)
        if isinstance(node, (nodes.Branch, nodes.Range)):
            waiting += [*node.body, *node.otherwise]
    return names


def _named(operand: Operand) -> set[str]:
    if isinstance(operand, Pipeline):
        return {name for command in operand.commands for part in command for name in _named(part)}
    if isinstance(operand, nodes.Chain):
        return {*operand.fields, *_named(operand.base)}
    return set()
