"""What both parsers need: the events of one answer, neighbours joined, and markers found in text that goes on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

import msgspec

from localllm.chat.tools import Call
from localllm.generation import ContentDelta, Event, ThinkingDelta, ToolCallDelta

TextKind = type[ContentDelta] | type[ThinkingDelta]


class Said:
    """What was said and not yet taken. `call_count` counts all calls; `nothing_said` holds while only thinking was."""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self.call_count = 0
        self.nothing_said = True
        self._new_call_id = new_call_id
        self._events: list[ContentDelta | ThinkingDelta | ToolCallDelta] = []

    def say(self, kind: TextKind, text: str) -> None:
        """More text of a kind, which may be empty."""
        if text:
            self._events.append(kind(text))
            self.nothing_said = self.nothing_said and kind is ThinkingDelta

    def call(self, call: Call) -> None:
        """A complete call: its name first, then its arguments."""
        self.begin(call.name)
        self.arguments(call.arguments)

    def begin(self, name: str) -> None:
        """A call begins."""
        self._events.append(ToolCallDelta(index=self.call_count, id=self._new_call_id(), name=name))
        self.call_count += 1
        self.nothing_said = False

    def arguments(self, text: str) -> None:
        """More of the JSON text of the last call's arguments, which may be none."""
        if text:
            self._events.append(ToolCallDelta(index=self.call_count - 1, arguments=text))

    def take_over(self, events: Sequence[Event]) -> None:
        """The events of another parser, whose calls count on from here."""
        for event in events:
            if isinstance(event, ToolCallDelta):
                self.call_count += event.name is not None
                self._events.append(msgspec.structs.replace(event, index=self.call_count - 1))
                self.nothing_said = False
            elif isinstance(event, (ContentDelta, ThinkingDelta)):
                self.say(type(event), event.text)

    def take(self) -> list[Event]:
        """The events since this was asked last."""
        events: list[Event] = []
        for kind, group in itertools.groupby(self._events, type):
            if kind is ToolCallDelta:
                events += group
            else:
                text = "".join(event.text for event in group if not isinstance(event, ToolCallDelta))
                events.append(ThinkingDelta(text) if kind is ThinkingDelta else ContentDelta(text))
        self._events = []
        return events


def finder(markers: Sequence[str]) -> re.Pattern[str] | None:
    """What finds the first of `markers`, and of two that begin at one place the longer."""
    ordered = sorted(markers, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def begun(text: str, start: int, markers: Sequence[str]) -> int:
    """How many characters at the end of `text`, behind `start`, may be the beginning of a marker."""
    longest = max((len(marker) - 1 for marker in markers), default=0)
    tail = text[max(start, len(text) - longest) :] if longest else ""
    if not any(marker[0] in tail for marker in markers):
        return 0
    lengths = range(len(tail), 0, -1)
    return next((n for n in lengths if any(marker.startswith(tail[-n:]) for marker in markers)), 0)
