"""The tools of Anthropic's messages: those shown from the start, and those that a conversation brings in.

    tools[]              listed with the template's other tools; with `defer_loading` only once a message brings it in
    tool_reference       in a tool's result, or in a message of the system's: the tool is shown there
    tool_addition        in a message of the system's: the same, of a tool that may be new
    tool_removal         the tool is not to be called any more

Agents with many tools search them so. What is brought in is shown where that happens and not at the prompt's head,
which therefore stays what it was, and cached. Tools that Anthropic's servers run are skipped, and told; where the
search is one of them nobody would find a deferred tool, so all are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from localllm.dialects.body import read_text
from localllm.dialects.framing import to_json
from localllm.errors import InvalidFieldError
from localllm.generation import Tool

_OWN_TYPES = frozenset({None, "", "custom"})
_SEARCH = "tool_search_tool"


class ToolFields(msgspec.Struct):
    """One of a body's tools."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    defer_loading: bool | None = None


class ChangedTool(msgspec.Struct):
    """What a tool_addition or a tool_removal is about: a name, or a whole tool."""

    type: str | None = None
    name: str | None = None
    definition: ToolFields | None = None


class Toolbox:
    """The tools of one request, while its messages are read: they may bring in more, and take away.

    `told` are the fields that changed nothing; others add to them.
    """

    def __init__(self, tools: Sequence[ToolFields], told: list[str]) -> None:
        self.told = told
        self._found: dict[str, Tool] = {}
        self._is_brought_in: set[str] = set()
        is_searched_elsewhere = any((item.type or "").startswith(_SEARCH) for item in tools)
        for index, item in enumerate(tools):
            if item.type not in _OWN_TYPES:
                told.append(f"tools[{index}]")
                continue
            tool = _tool(item, f"tools[{index}]", is_listed=not item.defer_loading or is_searched_elsewhere)
            self._found[tool.name] = tool

    def tools(self) -> tuple[Tool, ...]:
        """Those that may be called."""
        return tuple(tool for tool in self._found.values() if tool.is_listed or tool.name in self._is_brought_in)

    def bring_in(self, name: str | None, field: str) -> str:
        """What the model is told about a tool from here on."""
        if not name:
            raise InvalidFieldError(f"{field} is missing", field=field)
        tool = self._found.get(name)
        if tool is None:  # a server of tools may have gone since
            return f'The tool "{name}" is not available.'
        self._is_brought_in.add(name)
        return f"This tool can be called now:\n{tool.definition}"

    def change(self, kind: str, changed: ChangedTool | None, field: str) -> str:
        """What the model is told about a tool that is added or removed here."""
        changed = changed or ChangedTool()
        if kind == "tool_removal":
            name = changed.name or (changed.definition.name if changed.definition else None)
            if not name:
                raise InvalidFieldError(f"{field}.name is missing", field=f"{field}.name")
            self._found.pop(name, None)
            return f'The tool "{name}" cannot be called any more.'
        if changed.definition is None:
            return self.bring_in(changed.name, f"{field}.name")
        tool = _tool(changed.definition, f"{field}.definition", is_listed=False)
        self._found[tool.name] = tool
        return self.bring_in(tool.name, field)


def _tool(item: ToolFields, field: str, *, is_listed: bool) -> Tool:
    """A tool in the form that templates know."""
    if not item.name:
        raise InvalidFieldError(f"{field}.name is missing", field=f"{field}.name")
    schema = bytes(item.input_schema) or b"{}"
    if not isinstance(read_text(schema, f"{field}.input_schema"), dict):
        raise InvalidFieldError(f"{field}.input_schema must be an object", field=f"{field}.input_schema")
    function: dict[str, Any] = {"name": item.name}
    if item.description:
        function["description"] = item.description
    function["parameters"] = msgspec.Raw(schema)
    definition = to_json({"type": "function", "function": function}).decode()
    return Tool(item.name, definition, strict=bool(item.strict), is_listed=is_listed)
