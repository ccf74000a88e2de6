"""Write grammars in llguidance's dialect of Lark, piece by piece. What they say is decided elsewhere.

A grammar is made of parts: Text is read letter by letter, Special is one token of the vocabulary's own, Rule stands for
parts that have a name. Neighbouring texts become one terminal: the lexer reads the longest text that a terminal has,
and two that follow each other could take letters from one another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llguidance import regex_to_lark

from localllm.chat.json_schema import bounds_as_floats

# Between two parts of JSON: nothing, a space, or a new line and its indentation. Without a bound a weak model that may
# not end its turn there writes white space for ever.
JSON_BLANKS = r"( |\n[ \t]{0,48})?"
ANY_CHARACTERS = "(?s:.*)"
_TAG = r"<[^<>\s]+>|\[[^\[\]\s]+\]"
# Rust's regular expressions take a backslash before any ASCII punctuation but these two.
_STRUCTURE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()]|[^\\\[()]+", re.DOTALL)
_NEEDS_ESCAPE = re.compile(r"[!-/:;=?-@\[-^`{-~]")


@dataclass(frozen=True, slots=True)
class Text:
    """What a terminal may be made of: strings in double quotes, /regular expressions/, groups."""

    body: str


@dataclass(frozen=True, slots=True)
class Special:
    """One token that stands for itself and not for its letters."""

    token: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule by its name."""

    name: str


Part = Text | Special | Rule
BLANKS = Text(r"/[ \t\n]{0,4}/")
SPACE = Text('" "')
NOTHING: tuple[Part, ...] = ()


def literal(text: str) -> Text:
    """This text."""
    return Text(json.dumps(text, ensure_ascii=False))


def pattern(expression: str) -> Text:
    """What a regular expression matches; one that is ours, in Rust's syntax."""
    return Text(f"/{expression}/")


def any_of(texts: Sequence[Text]) -> Text:
    """One of several texts."""
    return texts[0] if len(texts) == 1 else Text(f"({' | '.join(text.body for text in texts)})")


def maybe(*texts: Text) -> Text:
    """These texts, or nothing."""
    return Text(f"({' '.join(text.body for text in texts)})?")


def without(text: Text, forbidden: Sequence[str]) -> Text:
    """What `text` allows and what has none of the `forbidden` texts in it."""
    excluded = "".join(f" & ~/{ANY_CHARACTERS}{escaped(one)}{ANY_CHARACTERS}/" for one in forbidden)
    return Text(f"({text.body}{excluded})") if excluded else text


def other_than(text: Text, words: Sequence[str]) -> Text:
    """What `text` allows but for these words."""
    listed = " | ".join(literal(word).body for word in words)
    return Text(f"({text.body} & ~({listed}))") if words else text


def escaped(text: str) -> str:
    """A regular expression for this text."""
    found = _NEEDS_ESCAPE.sub(lambda character: "\\" + character.group(), text)
    return found.replace("\n", r"\n").replace("\t", r"\t").replace("\r", r"\r")


def searched(expression: str) -> str | None:
    """A JSON Schema's pattern as one for the whole text; None for one whose anchors cannot be moved to its ends."""
    anchored_start, anchored_end = expression.startswith("^"), bool(re.search(r"(?<!\\)(?:\\\\)*\$\Z", expression))
    inner = expression[anchored_start : len(expression) - anchored_end]
    has_choices = "|" in inner and not _is_one_group(inner)
    if re.search(r"(?<!\\)(?:\\\\)*[$^](?!\])", re.sub(r"\[\^", "[", inner)) or (
        (anchored_start or anchored_end) and has_choices
    ):
        return None
    start, end = ("" if anchored else ANY_CHARACTERS for anchored in (anchored_start, anchored_end))
    return f"{start}(?:{regex_to_lark(inner, 'dw')}){end}"


def _is_one_group(expression: str) -> bool:
    """Whether it is `(?:…)`, and that bracket closes at its end only."""
    depth = 0
    for found in _STRUCTURE.finditer(expression):
        depth += {"(": 1, ")": -1}.get(found.group(), 0)
        if depth == 0:
            return expression.startswith("(?:") and found.end() == len(expression)
    return False


class Marks(Protocol):
    """What a vocabulary has for marks."""

    def special_token(self, text: str) -> int | None:
        """The token that is this mark and no text."""

    def is_end_of_generation(self, token: int) -> bool:
        """Whether the turn ends with it."""


class Lark:
    """One grammar. `marks` tell which tokens marks are; besides tags, the `known` texts may be marks."""

    def __init__(self, marks: Marks, known: Sequence[str] = ()) -> None:
        self.marks = marks
        self._special_token = marks.special_token
        self._mark = re.compile("|".join([*map(re.escape, sorted(known, key=len, reverse=True)), _TAG]))
        self._lines: list[str] = []
        self._names: dict[str, str] = {}

    def mark(self, text: str) -> tuple[Part, ...]:
        """A text in which the vocabulary's own marks are the tokens they are."""
        parts: list[Part] = []
        at = 0
        for tag in self._mark.finditer(text):
            token = self._special_token(tag.group())
            if token is not None:
                parts += [literal(text[at : tag.start()])] if tag.start() > at else []
                parts.append(Special(token))
                at = tag.end()
        return (*parts, literal(text[at:])) if at < len(text) else tuple(parts)

    def end_words(self, words: Sequence[str]) -> list[str]:
        """The words of a mark that ends something, up to one that ends the turn: that may stand where none is said."""
        kept: list[str] = []
        for word in words:
            token = self._special_token(word)
            if token is not None and self.marks.is_end_of_generation(token):
                break
            kept.append(word)
        return kept

    def words(self, words: Sequence[str], before: str = "") -> tuple[Part, ...]:
        """The words of a mark, with the blanks that may stand between them. `before` is the word before them."""
        parts: list[Part] = []
        for word in words:
            if before and not (word[0] in '">=:' and before[-1] not in ">]"):
                parts.append(SPACE if word[0].isalpha() and before[-1] not in ">]=:." else BLANKS)
            parts += self.mark(word)
            before = word
        return tuple(parts)

    def sequence(self, *parts: Part) -> str:
        """Parts one after another, as an expression."""
        items: list[str] = []
        texts: list[str] = []
        for part in (*parts, None):
            if isinstance(part, Text):
                texts.append(part.body)
                continue
            if texts:
                items.append(self._named("T", " ".join(texts)))
                texts = []
            if isinstance(part, Special):
                items.append(f"<[{part.token}]>")
            elif part is not None:
                items.append(part.name)
        return " ".join(items) or '""'

    def rule(self, *alternatives: str) -> Rule:
        """A rule of these expressions."""
        return Rule(self._named("r", " | ".join(alternatives)))

    def open_rule(self) -> tuple[Rule, Callable[[str], None]]:
        """A rule whose expression is said later, for one that leads to itself."""
        name = f"r{len(self._lines)}"
        place = len(self._lines)
        self._lines.append("")

        def define(expression: str) -> None:
            self._lines[place] = f"{name}: {expression}"

        return Rule(name), define

    def lark(self, text: str) -> Rule:
        """What another grammar allows."""
        return Rule(self._named("l", f"%lark {{\n{text}\n}}"))

    def json(self, schema: Mapping[str, object] | bool) -> Rule:
        """JSON that a schema allows."""
        said = schema if isinstance(schema, Mapping) else {} if schema else {"enum": []}
        options = said.get("x-guidance")
        own = {"whitespace_pattern": JSON_BLANKS, **(options if isinstance(options, dict) else {})}
        kept = bounds_as_floats({**said, "x-guidance": own})
        return Rule(self._named("j", f"%json {json.dumps(kept, ensure_ascii=False)}"))

    def _named(self, letter: str, body: str) -> str:
        name = self._names.get(body)
        if name is None:
            name = self._names[body] = f"{letter}{len(self._lines)}"
            self._lines.append(f"{name}: {body}")
        return name

    def text(self, start: str) -> str:
        """The grammar, which begins with the expression `start`."""
        text = "\n".join(["%llguidance {}", f"start: {start}", *self._lines, ""])
        return text.replace("\x7f", "\\u007f")  # the one control character that JSON leaves as it is, and Lark refuses
