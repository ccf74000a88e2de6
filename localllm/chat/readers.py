"""Read calls that are not plain JSON objects out of text that comes in pieces.

A Reader is fed from behind the tag that begins a call. It says when it is done: `calls` are what it read, `refused` is
text that turned out to be no call, and `rest` what it did not need, both to go on with as ordinary text. A call counts
when it is complete; what stands behind it (the tags that end it) may be missing. Nothing raises, whatever the text.

The readers are generators that stop wherever the text there is does not decide, so any cutting of it gives the same.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from localllm.chat import gemma, python_calls
from localllm.chat.syntax import (
    MISMATCH,
    MORE,
    ArgumentMarkers,
    CallSyntax,
    GemmaSyntax,
    Marker,
    PythonSyntax,
    Syntax,
    TaggedSyntax,
)
from localllm.chat.tools import MAX_NESTING, Call, ObjectScanner, read_arguments
from localllm.chat.values import Schemas, argument_value

_CALL = Marker(("call:",))
_NAME = re.compile(r"[\w.\-/@]*")
_RAW_START, _RAW_END = "<![CDATA[", "]]>"  # MiniCPM 5 writes texts with markup so
_MOST_NAME_CHARACTERS = 256
_NOT_IN_KEY = re.compile(r"[<>\[\]\n\"=]")
_Wait = Generator[None, None, None]


class Reader(ABC):
    """Where reading stands. `began` is the tag that began the call."""

    def __init__(self, began: str) -> None:
        self.calls: list[Call] = []
        self.is_done = False
        self.refused = ""
        self.rest = ""
        self._buffer = ""
        self._held = [began]  # what is read of a call that is not complete
        self._ended = False
        self._run: _Wait = self._read()
        self._go_on()

    def feed(self, text: str) -> None:
        """Read on."""
        self._buffer += text
        self._go_on()

    def finish(self) -> None:
        """There is no more text."""
        self._ended = True
        self._go_on()

    def take_calls(self) -> list[Call]:
        """The calls read since this was asked last."""
        calls, self.calls = self.calls, []
        return calls

    def _go_on(self) -> None:
        if not self.is_done and next(self._run, _STOPPED) is _STOPPED:
            self.is_done = True
            self.refused, self.rest, self._buffer = "".join(self._held), self._buffer, ""
            if not self.refused.strip():
                self.refused = ""

    @abstractmethod
    def _read(self) -> _Wait:
        """Read calls from the buffer, stopping where it does not decide."""

    def _accept(self, call: Call) -> None:
        """What was read so far is a call."""
        self.calls.append(call)
        self._held.clear()

    def _take(self, length: int) -> str:
        text, self._buffer = self._buffer[:length], self._buffer[length:]
        self._held.append(text)
        return text

    def _may_wait(self) -> bool:
        return not self._ended

    def _skip_blanks(self) -> _Wait:
        while True:
            self._take(len(self._buffer) - len(self._buffer.lstrip()))
            if self._buffer or self._ended:
                return
            yield

    def _choose(self, markers: Sequence[Marker]) -> Generator[None, None, int | None]:
        """Read the first of `markers` that stands here and return its index."""
        for index, marker in enumerate(markers):
            while marker:
                end = marker.match(self._buffer)
                if end == MORE and self._may_wait():
                    yield
                    continue
                if end >= 0:
                    self._take(end)
                    return index
                break
        return None

    def _json_object(self) -> Generator[None, None, str | None]:
        """The text of the JSON object that begins here."""
        yield from self._skip_blanks()
        scanner = ObjectScanner()
        pieces: list[str] = []
        while True:
            pieces.append(self._take(scanner.feed(self._buffer)))
            if scanner.closed or scanner.broken or self._ended:
                return read_arguments("".join(pieces)) if scanner.closed else None
            yield

    def _until_balanced(self, balance: Balance) -> Generator[None, None, str | None]:
        """The text up to where its brackets are closed; None when they never are."""
        while True:
            end = balance.look(self._buffer)
            if end >= 0:
                return self._take(end)
            if end == MISMATCH or self._ended:
                return None
            yield


class Balance:
    """Finds where a bracket that opens is closed, in a text that grows. `quotes` hide brackets between two of them."""

    def __init__(self, quotes: tuple[str, ...], *, has_escapes: bool) -> None:
        escape = [r"\\."] if has_escapes else []
        self._token = re.compile("|".join([*escape, *map(re.escape, quotes), r"[\[\](){}]"]), re.DOTALL)
        self._longest = max(map(len, quotes))
        self._quotes = frozenset(quotes)
        self._quote = ""
        self._depth = 0
        self._at = 0

    def look(self, text: str) -> int:
        """Behind the closing bracket, MISMATCH for more nesting than any call has, or MORE."""
        # A quote or an escape may still be cut in two at the end, so what may be one waits.
        while found := self._token.search(text, self._at):
            token, self._at = found.group(), found.end()
            if self._quote or token in self._quotes:
                if token in self._quotes and self._quote in ("", token):
                    self._quote = "" if self._quote else token
            elif token in "[({":
                self._depth += 1
            elif token in "])}":
                self._depth -= 1
            if self._depth > MAX_NESTING:
                return MISMATCH
            if self._depth <= 0 and token in "])}" and not self._quote:
                return self._at
        self._at = max(self._at, len(text) - self._longest + (self._longest == 1 and not text.endswith("\\")))
        return MORE


_STOPPED = object()


class TaggedReader(Reader):
    """Reads TaggedSyntax."""

    def __init__(self, began: str, syntax: TaggedSyntax, schemas: Schemas) -> None:
        self._syntax = syntax
        self._schemas = schemas
        # What follows the first word of a call's end may be missing.
        self._call_end, self._call_tail = Marker(syntax.call_end.words[:1]), Marker(syntax.call_end.words[1:])
        self._left = Marker(syntax.opening[syntax.opening.index(began) + 1 :])
        super().__init__(began)

    def _read(self) -> _Wait:
        left = self._left
        while True:
            if left and (yield from self._choose([left])) is None:
                return
            call = yield from self._call()
            if call is None:
                return
            self._accept(call)
            next_left = yield from self._behind()
            if next_left is None:
                return
            left = next_left

    def _call(self) -> Generator[None, None, Call | None]:
        syntax = self._syntax
        name = yield from self._name()
        if not name:
            return None
        if syntax.after_name and (yield from self._choose([syntax.after_name])) is None:
            return None
        if syntax.arguments is None:
            text = yield from self._json_object()
        else:
            text = yield from self._arguments(name, syntax.arguments)
        return None if text is None else Call(name, text)

    def _name(self) -> Generator[None, None, str]:
        yield from self._skip_blanks()
        while True:
            found = _NAME.match(self._buffer)
            name = found.group() if found else ""
            if len(name) < len(self._buffer) or self._ended or len(name) > _MOST_NAME_CHARACTERS:
                return self._take(len(name)) if len(name) <= _MOST_NAME_CHARACTERS else ""
            yield

    def _arguments(self, name: str, markers: ArgumentMarkers) -> Generator[None, None, str | None]:
        """The JSON text of all arguments, up to and with the end of the call."""
        members: dict[str, str] = {}
        while True:
            chosen = yield from self._choose([markers.start, self._call_end])
            if chosen != 0:
                is_complete = chosen == 1 or (self._ended and not self._buffer.strip())
                if not is_complete:
                    return None
                return "{" + ", ".join(f"{key}: {value}" for key, value in members.items()) + "}"
            key = yield from self._key(markers.middle)
            if key is None:
                return None
            text = yield from self._value(markers)
            if text is None:
                return None
            members[json.dumps(key[0], ensure_ascii=False)] = self._value_of(name, key, text)

    def _value_of(self, name: str, key: tuple[str, str], text: str) -> str:
        markers = self._syntax.arguments
        is_text = self._schemas.is_text(name, key[0])
        if markers and markers.text_middle is not None:
            is_text = key[1] == markers.text_middle
        return argument_value(text, is_text)

    def _key(self, middle: Marker) -> Generator[None, None, tuple[str, str] | None]:
        """An argument's name, and what its middle says about the value."""
        first = middle.words[0][0]
        while (at := self._buffer.find(first)) < 0:
            if len(self._buffer) > _MOST_NAME_CHARACTERS or self._ended:
                return None
            yield
        key = self._take(at).strip()
        if not key or len(key) > _MOST_NAME_CHARACTERS or _NOT_IN_KEY.search(key):
            return None
        start = len(self._held)
        if (yield from self._choose([middle])) is None:
            return None
        return key, _said(middle, "".join(self._held[start:]))

    def _value(self, markers: ArgumentMarkers) -> Generator[None, None, str | None]:
        """A value up to its end marker; one that is followed by what cannot follow belongs to the value."""
        first = markers.end.words[0]
        pieces: list[str] = []
        while True:
            at = self._buffer.find(first)
            if at < 0:
                if self._ended:
                    return None
                pieces.append(self._take(max(0, len(self._buffer) - len(first) + 1)))
                yield
                continue
            verdict = self._verdict(at, markers)
            if verdict == MORE and self._may_wait():
                yield
                continue
            if verdict == MISMATCH:
                pieces.append(self._take(at + len(first)))
                continue
            pieces.append(self._take(at))
            yield from self._choose([markers.end])
            return _off_lines("".join(pieces), markers.on_lines)

    def _verdict(self, at: int, markers: ArgumentMarkers) -> int:
        """Whether a value ends at `at`: its end marker and behind it another argument, or the end of the call."""
        end = markers.end.match(self._buffer, at)
        if end < 0:
            return end
        verdicts = [marker.match(self._buffer, end) for marker in (markers.start, self._call_end) if marker]
        if any(verdict >= 0 for verdict in verdicts):
            return end
        return MORE if MORE in verdicts else MISMATCH

    def _behind(self) -> Generator[None, None, Marker | None]:
        """What is left of the opening of the next call; None when none follows. Reads the end of this one."""
        syntax = self._syntax
        if syntax.arguments is None:
            yield from self._choose([self._call_end])
        yield from self._choose([self._call_tail])
        self._held.clear()
        openings = [syntax.opening[at:] for at, word in enumerate(syntax.opening) if word in syntax.starts]
        chosen = yield from self._choose([syntax.section_end, *map(Marker, openings)])
        if chosen == 0:
            self._held.clear()
        return Marker() if chosen else None


class PythonReader(Reader):
    """Reads PythonSyntax."""

    def __init__(self, began: str, syntax: PythonSyntax) -> None:
        self._end = Marker((syntax.end,) if syntax.end else ())
        super().__init__(began)

    def _read(self) -> _Wait:
        yield from self._skip_blanks()
        if not self._buffer.startswith("["):
            return
        text = yield from self._until_balanced(Balance(("'", '"'), has_escapes=True))
        calls = python_calls.read_list(text) if text is not None else None
        if not calls:
            return
        for call in calls:
            self._accept(call)
        yield from self._choose([self._end])
        self._held.clear()


class GemmaReader(Reader):
    """Reads GemmaSyntax."""

    def __init__(self, began: str, syntax: GemmaSyntax) -> None:
        self._syntax = syntax
        super().__init__(began)

    def _read(self) -> _Wait:
        start, end = Marker((self._syntax.start,)), Marker((self._syntax.end,))
        while True:
            yield from self._skip_blanks()
            while (is_call := _CALL.match(self._buffer)) == MORE and self._may_wait():
                yield
            if is_call < 0:
                return
            text = yield from self._until_balanced(Balance((self._syntax.quote,), has_escapes=False))
            call = gemma.read_call(text, self._syntax.quote) if text is not None else None
            if call is None:
                return
            self._accept(call)
            yield from self._choose([end])
            self._held.clear()
            if (yield from self._choose([start])) is None:
                return


def open_reader(syntax: Syntax, began: str, schemas: Schemas) -> Reader:
    """The reader for calls in this syntax; calls of JSON objects are parser.py's own."""
    if isinstance(syntax, TaggedSyntax):
        return TaggedReader(began, syntax, schemas)
    if isinstance(syntax, PythonSyntax):
        return PythonReader(began, syntax)
    if isinstance(syntax, CallSyntax):
        raise TypeError("JSON objects have no reader")
    return GemmaReader(began, syntax)


def _said(middle: Marker, text: str) -> str:
    """What stands in the WILD of a marker that was read as `text`."""
    parts = "".join(middle.words).partition("\0")
    squeezed = "".join(text.split())
    return squeezed[len(parts[0]) : len(squeezed) - len(parts[2])] if parts[1] else ""


def _off_lines(text: str, on_lines: bool) -> str:
    """A value without the line breaks that set it on lines of its own, or XML's marks around raw text."""
    if text.startswith(_RAW_START) and text.endswith(_RAW_END):
        return text[len(_RAW_START) : -len(_RAW_END)]
    return text.removeprefix("\n").removesuffix("\n") if on_lines else text
