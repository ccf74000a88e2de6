"""Calls as Python writes them: `[name(key='value', other=3), …]`, read by Python's own parser and never run."""

from __future__ import annotations

import ast
import json
import re

from localllm.chat.tools import Call
from localllm.chat.values import dump_literal, parse_python

_TEXT = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


def read_list(text: str) -> list[Call] | None:
    """The calls of a list of them; None when `text` is anything else."""
    node = parse_python(text)
    if node is None and "\n" in text:
        # Models write line breaks into texts as they are.
        node = parse_python(_TEXT.sub(lambda literal: literal.group().replace("\n", "\\n"), text))
    if not isinstance(node, ast.List) or not node.elts:
        return None
    calls = [_read(item) for item in node.elts]
    return None if None in calls else [call for call in calls if call is not None]


def _read(node: ast.expr) -> Call | None:
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, (ast.Name, ast.Attribute)):
        return None
    members: list[str] = []
    for keyword in node.keywords:
        value = dump_literal(keyword.value)
        if keyword.arg is None or value is None:
            return None
        members.append(f"{json.dumps(keyword.arg, ensure_ascii=False)}: {value}")
    return Call(ast.unparse(node.func), "{" + ", ".join(members) + "}")
