"""The syntax of calls that are not plain JSON objects, read off what a template writes for known ones.

`written` renders calls and gives back what the template wrote for them. Where name, keys and values stand in it is
known, so all else is the template's own: markers. Two calls show what stands between calls, a number what a template
says about the kind of a value. What was found must read its own examples back, or it is not the syntax.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.chat.readers import open_reader
from localllm.chat.syntax import (
    WILD,
    ArgumentMarkers,
    ElementSyntax,
    GemmaSyntax,
    Marker,
    PythonSyntax,
    Syntax,
    TaggedSyntax,
    common_length,
    marker,
)
from localllm.chat.values import Schemas
from localllm.generation import ToolCall

FIRST_NAME, SECOND_NAME = "zcalled_tool", "zother_tool"
_IDS = ("abcd12345", "efgh67890")
_KEYS, _TEXT, _NUMBER = ("zargument", "zfurther"), "zvalue", 77177
_CUT_TAG = re.compile(r"<[^<>\s]*\Z|\[[^\[\]\s]*\Z")
_MOST_OPENING_CHARACTERS = 128

_GEMMA = re.compile(
    r"(?P<start><[^<>\s]+>)call:zcalled_tool\{zargument:(?P<quote><[^\s:,{}]+>)zvalue(?P=quote),.*\}(?P<end><[^<>\s]+>)"
)

_FENCE = re.compile(r"\s*(?P<fence>```\w*)\s*\Z")
# Llama 4's pythonic template and its kin write texts without quotes, which no model does.
_PYTHON_CALL = re.compile(rf"{FIRST_NAME}\({_KEYS[0]}=[^=()]*{_TEXT}[^=()]*,\s*{_KEYS[1]}=[^=()]*zmore[^=()]*\)")

Written = Callable[[Sequence[ToolCall]], str | None]


def find_syntax(written: Written) -> Syntax | None:
    """The syntax in which `written` writes calls, or None."""
    texts, numbers = _call(FIRST_NAME, _TEXT, "zmore"), _call(FIRST_NAME, _TEXT, _NUMBER)
    one = written([texts])
    if one is None or FIRST_NAME not in one or _KEYS[0] not in one:
        return None
    two = written([texts, _call(SECOND_NAME, _TEXT, "zmore", 1)])
    found = _own_notation(one) or _elements(one, two, written) or _tagged(one, written([numbers]), two)
    is_python = isinstance(found, PythonSyntax) and _PYTHON_CALL.search(one)
    return found if found is not None and (is_python or _reads(found, one, [texts])) else None


def _call(name: str, first: str, second: object, number: int = 0) -> ToolCall:
    return ToolCall(_IDS[number], name, json.dumps(dict(zip(_KEYS, (first, second), strict=True))))


def _reads(syntax: Syntax, text: str, calls: Sequence[ToolCall]) -> bool:
    starts = syntax.starts or ("[",)  # a list of calls without a tag
    start = min((start for start in starts if start in text), key=text.index, default=None)
    if start is None:
        return False
    reader = open_reader(syntax, start, Schemas({call.name: {} for call in calls}))
    reader.feed(text.partition(start)[2])
    reader.finish()
    expected = [(call.name, json.loads(call.arguments)) for call in calls]
    read = [(call.name, json.loads(call.arguments)) for call in reader.calls if not isinstance(call, str)]
    return expected == read and not reader.refused


def _own_notation(one: str) -> Syntax | None:
    """Python's or Gemma's way to write a call."""
    before, _, after = one.partition(FIRST_NAME)
    tag = _last_tag(before.rstrip().removesuffix("[").rstrip())
    if after.startswith("("):
        behind = after.rpartition(")")[2].strip().removeprefix("]").strip()
        if before.strip() in ("", "["):
            return PythonSyntax((), bare=True)
        if tag and before.rstrip().endswith("["):
            return PythonSyntax((tag,), behind)
        return _calls_in_fence(before, behind)
    notation = _GEMMA.search(one)
    # What stands before and behind a text is the same tag.
    return GemmaSyntax(notation["start"], notation["end"], notation["quote"]) if notation else None


def _calls_in_fence(before: str, behind: str) -> PythonSyntax | None:
    """Python's calls between tags without brackets, or in a fence as Markdown has it, or both."""
    opening = before.rstrip().removesuffix("[")
    fence = _FENCE.search(opening)
    tag = _last_tag((opening[: fence.start()] if fence else opening).rstrip())
    is_list = len(opening) < len(before.rstrip())
    if fence is None:
        return PythonSyntax((tag,), behind, on_lines=True) if tag else None
    end, word = behind.removeprefix("```").strip(), fence["fence"]
    if tag:
        return PythonSyntax((tag,), end, on_lines=not is_list, fence=word)
    # A block of code is no call because Python writes it; one that says it is a tool's is.
    return PythonSyntax((word,), "```", on_lines=not is_list) if re.search("tool|call|func", word) else None


def _last_tag(text: str) -> str:
    found = re.search(r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])\Z", text)
    return found.group() if found else ""


@dataclass(frozen=True, slots=True)
class _Parts:
    """One call in a text: what stands before and behind its name, around its arguments, and where it ends."""

    lead: str
    after_name: str
    start: str
    middles: tuple[str, str]
    end: str
    stop: int
    is_object: bool


_ELEMENT = re.compile(r"<zargument>zvalue(.{0,64}?)</zargument>.*?<zfurther>zmore(.{0,64}?)</zfurther>", re.DOTALL)
_ITEM = re.compile(r"<(\w+)>zitem")


def _elements(one: str, two: str | None, written: Written) -> ElementSyntax | None:
    """XML whose elements are named after the arguments."""
    found = _ELEMENT.search(one)
    if found is None or found.group(1) != found.group(2) or not one[: found.start()].endswith(found.group(1)):
        return None
    prefix = found.group(1)
    before, _, after_name = one[: found.start() - len(prefix)].rpartition(FIRST_NAME)
    section, lead, call_end, section_end = "", before, one[found.end() :], ""
    second = _ELEMENT.search(two) if two else None
    if two and second:
        between = two[second.end() :].partition(SECOND_NAME)[0]
        section, lead, call_end, section_end = _divided(before, between, call_end, prefix)
    items = written([ToolCall(_IDS[0], FIRST_NAME, json.dumps({_KEYS[0]: ["zitem"]}))])
    item = _ITEM.search(items or "")
    return ElementSyntax(
        section=marker(_without_ids(section), prefix),
        lead=marker(_without_ids(lead), prefix),
        after_name=marker(after_name, prefix),
        call_end=marker(call_end, prefix),
        section_end=Marker(marker(section_end, prefix).words[:1]),
        prefix=prefix,
        item=item.group(1) if item else "item",
    )


def _tagged(one: str, numbers: str | None, two: str | None) -> TaggedSyntax | None:
    first = _parts(one, 0, FIRST_NAME, "zmore")
    if first is None or not _is_opening(first.lead):
        return None
    section, lead, call_end, section_end = "", first.lead, one[first.stop :], ""
    after_name = first.after_name
    both = _parts(two, 0, FIRST_NAME, "zmore") if two else None
    second = _parts(two, both.stop, SECOND_NAME, "zmore") if two and both else None
    if two and second is not None:
        # Some templates write the end of a section behind several calls only.
        tail = two[second.stop :] if two[second.stop :].startswith(call_end) else call_end
        section, lead, call_end, section_end = _divided(first.lead, second.lead, tail)
        after_name = _varying(after_name, second.after_name)[0]
    syntax = TaggedSyntax(
        section=marker(_without_ids(section)),
        lead=marker(_without_ids(lead)),
        after_name=marker(_without_ids(after_name)),
        call_end=marker(call_end),
        # What follows the first tag ends the turn.
        section_end=Marker(marker(section_end).words[:1]),
        arguments=None if first.is_object else _argument_markers(first, numbers),
    )
    # A tag that both begins and ends things cannot be looked for.
    ends = {*syntax.call_end.words, *syntax.section_end.words}
    return None if ends.intersection(syntax.starts) else syntax


def _is_opening(lead: str) -> bool:
    """Tags, and not much else: no JSON, and the name not a second time."""
    has_other = "{" in lead or FIRST_NAME[:4] in lead
    return not has_other and lead.lstrip()[:1] in ("<", "[") and len(lead) <= _MOST_OPENING_CHARACTERS


def _divided(lead: str, between: str, tail: str, prefix: str = "") -> tuple[str, str, str, str]:
    """Section, opening of a call, end of a call, end of the section: by what stands between two calls."""
    between, lead = _without_ids(between), _without_ids(lead)
    both = between[: common_length(between, tail)]
    call_end = both[: both.rfind(prefix)] if prefix and not both.rstrip().endswith(">") else _whole_tags(both)
    opening = between[len(call_end) :]
    shared = opening[len(opening) - common_length(opening[::-1], lead[::-1]) :]
    return lead[: len(lead) - len(shared)], shared, call_end, tail[len(call_end) :]


def _parts(text: str, begin: int, name: str, last_value: str) -> _Parts | None:
    key_at = text.find(_KEYS[0], begin)
    name_at = text.rfind(name, begin, key_at)
    if key_at < 0 or name_at < 0:
        return None
    name_end = name_at + len(name)
    object_at = text.find("{", name_end, key_at)
    if object_at >= 0 and (length := _object_length(text[object_at:])):
        stop = object_at + length
        return _Parts(text[begin:name_at], text[name_end:object_at], "", ("", ""), "", stop, is_object=True)
    places = [text.find(word, name_end) for word in (_KEYS[0], _TEXT, _KEYS[1], last_value)]
    if -1 in places or places != sorted(places):
        return None
    between = text[places[1] + len(_TEXT) : places[2]]
    tail = text[places[3] + len(last_value) :]
    end = _whole_tags(between[: common_length(between, tail)])
    start = between[len(end) :]
    before_key = text[name_end : places[0]]
    middles = (text[places[0] + len(_KEYS[0]) : places[1]], text[places[2] + len(_KEYS[1]) : places[3]])
    if not (end.strip() and middles[0].strip() and before_key.endswith(start.lstrip())):
        return None
    return _Parts(
        lead=text[begin:name_at],
        after_name=before_key[: len(before_key) - len(start.lstrip())],
        start=start,
        middles=middles,
        end=end,
        stop=places[3] + len(last_value) + len(end),
        is_object=False,
    )


def _argument_markers(parts: _Parts, numbers: str | None) -> ArgumentMarkers:
    middle, text_middle = parts.middles[0], None
    of_number = _parts(numbers, 0, FIRST_NAME, str(_NUMBER)) if numbers else None
    if of_number is not None:
        middle, text_middle = _varying(of_number.middles[0], of_number.middles[1])
    before = parts.middles[0][len(parts.middles[0].rstrip()) :]
    after = parts.end[: len(parts.end) - len(parts.end.lstrip())]
    return ArgumentMarkers(marker(parts.start), marker(middle), marker(parts.end), text_middle, before, after)


def _varying(one: str, other: str) -> tuple[str, str | None]:
    """A marker that is written in two ways, with WILD where they differ, and what the first has there."""
    if one == other:
        return one, None
    before = re.sub(r"[\w.-]+\Z", "", one[: common_length(one, other)])
    rests = (one[len(before) :], other[len(before) :])
    shared = common_length(rests[0][::-1], rests[1][::-1])
    after = re.sub(r"\A[\w.-]+", "", rests[0][len(rests[0]) - shared :])
    return f"{before}{WILD}{after}", rests[0][: len(rests[0]) - len(after)]


def _without_ids(text: str) -> str:
    for call_id in _IDS:
        text = text.replace(call_id, WILD)
    return text


def _whole_tags(text: str) -> str:
    """The text without the beginning of a tag at its end."""
    found = _CUT_TAG.search(text)
    return text[: found.start()] if found else text


def _object_length(text: str) -> int:
    """How long the JSON object of the example's arguments is, if the text begins with it."""
    try:
        value, length = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return 0
    return length if isinstance(value, dict) and _KEYS[0] in value else 0
