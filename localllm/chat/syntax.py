"""How a model writes its answers and tool calls, as data. What finds it is formats.py, what reads it parser.py.

    CallSyntax      JSON objects with name and arguments:    <tool_call>{"name": …, "arguments": …}</tool_call>
    TaggedSyntax    the name between markers, then
                    a JSON object of arguments:              [TOOL_CALLS]name[ARGS]{…}
                    or each argument between markers:        <function=name><parameter=key>value</parameter></function>
    ElementSyntax   each argument an XML element, nested:    <invoke name="name"><key>value</key></invoke>
    PythonSyntax    calls as Python writes them:             [name(key='value'), other()]   or   name.call(key="value")
                    or one on each line
    GemmaSyntax     Gemma 4's own notation:                  call:name{key:<|"|>value<|"|>}
    Channels        not a syntax of calls but of answers:    a header says whether thinking, text or a call follows

Between the words of a marker any blanks may stand, or none. WILD in a marker is a short text that may be anything, such
as the number or the id of a call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WILD = "\0"
MISMATCH, MORE = -1, -2
_MOST_WILD, _MOST_BLANKS = 128, 64
# Kimi K3's tags are three tokens each, <|open|>name attribute="value"<|sep|>, and one word all the same.
_XTML = r"<\|(?:open|close)\|>[^<\[]*(?:<\|sep\|>)?"
TAG = rf"(?:{_XTML.removesuffix('?')}|<[^<>\s]+>|\[[^\[\]\s]+\])"
_PIECE = re.compile(rf"{_XTML}|<[^<>\s]*>?|\[[^\[\]\s]*\]?|[^<\[\s]+")
_CUT_TAG = re.compile(r"<[^<>\s]*\Z|\[[^\[\]<>\s]*\Z|<\|(?:open|close)\|>[^<\[]*(?:<[^<>\s]*)?\Z")
_TOKENS = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def common_length(one: str, other: str) -> int:
    """How many characters two texts share from their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


def whole_tags(text: str, at: int) -> int:
    """The place, or where the tag begins that `at` lies in."""
    cut = _CUT_TAG.search(text[:at])
    # A tag that is complete up to here is not cut, even if its last character could begin another.
    return cut.start() if cut and not re.fullmatch(TAG, cut.group()) else at


@dataclass(frozen=True, slots=True)
class Marker:
    """A text between which and other text blanks do not count; `words` is empty for a marker that is none."""

    words: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.words)

    def match(self, text: str, start: int = 0) -> int:
        """Where the marker at `start` of `text` ends, MISMATCH, or MORE when the text ends within it."""
        at = start
        for word in self.words:
            at = _match_word(word, text, _skip_blanks(text, at))
            if at < 0:
                return at
        return at


def marker(text: str, prefix: str = "") -> Marker:
    """The marker that is written as `text`; a `prefix` belongs to the tag that it stands before."""
    if not prefix:
        return Marker(tuple(_PIECE.findall(text)))
    first, *rest = text.split(prefix)
    words = list(_PIECE.findall(first))
    for part in rest:
        tag, *others = _PIECE.findall(part) or [""]
        words += [prefix + tag, *others]
    return Marker(tuple(words))


def tokens_of(text: str) -> tuple[str, ...]:
    """The tags in a text, each of which may be a token of its own; the text itself when it has none."""
    return tuple(_TOKENS.findall(text)) or (text,)


def _skip_blanks(text: str, at: int) -> int:
    end = at
    while end < len(text) and text[end].isspace() and end - at < _MOST_BLANKS:
        end += 1
    return end


def _match_word(word: str, text: str, at: int) -> int:
    for index, part in enumerate(word.split(WILD)):
        if index:
            end = at
            while end < len(text) and (text[end].isalnum() or text[end] in "_-.") and end - at < _MOST_WILD:
                end += 1
            if end == len(text):
                return MORE
            at = end
        if not text.startswith(part, at):
            return MORE if len(text) - at < len(part) and part.startswith(text[at:]) else MISMATCH
        at += len(part)
    return at


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    """What stands before and behind thinking. With `ends_alone` an answer without thinking begins with the end."""

    start: str
    end: str
    ends_alone: bool = False


@dataclass(frozen=True, slots=True)
class AnswerMarkers:
    """What stands around the text of an answer, where a template sets it apart. None of it belongs to the text.

    `start` may be empty; `ends` are tags that may follow at the text's end, in this order or some of them. `again` is
    what begins a turn anew behind thinking.
    """

    start: str
    ends: tuple[str, ...]
    again: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must come out of the vocabulary as they are: a control token alone may as well stay away."""
        own = (self.start, self.again, *self.ends)
        return tuple(tag for text in own if text not in tokens_of(text) for tag in tokens_of(text))


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How calls are written: `start opening object (separator object)* closing end`.

    Any of `starts` begins calls; opening, separator, closing and end may be empty, and what follows the last object may
    be missing. With `bare` an object that is the first thing of the answer is a call too, if it names a known tool.
    Without a `name_key` an object's only key is the name, and its value the arguments. With an `inner_key` name and
    arguments may stand in an object of their own under it, as OpenAI has it. Behind a start may also stand what `other`
    has, which is known by its not being an object.
    """

    starts: tuple[str, ...]
    opening: str = ""
    separator: str = ""
    closing: str = ""
    end: str = ""
    bare: bool = False
    name_key: str | None = "name"
    argument_keys: tuple[str, ...] = ("arguments", "parameters")
    other_keys: tuple[str, ...] = ("type", "id")
    inner_key: str | None = None
    other: PythonSyntax | ProgramSyntax | None = None

    @property
    def first_keys(self) -> frozenset[str] | None:
        """The keys an object may begin with if it is a call; None for any."""
        if self.name_key is None:
            return None
        inner = [self.inner_key] if self.inner_key else []
        return frozenset([self.name_key, *self.argument_keys, *self.other_keys, *inner])

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must come out of the vocabulary as they are."""
        starts = [tag for start in self.starts[-1:] for tag in tokens_of(start)]
        return (*self.starts[:-1], *starts, self.end)


@dataclass(frozen=True, slots=True)
class ArgumentMarkers:
    """Each argument as `start key middle value end`.

    `text_middle` is what stands in the middle's WILD when the value is a text, where the model says so. A value stands
    between the blanks `before` and `after`, such as line breaks, that are not its own.
    """

    start: Marker
    middle: Marker
    end: Marker
    text_middle: str | None = None
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class TaggedSyntax:
    """`section (lead name after_name arguments call_end)+ section_end`; arguments are one JSON object, or markers.

    A call may begin at any tag of section and lead: models leave the outer ones out.
    """

    section: Marker
    lead: Marker
    after_name: Marker
    call_end: Marker
    section_end: Marker
    arguments: ArgumentMarkers | None = None

    @property
    def opening(self) -> tuple[str, ...]:
        """All the words before the name."""
        return (*self.section.words, *self.lead.words)

    @property
    def starts(self) -> tuple[str, ...]:
        """The tags that begin a call."""
        tags = [word for word in self.opening if word[0] in "<[" and len(word) > 2]
        return tuple(dict.fromkeys(tags)) or self.opening[:1]

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must come out of the vocabulary as they are."""
        own = (self.section, self.lead, self.after_name, self.call_end, self.section_end)
        inner = (self.arguments.start, self.arguments.middle, self.arguments.end) if self.arguments else ()
        words = [word for marker in (*own, *inner) for word in marker.words if word[0] in "<["]
        return tuple(tag for word in words for tag in tokens_of(word) if WILD not in tag)


@dataclass(frozen=True, slots=True)
class ElementSyntax:
    """`section (lead name after_name element* call_end)+ section_end`, where an element is an argument.

    That is `prefix<key>value prefix</key>`, and a value that is no text is made of elements itself: those of an object
    have the names of its keys, those of a list are all called `item`. Each tag stands behind `prefix`.
    """

    section: Marker
    lead: Marker
    after_name: Marker
    call_end: Marker
    section_end: Marker
    prefix: str = ""
    item: str = "item"

    @property
    def starts(self) -> tuple[str, ...]:
        """The tags that begin a call."""
        words = (*self.section.words, *self.lead.words)
        return tuple(dict.fromkeys(word for word in words if word.startswith(f"{self.prefix}<")))

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must come out of the vocabulary as they are."""
        own = (self.section, self.lead, self.after_name, self.call_end, self.section_end)
        tags = [word.removeprefix(self.prefix) for marker in own for word in marker.words]
        return (self.prefix, *(tag for tag in tags if tag[0] == "<"))


@dataclass(frozen=True, slots=True)
class PythonSyntax:
    """`start [name(key=value, …), …] end`; with `bare` the list alone, if it is the answer's first and names a tool.

    With `on_lines` the calls stand on lines of their own instead of in a list, which the model may write all the same,
    and behind a `fence` if there is one. With a `method` it is a single call of a known tool, `start name.method(…)`.
    """

    starts: tuple[str, ...]
    end: str = ""
    bare: bool = False
    method: str = ""
    on_lines: bool = False
    fence: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must come out of the vocabulary as they are."""
        return (*self.starts, self.end)


@dataclass(frozen=True, slots=True)
class GemmaSyntax:
    """`start call:name{key:value,…} end`; texts stand between `quote`s, keys have none."""

    start: str = "<|tool_call>"
    end: str = "<tool_call|>"
    quote: str = '<|"|>'

    @property
    def starts(self) -> tuple[str, ...]:
        """The tag that begins a call."""
        return (self.start,)

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must come out of the vocabulary as they are."""
        return (self.start, self.end, self.quote)


@dataclass(frozen=True, slots=True)
class ProgramSyntax:
    """A program behind `start`, up to the answer's end: a call of `tool` that has it as its text `argument`.

    With a `method`, a call of that method of a known tool is one of that tool.
    """

    start: str
    tool: str
    argument: str
    method: str = ""


Syntax = CallSyntax | TaggedSyntax | ElementSyntax | PythonSyntax | GemmaSyntax


@dataclass(frozen=True, slots=True)
class Channels:
    """An answer as messages of its own: `(start header header_end body end)*`, the first start being the prompt's.

    A header with `recipient` and a name is that of a call, whose body is a JSON object, or in the syntax `calls`. With
    the word `thinking` it is that of thinking, with `text` or anything else that of text. An empty `recipient` makes
    a header a name as it stands. `ends` may be empty, and the last one missing.
    """

    start: str
    header_end: str
    ends: tuple[str, ...]
    text: str
    thinking: str | None = None
    recipient: str | None = None
    calls: Syntax | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that must come out of the vocabulary as they are."""
        own = [tag for text in (self.start, self.header_end, *self.ends) for tag in tokens_of(text)]
        return (*own, *(self.calls.markers if self.calls else ()))
