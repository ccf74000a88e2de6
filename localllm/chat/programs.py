"""Programs in place of calls: what Llama 3.1 and its kin write behind <|python_tag|> for an interpreter.

Such a program is a call if the request has a tool for programs: one of the names these models know, with one text for
the program. It goes to the end of the answer; in one that was cut it is none. Without such a tool it is text, and where
no tools are asked for at all the mark before it, which says nothing to anybody else, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from localllm.chat.syntax import CallSyntax, ProgramSyntax, PythonSyntax, Syntax
from localllm.chat.values import Schema, schemas_of
from localllm.generation import Tool

PROGRAM_MARK = "<|python_tag|>"
_NAMES = ("code_interpreter", "ipython", "python")
_USUAL_ARGUMENT = "code"


def with_programs(syntax: Syntax, mark: str, tools: Sequence[Tool]) -> tuple[Syntax, ProgramSyntax | None]:
    """The syntax in which a program may stand, too, where objects do; else that of programs apart, if there are any."""
    program = _program(mark, tools) if mark else None
    if program is None or not isinstance(syntax, CallSyntax) or mark not in syntax.starts:
        return syntax, program
    method = syntax.other.method if isinstance(syntax.other, PythonSyntax) else ""
    return replace(syntax, other=replace(program, method=method)), None


def _program(mark: str, tools: Sequence[Tool]) -> ProgramSyntax | None:
    for tool in tools:
        if tool.name in _NAMES and (argument := _argument(tool)) is not None:
            return ProgramSyntax(mark, tool.name, argument)
    return None


def _argument(tool: Tool) -> str | None:
    """The tool's argument that is a program; None where it wants more, or something else."""
    parameters = schemas_of([tool]).parameters[tool.name]
    named, required = parameters.get("properties"), parameters.get("required")
    if not isinstance(named, dict) or not named:
        return _USUAL_ARGUMENT
    texts = [key for key, node in named.items() if Schema(node, parameters).is_text]
    wanted = [key for key in required if isinstance(key, str)] if isinstance(required, list) else []
    found = _USUAL_ARGUMENT if _USUAL_ARGUMENT in texts else texts[0] if len(texts) == 1 else None
    return found if set(wanted) <= {found} else None
