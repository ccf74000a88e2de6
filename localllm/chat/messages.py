"""An answer that is messages with headers (Channels), piece by piece, into events.

    prompt's end ──▶ HEADER ── header_end ──▶ BODY of text, thinking or a call ── end ──▶ BETWEEN ── start ──▶ HEADER

A body goes out as it comes, but for what may be the beginning of an end or a start. That of a call is held back until
it is complete. What is no header, or no call, comes back exactly, as text. Never raises, whatever the text.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence

from localllm.chat.formats import OutputFormat
from localllm.chat.marked import MarkedParser
from localllm.chat.said import Said, begun, finder
from localllm.chat.syntax import Channels
from localllm.chat.tools import Call, JsonPieces, ObjectScanner, read_arguments
from localllm.generation import ContentDelta, Event, ThinkingDelta, Tool

_MOST_HEADER_CHARACTERS = 512
_NAME = r"([\w.\-/@]{1,256})"
_WORD = re.compile(r"\w+")


class _State(enum.Enum):
    HEADER = enum.auto()
    TEXT = enum.auto()
    THINKING = enum.auto()
    OBJECT = enum.auto()  # a call's arguments
    CALLS = enum.auto()  # a call in a syntax of its own
    BETWEEN = enum.auto()


class MessagesParser:
    """Parses one answer. `prompt` is what it follows: only its end counts, and without it that is the usual one."""

    def __init__(
        self,
        output_format: OutputFormat,
        tools: Sequence[Tool],
        new_call_id: Callable[[], str],
        *,
        prompt: str | None = None,
        opens_thinking: bool = False,
        early: frozenset[str] = frozenset(),
    ) -> None:
        assert output_format.channels is not None
        channels = output_format.channels
        self._channels: Channels = channels
        self._tools = tools
        self._tool_names = frozenset(tool.name for tool in tools)
        self._heads = tuple(name + self._channels.header_end for name in (self._channels.text, *self._tool_names))
        self._new_call_id = new_call_id
        self._said = Said(new_call_id)
        self.has_unfinished_call = False
        self._held = ""  # what stands before a body, for the case that it is no header, or that of no call
        self._name = ""
        self._gap: list[str] = []  # blanks between messages, which count only if text follows
        self._object: list[str] = []
        self._scanner = ObjectScanner()
        self._early = early
        self._told: JsonPieces | None = None  # a beginning of the call that is being read
        self._inner: MarkedParser | None = None
        self._marks = [*channels.ends, channels.start]
        find = finder(self._marks)
        assert find is not None
        self._find = find
        self._text = ""
        self._ended = False
        self._state = _State.HEADER
        if opens_thinking:
            self._state = _State.THINKING
        elif prompt is not None and not prompt.rstrip().endswith(channels.start):
            self._begin_after(prompt)
        self._steps = {
            _State.HEADER: self._in_header,
            _State.TEXT: lambda: self._in_body(ContentDelta),
            _State.THINKING: lambda: self._in_body(ThinkingDelta),
            _State.OBJECT: self._in_object,
            _State.CALLS: self._in_calls,
            _State.BETWEEN: self._in_between,
        }

    @property
    def call_count(self) -> int:
        """How many calls were read."""
        return self._said.call_count

    def feed(self, text: str) -> list[Event]:
        """The events that `text`, the next piece of the answer, completes."""
        self._text += text
        while self._text and self._steps[self._state]():
            pass
        return self._said.take()

    def finish(self, *, stopped: bool = False) -> list[Event]:
        """The answer has ended: whatever was held back comes out, as in MarkedParser."""
        self._ended = True
        events = self.feed("")
        if self._state is _State.OBJECT:
            missing = self._scanner.closers if stopped and self._object else None
            arguments = None if missing is None else read_arguments("".join([*self._object, missing]))
            if arguments is not None:
                self._tell(missing or "")
                self._accept(arguments)
            else:
                self.has_unfinished_call = True
                self._give_back()
        elif self._inner is not None:
            self._end_inner(stopped=stopped)
        elif self._state is _State.HEADER:
            # A header that says nothing at all, or the beginning of one, is no text; where names stand alone it may be.
            is_header = self._channels.recipient != "" and (not self._text.strip() or self._is_head(self._text))
            self._said.say(ContentDelta, "" if is_header else self._held + self._text)
        self._text = self._held = ""
        return [*events, *self._said.take()]

    # Each step reads on in `_text` and returns False when it needs more text than there is.

    def _in_header(self) -> bool:
        end = self._text.find(self._channels.header_end)
        if end < 0:
            if len(self._text) > _MOST_HEADER_CHARACTERS:
                return self._no_header()
            return False
        header = self._text[:end]
        if len(header) > _MOST_HEADER_CHARACTERS or not self._begin(header):
            return self._no_header()
        self._text = self._text[end + len(self._channels.header_end) :]
        return True

    def _no_header(self) -> bool:
        self._said.say(ContentDelta, self._held)
        self._held = ""
        self._state = _State.TEXT
        return True

    def _begin(self, header: str) -> bool:
        """Go into the body that a header announces; False for what is none."""
        channels = self._channels
        words = _WORD.findall(header)
        name = self._called(header)
        if name is not None:
            self._name = name
            self._held += header + channels.header_end
            self._state = _State.CALLS if channels.calls else _State.OBJECT
            self._object, self._scanner = [], ObjectScanner()
            if channels.calls:
                inner = OutputFormat(calls=channels.calls)
                self._inner = MarkedParser(inner, self._tools, self._new_call_id, early=self._early)
                self._held = ""
            return True
        if channels.recipient == "" and header.strip() != channels.text:
            return False
        self._held = ""
        self._state = _State.THINKING if channels.thinking in words else _State.TEXT
        return True

    def _called(self, header: str) -> str | None:
        """The name of the tool that a header addresses."""
        channels = self._channels
        if channels.recipient is None or not self._tools:
            return None
        if channels.recipient == "":
            name = header.strip()
            return name if name in self._tool_names else None
        # "to=functions.name" is how a tool of the client's is called, "to=name" one of the model's own.
        parts = [channels.recipient, f"{channels.recipient.partition('=')[0]}="]
        for part in parts:
            found = re.search(rf"{re.escape(part)}{_NAME}", header)
            if found and found.group(1) not in (channels.text, channels.thinking, "user", "assistant"):
                return found.group(1)
        return None

    def _in_body(self, kind: type[ContentDelta] | type[ThinkingDelta]) -> bool:
        found = self._next_mark()
        if found is None:
            return self._speak(kind)
        self._said.say(kind, self._text[: found.start()])
        return self._pass(found)

    def _pass(self, found: re.Match[str]) -> bool:
        """Go on behind a mark; False, and not behind it, while more text is to say whether it is one."""
        if not self._is_mark(found):
            self._text = self._text[found.start() :]
            return False
        self._text = self._text[found.end() :]
        is_start = found.group() == self._channels.start
        self._state = _State.HEADER if is_start else _State.BETWEEN
        self._held = found.group() if is_start else ""
        return True

    def _is_mark(self, found: re.Match[str]) -> bool:
        is_plain = found.group() != self._channels.start or self._channels.recipient != ""
        return is_plain or self._text.startswith(self._heads, found.end())

    def _next_mark(self) -> re.Match[str] | None:
        """The next mark that ends a body; text that only looks like a start is none."""
        at = 0
        while found := self._find.search(self._text, at):
            if self._is_mark(found) or self._is_head(self._text[found.end() :]):
                return found
            at = found.start() + 1  # another one may begin within it
        return None

    def _is_head(self, text: str) -> bool:
        """Whether a header stands here, or may: where names stand alone only known ones do."""
        channels = self._channels
        if channels.recipient != "":
            return any(text.lstrip().startswith(mark) for mark in ("<", "to="))
        return text.startswith(self._heads) or (not self._ended and any(head.startswith(text) for head in self._heads))

    def _speak(self, kind: type[ContentDelta] | type[ThinkingDelta]) -> bool:
        """Give out all but what may be the beginning of a mark."""
        held = 0 if self._ended else begun(self._text, 0, self._marks)
        spoken = len(self._text) - held
        self._said.say(kind, self._text[:spoken])
        self._text = self._text[spoken:]
        return False

    def _in_object(self) -> bool:
        if not self._object:
            rest = self._text.lstrip()
            self._held += self._text[: len(self._text) - len(rest)]
            self._text = rest
            if not rest:
                return False
            mark = next((mark for mark in self._marks if rest.startswith(mark)), None)
            if mark is not None:  # no arguments at all
                self._accept("{}")
                return True
            if rest[0] != "{":
                return not self._may_be_mark(rest) and self._give_back()
        end = self._scanner.feed(self._text)
        self._object.append(self._text[:end])
        self._text = self._text[end:]
        if self._scanner.broken:
            return self._give_back()
        self._tell(self._object[-1])
        if self._scanner.closed:
            arguments = read_arguments("".join(self._object))
            if arguments is None:
                return self._give_back()
            self._accept(arguments)
        return True

    def _may_be_mark(self, text: str) -> bool:
        return not self._ended and any(mark.startswith(text) for mark in self._marks)

    def _tell(self, piece: str) -> None:
        """Give out more of the arguments."""
        if self._name not in self._early:
            return
        if self._told is None:
            self._told = JsonPieces()
            self._said.begin(self._name)
        self._said.arguments(self._told.feed(piece))

    def _accept(self, arguments: str) -> None:
        if self._told is None:
            self._said.call(Call(self._name, arguments))
        self._held, self._told = "", None
        self._object = []
        self._state = _State.BETWEEN

    def _give_back(self) -> bool:
        """What was held back as a call is text after all, unless a part of it was given out as one."""
        self.has_unfinished_call |= self._told is not None
        text = "" if self._told is not None else self._held + "".join(self._object)
        self._held, self._object, self._told = "", [], None
        self._state = _State.TEXT
        self._said.say(ContentDelta, text)
        return True

    def _in_calls(self) -> bool:
        assert self._inner is not None
        found = self._next_mark()
        held = 0 if found or self._ended else begun(self._text, 0, self._marks)
        end = found.start() if found else len(self._text) - held
        self._said.take_over(self._inner.feed(self._text[:end]))
        if found is None:
            self._text = self._text[end:]
            return False
        if not self._pass(found):
            return False
        self._end_inner(stopped=True)
        return True

    def _end_inner(self, *, stopped: bool) -> None:
        assert self._inner is not None
        self._said.take_over(self._inner.finish(stopped=stopped))
        self.has_unfinished_call |= self._inner.has_unfinished_call
        self._inner = None

    def _in_between(self) -> bool:
        rest = self._text.lstrip()
        if len(rest) < len(self._text):
            self._gap.append(self._text[: len(self._text) - len(rest)])
            self._text = rest
        if not rest or self._may_be_mark(rest):
            return False
        mark = next((mark for mark in self._marks if rest.startswith(mark)), None)
        gap = "".join(self._gap)
        self._gap.clear()
        if mark is not None:
            self._held = gap + mark if mark == self._channels.start else ""
            self._text = rest[len(mark) :]
            self._state = _State.HEADER if mark == self._channels.start else _State.BETWEEN
        elif self._channels.recipient and rest.startswith("<"):
            # A model that leaves the start out goes on with the header's first tag.
            self._held, self._state = gap, _State.HEADER
        else:
            self._said.say(ContentDelta, gap)
            self._state = _State.TEXT
        return True

    def _begin_after(self, prompt: str) -> None:
        """The state behind a prompt that ends within a message."""
        _, has_start, message = prompt.rpartition(self._channels.start)
        if not has_start:
            return
        header, is_complete, _ = message.partition(self._channels.header_end)
        if not is_complete:
            self._text = header
        elif self._begin(header) and self._inner is None and self._state is not _State.OBJECT:
            return
        else:
            self._state = _State.TEXT
