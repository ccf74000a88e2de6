"""An answer that is text with markers in it (OutputFormat without channels), piece by piece, into events.

      prompt opens thinking
               │
               ▼        end marker
           THINKING ─────────────────▶ ANSWER ◀──────────── anything else ───────────┐
               ▲   start marker, while    │ start of a call                          │
               └──── nothing is said ─────┤                                          │
                                          ▼         {           complete             │
                                     CALL_START ───────▶ CALL ────────────────▶ CALL_END
                                          │               │ ▲                        │
                             ANSWER ◀─────┴── no call ────┘ └────── next object ─────┘

Blanks around markers are eaten. Text that only looks like a marker, or like a call, is content, every character of it:
so a call is held back until its object is complete, then given out as its name and its arguments, and any way of
cutting the text into pieces gives the same events once neighbours are joined. Thinking is never searched for calls.
Marks around the answer's text (AnswerMarkers) are eaten too: its start before anything is said, and its ends when
nothing but blanks, another of them or a call follows. Each character is looked at a bounded number of times.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from localllm.chat.cursor import BLANKS, Cursor
from localllm.chat.early import ObjectCall
from localllm.chat.formats import OutputFormat
from localllm.chat.programs import with_programs
from localllm.chat.reader import Reader
from localllm.chat.readers import open_reader
from localllm.chat.said import Said, TextKind, begun, finder
from localllm.chat.syntax import AnswerMarkers, CallSyntax, PythonSyntax
from localllm.chat.tools import Call
from localllm.chat.values import schemas_of
from localllm.generation import ContentDelta, Event, ThinkingDelta, Tool

_NO_CALLS = CallSyntax(starts=())
_NO_MARKERS = AnswerMarkers("", ())


class _State(enum.Enum):
    THINKING = enum.auto()
    ANSWER = enum.auto()
    CALL_START = enum.auto()
    CALL = enum.auto()
    CALL_END = enum.auto()
    READER = enum.auto()


class MarkedParser(Cursor):
    """Parses one answer; `opens_thinking` and `opens_text` say what of it stands at the prompt's end already."""

    def __init__(
        self,
        output_format: OutputFormat,
        tools: Sequence[Tool],
        new_call_id: Callable[[], str],
        *,
        opens_thinking: bool = False,
        opens_text: bool = False,
        early: frozenset[str] = frozenset(),
        cut_short: bool = False,
    ) -> None:
        super().__init__()
        thinking = output_format.thinking
        answer = output_format.answer or _NO_MARKERS
        self.has_unfinished_call = False
        self._said = Said(new_call_id)
        self._thinking_start = thinking.start if thinking else ""
        self._thinking_end = thinking.end if thinking else ""
        syntax = output_format.calls if output_format.calls and tools else _NO_CALLS
        self._syntax, self._program = with_programs(syntax, output_format.program_mark, tools)
        # The steps below are for calls that are JSON objects; readers.py has those of all other syntaxes.
        self._calls = self._syntax if isinstance(self._syntax, CallSyntax) else _NO_CALLS
        self._schemas = schemas_of(tools)
        self._reader: Reader | None = None
        self._starts = (*self._syntax.starts, *([self._program.start] if self._program else []))
        # Before anything is said each of these may stand once; the ends count behind the start only.
        firsts = (answer.again, "" if opens_text else answer.start, "" if tools else output_format.program_mark)
        self._skippable = [mark for mark in firsts if mark]
        if thinking and thinking.ends_alone and not opens_thinking:
            self._skippable.append(thinking.end)
        self._answer = answer
        self._ends = answer.ends if opens_text or not answer.start else ()
        self._is_cut_short = cut_short
        self._second_end = ""  # of thinking, while one may follow
        self._find = finder(self._marks())
        self._tool_names = frozenset(tool.name for tool in tools)
        self._state = _State.THINKING if thinking and opens_thinking else _State.ANSWER
        self._steps = {
            _State.THINKING: self._in_thinking,
            _State.ANSWER: self._in_answer,
            _State.CALL_START: self._in_call_start,
            _State.CALL: self._in_call,
            _State.CALL_END: self._in_call_end,
            _State.READER: self._in_reader,
        }
        self._eat_blanks = self._state is _State.THINKING
        self._blanks: list[str] = []  # blanks and ends that were read, but are given out only if text follows
        self._first_end: int | None = None  # where in them the first end stands
        self._candidate: list[str] = []  # what may be a call, from its marker on
        self._early = early
        self._object = ObjectCall(self._said, self._calls, self._tool_names, early)
        self._is_marked = False
        self._in_list = False

    @property
    def call_count(self) -> int:
        """How many calls were read."""
        return self._said.call_count

    def feed(self, text: str) -> list[Event]:
        """The events that `text`, the next piece of the answer, completes."""
        # What is left over is at most the beginning of a marker, so this stays short.
        self._text, self._at = self._text[self._at :] + text, 0
        while self._at < len(self._text) and self._steps[self._state]():
            pass
        return self._said.take()

    def finish(self, *, stopped: bool = False) -> list[Event]:
        """All that was held back; if the model `stopped`, a call that lacks but its last brackets gets them."""
        events: list[Event] = []
        while self._reader is not None:
            # What a reader leaves may begin another call, but is shorter than what began this one.
            self._reader.finish(stopped=stopped)
            self.has_unfinished_call |= self._is_marked and bool(self._reader.refused)
            self._take_from_reader(self._reader)
            events += self.feed("")
        rest, self._text, self._at = self._text[self._at :], "", 0
        if self._state is _State.THINKING:
            self._said.say(ThinkingDelta, self._take_blanks() + rest)
            return [*events, *self._said.take()]
        if self._state is _State.CALL_END and not "".join(self._candidate).strip():
            self._candidate.clear()
        if self._state is _State.CALL and not (stopped and self._close_object()):
            self.has_unfinished_call |= self._is_marked
        self._reject(rest)
        if self._first_end is not None:
            del self._blanks[self._first_end :]
        self._said.say(ContentDelta, self._take_blanks())
        return [*events, *self._said.take()]

    # Each step reads on from `_at` and returns False when it needs more text than there is.

    def _in_thinking(self) -> bool:
        if self._skip_blanks():
            return True
        end = self._text.find(self._thinking_end, self._at)
        if end >= 0:
            self._speak(ThinkingDelta, end)
            self._take_blanks()
            self._at += len(self._thinking_end)
            self._state, self._eat_blanks = _State.ANSWER, True
            self._expect_second_end(self._thinking_end if self._is_cut_short else "")
            return True
        self._speak(ThinkingDelta, len(self._text) - begun(self._text, self._at, (self._thinking_end,)))
        return False

    def _in_answer(self) -> bool:
        if self._skip_blanks():
            return True
        if self._said.nothing_said and self._begins_specially():
            return True
        found = self._find.search(self._text, self._at) if self._find else None
        if found:
            self._speak(ContentDelta, found.start())
            if any(self._starts_partially(mark) for mark in self._marks()):
                return False  # it may be the beginning of a longer one yet
            self._at = found.end()
            if found.group() == self._second_end:
                self._expect_second_end("")
            elif found.group() in self._starts:
                self._begin_calls(found.group())
            else:
                self._first_end = len(self._blanks) if self._first_end is None else self._first_end
                self._blanks.append(found.group())
            return True
        firsts = (self._thinking_start, *self._skippable) if self._said.nothing_said else ()
        early = [mark for mark in firsts if mark and self._starts_partially(mark)]
        held = begun(self._text, self._at, (*self._marks(), *early))
        self._speak(ContentDelta, len(self._text) - held)
        return False

    def _begins_specially(self) -> bool:
        """Only before anything is said: blanks wait, thinking or the text may start, and a brace may be a call."""
        blanks = BLANKS.match(self._text, self._at)
        if blanks and blanks.end() > self._at:
            self._blanks.append(blanks.group())
            self._at = blanks.end()
            return True
        if self._thinking_start and self._text.startswith(self._thinking_start, self._at):
            self._take_blanks()
            self._at += len(self._thinking_start)
            self._state, self._eat_blanks = _State.THINKING, True
            return True
        if mark := next((mark for mark in self._skippable if self._text.startswith(mark, self._at)), None):
            self._skip(mark)
            return True
        if self._calls.bare and self._text[self._at] == (self._calls.opening or "{"):
            self._begin_candidate([], _State.CALL_START if self._calls.opening else _State.CALL)
            return True
        if isinstance(self._syntax, PythonSyntax) and self._syntax.bare and self._text[self._at] == "[":
            self._begin_calls(self._take(1))
            return True
        return False

    def _skip(self, mark: str) -> None:
        """Eat a mark that stands before the text."""
        self._take_blanks()
        self._at += len(mark)
        self._skippable.remove(mark)
        self._eat_blanks = True
        if mark == self._answer.start:
            self._ends = self._answer.ends
            self._find = finder(self._marks())

    def _marks(self) -> tuple[str, ...]:
        second_end = (self._second_end,) if self._second_end else ()
        return (*self._starts, *self._ends, *second_end)

    def _expect_second_end(self, end: str) -> None:
        """A model whose thinking was ended for it goes on to think, and ends that: its mark is none of the answer."""
        if end != self._second_end:
            self._second_end = end
            self._find = finder(self._marks())

    def _begin_calls(self, start: str) -> None:
        program = self._program if self._program and start == self._program.start else None
        if program is None and self._syntax is self._calls:
            self._begin_candidate([start], _State.CALL_START)
        else:
            self._reader = open_reader(program or self._syntax, start, self._schemas, early=self._early)
            self._is_marked = start in self._starts
            self._state = _State.READER

    def _in_reader(self) -> bool:
        reader = self._reader
        assert reader is not None
        reader.feed(self._take(len(self._text) - self._at))
        self._take_from_reader(reader)
        return True

    def _take_from_reader(self, reader: Reader) -> None:
        """Give out the calls a reader has read; when it has ended, go on with what it left."""
        for call in reader.take_calls():
            self._take_blanks()
            if isinstance(call, str):
                self._said.arguments(call)
            else:
                self._said.call(call)
        if reader.is_done:
            self.has_unfinished_call |= reader.is_cut
            self._reader, self._state = None, _State.ANSWER
            self._eat_blanks = not reader.refused
            self._speak_text(ContentDelta, reader.refused)
            self._text, self._at = reader.rest + self._text[self._at :], 0

    def _in_call_start(self) -> bool:
        self._collect_blanks()
        if self._at == len(self._text):
            return True
        if self._calls.opening and not self._in_list:
            if self._text[self._at] != self._calls.opening:
                return self._reject()
            self._in_list = True
            self._candidate.append(self._take(1))
            return True
        if self._text[self._at] != "{":
            return self._begin_other()
        self._begin_object()
        return True

    def _begin_other(self) -> bool:
        """What stands behind a start is no object: it may be a call in another notation."""
        if self._calls.other is None or not self._is_marked or self._in_list:
            return self._reject()
        self._reader = open_reader(self._calls.other, self._candidate.pop(0), self._schemas)
        self._reader.feed("".join(self._candidate))
        self._candidate.clear()
        self._state = _State.READER
        return True

    def _in_call(self) -> bool:
        self._at = self._object.feed(self._text, self._at)
        if self._object.scanner.broken:
            return self._reject()
        if self._object.scanner.closed:
            self._end_object()
        return True

    def _end_object(self) -> None:
        call = self._object.read(any_name=self._is_marked)
        if call is None:
            self._reject()
        else:
            self._accept(call)

    def _accept(self, call: Call) -> None:
        self._take_blanks()
        self._candidate.clear()
        if not self._object.has_begun:
            self._said.call(call)
        self._object.begin()
        self._state = _State.CALL_END

    def _close_object(self) -> bool:
        """Take the call whose last brackets are missing; False when more than that is."""
        call = self._object.close(any_name=self._is_marked)
        if call is not None:
            self._accept(call)
        return call is not None

    def _in_call_end(self) -> bool:
        self._collect_blanks()
        if self._at == len(self._text):
            return True
        syntax, character = self._calls, self._text[self._at]
        has_separator = bool("".join(self._candidate).strip())
        if character == "{" and (self._in_list or not syntax.opening):
            self._begin_object()
        elif not has_separator and self._in_list and character == syntax.closing:
            self._in_list = False
            self._candidate.clear()
            self._at += 1
        elif not has_separator and syntax.end and self._text.startswith(syntax.end, self._at):
            self._candidate.clear()
            self._at += len(syntax.end)
            self._leave_calls()
        elif not has_separator and syntax.end and self._starts_partially(syntax.end):
            return False
        elif not has_separator and character == syntax.separator and (self._in_list or not syntax.opening):
            self._candidate.append(self._take(1))
        else:
            self._leave_calls()
        return True

    def _leave_calls(self) -> None:
        """Back to the answer; a separator that separated nothing was text."""
        left_over = "".join(self._candidate)
        self._candidate.clear()
        self._state, self._in_list, self._eat_blanks = _State.ANSWER, False, True
        if left_over.strip():
            self._eat_blanks = False
            self._speak_text(ContentDelta, left_over)

    def _begin_candidate(self, read: list[str], state: _State) -> None:
        self._candidate = read
        self._is_marked = bool(read)
        self._in_list = False
        self._state = state
        if state is _State.CALL:
            self._begin_object()

    def _begin_object(self) -> None:
        self._object.begin()
        self._state = _State.CALL

    def _reject(self, rest: str = "") -> bool:
        """What was held back as a call is content after all, unless a part of it was given out as one."""
        self.has_unfinished_call |= self._object.has_begun
        text = "".join(["" if self._object.has_begun else "".join(self._candidate), self._object.text, rest])
        self._candidate.clear()
        self._object.begin()
        self._state, self._in_list, self._eat_blanks = _State.ANSWER, False, False
        self._speak_text(ContentDelta, text)
        return True

    def _skip_blanks(self) -> bool:
        """Eat blanks behind a marker; True when that used up the text."""
        if self._eat_blanks:
            self._take_leading_blanks()
            self._eat_blanks = self._at == len(self._text)
        return self._eat_blanks

    def _collect_blanks(self) -> None:
        if blanks := self._take_leading_blanks():
            self._candidate.append(blanks)

    def _speak(self, kind: TextKind, end: int) -> None:
        """Give out the text up to `end`."""
        self._speak_text(kind, self._take(end - self._at))

    def _speak_text(self, kind: TextKind, text: str) -> None:
        """Give out a text, but keep blanks at its end for the case that a marker follows."""
        if not text:
            return  # all of it may be a marker yet, and then the blanks before it are eaten
        spoken = text.rstrip()
        if spoken:
            self._said.say(kind, self._take_blanks() + spoken)
        if len(spoken) < len(text):
            self._blanks.append(text[len(spoken) :])
        if not (self._starts or self._ends or kind is ThinkingDelta):
            self._said.say(kind, self._take_blanks())

    def _take_blanks(self) -> str:
        blanks = "".join(self._blanks)
        self._blanks.clear()
        self._first_end = None
        return blanks
