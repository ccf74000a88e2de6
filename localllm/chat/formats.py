"""What a model's answer looks like: where thinking and tool calls begin and end in its text.

An OutputFormat is plain data that parser.py follows; a new syntax of calls is new data, not new code. One
is found by asking the model's own template: `detect` renders the same conversation with and without a call (and with
thinking) and reads the markers off the difference. Where a template does not show them, a short table of markers is
searched for in its source. What is recognised (…: any text, blanks allowed between all parts):

    Hermes, Qwen     <tool_call>{"name": …, "arguments": …}</tool_call>
    Llama 3          {"name": …, "parameters": …}   as the whole answer, or behind <|python_tag|>; more after ";"
    Mistral          [TOOL_CALLS][{"name": …, "arguments": …}, …]
    others           the name between markers, arguments as JSON or between markers too, Python's calls (syntax.py)
    thinking         <think>…</think> and other pairs of markers

A template whose calls cannot be read back has `calls` None: the text then stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.chat.probing import find_syntax
from localllm.chat.syntax import CallSyntax, PythonSyntax, Syntax, common_length
from localllm.chat.templates import Template
from localllm.errors import TemplateError
from localllm.generation import Message, Tool, ToolCall

_MAX_MARKER_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    """What stands before and behind thinking."""

    start: str
    end: str


HERMES_CALLS = CallSyntax(starts=("<tool_call>",), end="</tool_call>")
LLAMA_CALLS = CallSyntax(
    starts=("<|python_tag|>",), separator=";", bare=True, argument_keys=("parameters", "arguments")
)
MISTRAL_CALLS = CallSyntax(starts=("[TOOL_CALLS]",), opening="[", separator=",", closing="]")
# Their templates tell the model how to call, or not even that, and leave calls out.
GRANITE_CALLS = CallSyntax(starts=("<|tool_call|>",), opening="[", separator=",", closing="]")
LFM_CALLS = PythonSyntax(("<|tool_call_start|>",), "<|tool_call_end|>")
THINK_TAGS = ThinkingMarkers("<think>", "</think>")


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """The markers of one model; None where it has none."""

    thinking: ThinkingMarkers | None = None
    calls: Syntax | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts the parser must see although a vocabulary may hold them as control tokens."""
        thinking = (self.thinking.start, self.thinking.end) if self.thinking else ()
        calls = self.calls.markers if self.calls else ()
        return tuple(marker for marker in (*thinking, *calls) if marker)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """In Ollama's words."""
        return ("completion", *(("tools",) if self.calls else ()), *(("thinking",) if self.thinking else ()))

    def opens_thinking(self, prompt: str) -> bool:
        """Whether the prompt ends inside thinking, so that the answer begins there."""
        return self.thinking is not None and prompt.rstrip().endswith(self.thinking.start)


def detect(template: Template) -> OutputFormat:
    """The format of the answers that `template` describes. Renders it a few times; never raises."""
    return OutputFormat(thinking=_thinking_markers(template), calls=_call_syntax(template))


# Words that no template contains, so that what surrounds them in a rendered text is the template's own.
_QUESTION = Message("user", "Zquestion")
_ANSWER = Message("assistant", "Zanswer")
_THOUGHT = "Zthought"
_DECLARED_TOOL = "zdeclared_tool"
_CALLED_TOOL = "zcalled_tool"
_ARGUMENTS = {"zargument": "zvalue"}
_TOOLS = (
    Tool(
        _DECLARED_TOOL,
        json.dumps(
            {
                "type": "function",
                "function": {
                    "name": _DECLARED_TOOL,
                    "description": "Zdescription",
                    "parameters": {
                        "type": "object",
                        "properties": {"zparameter": {"type": "string", "description": "Zdescription"}},
                        "required": ["zparameter"],
                    },
                },
            }
        ),
    ),
)
_CALL = Message("assistant", tool_calls=(ToolCall("call_abcd1234", _CALLED_TOOL, json.dumps(_ARGUMENTS)),))

_KNOWN_THINKING = (
    THINK_TAGS,
    ThinkingMarkers("[THINK]", "[/THINK]"),
    ThinkingMarkers("<seed:think>", "</seed:think>"),
    ThinkingMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
)
_TAG = r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])"
_TAG_BEFORE = re.compile(rf"{_TAG}\Z")
_TAG_AFTER = re.compile(rf"\A{_TAG}")
_FENCE, _FENCED = "```", "```json"  # Command R+ writes "Action:" and its calls as Markdown
_TAG_AND_WORD = re.compile(rf"{_TAG}\w*")
_TAGS_BEFORE = re.compile(rf"(?:{_TAG}\w*)+\Z")
_CUT_TAG = re.compile(r"[<\[][^<>\[\]\s]*\Z")
_THINKING_WORD = re.compile(r"think|thought|reason", re.IGNORECASE)


def _thinking_markers(template: Template) -> ThinkingMarkers | None:
    answer = Message("assistant", _ANSWER.content, thinking=_THOUGHT)
    # Gemma 4 keeps only the thinking before a call.
    call = Message("assistant", thinking=_THOUGHT, tool_calls=_CALL.tool_calls)
    for reply, think in ((answer, None), (answer, True), (call, True)):
        shown = _render(template, reply, tools=_TOOLS if reply is call else (), think=think)
        if shown is not None and _THOUGHT in shown:
            before, _, after = shown.partition(_THOUGHT)
            if found := _markers_around(before.rstrip(), after.lstrip()):
                return found
    # Many templates leave earlier thinking out; they name the end to cut at it, and not always the start.
    return next((known for known in _KNOWN_THINKING if known.end in template.source), None)


def _markers_around(before: str, after: str) -> ThinkingMarkers | None:
    """The shortest row of tags before a thought that says what it is, and the tag behind it."""
    row, end = _TAGS_BEFORE.search(before), _TAG_AFTER.search(after)
    tags = _TAG_AND_WORD.findall(row.group()) if row else []
    starts = ("".join(tags[-count:]) for count in range(1, len(tags) + 1))
    start = next((start for start in starts if _THINKING_WORD.search(start)), "")
    # What takes several tags to begin takes several to end, and then the answer has tags of its own (Kimi K3).
    return ThinkingMarkers(start, end.group()) if end and len(_TAG_AND_WORD.findall(start)) == 1 else None


def _call_syntax(template: Template) -> Syntax | None:
    answered = _render(template, _ANSWER, tools=_TOOLS)
    called = _render(template, _CALL, tools=_TOOLS)
    if answered is None or called is None or _CALLED_TOOL not in called:
        return _known_calls(template.source)
    # Some show the tools in the last turn only, and if that is the user's.
    if _DECLARED_TOOL not in called and _DECLARED_TOOL not in (_render(template, None, tools=_TOOLS) or ""):
        return None
    begin, end = _difference(answered, called)
    return _syntax_of_example(called[:end], begin) or find_syntax(lambda calls: _written(template, answered, calls))


def _difference(answered: str, called: str) -> tuple[int, int]:
    """Where in `called` that stands which is not in `answered`: whole tags."""
    begin = common_length(answered, called)
    if cut := _CUT_TAG.search(called[:begin]):
        # Answer and call may begin with different tags that share their first characters.
        begin = cut.start()
    end = len(called) - common_length(answered[begin:][::-1], called[begin:][::-1])
    if _CUT_TAG.search(called[:end]):
        end = next((index + 1 for index in range(end, len(called)) if called[index] in ">]"), end)
    return begin, end


def _written(template: Template, answered: str, calls: Sequence[ToolCall]) -> str | None:
    """What the template writes for calls, without what it writes for any answer."""
    called = _render(template, Message("assistant", tool_calls=tuple(calls)), tools=_TOOLS)
    if called is None:
        return None
    begin, end = _difference(answered, called)
    return called[begin:end]


def _render(
    template: Template, reply: Message | None, *, tools: tuple[Tool, ...] = (), think: bool | None = None
) -> str | None:
    try:
        turns = [_QUESTION] if reply is None else [_QUESTION, reply]
        return template.render(turns, tools, think=think, add_generation_prompt=False)
    except TemplateError:
        return None


def _syntax_of_example(text: str, begin: int) -> CallSyntax | None:
    """The syntax of the example call in `text[begin:]`, or None if it is not one of JSON objects."""
    found = _object_around(text, begin, text.index(_CALLED_TOOL))
    if found is None:
        return None
    start, end, document = found
    before, after = text[begin:start].strip(), text[end:].strip()
    name_key = next((key for key, value in document.items() if value == _CALLED_TOOL), None)
    argument_key = next((key for key, value in document.items() if value in (_ARGUMENTS, json.dumps(_ARGUMENTS))), None)
    if argument_key is None:
        return None
    keys = (argument_key, *(key for key in ("arguments", "parameters") if key != argument_key)) if name_key else ()
    others = [key for key in document if key not in (name_key, *keys)] if name_key else []
    if not before:
        return CallSyntax(LLAMA_CALLS.starts, separator=";", bare=True, name_key=name_key, argument_keys=keys)
    opening = "[" if before.endswith("[") else ""
    marker = before.removesuffix(opening).rstrip()
    if not _is_marker(marker):
        return None
    closing = "]" if opening and after.startswith("]") else ""
    # Only the tag next to the objects is the call's own; others are there for the turn, and may be missing.
    first_behind = _TAG_AFTER.search(after.removeprefix(closing).lstrip())
    last_before = _TAG_BEFORE.search(marker)
    return CallSyntax(
        starts=tuple(dict.fromkeys([marker, last_before.group() if last_before else marker])),
        opening=opening,
        separator="," if opening else "",
        closing=closing,
        end=_FENCE if marker.endswith(_FENCED) else first_behind.group() if first_behind else "",
        name_key=name_key,
        argument_keys=keys,
        other_keys=tuple(dict.fromkeys(["type", "id", *others])),
    )


def _object_around(text: str, begin: int, inside: int) -> tuple[int, int, dict[str, object]] | None:
    """The innermost JSON object from `begin` on that has the called tool's name among its values."""
    start = text.rfind("{", begin, inside)
    while start >= 0:
        try:
            document, end = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            document, end = None, start
        if isinstance(document, dict) and (_CALLED_TOOL in document.values() or list(document) == [_CALLED_TOOL]):
            return start, end, document
        start = text.rfind("{", begin, start)
    return None


def _is_marker(text: str) -> bool:
    """One or more tags, or one word: not a piece of one, and no structure of its own."""
    return len(text) <= _MAX_MARKER_CHARACTERS and re.fullmatch(rf"(?:{_TAG})+|\w+|\w+:\s*{_FENCED}", text) is not None


def _known_calls(source: str) -> Syntax | None:
    """A known syntax by its markers, for a template that cannot render the probes."""
    if "tools" not in source.lower():  # Go's templates say .Tools
        return None
    if "<tool_call>" in source and not any(other in source for other in ("<function=", "<arg_key>", "<invoke")):
        return HERMES_CALLS
    if "[TOOL_CALLS]" in source and not any(other in source for other in ("[ARGS]", "[CALL_ID]")):
        return MISTRAL_CALLS
    if "<|tool_call|>" in source:
        return GRANITE_CALLS
    if "<|tool_list_start|>" in source or "List of tools: [" in source:
        return LFM_CALLS
    return LLAMA_CALLS if "<|python_tag|>" in source else None
