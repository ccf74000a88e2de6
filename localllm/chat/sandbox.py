"""A stranger's program in a box: one Jinja template, compiled and run with bounds on what it can make.

It runs in jinja2's immutable sandbox with the names transformers' `apply_chat_template` gives it, compiled by
template_code.py, and what it can make is bounded while it makes it:

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
import json.encoder
import re
import types
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import do_attr
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from localllm.chat.lengths import MAX_OUTPUT_CHARACTERS, contains, counted, growth, result_length, text_length
from localllm.chat.template_code import DICT_ATTRIBUTES, DICT_READERS, BoundedCode, Space
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


_append = list.append


class _Pieces(list[str]):
    """Pieces of one text, refused as soon as together they are too long. The compiled template fills them too."""

    characters = 0

    def append(self, piece: str) -> None:
        self.characters += len(piece)
        if self.characters > MAX_OUTPUT_CHARACTERS:
            raise SecurityError(_TOO_LONG)
        _append(self, piece)

    def extend(self, pieces: Any) -> None:
        if type(pieces) is not tuple:  # a template that runs, and is to be stopped while it does
            for piece in pieces:
                self.append(piece)
            return
        self.characters += sum(map(len, pieces))
        if self.characters > MAX_OUTPUT_CHARACTERS:
            raise SecurityError(_TOO_LONG)
        super().extend(pieces)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox, set up as transformers does, with bounds on what a template can make."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])
    code_generator_class = BoundedCode
    new_pieces = _Pieces
    space = Space

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
        self.filters["from_json"] = _from_json
        self.filters["attr"] = _attribute
        self.filters = {name: self._bounded_filter(name, function) for name, function in self.filters.items()}
        self.globals["namespace"] = Space
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
        if kind is Space:
            names = obj._names
            return names[attribute] if attribute in names else self.undefined(obj=obj, name=attribute)
        if kind is dict and attribute not in DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(None, obj, attribute)
        if (kind is str and attribute in _STR_METHODS) or kind is LoopContext:
            try:
                return getattr(obj, attribute)
            except AttributeError:
                return self.undefined(obj=obj, name=attribute)
        if kind is dict and attribute in DICT_READERS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """jinja2's own, but for namespaces, which are ours."""
        is_name = type(obj) is Space and not attribute.startswith("_")
        return self.look_up(obj, attribute) if is_name else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """jinja2's own, which finds out by two exceptions that a dict has no such key."""
        if type(obj) is Space and isinstance(argument, str):
            return self.getattr(obj, argument)
        if type(obj) is dict and type(argument) is str and argument not in DICT_ATTRIBUTES:
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

    def plus(self, context: Context, left: Any, right: Any) -> Any:
        if type(left) is str and type(right) is str:
            self.charge(len(left) + len(right))
            return left + right
        if type(left) is int and type(right) is int:
            return left + right
        return self.call_binop(context, "+", left, right)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.charge(result_length(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, as jinja2 has it
        if type(__obj) is Macro:  # the template's own, and so always safe to call
            return _call_macro(__obj, __context, args, kwargs)
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if type(owner) is dict and method.__name__ in DICT_READERS:
            return method(*args, **kwargs)
        if not (isinstance(method, types.BuiltinMethodType) and isinstance(owner, (str, int))):
            return super().call(__context, __obj, *args, **kwargs)
        if method.__name__ in _REFUSED_METHODS:
            raise SecurityError(f"{method.__name__}() is not allowed in a chat template")
        args = tuple(map(counted, args))
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
        if _MAKES_NO_TEXT.fullmatch(name):

            @functools.wraps(function)
            def bounded(*args: Any, **kwargs: Any) -> Any:
                return self.charged(function(*args, **kwargs))

            return bounded
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
        is_short = _SHORT_WAYS.get(name, _never)

        @functools.wraps(function)
        def bounded_text(*args: Any, **kwargs: Any) -> Any:
            if is_short(args, kwargs):
                self.charge(len(args[skipped]))
                return function(*args, **kwargs)
            values = [*args[:skipped], *map(counted, args[skipped:])]
            said = [*values[skipped:], *kwargs.values()]
            self.charge(growth(name, said[0], said[1:]) + text_length(said[:1]))
            return function(*values, **kwargs)

        return bounded_text


# Without format and format_map, which jinja2 gives out in a form that keeps to the sandbox.
_STR_METHODS = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))
# Methods that make long values or bytes, and that no honest template needs.
_REFUSED_METHODS = frozenset(["encode", "to_bytes", "translate"])
_MAKES_NO_TEXT = re.compile(
    "abs|attr|count|d|default|dictsort|first|float|groupby|int|items|last|length|list|map|max|min|random|reject|"
    "rejectattr|reverse|round|select|selectattr|sort|unique"
)


@jinja2.pass_environment
def _attribute(environment: jinja2.Environment, value: object, name: str) -> object:
    """jinja2's filter, but for namespaces, whose names Python does not know."""
    return environment.getattr(value, str(name)) if type(value) is Space else do_attr(environment, value, str(name))


def _never(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return False


def _is_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return not kwargs and len(args) == 1 and type(args[0]) is str


def _is_text_for_json(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) == 1 and type(args[0]) is str and (not kwargs or kwargs == {"ensure_ascii": False})


def _replaces_nothing(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if kwargs or len(args) != 4 or not type(args[1]) is type(args[2]) is type(args[3]) is str:
        return False
    return args[2] not in args[1]


# When a filter makes of a text one of about its length.
_SHORT_WAYS = {
    **dict.fromkeys(["lower", "safe", "string", "trim", "upper"], _is_text),
    "tojson": _is_text_for_json,
    "replace": _replaces_nothing,
}


def _call_macro(macro: Macro, context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Call a macro of this template; one that takes only what it names needs none of the ways jinja2 has for others."""
    left_out = macro._argument_count - len(args)
    takes_more = macro.caller or macro.catch_kwargs or macro.catch_varargs
    if kwargs or left_out < 0 or takes_more or context.eval_ctx.autoescape:
        return macro(context.eval_ctx, *args, **kwargs)
    return macro._func(*args, *(missing,) * left_out)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter, not jinja2's: no HTML escapes, and text stays readable."""
    if type(value) is str and not ensure_ascii:
        return json.encoder.encode_basestring(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _from_json(value: object) -> object:
    """A filter that other runners have and transformers has not, for arguments that are a text of JSON."""
    return json.loads(value) if isinstance(value, str) else value
