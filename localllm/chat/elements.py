"""Read calls whose arguments are XML elements, nested as deep as the values are (ElementSyntax).

Whether a value is a text, an object or a list is asked of the tool's schema, and where that does not say, of the value:
what begins with an element has members, and what has only items is a list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator

from localllm.chat.reader import Reader
from localllm.chat.syntax import ElementSyntax, Marker
from localllm.chat.tools import MAX_NESTING, Call
from localllm.chat.values import Schema, Schemas, argument_value

_OPENING = re.compile(r"<([^<>/\s][^<>\s]{0,255})>")
_MOST_TAG_CHARACTERS = 260
_MOST_BLANKS = 64  # before the first element of a value
_SchemaOf = Callable[[str], Schema]
_MOST_DEPTH = MAX_NESTING // 4  # each level is a generator in a generator


class ElementReader(Reader):
    """Reads ElementSyntax."""

    def __init__(
        self, began: str, syntax: ElementSyntax, schemas: Schemas, *, early: frozenset[str] = frozenset()
    ) -> None:
        self._syntax = syntax
        self._schemas = schemas
        opening = (*syntax.section.words, *syntax.lead.words)
        self._left = Marker(opening[opening.index(began) + 1 :])
        super().__init__(began, early=early)

    def _read(self) -> Generator[None, None, None]:
        left = self._left
        while True:
            if left and (yield from self._choose([left])) is None:
                return
            call = yield from self._call()
            if call is None:
                return
            self._accept(call)
            chosen = yield from self._choose([self._syntax.section_end, self._syntax.lead])
            if chosen is not None:
                self._held.clear()
            if chosen != 1:
                return
            left = Marker()

    def _call(self) -> Generator[None, None, Call | None]:
        name = yield from self._name()
        if not name or (yield from self._choose([self._syntax.after_name])) is None:
            return None
        members = yield from self._members(
            lambda key: self._schemas.argument(name, key), self._syntax.call_end, 0, lambda text: self._tell(name, text)
        )
        if members is None:
            return None
        self._tell(name, "}" if members else "{}")
        return Call(name, _dumped(dict(members)))

    def _members(
        self, schema_of: _SchemaOf, end: Marker, depth: int, tell: Callable[[str], None] = lambda text: None
    ) -> Generator[None, None, list[tuple[str, str]] | None]:
        """Elements up to and with `end`: names, and values as JSON text. None when something else stands there."""
        members: list[tuple[str, str]] = []
        while True:
            if (yield from self._choose([end])) is not None:
                return members
            if depth == 0 and self._ended and not self._buffer.strip():
                return members  # only the end of the call is missing
            key = yield from self._opening()
            if not key or depth > _MOST_DEPTH:
                return None
            value = yield from self._value(key, schema_of(key), depth)
            if value is None:
                return None
            tell(f"{', ' if members else '{'}{json.dumps(key, ensure_ascii=False)}: {value}")
            members.append((key, value))

    def _opening(self) -> Generator[None, None, str]:
        """The name of the element that begins here, read; empty when none does."""
        yield from self._skip_blanks()
        prefix = self._syntax.prefix
        while True:
            if self._buffer.startswith(prefix) and (found := _OPENING.match(self._buffer, len(prefix))):
                self._take(found.end())
                return found.group(1)
            may_begin = self._buffer.startswith(f"{prefix}<") or f"{prefix}<".startswith(self._buffer)
            is_cut = ">" not in self._buffer[len(prefix) :] and len(self._buffer) < len(prefix) + _MOST_TAG_CHARACTERS
            if not (may_begin and is_cut and self._may_wait()):
                return ""
            yield

    def _value(self, key: str, schema: Schema, depth: int) -> Generator[None, None, str | None]:
        end = Marker((f"{self._syntax.prefix}</{key}>",))
        if not schema.is_text and (yield from self._begins_with_element(end)):
            of_item = schema.types != {"object"}
            item = self._syntax.item
            members = yield from self._members(
                lambda name: schema.item() if of_item and name == item else schema.member(name), end, depth + 1
            )
            if members is None:
                return None
            is_list = of_item and all(name == item for name, _ in members)
            return f"[{', '.join(value for _, value in members)}]" if is_list else _dumped(dict(members))
        text = yield from self._until(end.words[0])
        if text is None:
            return None
        if not text.strip() and schema.types in ({"array"}, {"object"}):
            return "[]" if schema.types == {"array"} else "{}"
        return argument_value(text, schema.is_text)

    def _begins_with_element(self, end: Marker) -> Generator[None, None, bool]:
        """Whether the value that begins here is made of elements; reads nothing."""
        prefix = self._syntax.prefix
        while True:
            text = self._buffer.lstrip()
            if end.match(text) >= 0 or len(self._buffer) - len(text) > _MOST_BLANKS:
                return False
            if text.startswith(prefix) and _OPENING.match(text, len(prefix)):
                return True
            may_begin = text.startswith(f"{prefix}<") or f"{prefix}<".startswith(text)
            is_cut = ">" not in text[len(prefix) :] and len(text) < len(prefix) + _MOST_TAG_CHARACTERS
            if not (may_begin and is_cut and self._may_wait()):
                return False
            yield

    def _until(self, end: str) -> Generator[None, None, str | None]:
        """The text up to `end`, which is read too; None when it never comes."""
        pieces: list[str] = []
        while (at := self._buffer.find(end)) < 0:
            if self._ended:
                return None
            pieces.append(self._take(max(0, len(self._buffer) - len(end) + 1)))
            yield
        pieces.append(self._take(at))
        self._take(len(end))
        return "".join(pieces)


def _dumped(members: dict[str, str]) -> str:
    """An object of values that are JSON text already."""
    return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in members.items()) + "}"
