"""Grammars of tool calls in a family's own syntax: names are those of the tools, arguments what their schemas allow.

A grammar goes on behind the mark that begins calls (`begun`), or begins with it (None). It ends with the last mark of a
call; where calls stand in a list or a section, with that of the list. What syntax.py's data says no more, such as how
many blanks stand between two marks, is left to the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localllm.chat.element_values import ElementValues
from localllm.chat.json_schema import Schema, resolved, standalone
from localllm.chat.lark import BLANKS, Lark, Part, Rule, Text, escaped, literal, maybe, other_than, pattern
from localllm.chat.lark_texts import arguments_object
from localllm.chat.notation import GEMMA, KEY_PATTERN, PYTHON, STANDARD_KEYWORDS, Values, properties_of
from localllm.chat.syntax import (
    WILD,
    ArgumentMarkers,
    CallSyntax,
    ElementSyntax,
    GemmaSyntax,
    ProgramSyntax,
    PythonSyntax,
    Syntax,
    TaggedSyntax,
)
from localllm.chat.tag_values import TagValues
from localllm.errors import BadRequestError

_ID = pattern("[A-Za-z0-9_-]{1,24}")


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool as far as a call of it goes: its name, and the schema of its arguments, an object."""

    name: str
    parameters: Schema


def call_grammar(lark: Lark, syntax: Syntax, tools: Sequence[CallableTool], begun: str | None, *, several: bool) -> str:
    """The expression of calls of these tools. Raises BadRequestError for what the syntax cannot write.

    `several` calls may be in one list or section; whether another one may follow is not the grammar's business.
    """
    match syntax:
        case CallSyntax():
            objects = _JsonCalls(lark, syntax, tools).grammar(begun, several=several)
            other = _other_calls(lark, syntax.other, tools) if syntax.other and begun is not None else []
            return lark.rule(objects, *other).name if other else objects
        case TaggedSyntax():
            return _TaggedCalls(lark, syntax, tools).grammar(begun, several=several)
        case ElementSyntax():
            frame = TaggedSyntax(
                syntax.section, syntax.lead, syntax.after_name, syntax.call_end, syntax.section_end, arguments=None
            )
            return _ElementCalls(lark, frame, tools, syntax).grammar(begun, several=several)
        case PythonSyntax():
            return _python_calls(lark, syntax, tools, begun, several=several)
        case GemmaSyntax():
            return _gemma_calls(lark, syntax, tools, begun)
    raise BadRequestError("calls cannot be held to their schemas in this model's notation")


def json_arguments(lark: Lark, tool: CallableTool) -> Rule:
    """The arguments of a call as a JSON object."""
    schema = tool.parameters
    return arguments_object(lark, schema, lambda: lark.json(standalone(schema, schema)))


def main_start(syntax: Syntax) -> str:
    """The mark that a call which must be made begins with; empty for a bare one."""
    if isinstance(syntax, (CallSyntax, PythonSyntax)):
        return "" if syntax.bare or not syntax.starts else syntax.starts[-1]
    return syntax.starts[0]


def holds_all_calls(syntax: Syntax) -> bool:
    """Whether a list is all there can be: one without a mark is only read where an answer begins."""
    is_list = isinstance(syntax, PythonSyntax) or (isinstance(syntax, CallSyntax) and syntax.opening != "")
    return is_list and not main_start(syntax)


class _JsonCalls:
    def __init__(self, lark: Lark, syntax: CallSyntax, tools: Sequence[CallableTool]) -> None:
        self._lark = lark
        self._syntax = syntax
        self._tools = tools

    def grammar(self, begun: str | None, *, several: bool) -> str:
        lark, syntax = self._lark, self._syntax
        start = lark.mark(main_start(syntax)) if begun is None else ()
        is_marked = bool(start) or bool(begun)
        call = lark.rule(*(lark.sequence(*self._object(tool)) for tool in self._tools))
        separator = (BLANKS, literal(syntax.separator), BLANKS) if syntax.separator else (BLANKS,)
        is_repeated = several and bool(syntax.separator)
        more = [f"({lark.sequence(*separator, call)})*"] if is_repeated else []
        opening = (literal(syntax.opening), BLANKS) if syntax.opening else ()
        closing = (BLANKS, literal(syntax.closing)) if syntax.closing else ()
        end = (BLANKS, *lark.mark(syntax.end)) if lark.end_words((syntax.end,) if syntax.end else ()) else ()
        head = lark.sequence(*start, *((BLANKS,) if is_marked else ()), *opening)
        tail = lark.sequence(*closing, *end)
        return " ".join(part for part in (head, call.name, *more, tail) if part != '""')

    def _object(self, tool: CallableTool) -> tuple[Part, ...]:
        syntax = self._syntax
        arguments = json_arguments(self._lark, tool)
        if syntax.name_key is None:
            return (literal("{"), BLANKS, *_member(tool.name), arguments, BLANKS, literal("}"))
        others = [(key, _other_value(key)) for key in syntax.other_keys]
        before = [maybe(*_member(key), value, BLANKS, literal(","), BLANKS) for key, value in others]
        after = [maybe(BLANKS, literal(","), BLANKS, *_member(key), value) for key, value in others]
        name: tuple[Part, ...] = (*_member(syntax.name_key), _quoted(tool.name))
        given: tuple[Part, ...] = (BLANKS, literal(","), BLANKS, *_member(syntax.argument_keys[0]), arguments)
        return (literal("{"), BLANKS, *before, *name, *given, *after, BLANKS, literal("}"))


def _quoted(text: str) -> Text:
    return literal(json.dumps(text, ensure_ascii=False))


def _member(key: str) -> tuple[Text, ...]:
    return (_quoted(key), BLANKS, literal(":"), BLANKS)


def _other_value(key: str) -> Text:
    return _quoted("function") if key == "type" else Text(f'"\\"" {_ID.body} "\\""')


class _TaggedCalls:
    def __init__(self, lark: Lark, syntax: TaggedSyntax, tools: Sequence[CallableTool]) -> None:
        self._lark = lark
        self._syntax = syntax
        self._tools = tools

    def grammar(self, begun: str | None, *, several: bool) -> str:
        lark, syntax = self._lark, self._syntax
        opening = syntax.opening
        left = opening if begun is None else opening[opening.index(begun) + 1 :]
        call = lark.rule(*(lark.sequence(*self._call(tool)) for tool in self._tools))
        has_section = bool(syntax.section)
        more = [f"({lark.sequence(BLANKS, *self._words(syntax.lead.words), call)})*"] if has_section and several else []
        end = (
            lark.sequence(BLANKS, *self._words(syntax.section_end.words)) if has_section and syntax.section_end else ""
        )
        head = lark.sequence(*self._words(left, "" if begun is None else begun))
        return " ".join(part for part in (head if left else "", call.name, *more, end) if part)

    def _words(self, words: Sequence[str], before: str = "") -> tuple[Part, ...]:
        """The words of markers; what stands in for WILD is the number or the id of a call."""
        parts: list[Part] = []
        for word in words:
            pieces = word.split(WILD)
            parts += self._lark.words(pieces[:1], before) if pieces[0] else ((BLANKS,) if before else ())
            for piece in pieces[1:]:
                parts.append(_ID)
                parts += self._lark.mark(piece)
            before = word
        return tuple(parts)

    def _call(self, tool: CallableTool) -> tuple[Part, ...]:
        syntax = self._syntax
        name = self._name(tool.name)
        after_name = self._words(syntax.after_name.words, tool.name)
        end = self._words(self._lark.end_words(syntax.call_end.words))
        return (*name, *after_name, *self._given(tool), *((BLANKS, *end) if end else ()))

    def _given(self, tool: CallableTool) -> tuple[Part, ...]:
        """The arguments of a call."""
        if self._syntax.arguments is None:
            return (BLANKS, json_arguments(self._lark, tool))
        return (Rule(self._arguments(tool, self._syntax.arguments)),)

    def _name(self, name: str) -> tuple[Part, ...]:
        if not all(character.isalnum() or character in "_.-/@" for character in name):
            raise BadRequestError(f'the name "{name}" cannot be written in this model\'s notation')
        before = self._syntax.opening[-1] if self._syntax.opening else ""
        # Behind a tag that is complete a model may begin a new line.
        return ((BLANKS,) if before[-1:] in (">", "]") else ()) + (literal(name),)

    def _arguments(self, tool: CallableTool, markers: ArgumentMarkers) -> str:
        lark = self._lark
        schema = resolved(tool.parameters, tool.parameters)
        named, required = properties_of(schema)
        members = []
        for key, node in named.items():
            expression = self._argument(key, node, tool, markers)
            members.append(expression.name if key in required else f"({expression.name})?")
        extra = schema.get("additionalProperties", "properties" not in schema)
        if extra is True or isinstance(extra, Mapping):
            any_key = other_than(pattern(KEY_PATTERN), list(named))
            members.append(f"({self._member(any_key, extra, tool, markers).name})*")
        return lark.rule(" ".join(members) or '""').name

    def _argument(self, key: str, node: object, tool: CallableTool, markers: ArgumentMarkers) -> Rule:
        if not key or any(character in '<>[]\n"=' for character in key) or key != key.strip():
            raise BadRequestError(f'the name "{key}" cannot be written in this model\'s notation')
        return self._member(literal(key), node, tool, markers)

    def _member(self, key: Text, node: object, tool: CallableTool, markers: ArgumentMarkers) -> Rule:
        lark = self._lark
        values = TagValues(lark, tool.parameters, markers, self._words(markers.end.words))
        start = (BLANKS, *self._words(markers.start.words), key)
        return lark.rule(
            *(lark.sequence(*start, *self._middle(markers, said), *value) for said, value in values.alternatives(node))
        )

    def _middle(self, markers: ArgumentMarkers, said: str) -> tuple[Part, ...]:
        """What stands between key and value; `said` is in WILD's place there."""
        parts: list[Part] = []
        before = ""
        for word in markers.middle.words:
            parts += self._lark.words([word.replace(WILD, said)], before)
            before = word
        return tuple(parts)


class _ElementCalls(_TaggedCalls):
    def __init__(self, lark: Lark, frame: TaggedSyntax, tools: Sequence[CallableTool], elements: ElementSyntax) -> None:
        super().__init__(lark, frame, tools)
        self._elements = elements

    def _given(self, tool: CallableTool) -> tuple[Part, ...]:
        values = ElementValues(self._lark, self._elements, tool.parameters)
        return (self._lark.rule(values.members(resolved(tool.parameters, tool.parameters))),)


def _python_calls(
    lark: Lark, syntax: PythonSyntax, tools: Sequence[CallableTool], begun: str | None, *, several: bool
) -> str:
    start = lark.mark(main_start(syntax)) if begun is None else ()
    calls = [lark.sequence(*_python_call(lark, tool)) for tool in tools]
    call = lark.rule(*calls)
    between = literal("\n") if syntax.on_lines else Text("/, ?/")
    more = f" ({lark.sequence(between, call)})*" if several else ""
    opening, closing = (
        ("[", "]") if not syntax.on_lines else (f"{syntax.fence}\n", "\n```") if syntax.fence else ("", "")
    )
    head = (*start, *((BLANKS,) if start or begun else ()), *((literal(opening),) if opening else ()))
    tail = (*((literal(closing),) if closing else ()), *((BLANKS, *lark.mark(syntax.end)) if syntax.end else ()))
    expression = f"{call.name}{more}"
    return " ".join([*([lark.sequence(*head)] if head else []), expression, *([lark.sequence(*tail)] if tail else [])])


def _other_calls(lark: Lark, syntax: PythonSyntax | ProgramSyntax, tools: Sequence[CallableTool]) -> list[str]:
    """What may stand behind a mark besides objects: calls of methods, and a program."""
    calls = _method_calls(lark, syntax.method, tools) if syntax.method else []
    if isinstance(syntax, ProgramSyntax) and any(_takes_program(tool, syntax) for tool in tools):
        # What a reader would take for an object, or for another tool's call, is to be one.
        names = "|".join(escaped(f"{tool.name}{syntax.method}(") for tool in tools)
        methods = rf" & ~/(?:{names})(?s:.*)/" if syntax.method else ""
        calls.append(lark.sequence(BLANKS, Text(rf"(/[^{{\s](?s:.*)/{methods})")))
    return calls


def _takes_program(tool: CallableTool, syntax: ProgramSyntax) -> bool:
    """Whether the schema of a tool's program allows any."""
    if tool.name != syntax.tool:
        return False
    named = resolved(tool.parameters, tool.parameters).get("properties")
    says = named.get(syntax.argument, True) if isinstance(named, Mapping) else True
    return says is True or (isinstance(says, Mapping) and {"type"} >= STANDARD_KEYWORDS & says.keys())


def _method_calls(lark: Lark, method: str, tools: Sequence[CallableTool]) -> list[str]:
    """Each tool's call of that method, of those that can be written so."""
    found: list[str] = []
    for tool in tools:
        try:
            found.append(lark.sequence(BLANKS, *_python_call(lark, tool, method)))
        except BadRequestError:
            continue
    return found


def _python_call(lark: Lark, tool: CallableTool, method: str = "") -> tuple[Part, ...]:
    if not all(part.isidentifier() and part not in _PYTHON_WORDS for part in tool.name.split(".")):
        raise BadRequestError(f'the name "{tool.name}" cannot be written in this model\'s notation')

    def key_of(key: str) -> tuple[Part, ...]:
        if not key.isidentifier() or key in _PYTHON_WORDS:
            raise BadRequestError(f'the name "{key}" cannot be written in this model\'s notation')
        return (literal(f"{key}="),)

    schema = resolved(tool.parameters, tool.parameters)
    if schema.get("additionalProperties", "properties" not in schema) is not False:
        # Any name would have to be one that Python has no use for: those that are named must do.
        schema = {**schema, "additionalProperties": False}
    members = Values(lark, PYTHON, tool.parameters).members(schema, key_of, lambda key: (key, literal("=")))
    return (literal(f"{tool.name}{method}("), Rule(members), literal(")"))


def _gemma_calls(lark: Lark, syntax: GemmaSyntax, tools: Sequence[CallableTool], begun: str | None) -> str:
    start = lark.mark(syntax.start) if begun is None else ()
    calls = []
    for tool in tools:
        if not all(character.isalnum() or character in "_.-/@" for character in tool.name):
            raise BadRequestError(f'the name "{tool.name}" cannot be written in this model\'s notation')
        values = Values(lark, GEMMA, tool.parameters)
        calls.append(lark.sequence(literal(tool.name), values.value(tool.parameters)))
    call = lark.rule(*calls)
    return lark.sequence(*start, literal("call:"), call, *lark.mark(syntax.end))


_PYTHON_WORDS = frozenset(
    """False None True and as assert async await break class continue def del elif else except finally for from global
    if import in is lambda nonlocal not or pass raise return try while with yield
    """.split()
)
