"""A client's Lark grammar as that of the same texts within JSON's quotes: with `\\n` for a line's end.

Every character has one way to be written there. What has no character in it that JSON escapes stays as it is. The rest
is taken apart: an escape is a terminal of its own, for the lexer does not go back, and after a backslash it is too late
to see that a text has ended before. So what was a terminal becomes a rule, of runs of plain characters and of escapes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.chat.lark_grammar import first_bytes
from localllm.chat.lark_tree import Both, Either, Grammar, Literal, Name, Node, Not, Regex, Repeated, Sequenced
from localllm.errors import BadRequestError

# Quotes, backslashes and control characters cannot stand in JSON's texts as they are.
_ESCAPES = {character: json.dumps(character)[1:-1] for character in ['"', "\\", *map(chr, range(32))]}
_PLAIN = r"[^\x22\x5c\x00-\x1f]"
_TOKEN = re.compile(
    r"""(?P<group>\((?:\?(?:P?<[A-Za-z_]\w*>|(?P<on>[a-zA-Z]*)(?:-(?P<off>[a-zA-Z]+))?(?P<rest>[:)])))?)
      | (?P<close>\)) | (?P<bar>\|)
      | (?P<times>(?:[*+?]|\{(?P<least>[0-9]*)(?P<comma>,?)(?P<most>[0-9]*)\})\??)
      | (?P<known>\\[dDwWsS]|\\[pP](?:\{[^}]*\}|.)|\.)
      | (?P<code>\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[xuU]\{[0-9a-fA-F]+\}))
      | (?P<letter>\\[ntrfva0])
      | (?P<anchor>[\^$]|\\[AzbB])
      | (?P<class>\[)
      | (?P<plain>\\.|.)""",
    re.VERBOSE | re.DOTALL,
)
_IGNORED = Name(".")
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}


@dataclass(frozen=True, slots=True)
class _Characters:
    """One character of a class, as a regular expression says it; what of it stands plainly, and the escapes."""

    plain: str
    escapes: tuple[str, ...]


_Part = _Characters | Node


def quoted(grammar: Grammar) -> Grammar:
    """The grammar of the texts between quotes. Raises BadRequestError for what cannot be kept so."""
    return _Quoting(grammar).grammar()


class _Quoting:
    def __init__(self, grammar: Grammar) -> None:
        self._rules = grammar.rules
        self._ignored = grammar.ignored
        self._taken_apart: dict[str, bool] = {}

    def grammar(self) -> Grammar:
        rules: dict[str, Node] = {}
        for name, node in self._rules.items():
            rules[self._name(Name(name)).name] = self._node(node) if Name(name).is_terminal else self._rule(node)
        if self._ignored:
            between = Either(tuple(one for node in self._ignored for one in self._single(node)))
            rules[_IGNORED.name] = Repeated(between, 0, None)
            rules["start"] = Sequenced((_IGNORED, rules["start"]))
        return Grammar(rules)

    def _name(self, name: Name) -> Name:
        return Name(f".{name.name}") if name.is_terminal and self._has_escapes(name) else name

    def _rule(self, node: Node) -> Node:
        """With what is ignored behind each terminal, and not in those that were taken apart."""
        match node:
            case Sequenced(items):
                return Sequenced(tuple(map(self._rule, items)))
            case Either(options):
                return Either(tuple(map(self._rule, options)))
            case Repeated(item, least, most):
                return Repeated(self._rule(item), least, most)
        is_rule = isinstance(node, Name) and not node.is_terminal
        written = self._node(node)
        return written if is_rule or not self._ignored else Sequenced((written, _IGNORED))

    def _has_escapes(self, node: Node) -> bool:
        match node:
            case Literal(text):
                return any(character in _ESCAPES for character in text)
            case Regex(expression, flags):
                return _has_escapes(_parsed(expression, flags))
            case Name(name):
                if name not in self._taken_apart:
                    self._taken_apart[name] = False  # a rule that leads to itself
                    self._taken_apart[name] = self._has_escapes(self._rules[name])
                return self._taken_apart[name]
            case Not():
                return True
        return any(map(self._has_escapes, _inner(node)))

    def _node(self, node: Node) -> Node:
        match node:
            case Literal(text, any_case):
                pieces = re.findall(r'[^"\\\x00-\x1f]+|.', text, re.DOTALL)
                written = tuple(
                    Literal(_ESCAPES.get(piece, piece), any_case and piece not in _ESCAPES) for piece in pieces
                )
                return written[0] if len(written) == 1 else Sequenced(written)
            case Regex(expression, flags):
                tree = _parsed(expression, flags)
                return _spelled(tree, ends_plain=True) if _has_escapes(tree) else node
            case Name():
                return self._name(node)
            case Sequenced(items):
                return Sequenced(tuple(map(self._node, items)))
            case Either(options):
                return Either(tuple(map(self._node, options)))
            case Repeated(item, least, most):
                return Repeated(self._node(item), least, most)
        if self._has_escapes(node):
            raise BadRequestError('"&" and "~" of what JSON escapes cannot be kept in a tool\'s input')
        return node

    def _single(self, node: Node) -> list[Node]:
        """What may stand anywhere, one character at a time where it has escapes: more of it may follow anyway."""
        if isinstance(node, Name):
            return self._single(self._rules[node.name])
        if not self._has_escapes(node):
            return [node]
        inner: _Part = _parsed(node.expression, node.flags) if isinstance(node, Regex) else node
        while isinstance(inner, Repeated) and inner.least <= 1 and inner.most is None:
            inner = inner.item
        options = inner.options if isinstance(inner, Either) else (inner,)
        found: list[Node] = []
        for option in options:
            if isinstance(option, _Characters):
                found += _either(option)
            elif isinstance(option, (Regex, Name)):
                found += self._single(option)
            elif isinstance(option, Literal) and len(option.text) == 1:
                found.append(self._node(option))
            else:
                raise BadRequestError("%ignore of more than single characters cannot be kept where JSON escapes them")
        return found


def _inner(node: Node) -> Sequence[Node]:
    match node:
        case Sequenced(items) | Either(items) | Both(items):
            return items
        case Repeated(item, _, _) | Not(item):
            return (item,)
    return ()


def _has_escapes(part: _Part) -> bool:
    return bool(part.escapes) if isinstance(part, _Characters) else any(map(_has_escapes, _inner(part)))


def _either(characters: _Characters, run: str = "") -> list[Node]:
    """A character of a class, or a `run` of plain ones."""
    plain: list[Node] = [Regex(characters.plain + run)] if characters.plain else []
    return [*plain, *(Literal(escape) for escape in characters.escapes)]


def _spelled(part: _Part, *, ends_plain: bool, run: str = "") -> Node:
    """A part of an expression as rules. With `ends_plain` no plain character of the expression may follow it."""
    if isinstance(part, _Characters):
        ways = _either(part, run)
        return ways[0] if len(ways) == 1 else Either(tuple(ways))
    match part:
        case Sequenced(items):
            follows = [_is_escape(item) for item in items[1:]] + [ends_plain]
            pairs = zip(items, follows, strict=True) if items else ()
            return Sequenced(tuple(_spelled(item, ends_plain=ends) for item, ends in pairs))
        case Either(options):
            return Either(tuple(_spelled(option, ends_plain=ends_plain, run=run) for option in options))
        case Repeated(item, least, most):
            # Any number of characters are any number of runs of them, where nothing else could take the next one.
            is_any = least <= 1 and most is None and ends_plain and _is_one_class(item)
            return Repeated(_spelled(item, ends_plain=False, run="+" if is_any else ""), least, most)
    raise TypeError(type(part).__name__)


def _is_escape(part: _Part) -> bool:
    """Whether it begins with an escape."""
    if isinstance(part, Sequenced) and part.items:
        return _is_escape(part.items[0])
    return isinstance(part, _Characters) and not part.plain


def _is_one_class(part: _Part) -> bool:
    """Whether plain characters are of one class in it."""
    options = part.options if isinstance(part, Either) else (part,)
    others = [option for option in options if not _is_escape(option)]
    return len(others) <= 1 and all(isinstance(option, _Characters) for option in others)


@dataclass(frozen=True, slots=True)
class _Flags:
    any_case: bool = False
    dot_all: bool = False

    def changed(self, on: str, off: str) -> _Flags:
        if unknown := set(on + off) - set("ismu"):
            raise BadRequestError(
                f'the flag "{min(unknown)}" of a regular expression cannot be kept in a tool\'s input'
            )
        return _Flags("i" in on or (self.any_case and "i" not in off), "s" in on or (self.dot_all and "s" not in off))


@functools.lru_cache(maxsize=1024)
def _parsed(expression: str, flags: str) -> _Part:
    return _RegexReader(expression, _Flags().changed(flags, "")).either()


class _RegexReader:
    """Reads one expression, which llguidance has taken."""

    def __init__(self, expression: str, flags: _Flags) -> None:
        self._text = expression
        self._at = 0
        self._flags = flags

    def either(self) -> _Part:
        """Alternatives up to a bracket that closes, or the end."""
        options: list[list[_Part]] = [[]]
        while (found := _TOKEN.match(self._text, self._at)) is not None and found.lastgroup != "close":
            if found.lastgroup == "bar":
                self._at = found.end()
                options.append([])
            elif found["times"]:
                self._at = found.end()
                if not options[-1]:
                    raise BadRequestError(f"the regular expression {self._text} cannot be kept in a tool's input")
                options[-1].append(_times(options[-1].pop(), found))
            else:
                options[-1] += self._atom(found)
        parts = [option[0] if len(option) == 1 else Sequenced(tuple(option)) for option in options]  # type: ignore[arg-type]
        return parts[0] if len(parts) == 1 else Either(tuple(parts))  # type: ignore[arg-type]

    def _atom(self, found: re.Match[str]) -> list[_Part]:
        self._at = found.end()
        if found["group"] is not None:
            return self._group(found)
        if found["anchor"] is not None:
            raise BadRequestError(f'"{found.group()}" in a regular expression cannot be kept in a tool\'s input')
        if found["class"] is not None:
            self._at = _class_end(self._text, found.start())
            return [_class(self._text[found.start() : self._at], self._flags)]
        if found["known"] is not None:
            return [_class(found.group(), self._flags)]
        return [_class(f"\\x{{{ord(_meant(found)):x}}}", self._flags)]

    def _group(self, found: re.Match[str]) -> list[_Part]:
        before = self._flags
        self._flags = before.changed(found["on"] or "", found["off"] or "")
        if found["rest"] == ")":
            return []
        inner = self.either()
        self._at += 1
        self._flags = before
        return [inner]


def _times(part: _Part, found: re.Match[str]) -> Repeated:
    sign = found["times"][0]
    if sign != "{":
        return Repeated(part, int(sign == "+"), 1 if sign == "?" else None)  # type: ignore[arg-type]
    least = int(found["least"] or 0)
    most = int(found["most"]) if found["most"] else None if found["comma"] else least
    return Repeated(part, least, most)  # type: ignore[arg-type]


def _meant(found: re.Match[str]) -> str:
    if found["code"] is not None:
        return chr(int(found["code"][2:].strip("{}"), 16))
    return _LETTERS[found["letter"][1]] if found["letter"] is not None else found.group()[-1]


@functools.lru_cache(maxsize=4096)
def _class(text: str, flags: _Flags) -> _Characters:
    case = "(?i:" if flags.any_case else "(?:"
    first = first_bytes(f"start: /{case}{'(?s:.)' if text == '.' and flags.dot_all else text})/")
    escapes = tuple(written for character, written in _ESCAPES.items() if ord(character) in first)
    # A dot stands for itself within brackets.
    items = (r"[\s\S]" if flags.dot_all else r"[^\n]") if text == "." else text
    has_plain = any(byte >= 32 and chr(byte) not in _ESCAPES for byte in first)
    return _Characters(f"{case}[{items}&&{_PLAIN}])" if has_plain else "", escapes)


def _class_end(expression: str, start: int) -> int:
    """Where the class that begins at `start` ends; classes may stand in classes."""
    depth, at = 0, start
    while at < len(expression):
        character = expression[at]
        if character == "\\":
            at += 1
        elif character == "[":
            depth += 1
            at += expression.startswith("^", at + 1)
            at += expression.startswith("]", at + 1)  # a first one stands for itself
        elif character == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise BadRequestError(f"the regular expression {expression} cannot be read")
