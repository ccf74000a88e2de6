"""Tool calls as JSON: follow an object through text that comes in pieces, then read the call out of it.

An ObjectScanner finds where an object ends without parsing it: it knows strings, escapes and nesting, looks at every
character once, and notices text that cannot be JSON as soon as it stands there. `read_call` then checks the whole
object properly and takes the arguments' text out of it as the model wrote it, order and spelling included.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

MAX_NESTING = 256

_CALL_ID_LETTERS = string.ascii_lowercase + string.digits
_CLOSERS = {"{": "}", "[": "]"}
# Outside strings JSON has only these besides its structure: white space, numbers, true, false and null.
_NOT_FILLER = re.compile(r"[^ \t\r\n0-9+\-.eEtrufalsn]")
_STRING_TURN = re.compile(r'["\\]')
_BLANK = re.compile(r"[ \t\r\n]*")
_CONTROL = re.compile(r"[\x00-\x1f]")
_TURN = re.compile(r'["\\\x00-\x1f]')
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Call:
    """A complete call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Member:
    """Where one member of an object stands in its text: key with its quotes, and value."""

    key_start: int
    key_end: int
    value_start: int
    value_end: int


class ObjectScanner:
    """Follows one JSON object. The first character fed must be its opening brace.

        start ── { ──▶ open ── matching } ──▶ closed
                        │
                        └── a character that JSON cannot have there ──▶ broken

    With `first_keys` an object that begins with another key is broken at that key's colon. Positions in `members` count
    from the opening brace.
    """

    def __init__(self, first_keys: frozenset[str] | None = None) -> None:
        self.closed = False
        self.broken = False
        self.first_key: str | None = None
        self._first_keys = first_keys
        self.members: list[Member] = []
        self._length = 0
        self._closers: list[str] = []
        self._in_string = False
        self._escaped = False
        self._string_pieces: list[str] = []
        self._string_start = 0
        self._string_end = 0
        self._key: tuple[int, int] | None = None
        self._value_start = 0

    def feed(self, text: str, start: int = 0) -> int:
        """Read on in `text` from `start`; return where reading stopped.

        That is the text's end while the object is open, just behind the closing brace when it closes, and at the
        offending character when the object is broken.
        """
        position = start
        while position < len(text) and not (self.closed or self.broken):
            step = self._read_string if self._in_string else self._read_structure
            position = step(text, position, self._length + position - start)
        self._length += position - start
        return position

    @property
    def open_member(self) -> Member | None:
        """The member of the object whose value is being read; that value's end is not known, and told as its start."""
        return None if self._key is None else Member(*self._key, self._value_start, self._value_start)

    @property
    def closers(self) -> str | None:
        """The brackets that are missing; None inside a string, where more is."""
        return None if self._in_string or self.broken else "".join(reversed(self._closers))

    def _read_string(self, text: str, position: int, offset: int) -> int:
        """Go on inside a string; `offset` is where `position` lies in the object."""
        if self._escaped:
            self._escaped = False
            self._keep(text[position])
            return position + 1
        turn = _STRING_TURN.search(text, position)
        end = turn.start() if turn else len(text)
        self._keep(text[position:end])
        if turn is None:
            return end
        if text[end] == "\\":
            self._escaped = True
            self._keep("\\")
        else:
            self._in_string = False
            self._string_end = offset + end + 1 - position
        return end + 1

    def _keep(self, piece: str) -> None:
        # Only the first key's text is wanted before the object is complete.
        if len(self._closers) == 1 and self.first_key is None:
            self._string_pieces.append(piece)

    def _read_structure(self, text: str, position: int, offset: int) -> int:
        found = _NOT_FILLER.search(text, position) if self._may_have_filler() else _BLANK.match(text, position)
        end = len(text) if found is None else found.start() if self._may_have_filler() else found.end()
        if end < len(text):
            self._take(text[end], offset + end - position)
        return end if self.broken else min(end + 1, len(text))

    def _may_have_filler(self) -> bool:
        """Before the first key an object holds nothing but blanks: prose in braces is recognised at once."""
        return len(self._closers) > 1 or self.first_key is not None

    def _take(self, character: str, offset: int) -> None:
        """One character of structure at `offset`."""
        if not self._closers:
            self.broken = character != "{"
            self._closers.append("}")
        elif character == '"':
            self._in_string = True
            self._string_start = offset
        elif character in _CLOSERS:
            self.broken = not self._may_have_filler() or len(self._closers) >= MAX_NESTING
            self._closers.append(_CLOSERS[character])
        elif character in "}]":
            self._close(character, offset)
        elif character in ":,":
            self._divide(character, offset)
        else:
            self.broken = True

    def _close(self, character: str, offset: int) -> None:
        if self._closers[-1] != character:
            self.broken = True
            return
        if len(self._closers) == 1:
            self._end_member(offset)
            self.closed = True
        self._closers.pop()

    def _divide(self, character: str, offset: int) -> None:
        if len(self._closers) > 1:
            return
        if character == ",":
            self._end_member(offset)
        elif self._string_end == 0:
            self.broken = True
        else:
            self._key = (self._string_start, self._string_end)
            self._value_start = offset + 1
            self._meet_first_key()

    def _meet_first_key(self) -> None:
        if self.first_key is None:
            self.first_key = "".join(self._string_pieces)
            self.broken = self._first_keys is not None and self.first_key not in self._first_keys

    def _end_member(self, offset: int) -> None:
        if self._key is not None:
            self.members.append(Member(*self._key, self._value_start, offset))
            self._key = None


class JsonPieces:
    """JSON text in pieces, with the line breaks that models write into strings as they are escaped."""

    def __init__(self) -> None:
        self._in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> str:
        """The next piece."""
        parts: list[str] = []
        at = 0
        while at < len(text):
            if self._is_escaped:
                self._is_escaped = False
                parts.append(text[at])
                at += 1
                continue
            turn = _TURN.search(text, at)
            end = turn.start() if turn else len(text)
            parts.append(text[at:end])
            if turn:
                parts.append(self._turned(turn.group()))
            at = end + 1
        return "".join(parts)

    def _turned(self, character: str) -> str:
        if character == '"':
            self._in_string = not self._in_string
        elif character == "\\":
            self._is_escaped = self._in_string
        elif self._in_string:
            return json.dumps(character)[1:-1]
        return character


def read_call(
    text: str,
    members: list[Member],
    name_key: str | None,
    argument_keys: tuple[str, ...],
    inner_key: str | None = None,
) -> Call | None:
    """The call that a complete object describes, itself or under `inner_key`, or None when it describes none.

    No arguments at all are an empty object; arguments inside a JSON string are taken out of it.
    """
    document = _parse(text)
    if not isinstance(document, dict):
        return None
    if inner_key is not None and isinstance(document.get(inner_key), dict):
        inner, scanner = _raw_value(text, members, inner_key) or "", ObjectScanner()
        scanner.feed(inner)
        return read_call(inner, scanner.members, name_key, argument_keys)
    if name_key is None:
        # The only key is the name, and its value the arguments.
        name_key, argument_keys = "", tuple(document)
        document = {"": next(iter(document), None) if len(document) == 1 else None, **document}
    name = document.get(name_key)
    if not isinstance(name, str) or not name or not _is_unicode(name):
        return None
    key = next((key for key in argument_keys if key in document), None)
    if key is None or document[key] is None:
        return Call(name, "{}")
    value = document[key]
    if isinstance(value, dict):
        raw = _raw_value(text, members, key)
        return Call(name, _escape_control_characters(raw)) if raw is not None else None
    if isinstance(value, str):
        return _call_from_string(name, value.strip())
    return None


def read_arguments(text: str) -> str | None:
    """The arguments that a complete JSON object is, as written but for raw line breaks; None when it is not JSON."""
    return _escape_control_characters(text) if isinstance(_parse(text), dict) else None


def is_json(text: str) -> bool:
    """Whether a text is the JSON of any value, to the letter."""
    try:
        json.loads(text, parse_int=_zero, parse_float=_zero, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def call_ids(source: random.Random) -> Callable[[], str]:
    """A maker of ids in Ollama's form: `call_` and eight lower-case letters or digits."""
    return lambda: "call_" + "".join(source.choices(_CALL_ID_LETTERS, k=8))


def _call_from_string(name: str, value: str) -> Call | None:
    if not value:
        return Call(name, "{}")
    if isinstance(_parse(value), dict) and _is_unicode(value):
        return Call(name, _escape_control_characters(value))
    return None


def _raw_value(text: str, members: list[Member], key: str) -> str | None:
    # Of a key that stands twice the last one counts, as for every JSON parser.
    for member in reversed(members):
        if _parse(text[member.key_start : member.key_end]) == key:
            return text[member.value_start : member.value_end].strip()
    return None


def _parse(text: str) -> Any:
    """The JSON value of `text`, or None: every number is 0, and line breaks inside strings are forgiven."""
    try:
        # Numbers are only checked, so that one of a million digits costs nothing and cannot fail.
        return json.loads(text, strict=False, parse_int=_zero, parse_float=_zero, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def _zero(_: str) -> int:
    return 0


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can escape but UTF-8 cannot carry."""
    return _SURROGATE.search(text) is None


def _escape_control_characters(text: str) -> str:
    """Models write line breaks into strings as they are; strict parsers want them escaped."""
    return text if _CONTROL.search(text) is None else JsonPieces().feed(text)
