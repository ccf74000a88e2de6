"""The syntax of a template's calls: JSON objects are found here, others by probing.py; a table for what none shows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from localllm.chat.probes import ANSWER, ARGUMENTS, CALL, CALLED_TOOL, OTHER_TOOL, TOOLS, Probe, place_behind
from localllm.chat.probing import find_syntax
from localllm.chat.syntax import TAG, AnswerMarkers, CallSyntax, PythonSyntax, Syntax, common_length, whole_tags
from localllm.generation import Message, ToolCall

HERMES_CALLS = CallSyntax(starts=("<tool_call>",), end="</tool_call>")
LLAMA_CALLS = CallSyntax(
    starts=("<|python_tag|>",), separator=";", bare=True, argument_keys=("parameters", "arguments")
)
MISTRAL_CALLS = CallSyntax(starts=("[TOOL_CALLS]",), opening="[", separator=",", closing="]")
# Their templates tell the model how to call, or not even that, and leave calls out.
GRANITE_CALLS = CallSyntax(starts=("<|tool_call|>",), opening="[", separator=",", closing="]")
PHI_CALLS = CallSyntax(starts=("<|tool_call|>",), opening="[", separator=",", closing="]", end="<|/tool_call|>")
NEMOTRON_MINI_CALLS = CallSyntax(starts=("<toolcall>",), end="</toolcall>")
LFM_CALLS = PythonSyntax(("<|tool_call_start|>",), "<|tool_call_end|>")

_MAX_MARKER_CHARACTERS = 64
_TAG_BEFORE = re.compile(rf"{TAG}\Z")
_TAG_AFTER = re.compile(rf"\A{TAG}")
_BUILTIN = re.compile(rf'(?P<start>{TAG}){CALLED_TOOL}(?P<method>\.\w+)\(zargument="zvalue"\)')
_FENCE = "```"  # Command R+ writes "Action:" and its calls as Markdown
_MARKER = re.compile(rf"(?:{TAG})+|\w+|(?:\w+:\s*)?{_FENCE}\w*|\w[\w ]*{TAG}")


def call_syntax(probe: Probe, answer: AnswerMarkers | None) -> Syntax | None:
    """How a template writes calls; None when it writes none that can be read back."""
    answered, called = probe.answered, probe.called
    if answered is None or called is None:
        return _known_calls(probe.template.source)
    begin, end = _difference(probe, answered, called)
    begin += _length_of_end(called[begin:end], answer)
    found = _syntax_of_example(called[:end], begin)
    if found is not None and not found.opening:
        found = replace(found, separator=_separator(probe) or found.separator)
    if found is not None and "builtin_tools" in probe.template.source:
        return _with_builtin(probe.called_builtin, found)
    spelt = found or find_syntax(lambda calls: _written(probe, answered, calls, answer))
    return spelt or _misspelt(called[begin:end], probe.template.source)


def _misspelt(text: str, source: str) -> Syntax | None:
    """A known syntax whose calls a template begins rightly, and leaves a brace out, as Ollama's for Phi-4-mini does."""
    known = _known_calls(source)
    if not isinstance(known, CallSyntax):
        return None
    begun = rf'{re.escape(known.starts[0])}\s*{re.escape(known.opening)}\s*\{{\s*"name":\s*"{CALLED_TOOL}"'
    return known if re.match(begun, text.lstrip()) else None


def text_before_calls(probe: Probe, syntax: Syntax | None) -> AnswerMarkers | None:
    """The first of the tags that begin calls, where a text stands behind it and before the others, as in Llama 4's."""
    tags = re.findall(TAG, syntax.starts[0]) if isinstance(syntax, CallSyntax) and syntax.starts else []
    if len(tags) < 2:
        return None
    shown = probe.show(Message("assistant", ANSWER.content, tool_calls=CALL.tool_calls), tools=TOOLS) or ""
    return AnswerMarkers(tags[0], ()) if f"{tags[0]}{ANSWER.content}{tags[1]}" in shown else None


def _with_builtin(text: str, syntax: CallSyntax) -> CallSyntax:
    """The syntax, with the other one that calls of built-in tools are written in behind the same mark."""
    shown = _BUILTIN.search(text)
    if shown is None or shown["start"] not in syntax.starts:
        return syntax
    return replace(syntax, other=PythonSyntax((shown["start"],), method=shown["method"]))


def _separator(probe: Probe) -> str:
    """The character between the objects of two calls, where nothing else stands there."""
    first = CALL.tool_calls[0]
    second = ToolCall("efgh67890", OTHER_TOOL, first.arguments)
    shown = probe.show(Message("assistant", tool_calls=(first, second)), tools=TOOLS) or ""
    between = re.search(rf"{ARGUMENTS['zargument']}[\"\s}}]+(?P<mark>[,;])\s*\{{[^{{}}]*{OTHER_TOOL}", shown)
    return between["mark"] if between else ""


def _difference(probe: Probe, answered: str, called: str) -> tuple[int, int]:
    """Where in `called` that stands which is not in `answered`, nor in what asks for either: whole tags."""
    # Answer and call may begin with different tags that share their first characters.
    begin = whole_tags(called, common_length(answered, called))
    # Before an answer some templates write other blanks than before a call.
    asked = probe.prompt_with_tools
    place = place_behind(asked, called) if place_behind(asked, answered) is not None else None
    begin = begin if place is None else max(begin, place)
    end = len(called) - common_length(answered[begin:][::-1], called[begin:][::-1])
    return begin, next((tag.end() for tag in re.finditer(TAG, called) if tag.start() < end < tag.end()), end)


def _length_of_end(text: str, answer: AnswerMarkers | None) -> int:
    """How much of what stands before a call is the end of the answer's text."""
    at = 0
    for end in answer.ends if answer else ():
        blanks = len(text) - at - len(text[at:].lstrip())
        if text.startswith(end, at + blanks):
            at += blanks + len(end)
    return at


def _written(probe: Probe, answered: str, calls: Sequence[ToolCall], answer: AnswerMarkers | None) -> str | None:
    """What the template writes for calls, without what it writes for any answer."""
    called = probe.show(Message("assistant", tool_calls=tuple(calls)), tools=TOOLS)
    if called is None:
        return None
    begin, end = _difference(probe, answered, called)
    return called[begin + _length_of_end(called[begin:end], answer) : end]


def _syntax_of_example(text: str, begin: int) -> CallSyntax | None:
    """The syntax of the example call in `text[begin:]`, or None if it is not one of JSON objects."""
    found = _object_around(text, begin, text.index(CALLED_TOOL))
    if found is None:
        return None
    start, end, document = found
    outer = _object_outside(text, begin, start, document)
    if outer is not None:
        start, end = outer.start, outer.end
    before, after = text[begin:start].strip(), text[end:].strip()
    name_key = next((key for key, value in document.items() if value == CALLED_TOOL), None)
    argument_key = next((key for key, value in document.items() if value in (ARGUMENTS, json.dumps(ARGUMENTS))), None)
    if argument_key is None:
        return None
    keys = (argument_key, *(key for key in ("arguments", "parameters") if key != argument_key)) if name_key else ()
    others = [key for key in (*document, *(outer.other_keys if outer else ())) if key not in (name_key, *keys)]
    others, inner_key = others if name_key else [], outer.inner_key if outer else None
    if not before:
        return CallSyntax(LLAMA_CALLS.starts, separator=";", bare=True, name_key=name_key, argument_keys=keys)
    opening = "[" if before.endswith("[") else ""
    marker = before.removesuffix(opening).rstrip()
    if not marker and after.startswith("]"):
        listed = CallSyntax((), "[", ",", "]", bare=True, name_key=name_key, argument_keys=keys)
        return replace(listed, other_keys=tuple(dict.fromkeys([*listed.other_keys, *others])), inner_key=inner_key)
    if len(marker) > _MAX_MARKER_CHARACTERS or not _MARKER.fullmatch(marker):
        return None
    closing = "]" if opening and after.startswith("]") else ""
    # Only the tag next to the objects is the call's own; others are there for the turn, and may be missing.
    first_behind = _TAG_AFTER.search(after.removeprefix(closing).lstrip())
    last_before = _TAG_BEFORE.search(marker) if marker[0] in "<[" else None
    return CallSyntax(
        starts=tuple(dict.fromkeys([marker, last_before.group() if last_before else marker])),
        opening=opening,
        separator="," if opening else "",
        closing=closing,
        end=_FENCE if _FENCE in marker else first_behind.group() if first_behind else "",
        name_key=name_key,
        argument_keys=keys,
        other_keys=tuple(dict.fromkeys(["type", "id", *others])),
        inner_key=inner_key,
    )


@dataclass(frozen=True, slots=True)
class _Outer:
    """An object that has the call's own object under `inner_key`, and where it stands."""

    start: int
    end: int
    inner_key: str
    other_keys: tuple[str, ...]


def _object_outside(text: str, begin: int, inside: int, document: dict[str, object]) -> _Outer | None:
    start = text.rfind("{", begin, inside)
    if start < 0:
        return None
    try:
        outer, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    key = next((key for key, value in outer.items() if value == document), None)
    return None if key is None else _Outer(start, end, key, tuple(one for one in outer if one != key))


def _object_around(text: str, begin: int, inside: int) -> tuple[int, int, dict[str, object]] | None:
    """The innermost JSON object from `begin` on that has the called tool's name among its values."""
    start = text.rfind("{", begin, inside)
    while start >= 0:
        try:
            document, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            document, end = None, start
        if isinstance(document, dict) and (CALLED_TOOL in document.values() or list(document) == [CALLED_TOOL]):
            return start, end, document
        start = text.rfind("{", begin, start)
    return None


def _known_calls(source: str) -> Syntax | None:
    """A known syntax by its markers, for a template that cannot render the probes."""
    if "tools" not in source.lower():  # Go's templates say .Tools
        return None
    if "<tool_call>" in source and not any(other in source for other in ("<function=", "<arg_key>", "<invoke")):
        return HERMES_CALLS
    if "[TOOL_CALLS]" in source and not any(other in source for other in ("[ARGS]", "[CALL_ID]")):
        return MISTRAL_CALLS
    if "<|/tool|>" in source:
        return PHI_CALLS
    if "<|tool_call|>" in source:
        return GRANITE_CALLS
    if "<extra_id_1>" in source:
        return NEMOTRON_MINI_CALLS
    if "<|tool_list_start|>" in source or "List of tools: [" in source:
        return LFM_CALLS
    return LLAMA_CALLS if "<|python_tag|>" in source else None
