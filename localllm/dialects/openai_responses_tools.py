"""The tools of OpenAI's Responses, as the functions that chat templates know, and back again from the calls of these.

    function   {"type", "name", "description", "parameters"}           as it is
    custom     {"type", "name", "description", "format"}               a function with one text, `input`
    namespace  {"type", "name", "tools": [functions and customs]}      each under NAMESPACE__NAME

Agents send kinds that OpenAI's own servers run (web_search, image_generation …) with every request: they are skipped,
and told. A regular expression or a Lark grammar that a custom tool's input is to follow is kept, or refused where it
cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from localllm.dialects.body import read_inside, read_text
from localllm.dialects.constraint_fields import read_tool_choice, required_choice
from localllm.dialects.framing import to_json
from localllm.errors import InvalidFieldError
from localllm.generation import Tool, ToolChoice

Kind = Literal["function", "custom"]
INPUT = "input"  # the one argument of a custom tool's function
_LAST_ANCHOR = re.compile(r"(?<!\\)((?:\\\\)*)\$\Z")
_NO_PARAMETERS = b'{"type":"object","properties":{}}'


@dataclass(frozen=True, slots=True)
class CalledTool:
    """What a function's name in the template stands for."""

    kind: Kind
    name: str
    namespace: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: str | None = None
    syntax: str | None = None
    definition: str | None = None


class _Tool(_Function):
    type: str | None = None
    format: _Format | None = None
    function: _Function | None = None  # as chat completions have it, which some clients send here, too
    tools: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    mode: str | None = None
    tools: list[_Tool] | None = None


_tool_decoder = msgspec.json.Decoder(_Tool)
_choice_decoder = msgspec.json.Decoder(str | _Choice | None)


def template_name(name: str, namespace: str | None) -> str:
    """The name under which a template shows a tool."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


def read_tools(tools: Sequence[msgspec.Raw] | None, told: list[str]) -> tuple[tuple[Tool, ...], dict[str, CalledTool]]:
    """The functions, and what each stands for; skipped ones are added to `told`. Raises InvalidFieldError."""
    found: dict[str, Tool] = {}
    called: dict[str, CalledTool] = {}
    for index, raw in enumerate(tools or ()):
        _read_tool(bytes(raw), f"tools[{index}]", None, (found, called, told))
    return tuple(found.values()), called


def _read_tool(
    raw: bytes, field: str, namespace: str | None, into: tuple[dict[str, Tool], dict[str, CalledTool], list[str]]
) -> None:
    found, called, told = into
    item = read_inside(raw, _tool_decoder, field)
    if item.type == "namespace" and namespace is None:
        if not item.name:
            raise InvalidFieldError(f"{field}.name is missing", field=f"{field}.name")
        for index, inner in enumerate(item.tools or ()):
            _read_tool(bytes(inner), f"{field}.tools[{index}]", item.name, into)
        return
    kind: Kind = "custom" if item.type == "custom" else "function"
    if item.type not in (None, "", kind):
        told.append(field)
        return
    function = item.function or item
    if not function.name:
        raise InvalidFieldError(f"{field}.name is missing", field=f"{field}.name")
    name = template_name(function.name, namespace)
    definition = _custom(name, item) if kind == "custom" else _function(name, function, field)
    wanted = _grammar(item.format, f"{field}.format") if kind == "custom" else None
    grammar = wanted.definition if wanted is not None and wanted.syntax == "lark" else None
    found[name] = Tool(name, definition, strict=bool(function.strict) or wanted is not None, input_grammar=grammar)
    called[name] = CalledTool(kind, function.name, namespace)


def _grammar(wanted: _Format | None, field: str) -> _Format | None:
    """What an input is to follow, None for any text. Raises InvalidFieldError for what says it in no known way."""
    if wanted is None or wanted.type != "grammar":
        return None
    if wanted.syntax not in ("lark", "regex"):
        raise InvalidFieldError(f'{field}.syntax must be "lark" or "regex"', field=f"{field}.syntax")
    if not wanted.definition:
        raise InvalidFieldError(f"{field}.definition is missing", field=f"{field}.definition")
    return wanted


def _function(name: str, item: _Function, field: str) -> str:
    schema = bytes(item.parameters)
    if schema in (b"", b"null"):
        schema = _NO_PARAMETERS
    if not isinstance(read_text(schema, f"{field}.parameters"), dict):
        raise InvalidFieldError(f"{field}.parameters must be an object", field=f"{field}.parameters")
    return _definition(name, item.description, schema)


def _custom(name: str, item: _Tool) -> str:
    about: dict[str, Any] = {"type": "string", "description": "The whole input of the tool, as plain text."}
    if item.format is not None and item.format.type == "grammar" and item.format.definition:
        syntax = item.format.syntax or "lark"
        about["description"] += f" It must follow this {syntax} grammar:\n{item.format.definition}"
    schema: dict[str, Any] = {"type": "object", "properties": {INPUT: about}, "required": [INPUT]}
    if item.format is not None and item.format.type == "grammar":
        schema["additionalProperties"] = False
        if (pattern := _pattern(item.format)) is not None:
            about["pattern"] = pattern
    return _definition(name, item.description, to_json(schema))


def _pattern(wanted: _Format | None) -> str | None:
    """The regular expression that an input is to match from its start to its end."""
    if wanted is None or wanted.type != "grammar" or wanted.syntax != "regex" or not wanted.definition:
        return None
    inner = _LAST_ANCHOR.sub(r"\1", wanted.definition.removeprefix("^"))
    return f"^(?:{inner})$"


def _definition(name: str, description: str | None, schema: bytes) -> str:
    function: dict[str, Any] = {"name": name}
    if description:
        function["description"] = description
    function["parameters"] = msgspec.Raw(schema)
    return to_json({"type": "function", "function": function}).decode()


def chosen(
    choice: bytes, tools: tuple[Tool, ...], called: Mapping[str, CalledTool], parallel: bool | None
) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that `tool_choice` leaves, and whether one must be called. Raises InvalidFieldError."""
    wanted = read_inside(choice, _choice_decoder, "tool_choice") if choice else None
    is_parallel = parallel is not False
    if not isinstance(wanted, _Choice):
        found = read_tool_choice(wanted, [tool.name for tool in tools], parallel)
        return () if found.mode == "none" else tools, found
    if wanted.type == "allowed_tools":
        left = _allowed(wanted.tools or [], tools, called)
        if wanted.mode not in (None, "auto", "required"):
            raise InvalidFieldError('tool_choice.mode must be "auto" or "required"', field="tool_choice.mode")
        names = [tool.name for tool in left]
        is_forced = wanted.mode == "required"
        return left, required_choice((), names, is_parallel) if is_forced else ToolChoice(parallel=is_parallel)
    if wanted.type not in ("function", "custom") or not wanted.name:
        raise InvalidFieldError(
            'tool_choice must be "none", "auto", "required", or an object that names a function, a custom tool or '
            "allowed_tools",
            field="tool_choice",
        )
    return tools, required_choice((_shown(wanted.name, called),), [tool.name for tool in tools], is_parallel)


def _shown(name: str, called: Mapping[str, CalledTool]) -> str:
    """The name in the template of the tool that a client calls so."""
    return name if name in called else next((shown for shown, one in called.items() if one.name == name), name)


def _allowed(wanted: list[_Tool], tools: tuple[Tool, ...], called: Mapping[str, CalledTool]) -> tuple[Tool, ...]:
    names = {_shown(one.name or "", called) for one in wanted if one.type in ("function", "custom")}
    missing = sorted(names - {tool.name for tool in tools})
    if missing:
        raise InvalidFieldError(f"tool_choice allows {', '.join(missing)}, but tools does not have it",
                                field="tool_choice.tools")  # fmt: skip
    return tuple(tool for tool in tools if tool.name in names)


def custom_input(arguments: str) -> str:
    """The input of a custom tool in the arguments of its function; what a model wrote otherwise stays as it is."""
    try:
        value = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return arguments
    if isinstance(value, Mapping):
        text = value.get(INPUT)
        if not isinstance(text, str) and len(value) == 1:  # models invent names for the only argument
            text = next(iter(value.values()))
        if isinstance(text, str):
            return text
    return arguments


def custom_arguments(text: str) -> str:
    """The arguments of the function that a custom tool is."""
    return to_json({INPUT: text}).decode()
