"""A call's arguments given out while the model still writes them: pieces whose whole is the JSON text of an object.

Only for calls that are held to their tools' schemas: what was given out cannot be taken back as text. A call that is
cut off leaves its client a beginning of JSON, and the end of the answer says so.
"""

from __future__ import annotations

import json

from localllm.chat.said import Said
from localllm.chat.syntax import CallSyntax, common_length
from localllm.chat.tools import Call, JsonPieces, ObjectScanner, read_call
from localllm.chat.values import RAW_START, length_of_end, without_blanks

_BLANKS = " \t\r\n"


class TextPieces:
    """A text that comes in pieces, as the JSON string it is (see values.without_blanks). `lead` stands before it."""

    def __init__(self, lead: str, before: str = "", after: str = "") -> None:
        self._lead = lead + '"'
        self._before, self._after = before, after
        self._held = ""
        self._has_begun = False

    def feed(self, text: str) -> str:
        """The next piece; what may be no part of the value waits."""
        self._held += text
        if not self._has_begun:
            if RAW_START.startswith(self._held) or self._held.startswith(RAW_START):
                return ""
            passed = common_length(self._held, self._before)
            if passed == len(self._held) < len(self._before):
                return ""
            self._held = self._held[passed:]
            self._has_begun = True
        kept = self._held[: len(self._held) - length_of_end(self._held, self._after)]
        self._held = self._held[len(kept) :]
        return self._led(kept)

    def end(self) -> str:
        """What is left of it."""
        rest = "" if self._has_begun else without_blanks(self._held, self._before, self._after)
        return self._led(rest) + '"'

    def _led(self, text: str) -> str:
        lead, self._lead = self._lead, ""
        return lead + json.dumps(text, ensure_ascii=False)[1:-1]


class ObjectCall:
    """A call that is a JSON object of name and arguments (CallSyntax), as it is read; told too for a tool in `early`.

    One after another: `begin` forgets the last. `has_begun` says that a part of this one was given out.
    """

    def __init__(self, said: Said, syntax: CallSyntax, tool_names: frozenset[str], early: frozenset[str]) -> None:
        self._said = said
        self._syntax = syntax
        self._tool_names = tool_names
        self._early = early
        self.begin()

    def begin(self) -> None:
        """A new object begins."""
        self.scanner = ObjectScanner(self._syntax.first_keys)
        self.has_begun = False
        self._pieces: list[str] = []
        self._untold = ""  # of the arguments, whose text it begins at `_told`
        self._told = 0
        self._passed = self._key = -1  # the keys of another value, and of the arguments
        self._json = JsonPieces()

    @property
    def text(self) -> str:
        """All that was read of it, and not given out."""
        return "" if self.has_begun else "".join(self._pieces)

    def feed(self, text: str, at: int = 0) -> int:
        """Read on in `text` from `at`; where reading stopped."""
        end = self.scanner.feed(text, at)
        piece = text[at:end]
        self._pieces.append(piece)
        if self._early and not self.scanner.broken:
            self._tell(piece)
        return end

    def read(self, *, any_name: bool) -> Call | None:
        """The call that the whole object is; None when it is none, or one of no known tool and not of `any_name`."""
        syntax = self._syntax
        keys = (syntax.name_key, syntax.argument_keys, syntax.inner_key)
        call = read_call("".join(self._pieces), self.scanner.members, *keys)
        return call if call is not None and (any_name or call.name in self._tool_names) else None

    def close(self, *, any_name: bool) -> Call | None:
        """The call whose last brackets are missing; None when more than that is."""
        missing = self.scanner.closers
        if missing is None:
            return None
        self.feed(missing)
        call = self.read(any_name=any_name)
        if call is None:
            self._pieces.pop()
        return call

    def _tell(self, piece: str) -> None:
        if self.has_begun:
            self._untold += piece
        elif not self._arguments_begin():
            return
        end = next((one.value_end for one in self.scanner.members if one.key_start == self._key), None)
        told = (self._untold if end is None else self._untold[: max(0, end - self._told)]).rstrip(_BLANKS)
        self._said.arguments(self._json.feed(told))
        self._untold, self._told = self._untold[len(told) :], self._told + len(told)

    def _arguments_begin(self) -> bool:
        """Whether the value that is being read is the arguments' object."""
        member = self.scanner.open_member
        if member is None or member.key_start == self._passed:
            return False
        text = "".join(self._pieces)
        value = text[member.value_start :].lstrip(_BLANKS)
        if not value:
            return False
        name = self._name(text)
        is_key = _string(text[member.key_start : member.key_end]) in self._syntax.argument_keys
        if name is None or not is_key or value[0] != "{":
            self._passed = member.key_start
            return False
        self.has_begun, self._key = True, member.key_start
        self._untold, self._told = value, len(text) - len(value)
        self._said.begin(name)
        return True

    def _name(self, text: str) -> str | None:
        for member in reversed(self.scanner.members):
            if _string(text[member.key_start : member.key_end]) == self._syntax.name_key:
                name = _string(text[member.value_start : member.value_end])
                return name if name in self._early else None
        return None


def _string(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
