"""What every reader of calls has in common: text that comes in pieces, and what is to become of it.

A Reader is fed from behind the tag that begins a call. It says when it is done: `calls` are what it read, `refused` is
text that turned out to be no call, and `rest` what it did not need, both to go on with as ordinary text. A call counts
when it is complete; what stands behind it (the tags that end it) may be missing. Nothing raises, whatever the text.
A call of a tool in `early` is told in pieces: a Call with its name, then texts that go on with its arguments; one that
is not completed then `is_cut`.

The readers are generators that stop wherever the text there is does not decide, so any cutting of it gives the same.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from localllm.chat.syntax import MISMATCH, MORE, Marker
from localllm.chat.tools import MAX_NESTING, Call, JsonPieces, ObjectScanner, read_arguments

MOST_NAME_CHARACTERS = 256
Wait = Generator[None, None, None]
_NAME = re.compile(r"[\w.\-/@]*")
_STOPPED = object()


class Reader(ABC):
    """Where reading stands. `began` is the tag that began the call, and read whatever comes of it.

    So `rest` is always shorter than the text from that tag on, and who goes on with it comes to an end.
    """

    def __init__(self, began: str, *, early: frozenset[str] = frozenset()) -> None:
        assert began
        self.calls: list[Call | str] = []
        self.is_cut = False
        self.is_done = False
        self._early = early
        self._is_told = False  # a beginning of the call that is being read
        self.refused = ""
        self.rest = ""
        self._buffer = ""
        self._held = [began]  # what is read of a call that is not complete
        self._ended = False
        self._is_stopped = True
        self._run: Wait = self._read()
        self._go_on()

    def feed(self, text: str) -> None:
        """Read on."""
        self._buffer += text
        self._go_on()

    def finish(self, *, stopped: bool = True) -> None:
        """There is no more text, since the model `stopped` or was cut."""
        self._ended, self._is_stopped = True, stopped
        self._go_on()

    def take_calls(self) -> list[Call | str]:
        """The calls, or pieces of calls, read since this was asked last."""
        calls, self.calls = self.calls, []
        return calls

    def _go_on(self) -> None:
        if not self.is_done and next(self._run, _STOPPED) is _STOPPED:
            self.is_done, self.is_cut = True, self._is_told
            self.refused, self.rest, self._buffer = "".join(self._held), self._buffer, ""
            if self.is_cut or not self.refused.strip():
                self.refused = ""

    @abstractmethod
    def _read(self) -> Wait:
        """Read calls from the buffer, stopping where it does not decide."""

    def _accept(self, call: Call) -> None:
        """What was read so far is a call."""
        if not self._is_told:
            self.calls.append(call)
        self._is_told = False
        self._held.clear()

    def _tell(self, name: str, text: str) -> None:
        """More of the arguments of a call that is being read: there is no way back."""
        if name not in self._early:
            return
        self.calls.append(text if self._is_told else Call(name, text))
        self._is_told = True
        self._held.clear()

    def _take(self, length: int) -> str:
        text, self._buffer = self._buffer[:length], self._buffer[length:]
        self._held.append(text)
        return text

    def _may_wait(self) -> bool:
        return not self._ended

    def _skip_blanks(self) -> Wait:
        while True:
            self._take(len(self._buffer) - len(self._buffer.lstrip()))
            if self._buffer or self._ended:
                return
            yield

    def _name(self) -> Generator[None, None, str]:
        """The name that stands here, read; empty when none does, or one that is too long."""
        yield from self._skip_blanks()
        while True:
            found = _NAME.match(self._buffer)
            name = found.group() if found else ""
            if len(name) < len(self._buffer) or self._ended or len(name) > MOST_NAME_CHARACTERS:
                return self._take(len(name)) if len(name) <= MOST_NAME_CHARACTERS else ""
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

    def _json_object(self, name: str) -> Generator[None, None, str | None]:
        """The text of the JSON object that begins here, the arguments of a call of that name."""
        yield from self._skip_blanks()
        scanner, told = ObjectScanner(), JsonPieces() if name in self._early else None
        pieces: list[str] = []
        while True:
            pieces.append(self._take(scanner.feed(self._buffer)))
            if told and pieces[-1]:
                self._tell(name, told.feed(pieces[-1]))
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
    """Finds where a bracket that opens is closed, in a text that grows. `quotes` hide brackets between two of them.

    With `is_open` the bracket stands before the text.
    """

    def __init__(self, quotes: tuple[str, ...], *, has_escapes: bool, is_open: bool = False) -> None:
        escape = [r"\\."] if has_escapes else []
        self._token = re.compile("|".join([*escape, *map(re.escape, quotes), r"[\[\](){}]"]), re.DOTALL)
        self._longest = max(map(len, quotes))
        self._quotes = frozenset(quotes)
        self._quote = ""
        self._depth = int(is_open)
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
