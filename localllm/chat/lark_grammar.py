"""A client's own Lark grammar, read: what llguidance takes of Lark's language, as a tree that lark_texts.py writes.

llguidance is asked first whether it takes the grammar, and says what it does not take; so this reads good grammars
only, and forgets what says nothing about a text: priorities, aliases, marks of rules, comments.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from llguidance import LLMatcher, LLTokenizer

from localllm.chat.lark_tree import Both, Either, Grammar, Literal, Name, Node, Not, Regex, Repeated, Sequenced
from localllm.errors import BadRequestError

# Lark's own terminals that a grammar may import. Its texts in quotes have no line's end in them; llguidance's may.
_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)",
    "_EXP": "[eE][+-]?[0-9]+",
    "FLOAT": r"(?:[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)",
    "SIGNED_FLOAT": r"[+-]?(?:[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)",
    "NUMBER": r"(?:[0-9]+|\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?(?:[0-9]+|\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][+-]?[0-9]+)?",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\[^\n])*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[A-Za-z]",
    "WORD": "[A-Za-z]+",
    "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"\/\/[^\n]*",
    "C_COMMENT": r"\/\*(?:[^*]|\*+[^*\/])*\*+\/",
    "SQL_COMMENT": r"--[^\n]*",
}
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+|//[^\n]*|\#[^\n]*)
      | (?P<line>\n)
      | (?P<literal>"(?:[^"\\\n]|\\.)*"i?)
      | (?P<regex>/(?!/)(?:[^/\\\n]|\\.)+/[a-z]*)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9]+)
      | (?P<directive>%[a-z]+)
      | (?P<sign>->|\.\.|[][:|()?*+~&.,{}!-])""",
    re.VERBOSE,
)
_WORST_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
_COMPLAINT = re.compile(r"^(?:at )?(\d+)\((\d+)\): (.*)$", re.DOTALL)
_LISTING = re.compile(r"\n +\d+ \| |\n<state>")


def read_grammar(text: str) -> Grammar:
    """The grammar as a tree. Raises BadRequestError naming the line and what is wrong there."""
    if complaint := complaint_of(text):
        raise BadRequestError(complaint)
    grammar = _Reader(text).grammar()
    if "start" not in grammar.rules:
        raise BadRequestError('it has no rule "start"')
    return grammar


@functools.lru_cache(maxsize=64)
def complaint_of(text: str) -> str | None:
    """What of a grammar llguidance does not take, and where; None when it takes all of it."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(text))
    if not is_error:
        return None
    message = _LISTING.split("; ".join(messages), maxsplit=1)[0].strip()
    found = _COMPLAINT.match(message)
    said = " ".join((found[3] if found else message).split())
    return f"line {found[1]}, column {found[2]}: {said}" if found else said


def first_bytes(text: str) -> frozenset[int]:
    """The bytes that a text of a grammar may begin with; none where there is no text of it."""
    matcher = LLMatcher(_bytes(), LLMatcher.grammar_from_lark(text), log_level=0)
    bits = b"" if matcher.is_error() else matcher.compute_bitmask()
    return frozenset(byte for byte in range(256) if bits and bits[byte // 8] >> byte % 8 & 1)


@functools.cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            raise BadRequestError(
                f"line {line}: {text[at : at + 20].splitlines()[0]!r} cannot be kept in a tool's input"
            )
        if found.lastgroup != "blank":
            yield _Token(found.lastgroup, found.group(), line)
        line += found.group().count("\n")
        at = found.end()
    yield _Token("line", "\n", line)
    yield _Token("end", "", line)


class _Reader:
    """Reads tokens one after another."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._grammar = Grammar()

    def grammar(self) -> Grammar:
        while self._next.kind != "end":
            if self._next.kind == "line":
                self._at += 1
            elif self._next.kind == "directive":
                self._directive()
            else:
                self._definition()
        return self._grammar

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]

    def _skip(self, *signs: str) -> bool:
        """Go past one of these, if it is here."""
        is_here = self._next.kind in ("sign", "name") and self._next.text in signs
        self._at += is_here
        return is_here

    def _refuse(self, token: _Token) -> BadRequestError:
        shown = "the end of the line" if token.kind in ("line", "end") else f'"{token.text}"'
        return BadRequestError(f"line {token.line}: {shown} cannot be kept in a tool's input")

    def _expect(self, sign: str) -> None:
        if not self._skip(sign):
            raise self._refuse(self._next)

    def _name(self) -> str:
        token = self._take()
        if token.kind != "name":
            raise self._refuse(token)
        return token.text

    def _directive(self) -> None:
        token = self._take()
        if token.text == "%ignore":
            self._grammar.ignored.append(self._alternatives())
        elif token.text == "%import":
            self._import(token)
        elif token.text != "%llguidance" or self._take().text != "{" or self._take().text != "}":
            raise self._refuse(token)

    def _import(self, token: _Token) -> None:
        """`%import common.NAME`, `%import common.NAME -> OTHER`, `%import common (NAME, …)`."""
        if self._name() != "common":
            raise self._refuse(token)
        names: list[tuple[str, str]] = []
        if self._skip("("):
            while not self._skip(")"):
                names.append((name := self._name(), name))
                self._skip(",")
        else:
            self._expect(".")
            name = self._name()
            names.append((name, self._name() if self._skip("->") else name))
        for name, known_as in names:
            if name not in _COMMON:
                raise BadRequestError(f'line {token.line}: "common.{name}" is not known')
            self._grammar.rules[known_as] = Regex(_COMMON[name])

    def _definition(self) -> None:
        while self._skip("?", "!"):
            pass
        name = self._name()
        if self._skip("."):
            self._skip("-")
            self._take()
        self._expect(":")
        self._grammar.rules[name] = self._alternatives()

    def _alternatives(self) -> Node:
        options = [self._both()]
        while self._goes_on():
            self._at += 1
            options.append(self._both())
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _goes_on(self) -> bool:
        """Whether a bar follows, on this line or first on one of the next."""
        at = self._at
        while self._tokens[at].kind == "line":
            at += 1
        if self._tokens[at].text == "|" and self._tokens[at].kind == "sign":
            self._at = at
            return True
        return False

    def _both(self) -> Node:
        parts = [self._sequence()]
        while self._skip("&"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._next.kind in ("literal", "regex", "name") or (
            self._next.kind == "sign" and self._next.text in ("(", "[", "~")
        ):
            items.append(self._item())
        if self._skip("->"):
            self._name()
        return items[0] if len(items) == 1 else Sequenced(tuple(items))

    def _item(self) -> Node:
        if self._skip("~"):
            return Not(self._item())
        node = self._atom()
        while (repeated := self._repeated(node)) is not None:
            node = repeated
        return node

    def _atom(self) -> Node:
        token = self._take()
        if token.kind == "literal":
            if self._skip(".."):
                return Regex(f"[{_class_literal(_text_of(token.text))}-{_class_literal(_text_of(self._take().text))}]")
            return Literal(_text_of(token.text.removesuffix("i")), any_case=token.text.endswith("i"))
        if token.kind == "regex":
            expression, _, flags = token.text[1:].rpartition("/")
            return Regex(expression, flags)
        if token.kind == "name":
            return Name(token.text)
        inner = self._bracketed("]" if token.text == "[" else ")")
        return Repeated(inner, 0, 1) if token.text == "[" else inner

    def _bracketed(self, closing: str) -> Node:
        inner = self._alternatives()
        while self._next.kind == "line":
            self._at += 1
        self._expect(closing)
        return inner

    def _repeated(self, node: Node) -> Node | None:
        if self._skip("?"):
            return Repeated(node, 0, 1)
        if self._skip("*"):
            return Repeated(node, 0, None)
        if self._skip("+"):
            return Repeated(node, 1, None)
        if self._next.text == "~" and self._tokens[self._at + 1].kind == "number":
            self._at += 1
            least = int(self._take().text)
            return Repeated(node, least, int(self._take().text) if self._skip("..") else least)
        if self._skip("{"):
            return self._counted(node)
        return None

    def _counted(self, node: Node) -> Node:
        least = int(self._take().text) if self._next.kind == "number" else 0
        most: int | None = least
        if self._skip(","):
            most = int(self._take().text) if self._next.kind == "number" else None
        self._expect("}")
        return Repeated(node, least, most)


def _text_of(literal: str) -> str:
    """What a text in double quotes stands for."""
    try:
        return str(json.loads(_WORST_ESCAPE.sub(r"\\u00\1", literal), strict=False))
    except ValueError:
        raise BadRequestError(f"the text {literal} cannot be read") from None


def _class_literal(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"
