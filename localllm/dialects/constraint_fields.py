"""The fields that say what an answer is held to, outside of each dialect's own: those of llama-server, vLLM and SGLang.

    grammar, json_schema                          llama-server's, on every route that generates
    structured_outputs, guided_…                  vLLM's newer and older names
    regex, ebnf                                   SGLang's
    tool_choice                                   OpenAI's words and shapes, for whoever speaks them

One of them may be said, or the dialect's own format. What is in them is checked where it is kept, in the runner.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import msgspec

from localllm.dialects.body import read_text
from localllm.errors import InvalidFieldError, UnsupportedError
from localllm.generation import Options, ResponseFormat, ToolChoice, parse_options


class StructuredOutputs(msgspec.Struct):
    """vLLM's `structured_outputs`; `json` is a schema, as an object or as text."""

    json: msgspec.Raw = msgspec.Raw()
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: msgspec.Raw = msgspec.Raw()


class ConstraintFields(msgspec.Struct):
    """The fields by their names in a body."""

    grammar: str | None = None
    grammar_lazy: bool | None = None
    json_schema: msgspec.Raw = msgspec.Raw()
    structured_outputs: StructuredOutputs | None = None
    guided_json: msgspec.Raw = msgspec.Raw()
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None


def read_constraint(fields: ConstraintFields, own: ResponseFormat | None = None) -> ResponseFormat | None:
    """What the answer is held to; `own` is what the dialect's own field says. Raises InvalidFieldError for two."""
    if fields.grammar_lazy:
        raise UnsupportedError("grammar_lazy is not supported", hint="send tools: calls are held to their schemas")
    newer = fields.structured_outputs or StructuredOutputs()
    if _is_said(newer.structural_tag):
        raise UnsupportedError("structural_tag is not supported", hint="send tools: calls are held to their schemas")
    said = {
        "a format": own,
        "grammar": _text("grammar", fields.grammar),
        "json_schema": schema_format(fields.json_schema, "json_schema"),
        "structured_outputs.json": schema_format(newer.json, "structured_outputs.json"),
        "structured_outputs.regex": _text("regex", newer.regex),
        "structured_outputs.choice": _choice(newer.choice, "structured_outputs.choice"),
        "structured_outputs.grammar": _text("grammar", newer.grammar),
        "structured_outputs.json_object": ResponseFormat("json_object") if newer.json_object else None,
        "guided_json": schema_format(fields.guided_json, "guided_json"),
        "guided_regex": _text("regex", fields.guided_regex),
        "guided_choice": _choice(fields.guided_choice, "guided_choice"),
        "guided_grammar": _text("grammar", fields.guided_grammar),
        "regex": _text("regex", fields.regex),
        "ebnf": _text("grammar", fields.ebnf),
    }
    names = [name for name, value in said.items() if value is not None]
    if len(names) > 1:
        raise InvalidFieldError(f"{names[0]} and {names[1]} exclude each other: send one of them", field=names[1])
    return said[names[0]] if names else None


def schema_format(raw: msgspec.Raw, field: str) -> ResponseFormat | None:
    """A JSON Schema as a format; it may be text that holds one. Raises InvalidFieldError for anything else."""
    if not _is_said(raw):
        return None
    text: bytes | str = bytes(raw)
    value = read_text(text, field)
    if isinstance(value, str):
        text, value = value, read_text(value, field)
    if not isinstance(value, dict):
        raise InvalidFieldError(f"{field} must be an object", field=field)
    return ResponseFormat("json_schema", text if isinstance(text, str) else text.decode())


def required_schema(raw: msgspec.Raw, field: str) -> ResponseFormat:
    """A JSON Schema that must be there. Raises InvalidFieldError."""
    found = schema_format(raw, field)
    if found is None:
        raise InvalidFieldError(f"{field} must be an object", field=field)
    return found


def _is_said(raw: msgspec.Raw) -> bool:
    return bytes(raw) not in (b"", b"null")


def _text(kind: Any, text: str | None) -> ResponseFormat | None:
    return ResponseFormat(kind, text) if text else None


def _choice(texts: list[str] | None, field: str) -> ResponseFormat | None:
    """One of several texts, as a grammar."""
    if texts is None:
        return None
    if not texts:
        raise InvalidFieldError(f"{field} is empty: nothing could be answered", field=field)
    return ResponseFormat("grammar", f"start: {' | '.join(json.dumps(text, ensure_ascii=False) for text in texts)}\n")


def read_tool_choice(value: object, names: Collection[str], parallel: bool | None) -> ToolChoice:
    """`tool_choice` in OpenAI's shapes, of tools with these names. Raises InvalidFieldError."""
    is_parallel = parallel is not False
    if value in (None, "", "auto"):
        return ToolChoice(parallel=is_parallel)
    if value == "none":
        return ToolChoice("none", parallel=is_parallel)
    if value in ("required", "any"):  # the second is Mistral's word
        return required_choice((), names, is_parallel)
    if isinstance(value, dict):
        kind = value.get("type")
        if kind == "allowed_tools":
            return _allowed(value, names, is_parallel)
        function = value.get("function", value)
        name = function.get("name") if isinstance(function, dict) else None
        if kind in ("function", "custom", "tool") and isinstance(name, str) and name:
            return required_choice((name,), names, is_parallel)
    raise InvalidFieldError(
        'tool_choice must be "none", "auto", "required", or an object that names a function or allowed_tools',
        field="tool_choice",
    )


def required_choice(wanted: tuple[str, ...], names: Collection[str], parallel: bool) -> ToolChoice:
    """A call that must be made, of one of the `wanted` tools or of any. Raises InvalidFieldError when there is none."""
    if not names:
        raise InvalidFieldError("tool_choice demands a call, but there are no tools", field="tool_choice")
    return ToolChoice("required", _known(wanted, names), parallel)


def _known(wanted: tuple[str, ...], names: Collection[str]) -> tuple[str, ...]:
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise InvalidFieldError(
            f"tool_choice names {', '.join(missing)}, but tools does not have it", field="tool_choice"
        )
    return wanted


def _allowed(value: dict[str, object], names: Collection[str], parallel: bool) -> ToolChoice:
    inner = value.get("allowed_tools", value)
    mode, tools = (inner.get("mode", "auto"), inner.get("tools")) if isinstance(inner, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise InvalidFieldError(
            'tool_choice.allowed_tools needs a mode, "auto" or "required", and tools', field="tool_choice.allowed_tools"
        )
    wanted: list[str] = []
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str):
            wanted.append(name)
    known = _known(tuple(wanted), names)
    return required_choice(known, names, parallel) if mode == "required" else ToolChoice("auto", known, parallel)


def read_thinking_budget(**said: object) -> Options:
    """The tokens that thinking may take: the first that is said, each argument being a field's name. -1 is no bound."""
    for field, value in said.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < -1:
            raise InvalidFieldError(f"{field} must be a number of tokens, or -1 for no bound", field=field)
        return parse_options({field: value}, {field: "thinking_budget"})[0]
    return Options()
