"""The text of one argument to its JSON value, by the tool's own schema where that says what it is.

Templates write texts as they are and everything else as JSON, some as Python would; so `3` is the number 3, unless the
schema says that the argument is a text, and what is neither JSON nor Python is a text whatever the schema says.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localllm.chat.syntax import common_length
from localllm.chat.tools import is_json
from localllm.generation import Tool

_NAMES: dict[str, object] = {"true": True, "false": False, "null": None}
RAW_START, RAW_END = "<![CDATA[", "]]>"  # MiniCPM 5 writes texts with markup so
_MOST_LITERAL_CHARACTERS = 65_536  # Python's parser needs much memory for long and deep texts


_MOST_REFERENCES = 16  # of one schema to another, before it is taken for a circle


@dataclass(frozen=True, slots=True)
class Schema:
    """One place in a JSON Schema; `root` is what its references lead through. Says nothing where it is no schema."""

    node: object = None
    root: object = None

    @property
    def types(self) -> set[str]:
        """The types it names, also those of its alternatives."""
        return _types(self.node, self.root, _MOST_REFERENCES)

    @property
    def is_text(self) -> bool | None:
        """Whether the value is a text; None when the schema leaves that open."""
        types = self.types
        if not types:
            return None
        return types == {"string"} if "string" in types else False

    def member(self, key: str) -> Schema:
        """What it says of a member of an object."""
        node = _resolved(self.node, self.root)
        members = node.get("properties")
        found = members.get(key) if isinstance(members, dict) else None
        return Schema(node.get("additionalProperties") if found is None else found, self.root)

    def item(self) -> Schema:
        """What it says of the items of a list."""
        return Schema(_resolved(self.node, self.root).get("items"), self.root)


@dataclass(frozen=True, slots=True)
class Schemas:
    """The parameters of each tool a request offers: name to the JSON Schema of its arguments."""

    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def argument(self, tool: str, name: str) -> Schema:
        """What a tool's schema says of one argument."""
        root = self.parameters.get(tool)
        return Schema(root, root).member(name)


def schemas_of(tools: Sequence[Tool]) -> Schemas:
    """The schemas in the tools' definitions; what is no schema is left out."""
    return Schemas({tool.name: _parameters(tool.definition) for tool in tools})


def without_blanks(text: str, before: str, after: str) -> str:
    """A value without the blanks `before` and `after` it, as far as they are there, or XML's marks around raw text."""
    if text.startswith(RAW_START) and text.endswith(RAW_END):
        return text[len(RAW_START) : -len(RAW_END)]
    text = text[common_length(text, before) :]
    return text[: len(text) - length_of_end(text, after)]


def length_of_end(text: str, after: str) -> int:
    """How much of `after`, from its start, a text ends with."""
    return next((length for length in range(len(after), 0, -1) if text.endswith(after[:length])), 0)


def argument_value(text: str, is_text: bool | None) -> str:
    """The JSON text of the value that `text` stands for."""
    if is_text:
        return json.dumps(text, ensure_ascii=False)
    stripped = text.strip()
    if stripped and is_json(stripped):
        return stripped
    literal = python_value(stripped)
    return json.dumps(text, ensure_ascii=False) if literal is None else literal


def python_value(text: str) -> str | None:
    """The JSON text of a Python literal other than a bare text; None when `text` is none."""
    if not text or text[0] not in "[{(TFN-0123456789":
        return None
    node = parse_python(text)
    return None if node is None else dump_literal(node)


def parse_python(text: str) -> ast.expr | None:
    """Python's own reading of an expression; None when it is none."""
    if len(text) > _MOST_LITERAL_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            # Python warns of escapes it does not know, and keeps them as they are.
            warnings.simplefilter("ignore")
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def dump_literal(node: ast.expr) -> str | None:
    """The JSON text of a literal, in which JSON's true, false and null count too; None when it is no literal."""
    try:
        value = _literal(node)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        return None
    return text


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _literal(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("a key of a JSON object is a text")
        return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    value = ast.literal_eval(node)
    if isinstance(value, (bytes, complex, set)) or value is Ellipsis:
        raise ValueError("JSON has no such value")
    return value


def _resolved(node: object, root: object) -> Mapping[str, Any]:
    """The schema that a chain of local references leads to; an empty one for anything else."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(node, dict):
            return {}
        path = node.get("$ref")
        if not (isinstance(path, str) and path.startswith("#/")):
            return node
        node = root
        for step in path[2:].split("/"):
            node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return {}


def _types(node: object, root: object, depth: int) -> set[str]:
    schema = _resolved(node, root)
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    types = {one for one in names if isinstance(one, str)}
    for key in ("anyOf", "oneOf") if depth else ():
        alternatives = schema.get(key)
        for alternative in alternatives if isinstance(alternatives, list) else ():
            types |= _types(alternative, root, depth - 1)
    enum = schema.get("enum")
    if not types and isinstance(enum, list) and enum and all(isinstance(one, str) for one in enum):
        types = {"string"}
    return types


def _parameters(definition: str) -> Mapping[str, Any]:
    try:
        value = json.loads(definition)
    except (ValueError, RecursionError):
        return {}
    for key in ("function", "parameters"):
        inner = value.get(key) if isinstance(value, dict) else None
        if key == "function" and not isinstance(inner, dict):
            continue  # some clients send the function itself
        value = inner
    return value if isinstance(value, dict) else {}
