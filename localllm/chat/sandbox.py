"""A stranger's program in a box: one Jinja template, compiled and run with bounds on what it can make.

It runs in jinja2's immutable sandbox with the names transformers' `apply_chat_template` gives it, and what it can make
is bounded while it makes it:

    output           at most MAX_OUTPUT_CHARACTERS, counted piece by piece
    one value        as much, for every way to make a long one: * + ~ % ** macros, set blocks, filters, methods
    all values       at most MAX_PRODUCED_CHARACTERS in one render
    range()          at most 100,000 numbers (jinja2's own bound)
    source           at most MAX_SOURCE_CHARACTERS

In one thing it allows more than transformers: `{% set x = list.append(y) %}` and `{% set x = list.pop(n) %}`, without
which the templates of Kimi K2 cannot show a tool call.

Time is not bounded: a template that loops for ever without making anything cannot be stopped from inside its process.
The daemon's render deadline kills the runner then. So construct and run between RenderStarted and RenderEnded.
Memory is bounded for every way to grow it that is known; a limit on the process itself is the last word.
A Program serves one thread at a time. What it is told of a conversation is template.py's business.
"""

from __future__ import annotations

import functools
import json
import re
import types
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from localllm.chat.lengths import MAX_OUTPUT_CHARACTERS, contains, counted, growth, result_length, text_length
from localllm.errors import TemplateError

MAX_SOURCE_CHARACTERS = 2**20
# A template may build its output up in a variable, message by message, which produces far more than it keeps.
MAX_PRODUCED_CHARACTERS = 32 * MAX_OUTPUT_CHARACTERS
_MAX_REASON_CHARACTERS = 500
_CHARACTERS_PER_ITEM = 32  # what a list with one more short text takes, roughly
_TOO_LONG = f"it makes more than {MAX_OUTPUT_CHARACTERS} characters"

# What Python itself raises when a template does something senseless with its values.
_FAULTS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, NameError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip


class Program:
    """One compiled template; `variables` are the names it reads.

    Raises TemplateError for a source that does not compile, naming the line.
    """

    def __init__(self, source: str, *, today: Callable[[], datetime]) -> None:
        self._sandbox = _Sandbox()
        self._sandbox.globals["raise_exception"] = _refuse
        self._sandbox.globals["strftime_now"] = lambda layout: today().strftime(layout)
        self._template = self._compile(source)
        self.variables: frozenset[str] = frozenset(jinja2.meta.find_undeclared_variables(self._sandbox.parse(source)))

    def run(self, variables: dict[str, object]) -> str:
        """Its output. Raises TemplateError with the template's own words when it refuses, else with the reason."""
        self._sandbox.produced_characters = 0
        context, pieces = self._template.new_context(variables), _Pieces()
        try:
            # Not through generate(): its rewritten tracebacks are cycles that keep the template's variables alive, as
            # would an error raised inside the except clauses.
            pieces.extend(self._template.root_render_func(context))
            return "".join(pieces)
        except _Refusal as error:
            failure = _reason(error)
        except _FAULTS as error:
            failure = f"the chat template failed: {_reason(error)}"
        raise TemplateError(failure)

    def _compile(self, source: str) -> jinja2.Template:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise TemplateError(f"the chat template is longer than {MAX_SOURCE_CHARACTERS} characters")
        try:
            return self._sandbox.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            place = f"line {error.lineno} of the chat template"
            raise TemplateError(f"syntax error in {place}: {_told(error.message or '')}") from error
        except _FAULTS as error:
            raise TemplateError(f"the chat template cannot be compiled: {_reason(error)}") from error


class _Refusal(jinja2.TemplateError):
    """The template called raise_exception."""


def _refuse(message: object) -> NoReturn:
    raise _Refusal(_told(str(message)) or "the chat template refuses this conversation, and does not say why")


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deep"
    return _told(str(error)) or type(error).__name__


def _told(reason: str) -> str:
    """So much of it as is told, without halves of surrogate pairs, which no answer can carry."""
    return reason[:_MAX_REASON_CHARACTERS].encode("utf-8", "replace").decode()


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text for training; here its body just renders."""

    tags = {"generation"}  # noqa: RUF012, jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Pieces(list[str]):
    """Pieces of one text, refused as soon as together they are too long. The compiled template fills them too."""

    characters = 0

    def append(self, piece: str) -> None:
        self.characters += len(piece)
        if self.characters > MAX_OUTPUT_CHARACTERS:
            raise SecurityError(_TOO_LONG)
        super().append(piece)

    def extend(self, pieces: Any) -> None:
        if type(pieces) is not tuple:  # a template that runs, and is to be stopped while it does
            for piece in pieces:
                self.append(piece)
            return
        self.characters += sum(map(len, pieces))
        if self.characters > MAX_OUTPUT_CHARACTERS:
            raise SecurityError(_TOO_LONG)
        super().extend(pieces)


class _BoundedCode(CodeGenerator):
    """Compiled code whose buffers and `~` are bounded; values are made when it runs, never when it is compiled."""

    def buffer(self, frame: Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.new_pieces()")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802, the visitor's naming
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802, the visitor's naming
        is_slice = isinstance(node.arg, nodes.Slice)
        self.write("environment.charged(" if is_slice else "")
        super().visit_Getitem(node, frame)
        self.write(")" if is_slice else "")

    def visit_Assign(self, node: nodes.Assign, frame: Frame) -> None:  # noqa: N802, the visitor's naming
        """`set x = list.append(y)` becomes the sandbox's own append_to, which knows what it lets grow."""
        call = node.node
        if isinstance(call, nodes.Call) and isinstance(call.node, nodes.Getattr) and call.node.attr in _LIST_METHODS:
            method = nodes.EnvironmentAttribute(_LIST_METHODS[call.node.attr])
            node.node = nodes.Call(method, [call.node.node, *call.args], call.kwargs, call.dyn_args, call.dyn_kwargs)
            node.node.set_lineno(call.lineno).set_environment(self.environment)
        super().visit_Assign(node, frame)

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802, the visitor's naming
        if node.attr.startswith("_"):
            super().visit_Getattr(node, frame)
            return
        self.write("environment.look_up(")
        self.visit(node.node, frame)
        self.write(f", {node.attr!r})")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("environment.printed(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_post(node, frame, finalize)
        else:
            self.write(")")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, (nodes.TemplateData, nodes.Const)):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox, set up as transformers does, with bounds on what a template can make."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])
    code_generator_class = _BoundedCode
    new_pieces = _Pieces

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, jinja2.ext.loopcontrols],
            optimized=False,
            finalize=self._printable,
        )
        self.produced_characters = 0
        self.filters["tojson"] = _to_json
        self.filters = {name: self._bounded_filter(name, function) for name, function in self.filters.items()}
        del self.globals["lipsum"]

    def charge(self, characters: int) -> None:
        """Account for a value of this length before it is made. Raises SecurityError."""
        self.produced_characters += characters
        if characters > MAX_OUTPUT_CHARACTERS or self.produced_characters > MAX_PRODUCED_CHARACTERS:
            raise SecurityError(_TOO_LONG)

    def look_up(self, obj: Any, attribute: str) -> Any:
        """getattr for a name that begins with no underscore.

        jinja2's own asks for every attribute what these kinds of values never are: dangerous, or changed.
        """
        kind = type(obj)
        if kind is Namespace:
            try:
                return _attribute(obj, "_Namespace__attrs")[attribute]  # its own lookup is a function in Python
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        if kind is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(None, obj, attribute)
        if (kind is str and attribute in _STR_METHODS) or kind is LoopContext:
            try:
                return getattr(obj, attribute)
            except AttributeError:
                return self.undefined(obj=obj, name=attribute)
        if kind is dict and attribute in _DICT_READERS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """jinja2's own, which finds out by two exceptions that a dict has no such key."""
        if type(obj) is dict and type(argument) is str and argument not in _DICT_ATTRIBUTES:
            return obj[argument] if argument in obj else self.undefined(None, obj, argument)
        return super().getitem(obj, argument)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # jinja2 hands out an undefined value that only complains when it is used, and prints as nothing.
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is not allowed")

    def charged(self, value: Any) -> Any:
        """Account for a copy that is at most as long as what it was made from."""
        if isinstance(value, (str, list, tuple)):
            self.charge(len(value) * (1 if isinstance(value, str) else _CHARACTERS_PER_ITEM))
        return value

    def append_to(self, values: Any, item: Any) -> None:
        """`values.append(item)` for a list, unless that makes a list contain itself: what prints it would not end."""
        if not isinstance(values, list) or contains(item, values):
            raise SecurityError(f"access to attribute 'append' of {type(values).__name__!r} object is not allowed")
        # As much as any other way to make a list of this length, at once and over the whole render.
        if len(values) * _CHARACTERS_PER_ITEM >= MAX_OUTPUT_CHARACTERS:
            raise SecurityError(_TOO_LONG)
        self.charge(_CHARACTERS_PER_ITEM)
        values.append(item)

    def pop_from(self, values: Any, index: int = -1) -> Any:
        """`values.pop(index)` for a list."""
        if not isinstance(values, list):
            raise SecurityError(f"access to attribute 'pop' of {type(values).__name__!r} object is not allowed")
        return values.pop(index)

    def concatenate(self, parts: Sequence[object]) -> str:
        self.charge(text_length(parts))
        return "".join(map(str, parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is type(right):
            if type(left) is int:
                return left + right
            if type(left) is str:
                self.charge(len(left) + len(right))
                return left + right
        self.charge(result_length(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, as jinja2 has it
        if type(__obj) is Macro:  # the template's own, and so always safe to call
            return __obj(__context.eval_ctx, *args, **_without_scopes(kwargs))
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if type(owner) is dict and method.__name__ in _DICT_READERS:
            return method(*args, **_without_scopes(kwargs))
        if not (isinstance(method, types.BuiltinMethodType) and isinstance(owner, (str, int))):
            return super().call(__context, __obj, *args, **kwargs)
        if method.__name__ in _REFUSED_METHODS:
            raise SecurityError(f"{method.__name__}() is not allowed in a chat template")
        args = tuple(map(counted, args))
        kwargs = _without_scopes(kwargs)
        __self.charge(growth(method.__name__, owner, [*args, *kwargs.values()]))
        return __self.charged(__obj(*args, **kwargs))

    def printed(self, value: Any) -> str:
        """A value as it is written into the output."""
        return value if type(value) is str else str(self._printable(value))

    def _printable(self, value: Any) -> Any:
        if not isinstance(value, str):
            self.charge(text_length((value,)))
        return value

    def _bounded_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
        makes_text = _MAKES_NO_TEXT.fullmatch(name) is None
        keeps_length = name in _KEEP_LENGTH

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            if not makes_text:
                return self.charged(function(*args, **kwargs))
            if keeps_length and not kwargs and len(args) == 1 and type(args[0]) is str:
                self.charge(len(args[0]))
                return function(*args)
            values = [*args[:skipped], *map(counted, args[skipped:])]
            said = [*values[skipped:], *kwargs.values()]
            self.charge(growth(name, said[0], said[1:]) + text_length(said[:1]))
            return function(*values, **kwargs)

        return bounded


_attribute = object.__getattribute__
_DICT_ATTRIBUTES = frozenset(dir(dict))
# Methods that make no copy of what is in a dict, and change nothing.
_DICT_READERS = frozenset(["get", "items", "keys", "values"])
# Filters that make of a text alone one of about its length.
_KEEP_LENGTH = frozenset(["lower", "safe", "string", "tojson", "trim", "upper"])
# Without format and format_map, which jinja2 gives out in a form that keeps to the sandbox.
_STR_METHODS = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))
# What a template may do to a list, and by which method of the sandbox.
_LIST_METHODS = {"append": "append_to", "pop": "pop_from"}
# Methods that make long values or bytes, and that no honest template needs.
_REFUSED_METHODS = frozenset(["encode", "to_bytes", "translate"])
_MAKES_NO_TEXT = re.compile(
    "abs|attr|count|d|default|dictsort|first|float|groupby|int|items|last|length|list|map|max|min|random|reject|"
    "rejectattr|reverse|round|select|selectattr|sort|unique"
)


def _without_scopes(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without what jinja2 tells functions that want to know where they are called from."""
    kwargs.pop("_loop_vars", None)
    kwargs.pop("_block_vars", None)
    return kwargs


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter, not jinja2's: no HTML escapes, and text stays readable."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
