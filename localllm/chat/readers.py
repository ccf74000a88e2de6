"""Read calls that are not plain JSON objects: between tags, in Python's notation, in Gemma's. XML is elements.py's."""

from __future__ import annotations

import json
import re
from collections.abc import Generator

from localllm.chat import gemma, python_calls
from localllm.chat.early import TextPieces
from localllm.chat.elements import ElementReader
from localllm.chat.reader import MOST_NAME_CHARACTERS, Balance, Reader, Wait
from localllm.chat.syntax import (
    MISMATCH,
    MORE,
    ArgumentMarkers,
    CallSyntax,
    ElementSyntax,
    GemmaSyntax,
    Marker,
    ProgramSyntax,
    PythonSyntax,
    Syntax,
    TaggedSyntax,
)
from localllm.chat.tools import Call
from localllm.chat.values import Schemas, argument_value, without_blanks

_CALL, _COMMA = Marker(("call:",)), Marker((",",))
_FENCE_END = "```"
_NOT_IN_KEY = re.compile(r"[<>\[\]\n\"=]")


class TaggedReader(Reader):
    """Reads TaggedSyntax."""

    def __init__(
        self, began: str, syntax: TaggedSyntax, schemas: Schemas, *, early: frozenset[str] = frozenset()
    ) -> None:
        self._syntax = syntax
        self._schemas = schemas
        # What follows the first word of a call's end may be missing.
        self._call_end, self._call_tail = Marker(syntax.call_end.words[:1]), Marker(syntax.call_end.words[1:])
        self._left = Marker(syntax.opening[syntax.opening.index(began) + 1 :])
        super().__init__(began, early=early)

    def _read(self) -> Wait:
        left = self._left
        while True:
            if (
                left
                and (yield from self._choose(_with_and_without_namespace(left))) is None
                and not _is_namespace(left)
            ):
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
            text = yield from self._json_object(name)
        else:
            text = yield from self._arguments(name, syntax.arguments)
        return None if text is None else Call(name, text)

    def _arguments(self, name: str, markers: ArgumentMarkers) -> Generator[None, None, str | None]:
        """The JSON text of all arguments, up to and with the end of the call."""
        members: dict[str, str] = {}
        while True:
            chosen = yield from self._choose([markers.start, self._call_end])
            if chosen != 0:
                is_complete = chosen == 1 or (self._ended and not self._buffer.strip())
                if not is_complete:
                    return None
                self._tell(name, "}" if members else "{}")
                return "{" + ", ".join(f"{key}: {value}" for key, value in members.items()) + "}"
            key = yield from self._key(markers.middle)
            if key is None:
                return None
            quoted, is_text = json.dumps(key[0], ensure_ascii=False), self._is_text(name, key)
            lead = f"{', ' if members else '{'}{quoted}: "
            told = TextPieces(lead, markers.before, markers.after) if is_text and name in self._early else None
            text = yield from self._value(name, markers, told)
            if text is None:
                return None
            members[quoted] = argument_value(text, is_text)
            self._tell(name, told.end() if told else lead + members[quoted])

    def _is_text(self, name: str, key: tuple[str, str]) -> bool | None:
        markers = self._syntax.arguments
        if markers and markers.text_middle is not None:
            return key[1] == markers.text_middle
        return self._schemas.argument(name, key[0]).is_text

    def _key(self, middle: Marker) -> Generator[None, None, tuple[str, str] | None]:
        """An argument's name, and what its middle says about the value."""
        first = middle.words[0][0]
        while (at := self._buffer.find(first)) < 0:
            if len(self._buffer) > MOST_NAME_CHARACTERS or self._ended:
                return None
            yield
        key = self._take(at).strip()
        if not key or len(key) > MOST_NAME_CHARACTERS or _NOT_IN_KEY.search(key):
            return None
        start = len(self._held)
        if (yield from self._choose([middle])) is None:
            return None
        return key, _said(middle, "".join(self._held[start:]))

    def _value(self, name: str, markers: ArgumentMarkers, told: TextPieces | None) -> Generator[None, None, str | None]:
        """A value up to its end marker; one that is followed by what cannot follow belongs to the value."""
        first = markers.end.words[0]
        pieces: list[str] = []

        def take(length: int) -> None:
            pieces.append(self._take(length))
            if told and (text := told.feed(pieces[-1])):
                self._tell(name, text)

        while True:
            at = self._buffer.find(first)
            if at < 0:
                if self._ended:
                    take(len(self._buffer) if self._is_told else 0)
                    return None
                take(max(0, len(self._buffer) - len(first) + 1))
                yield
                continue
            verdict = self._verdict(at, markers)
            if verdict == MORE and self._may_wait():
                yield
                continue
            if verdict == MISMATCH:
                take(at + len(first))
                continue
            take(at)
            yield from self._choose([markers.end])
            return without_blanks("".join(pieces), markers.before, markers.after)

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
        begun = [one for words in openings for one in _with_and_without_namespace(Marker(words))]
        chosen = yield from self._choose([syntax.section_end, *begun])
        if chosen == 0:
            self._held.clear()
        return Marker() if chosen else None


class PythonReader(Reader):
    """Reads PythonSyntax; a list without a tag began with its bracket."""

    def __init__(self, began: str, syntax: PythonSyntax, schemas: Schemas) -> None:
        self._end = Marker((syntax.end,) if syntax.end else ())
        self._is_bare = began not in syntax.starts
        self._method = syntax.method
        self._is_on_lines = syntax.on_lines
        self._fence = Marker((syntax.fence,) if syntax.fence else ())
        self._schemas = schemas
        super().__init__(began)

    def _read(self) -> Wait:
        if self._method:
            yield from self._one_call()
            return
        if not self._is_bare:
            yield from self._choose([self._fence])
            yield from self._skip_blanks()
            if not self._buffer.startswith("["):
                yield from self._calls_on_lines() if self._is_on_lines else ()
                return
            self._take(1)
        text = yield from self._until_balanced(Balance(("'", '"'), has_escapes=True, is_open=True))
        calls = python_calls.read_list(f"[{text}") if text is not None else None
        if not calls or (self._is_bare and not any(call.name in self._schemas.parameters for call in calls)):
            return
        for call in calls:
            self._accept(call)
        yield from self._choose(self._ends)
        self._held.clear()

    @property
    def _ends(self) -> list[Marker]:
        """What may stand behind the last call: the end of a fence, and that of the calls, or one of them."""
        fence = Marker((_FENCE_END,)) if self._fence else Marker()
        return [Marker((*fence.words, *self._end.words)), self._end, fence]

    def _calls_on_lines(self) -> Wait:
        """Calls one after the other, without the brackets of a list."""
        while name := (yield from self._name()):
            if not self._buffer.startswith("("):
                return
            text = yield from self._until_balanced(Balance(("'", '"'), has_escapes=True))
            calls = python_calls.read_list(f"[zcall{text}]") if text is not None else None
            if not calls:
                return
            self._accept(Call(name, calls[0].arguments))
            yield from self._choose([_COMMA])
            if (yield from self._choose(self._ends)) is not None:
                self._held.clear()
                return

    def _one_call(self) -> Wait:
        """A call of a method of a known tool; anything else may be a program."""
        written = yield from self._name()
        name = written.removesuffix(self._method)
        if name == written or name not in self._schemas.parameters or not self._buffer.startswith("("):
            return
        text = yield from self._until_balanced(Balance(("'", '"'), has_escapes=True))
        calls = python_calls.read_list(f"[zcall{text}]") if text is not None else None
        if calls:
            self._accept(Call(name, calls[0].arguments))


class ProgramReader(PythonReader):
    """Reads ProgramSyntax: what is no call of a known tool's method is a program."""

    def __init__(self, began: str, syntax: ProgramSyntax, schemas: Schemas) -> None:
        self._program = syntax
        super().__init__(began, PythonSyntax((began,), method=syntax.method), schemas)

    def _read(self) -> Wait:
        if self._method:
            yield from self._one_call()
            if self.calls:
                return
        while not self._ended:
            yield
        text = "".join([*self._held[1:], self._buffer]).strip("\r\n")
        if self._is_stopped and text.strip():
            self._take(len(self._buffer))
            arguments = json.dumps({self._program.argument: text}, ensure_ascii=False)
            self._accept(Call(self._program.tool, arguments))


class GemmaReader(Reader):
    """Reads GemmaSyntax."""

    def __init__(self, began: str, syntax: GemmaSyntax) -> None:
        self._syntax = syntax
        super().__init__(began)

    def _read(self) -> Wait:
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


def open_reader(
    syntax: Syntax | ProgramSyntax, began: str, schemas: Schemas, *, early: frozenset[str] = frozenset()
) -> Reader:
    """The reader for calls in this syntax; calls of JSON objects are parser.py's own.

    Told `early` are arguments that stand one after the other; Python's and Gemma's notation is read whole.
    """
    if isinstance(syntax, TaggedSyntax):
        return TaggedReader(began, syntax, schemas, early=early)
    if isinstance(syntax, ElementSyntax):
        return ElementReader(began, syntax, schemas, early=early)
    if isinstance(syntax, PythonSyntax):
        return PythonReader(began, syntax, schemas)
    if isinstance(syntax, ProgramSyntax):
        return ProgramReader(began, syntax, schemas)
    if isinstance(syntax, CallSyntax):
        raise TypeError("JSON objects have no reader")
    return GemmaReader(began, syntax)


def _is_namespace(marker: Marker) -> bool:
    """Whether it is only the beginning of a name, such as Kimi K2's "functions.", which models leave out."""
    return len(marker.words) == 1 and marker.words[0].endswith(".")


def _with_and_without_namespace(marker: Marker) -> list[Marker]:
    has_namespace = len(marker.words) > 1 and marker.words[-1].endswith(".")
    return [marker, Marker(marker.words[:-1])] if has_namespace else [marker]


def _said(middle: Marker, text: str) -> str:
    """What stands in the WILD of a marker that was read as `text`."""
    parts = "".join(middle.words).partition("\0")
    squeezed = "".join(text.split())
    return squeezed[len(parts[0]) : len(squeezed) - len(parts[2])] if parts[1] else ""
