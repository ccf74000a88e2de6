"""The value of one argument between its tags: texts as they are, all else as JSON.

How a value is read back is values.py's business: a text only where the argument's schema, or a word in its tag, says
so. Elsewhere what looks like JSON, or like Python's words, is that; a text there is written plainly only if it is
neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from localllm.chat.branches import branches_of, has_any_text
from localllm.chat.json_schema import Schema, kinds_of, standalone
from localllm.chat.lark import Lark, Part, Text, literal, other_than, without
from localllm.chat.lark_texts import follows_grammar, plain_text
from localllm.chat.notation import STANDARD_KEYWORDS
from localllm.chat.raw_text import LITERAL_WORDS, PLAIN_TEXT, TEXT_KEYWORDS, listed, raw_text
from localllm.chat.syntax import WILD, ArgumentMarkers
from localllm.chat.values import Schema as ReadSchema
from localllm.errors import BadRequestError

_RAW_MARK = "<![CDATA["
_TRUE_OR_FALSE = {"true": "false"}
_WORDS_OF_KIND = {"integer": "number"}


class TagValues:
    """The values of the arguments of one tool; `end` are the parts that end one."""

    def __init__(self, lark: Lark, root: Schema, markers: ArgumentMarkers, end: tuple[Part, ...]) -> None:
        self._lark = lark
        self._root = root
        self._markers = markers
        self._before = (literal(markers.before),) if markers.before else ()
        self._end = (*((literal(markers.after),) if markers.after else ()), *end)

    def alternatives(self, node: object) -> Iterator[tuple[str, tuple[Part, ...]]]:
        """The ways to write a value: the word in WILD's place in its tag, and the value with its end."""
        if (grammar := follows_grammar(node)) is not None:
            word = self._markers.text_middle or "string"
            yield word, (*self._before, *plain_text(self._lark, grammar, self._forbidden, self._end))
        elif any(WILD in word for word in self._markers.middle.words):
            for branch in branches_of(node, self._root):
                yield from self._by_word(branch)
        elif ReadSchema(node, self._root).is_text:
            for branch in branches_of(node, self._root):
                yield "", self._text(branch)
        else:
            yield "", self._json(standalone(node, self._root))
            if any(has_any_text(branch) for branch in branches_of(node, self._root)):
                yield "", self._between(other_than(without(PLAIN_TEXT, self._forbidden), LITERAL_WORDS))

    def _by_word(self, branch: Schema) -> Iterator[tuple[str, tuple[Part, ...]]]:
        """A text or JSON, as the word in the tag says."""
        text_word = self._markers.text_middle or "string"
        values = listed(branch)
        if values is not None:
            if any(isinstance(value, str) for value in values):
                yield text_word, self._text(branch)
            others: list[object] = [value for value in values if not isinstance(value, str)]
            if others:
                yield _TRUE_OR_FALSE.get(text_word, "object"), self._json({"enum": others})
            return
        for kind in kinds_of(branch):
            if kind == "string":
                yield text_word, self._text(branch)
            else:
                word = _TRUE_OR_FALSE.get(text_word, _WORDS_OF_KIND.get(kind, kind))
                narrowed = standalone({**branch, "type": kind}, self._root)
                yield word, self._json(narrowed)

    @property
    def _forbidden(self) -> tuple[str, ...]:
        return (self._markers.end.words[0],)

    def _text(self, branch: Schema) -> tuple[Part, ...]:
        if others := [name for name in branch if name in STANDARD_KEYWORDS and name not in TEXT_KEYWORDS]:
            raise BadRequestError(f"cannot be kept in this model's notation: {', '.join(others)}")
        body = raw_text(branch, self._forbidden)
        if not self._before and listed(branch) is None:
            # A reader would take it for a mark of raw text, and leave it out.
            body = Text(f"({body.body} & ~/{_RAW_MARK.replace('[', chr(92) + '[')}(?s:.*)/)")
        return self._between(body)

    def _json(self, schema: Schema | bool) -> tuple[Part, ...]:
        return self._between(self._lark.json(schema))

    def _between(self, value: Part) -> tuple[Part, ...]:
        return (*self._before, value, *self._end)
