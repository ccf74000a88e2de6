"""The source of a Go template as text and tokens. Knows where an action ends, not what it means.

text {{- tokens -}} text        "{{- " takes the blanks before it away, " -}}" those behind it
{{/* comment */}}               gone, with the same trim marks
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal as OneOf

from localllm.errors import TemplateError

Kind = OneOf["text", "open", "close", "word", "field", "dot", "variable", "literal", "mark"]

_BLANKS = " \t\r\n"
_COMMENT = re.compile(r"\{\{(?P<left>-[ \t\r\n]+)?/\*.*?\*/(?P<right>[ \t\r\n]+-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+)
    |(?P<close>(?<=[ \t\r\n])-\}\}|\}\})
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<rune>'(?:[^'\\\n]|\\[^x]|\\x[0-9a-fA-F]{2})')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<mark>:=|=|,|\||\(|\))""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|x(?P<byte>[0-9a-fA-F]{2})|(?P<octal>[0-7]{3})|(?P<one>.))",
    re.DOTALL,
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_MOST_DIGITS = 100


@dataclass(frozen=True, slots=True)
class Token:
    """One piece. `text` is what was written, `value` what a literal stands for; `spaced`: a blank stands before it."""

    kind: Kind
    text: str
    line: int
    value: object = None
    spaced: bool = False


def tokens(source: str) -> Iterator[Token]:
    """Text, and each action as "open", its tokens, "close". Raises TemplateError."""
    position, line, trims = 0, 1, False
    while True:
        start = source.find("{{", position)
        text = source[position : start if start >= 0 else len(source)]
        shown = text.lstrip(_BLANKS) if trims else text
        trims_left = (
            start >= 0 and source.startswith("-", start + 2) and source[start + 3 : start + 4] in tuple(_BLANKS)
        )
        if trims_left:
            shown = shown.rstrip(_BLANKS)
        if shown:
            yield Token("text", shown, line)
        line += text.count("\n")
        if start < 0:
            return
        if comment := _COMMENT.match(source, start):
            position, trims = comment.end(), comment["right"] is not None
            line += comment.group().count("\n")
            continue
        if re.match(r"-?[ \t\r\n]*/\*", source[start + 2 : start + 200]):
            raise error(line, 'a comment must start right behind "{{" and end with "*/}}"')
        yield Token("open", "{{", line)
        position = start + (3 if trims_left else 2)
        for token in _action(source, position, line):
            yield token
            line = token.line
            if token.kind == "close":
                assert isinstance(token.value, int)
                position, trims = token.value, token.text != "}}"


def _action(source: str, position: int, line: int) -> Iterator[Token]:
    """The tokens up to and with "close", whose value is where the text goes on."""
    opened, spaced = line, False
    while True:
        match = _TOKEN.match(source, position)
        if match is None:
            if position >= len(source):
                raise error(opened, "an action is never closed by }}")
            raise error(line, f"unexpected {source[position : position + 10]!r} in an action")
        kind, text = match.lastgroup, match.group()
        position = match.end()
        if kind == "blank":
            spaced = True
        elif kind == "close":
            yield Token("close", text, line, position)
            return
        elif kind in ("field", "dot", "variable", "word", "mark"):
            yield Token(kind, text, line, spaced=spaced)  # type: ignore[arg-type]
        else:
            yield Token("literal", text, line, _value(kind or "", text, line), spaced)
        if kind != "blank":
            spaced = False
        line += text.count("\n")


def _value(kind: str, text: str, line: int) -> object:
    if kind == "raw":
        return text[1:-1].replace("\r", "")
    if kind == "string":
        return _unescaped(text[1:-1], line)
    if kind == "rune":
        return ord(_unescaped(text[1:-1], line))
    if len(text) > _MOST_DIGITS:
        raise error(line, f"the number {text[:20]}… is too long")
    if re.fullmatch(r"[+-]?0[xX][0-9a-fA-F]+", text):
        return int(text, 16)
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def _unescaped(text: str, line: int) -> str:
    def replaced(match: re.Match[str]) -> str:
        if one := match["one"]:
            if one not in _ESCAPED:
                raise error(line, f"unknown escape \\{one} in a string")
            return _ESCAPED[one]
        code = match["short"] or match["long"] or match["byte"]
        number = int(code, 16) if code else int(match["octal"], 8)
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise error(line, f"{match.group()} in a string is no character")
        return chr(number)

    return _ESCAPE.sub(replaced, text)


def error(line: int, what: str) -> TemplateError:
    """The error for something wrong in a line of a template."""
    return TemplateError(f"line {line} of the chat template: {what}")
