'''The Modelfile grammar, both ways. Reads and writes text; knows no files, no models and no templates' languages.

    # a comment: a line that starts a statement with "#"
    FROM ./model.gguf                      a path or a model name; may come more than once; needed
    PARAMETER temperature 0.7              `stop` may come more than once, of the others the last counts
    SYSTEM """You are                      a value ends with its line, unless it starts with a quote:
    friendly."""                           then it ends with the first line that ends with that quote
    PARAMETER num_parallel 4               how it is loaded, as tensor_split or cpu_moe: see load_options.py
    TEMPLATE, ADAPTER, DRAFT, RENDERER, PARSER, LICENSE (may come more than once), REQUIRES VERSION,
    MESSAGE user|assistant|system TEXT     the first messages of every conversation

Keywords in any case, statements in any order. A quote is `"` or `"""`, without escapes, as in Ollama. One thing is
ours: a value whose first line is five quotes and a word ends at the line with that word and five quotes. It means
nothing useful to Ollama, and is the only way to write a text with a line that ends in three quotes.

Every character of a value is kept (Ollama drops no-break spaces and the joiners inside emoji); line ends become "\\n".
'''

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localllm.errors import BadRequestError, InvalidOptionError
from localllm.generation import Message, Options, Role, parse_options
from localllm.load_options import ALSO_CALLED, DRAFT_NAMES, NOT_YET, LoadOptions, load_option_text, parse_load_option

_BLANKS = " \t"  # not str.strip()'s set, which holds the no-break space
_STATEMENT = re.compile(r"([A-Za-z]+)(?:[ \t]+|$)(.*)", re.DOTALL)
_WORD = re.compile(r"(\w+)(?:[ \t]+|$)(.*)", re.DOTALL | re.ASCII)
_FENCE = re.compile(r'"{5}(\w+)', re.ASCII)
_KEYWORDS = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
    "requires",
)  # fmt: skip
_NOTHING_SAID = Options()
_LOADED_AS_USUAL = LoadOptions()
VERSION = re.compile(r"v?\d+(\.\d+){0,2}([-+][0-9A-Za-z.+-]+)?", re.ASCII)
_ROLES = ("system", "user", "assistant")
IGNORED = {
    "renderer": "the chat template is used",
    "parser": "the answer is parsed by what the chat template shows",
}
# Of a model that was made while localllm had no draft models.
DRAFT_OF_BEFORE = "it was named before localllm had draft models; create the model again"
_WITHOUT_EFFECT = dict.fromkeys(
    ("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "numa"),
    "is deprecated and has no effect",
)
# Files for older versions of Ollama have them; it refuses them now, too.
_FORMER = ("tfs_z", "num_gqa", "rope_frequency_base", "rope_frequency_scale", "embedding_only")
_COMMENT = "a comment stands on a line of its own"


class ModelfileError(BadRequestError):
    """The text is not a Modelfile; the message starts with "(line N)"."""

    code = "bad_modelfile"


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says.

    `warnings` is for people: what was understood but has no effect, with its line. `lines` has the lines, from 1, of
    every keyword but PARAMETER and MESSAGE, for those who refuse one of them.
    """

    bases: tuple[str, ...]
    options: Options = _NOTHING_SAID
    load: LoadOptions = _LOADED_AS_USUAL
    template: str | None = None
    system: str | None = None
    adapters: tuple[str, ...] = ()
    draft: str | None = None
    renderer: str | None = None
    parser: str | None = None
    licenses: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    requires: str | None = None
    warnings: tuple[str, ...] = field(default=(), compare=False)
    lines: Mapping[str, Sequence[int]] = field(default_factory=dict, compare=False, repr=False)

    def place(self, keyword: str, number: int) -> str:
        """The beginning of an error about the `number`th statement of a keyword; "" when it stands in no file."""
        lines = self.lines.get(keyword, ())
        return f"(line {lines[number]}): " if 0 <= number < len(lines) else ""


def _scalar_type(hint: object) -> type[object]:
    """`int` of `int | None`; tuple[str, ...] of `tuple[str, ...] | None` is `tuple`."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    (kind,) = [member for member in members if member is not types.NoneType]
    found = typing.get_origin(kind) or kind
    assert isinstance(found, type)
    return found


# Parameter name → the type its text is read as; the names are those of generation.Options.
PARAMETER_TYPES: dict[str, type[object]] = {
    name: _scalar_type(hint) for name, hint in typing.get_type_hints(Options).items()
}


# The parameters whose text is JSON; all other lists are given one item per line.
_JSON_KINDS = {"logit_bias": "object", "dry_sequence_breakers": "array"}


def decode(data: bytes) -> str:
    """The text of a Modelfile's bytes: UTF-8, or UTF-16 when it starts with that byte order mark."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ModelfileError(f"the Modelfile is not {encoding.removesuffix('-sig').upper()} text: {error}") from error


def parse(text: str) -> Modelfile:
    """Read a Modelfile. Raises ModelfileError with the line where the statement starts."""
    builder = _Builder()
    for line, keyword, value in _statements(text.removeprefix("\ufeff").replace("\r\n", "\n")):
        builder.add(line, keyword, value)
    return builder.modelfile()


def _statements(text: str) -> Iterator[tuple[int, str, str]]:
    """(line index, keyword in lower case, value without quotes) of every statement; the keyword of a PARAMETER or a
    MESSAGE is followed by its name or role: "parameter top_k".
    """
    lines = text.split("\n")
    index = 0
    while index < len(lines):
        start = index
        line = lines[index].lstrip(_BLANKS)
        index += 1
        if not line or line.startswith("#"):
            continue
        match = _STATEMENT.fullmatch(line)
        keyword = match.group(1).lower() if match else ""
        if match is None or keyword not in _KEYWORDS:
            choices = ", ".join(f'"{name}"' for name in _KEYWORDS[:-1])
            raise _error(start, f'command must be one of {choices}, or "{_KEYWORDS[-1]}"', hint=_shown(line))
        word, rest = "", match.group(2)
        if keyword in ("parameter", "message"):
            word, rest = _second_word(start, keyword, rest)
        value, index = _value(lines, index, rest, start)
        if not rest:
            raise _error(start, f"{' '.join(filter(None, (keyword.upper(), word)))} needs a value")
        yield start, f"{keyword} {word}".rstrip(), value


def _second_word(start: int, keyword: str, rest: str) -> tuple[str, str]:
    match = _WORD.fullmatch(rest)
    if match is None:
        wanted, such = (
            ("a name and a value", "temperature 0.7") if keyword == "parameter" else ("a role and a text", "user Hello")
        )
        raise _error(start, f"{keyword.upper()} needs {wanted}", hint=f"such as: {keyword.upper()} {such}")
    return match.group(1), match.group(2)


def _value(lines: list[str], index: int, first: str, start: int) -> tuple[str, int]:
    """The value that starts with `first`, without its quotes, and the index of the line after it."""
    if fence := _FENCE.fullmatch(first.rstrip(_BLANKS)):
        ending = f'{fence.group(1)}"""""'
        for end in range(index, len(lines)):
            if lines[end].rstrip(_BLANKS) == ending:
                return "\n".join(lines[index:end]), end + 1
        raise _error(start, f"the value that starts here is never closed by a line {ending}")
    head = first.rstrip(_BLANKS)
    quote = next((quote for quote in ('"""', '"') if first.startswith(quote)), "")
    if not quote:
        return head, index
    width = len(quote)
    if len(head) >= 2 * width and head.endswith(quote):
        return head[width:-width], index
    for end in range(index, len(lines)):
        last = lines[end].rstrip(_BLANKS)
        if last.endswith(quote):
            return "\n".join([first[width:], *lines[index:end], last[:-width]]), end + 1
    what = f"the value that starts here is never closed by a line that ends with {quote} (unexpected EOF)"
    raise _error(start, what, hint=f"nothing may follow {quote} on the last line, not even a comment")


class _Builder:
    """The Modelfile so far."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {name: [] for name in _KEYWORDS}
        self.lines: dict[str, list[int]] = {}
        self.parameters: dict[str, object] = {}
        self.load: dict[str, Any] = {}
        self.stops: list[str] = []
        self.messages: list[Message] = []
        self.warnings: list[str] = []

    def add(self, line: int, statement: str, value: str) -> None:
        keyword, _, word = statement.partition(" ")
        if keyword == "parameter":
            self._parameter(line, word.lower(), value)
        elif keyword == "message":
            self.messages.append(Message(role=_role(line, word), content=value))
        else:
            if keyword in IGNORED:
                self.warnings.append(f"(line {line + 1}): {keyword.upper()} has no effect: {IGNORED[keyword]}")
            if keyword == "requires" and VERSION.fullmatch(value) is None:
                raise _error(line, "requires must be a valid semver (e.g. 0.14.0)", hint=_shown(value))
            if keyword in ("from", "adapter"):
                self._doubt(line, keyword.upper(), value)
            self.values[keyword].append(value)
            self.lines.setdefault(keyword, []).append(line + 1)

    def _doubt(self, line: int, what: str, value: str) -> None:
        if doubt := _doubt_about(value, is_stop=what == "the stop text"):
            self.warnings.append(f"(line {line + 1}): {what} is {value[:80]} as it stands, {doubt}")

    def _parameter(self, line: int, name: str, value: str) -> None:
        if name in _WITHOUT_EFFECT:
            self.warnings.append(f"(line {line + 1}): parameter {name} {_WITHOUT_EFFECT[name]}")
        if name in LoadOptions.__struct_fields__ or name in ALSO_CALLED:
            for one in ALSO_CALLED.get(name, (name,)):
                self.load[one] = _load_option(line, one, value)
        elif name in DRAFT_NAMES:
            self.values["draft"].append(value)
            self.lines.setdefault("draft", []).append(line + 1)
        elif name == "stop":
            if not value:
                raise _error(line, "a stop text must not be empty")
            self._doubt(line, "the stop text", value)
            self.stops.append(value)
            self.parameters[name] = self.stops
        elif name in PARAMETER_TYPES:
            self.parameters[name] = self._option(line, name, value)
        elif name not in _WITHOUT_EFFECT:
            raise _unknown_parameter(line, name)

    def _option(self, line: int, name: str, value: str) -> object:
        kind = _JSON_KINDS.get(name) or PARAMETER_TYPES[name].__name__
        try:
            read = _read(name, value)
            parse_options({name: read})
        except InvalidOptionError as error:
            raise _error(line, str(error)) from error
        except (ValueError, RecursionError):  # json.loads() raises the latter for ten thousand brackets
            what = f"invalid {kind} value [{value[:80]}] for parameter '{name}'"
            raise _error(line, what, hint=_COMMENT if "#" in value else None) from None
        return read

    def modelfile(self) -> Modelfile:
        if not self.values["from"]:
            raise ModelfileError("no FROM line", hint="add a line such as: FROM ./model.gguf")
        return Modelfile(
            bases=tuple(self.values["from"]),
            options=parse_options(self.parameters)[0],
            load=LoadOptions(**self.load),
            template=_last(self.values["template"]),
            system=_last(self.values["system"]),
            adapters=tuple(self.values["adapter"]),
            draft=_last(self.values["draft"]),
            renderer=_last(self.values["renderer"]),
            parser=_last(self.values["parser"]),
            licenses=tuple(self.values["license"]),
            messages=tuple(self.messages),
            requires=_last(self.values["requires"]),
            warnings=tuple(self.warnings),
            lines=self.lines,
        )


def _last(values: list[str]) -> str | None:
    return values[-1] if values else None


def _role(line: int, word: str) -> Role:
    for role in typing.cast(tuple[Role, ...], _ROLES):
        if word == role:
            return role
    raise _error(line, 'message role must be one of "system", "user", or "assistant"')


def _load_option(line: int, name: str, value: str) -> Any:
    try:
        return parse_load_option(name, value)
    except InvalidOptionError as error:
        raise _error(line, str(error)) from error


def _doubt_about(value: str, *, is_stop: bool) -> str:
    """What of a stop text, a name or a path was probably meant otherwise; "" for nothing."""
    if len(value) > 1 and value[0] == value[-1] == "'":
        return "with its single quotes"
    if not is_stop:
        return f"with what follows the #: {_COMMENT}" if " #" in value else ""
    if value.startswith('["') and value.endswith('"]'):
        return "one text: several are several lines"
    return "with its backslash: for a line break, break the line in quotes" if "\\n" in value else ""


def _unknown_parameter(line: int, name: str) -> ModelfileError:
    if name in _FORMER:
        return _error(line, f"unknown parameter '{name}'", hint="older versions of Ollama had it: leave the line out")
    if name in NOT_YET:
        return _error(line, f"parameter '{name}' ({NOT_YET[name]}) is not supported yet", hint="leave the line out")
    there = (*PARAMETER_TYPES, *LoadOptions.__struct_fields__, *ALSO_CALLED)
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}"
    return _error(line, f"unknown parameter '{name}'", hint=hint)


def _read(name: str, text: str) -> object:
    """The value of a parameter's text. Raises ValueError when it is not of the parameter's type."""
    kind = PARAMETER_TYPES[name]
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "t", "f"):
            raise ValueError(text)
        return text.lower() in ("true", "1", "t")
    if name in _JSON_KINDS:
        return json.loads(text)
    if "_" in text:  # Python's int() reads 1_000; nobody else does
        raise ValueError(text)
    return int(text) if kind is int else float(text)


def _error(line: int, what: str, hint: str | None = None) -> ModelfileError:
    return ModelfileError(f"(line {line + 1}): {what}", hint=hint)


def _shown(line: str) -> str:
    seen = "".join(letter if letter == " " or letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return f"the line is: {seen if len(seen) <= 80 else seen[:77] + '...'}"


def write(modelfile: Modelfile) -> str:
    """The text of a Modelfile; `parse` reads it back to an equal value (of values that parse can give)."""
    lines = [f"FROM {_quoted(value)}" for value in modelfile.bases]
    lines += [f"ADAPTER {_quoted(value)}" for value in modelfile.adapters]
    for keyword in ("draft", "template", "system", "renderer", "parser"):
        lines += _optional(keyword.upper(), getattr(modelfile, keyword))
    pairs = (*parameters(modelfile.options), *load_parameters(modelfile.load))
    lines += [f"PARAMETER {name} {_quoted(text)}" for name, text in pairs]
    lines += _optional("REQUIRES", modelfile.requires)
    lines += [f"LICENSE {_quoted(value)}" for value in modelfile.licenses]
    lines += [f"MESSAGE {message.role} {_quoted(message.content)}" for message in modelfile.messages]
    return "\n".join(lines) + "\n"


def parameters(options: Options) -> tuple[tuple[str, str], ...]:
    """(name, text) of every option that is said, one pair per stop text, in the order of Options."""
    pairs: list[tuple[str, str]] = []
    for name, kind in PARAMETER_TYPES.items():
        value = getattr(options, name)
        if value is None:
            continue
        if name == "stop":
            pairs += [(name, text) for text in value]
        elif name == "logit_bias":
            pairs.append((name, json.dumps({str(token): bias for token, bias in value})))
        elif name == "dry_sequence_breakers":
            pairs.append((name, json.dumps(value, ensure_ascii=False)))
        else:
            pairs.append((name, str(value).lower() if kind is bool else repr(value)))
    return tuple(pairs)


def load_parameters(load: LoadOptions) -> tuple[tuple[str, str], ...]:
    """(name, text) of every load option that is said."""
    values = {name: getattr(load, name) for name in LoadOptions.__struct_fields__}
    return tuple((name, load_option_text(value)) for name, value in values.items() if value is not None)


def _optional(keyword: str, value: str | None) -> list[str]:
    return [] if value is None else [f"{keyword} {_quoted(value)}"]


def _quoted(value: str) -> str:
    """The plainest spelling of a value that reads back as that value."""
    label = "end"
    while f'{label}"""""' in value:
        label += "_"
    fence = f'"""""{label}\n{value}\n{label}"""""'
    for spelling in (value, f'"{value}"', f'"""{value}"""'):
        if spelling and _reads_back(spelling, value):
            return spelling
    return fence


def _reads_back(spelling: str, value: str) -> bool:
    first, *rest = spelling.split("\n")
    try:
        return _value(rest, 0, first.lstrip(_BLANKS), 0) == (value, len(rest))
    except ModelfileError:
        return False
