"""Say what a chat template can and cannot do, by trying it: what `localllm template-check` prints.

A finding is "ok", a "note" (it is so, and localllm does without), or a "problem" (a conversation goes wrong with it).
Runs the template, so this belongs into a process that may be killed; what a model answers is not known here, but what
the template writes for an answer is parsed back as an answer would be.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from localllm.chat.conversation import thinking_variables
from localllm.chat.formats import OutputFormat, detect
from localllm.chat.parser import OutputParser
from localllm.chat.probes import place_behind
from localllm.chat.syntax import (
    TAG,
    CallSyntax,
    ElementSyntax,
    GemmaSyntax,
    PythonSyntax,
    Syntax,
    TaggedSyntax,
    common_length,
    whole_tags,
)
from localllm.chat.templates import Template, open_template
from localllm.creating import Finding
from localllm.errors import TemplateError
from localllm.generation import ContentDelta, Event, Message, ThinkingDelta, Tool, ToolCall, ToolCallDelta

_TURN_TAGS = re.compile(rf"\A(?:{TAG}\s*)+|(?:\s*{TAG})+\Z")
_FAILED = "the chat template failed"  # and did not refuse with words of its own
_MOST_QUOTED_CHARACTERS = 300
_SANDBOX_WORDS = ("is not allowed", "is unsafe", "it makes more than")
_QUESTION = Message("user", "How is the weather in Zürich?")
_SYSTEM = Message("system", "Zsystem: be brief.")
_ANSWER = Message("assistant", "Zanswer")  # shares no last letter with what is compared with it
_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where"},
        "days": {"type": "integer", "description": "How many"},
    },
    "required": ["city"],
}


def _tool(name: str) -> Tool:
    function = {"name": name, "description": f"Does {name}.", "parameters": _SCHEMA}
    return Tool(name, json.dumps({"type": "function", "function": function}))


_TOOLS = (_tool("zweather"), _tool("zforecast"))
_CALL = ToolCall("abcd12345", "zweather", '{"city": "Zürich \\"x\\"", "days": 3}')
_OTHER = ToolCall("efgh67890", "zforecast", '{"city": "Genève"}')
_REPLIES = {
    "a call": Message("assistant", tool_calls=(_CALL,)),
    "two calls": Message("assistant", tool_calls=(_CALL, _OTHER)),
    "text and a call": Message("assistant", "I will look.", tool_calls=(_CALL,)),
    "an answer": Message("assistant", "It is <b>sunny</b> [1]."),
    "thinking": Message("assistant", "It is sunny.", thinking="Zthought: look."),
    "thinking and a call": Message("assistant", thinking="Zthought: look.", tool_calls=(_CALL,)),
}


def lint(source: str | None, *, today: Callable[[], datetime]) -> tuple[Finding, ...]:
    """All that is to be said of one template; None is a model without one. Never raises."""
    if source is None or not source.strip():
        return (Finding("problem", "template", "there is none: conversations are written as ChatML, or a known form"),)
    try:
        template = open_template(source, bos_token="<s>", eos_token="</s>", today=today)
    except TemplateError as error:
        return (Finding("problem", "template", error.message),)
    return tuple(_Lint(template).findings())


class _Lint:
    """The trials of one template that can be read."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._found = OutputFormat()

    def findings(self) -> Iterator[Finding]:
        """One after the other; after a first question that fails nothing else is tried."""
        asked = self._try((_QUESTION,))
        if isinstance(asked, TemplateError):
            yield _failure("question", asked)
            return
        shows = _QUESTION.content in asked
        yield Finding("ok" if shows else "problem", "question", "is shown" if shows else "does not show in the prompt")
        yield self._prompt(asked)
        yield self._system()
        yield self._turns()
        self._found = detect(self._template)
        yield from self._tools()
        yield from self._thinking()
        yield from self._empty()

    def _try(
        self,
        messages: tuple[Message, ...],
        tools: tuple[Tool, ...] = (),
        *,
        think: bool | str | None = None,
        prompts: bool = True,
    ) -> str | TemplateError:
        try:
            return self._template.render(messages, tools, think=think, add_generation_prompt=prompts)
        except TemplateError as error:
            return error

    def _prompt(self, asked: str) -> Finding:
        if begun := self._template.missing_prompt:
            return Finding("note", "generation prompt", f"is missing: {_quoted(begun)} is written in its place")
        plain = self._try((_QUESTION,), prompts=False)
        if isinstance(plain, TemplateError):
            return _failure("generation prompt", plain)
        if plain == asked:
            if not asked.rpartition(_QUESTION.content)[2].strip():
                return Finding("problem", "generation prompt", "is missing: nothing says that the answer begins")
            return Finding("note", "generation prompt", "is there whether it is asked for or not")
        return Finding("ok", "generation prompt", _quoted(asked[common_length(plain, asked) :]))

    def _system(self) -> Finding:
        shown = self._try((_SYSTEM, _QUESTION))
        if isinstance(shown, TemplateError):
            return _failure("system", shown)
        if _SYSTEM.content not in shown:
            return Finding("problem", "system", "the system text does not show in the prompt")
        # Where the role is refused the text was told in the user's turn.
        begun = shown.find(_SYSTEM.content)
        same = shown[begun + len(_SYSTEM.content) :].lstrip("\n").startswith(_QUESTION.content)
        return Finding("note", "system", "has no turn of its own: told in the user's") if same else _ok("system")

    def _turns(self) -> Finding:
        shown = self._try((_QUESTION, _ANSWER, Message("user", "Zthanks.")))
        if isinstance(shown, TemplateError):
            return _failure("several turns", shown)
        missing = [text for text in (_QUESTION.content, _ANSWER.content, "Zthanks.") if text not in shown]
        if missing:
            return Finding("problem", "several turns", f"does not show: {', '.join(missing)}")
        return _ok("several turns")

    def _tools(self) -> Iterator[Finding]:
        if self._found.calls is None and not self._found.shows_tools:
            yield Finding("note", "tools", "are not supported")
            return
        if not self._found.shows_tools:
            yield Finding("problem", "tools", "calls are shown, but the model is not told which tools there are")
        elif self._found.calls is None:
            yield Finding("problem", "tools", "are shown, but its calls are in no form that can be read back")
            return
        else:
            yield Finding("ok", "tools", f"calls are read as {_form(self._found.calls)}")
        yield self._result()
        if not self._found.parallel_calls:
            yield Finding("note", "parallel calls", "are shown as calls one after another")
        yield from self._round_trips(("a call", "two calls", "text and a call", "an answer"))

    def _result(self) -> Finding:
        result = Message("tool", "Zresult: sunny", tool_name=_CALL.name, tool_call_id=_CALL.id)
        shown = self._try((_QUESTION, _REPLIES["a call"], result), _TOOLS)
        if isinstance(shown, TemplateError):
            return _failure("tool results", shown)
        return _ok("tool results") if "Zresult" in shown else Finding("problem", "tool results", "do not show")

    def _thinking(self) -> Iterator[Finding]:
        thinking = self._found.thinking
        if thinking is None:
            yield Finding("note", "thinking", "is not supported")
            return
        yield Finding("ok", "thinking", f"between {_quoted(thinking.start)} and {_quoted(thinking.end)}")
        yield self._switch()
        yield from self._round_trips(("thinking", "thinking and a call"))

    def _switch(self) -> Finding:
        subject = "thinking switch"
        on, off, low, high = (self._try((_QUESTION,), think=think) for think in (True, False, "low", "high"))
        if isinstance(on, str) and on != off:
            return _ok(subject)
        if isinstance(low, str) and low != high:
            return Finding("ok", subject, "by levels only")
        names = ", ".join(thinking_variables("low"))
        return Finding("note", subject, f"there is none: the template does not look at {names}")

    def _empty(self) -> Iterator[Finding]:
        for name, messages in {
            "empty content": (Message("user", ""), Message("assistant", ""), _QUESTION),
            "two questions in a row": (_QUESTION, Message("user", "Zmore.")),
        }.items():
            shown = self._try(messages)
            if not isinstance(shown, TemplateError):
                yield _ok(name)
            elif shown.message.startswith(_FAILED):
                yield _failure(name, shown)
            else:
                yield Finding("note", name, f"refused: {shown.message}")

    def _round_trips(self, names: tuple[str, ...]) -> Iterator[Finding]:
        for name in names:
            reply = _REPLIES[name]
            if len(reply.tool_calls) > 1 and not self._found.parallel_calls:
                continue
            if reply.tool_calls and self._found.calls is None:
                continue
            yield self._round_trip(name, reply)

    def _round_trip(self, name: str, reply: Message) -> Finding:
        subject = f"round trip: {name}"
        think = True if reply.thinking else None
        shown = self._try((_QUESTION, reply), _TOOLS, think=think, prompts=False)
        plain = self._try((_QUESTION, _ANSWER), _TOOLS, think=think, prompts=False)
        prompt = self._try((_QUESTION,), _TOOLS, think=think)
        # Some templates show tools before the last turn only, if that is the user's.
        untold = self._try((_QUESTION,), think=think)
        failed = next((one for one in (shown, plain, prompt) if isinstance(one, TemplateError)), None)
        if failed is not None:
            return _failure(subject, failed)
        assert isinstance(shown, str)
        assert isinstance(plain, str)
        assert isinstance(prompt, str)
        text, before = _written([prompt, *([untold] if isinstance(untold, str) else [])], shown, plain)
        wanted = _expected(reply, text)
        if reply.tool_calls and not wanted[2]:
            return Finding("note", subject, "the template leaves calls out; they are read in the form that is known")
        got = self._parsed(text, before, prompt)
        if wanted == got:
            return _ok(subject)
        if reply.tool_calls and got == (" ".join(filter(None, wanted[:2])), "", wanted[2]):
            return Finding("note", subject, "the template writes text before a call as thinking")
        return Finding("problem", subject, f"read as {_told(got)} instead of {_told(wanted)}")

    def _parsed(self, text: str, before: str, prompt: str) -> _Parts:
        thinking = self._found.thinking
        opens = thinking is not None and (
            (text.startswith(thinking.end) and not thinking.ends_alone)
            or (thinking.end in text and thinking.start not in text and self._found.opens_thinking(prompt))
        )
        numbers = itertools.count()
        parser = OutputParser(
            self._found, _TOOLS, prompt=before, prompt_opens_thinking=opens, new_call_id=lambda: str(next(numbers))
        )
        return _parts([*parser.feed(text), *parser.finish(stopped=True)])


_Parts = tuple[str, str, tuple[tuple[str, str], ...]]


def _written(prompts: Sequence[str], shown: str, plain: str) -> tuple[str, str]:
    """What the model would have written, as far as it differs from what is there for any answer; and what is before."""
    places = (place_behind(prompt, shown) for prompt in prompts)
    place = next((place for place in places if place is not None), None)
    begin = _behind_question(prompts[0], shown, plain) if place is None else place
    end = whole_tags(shown, len(shown) - common_length(shown[begin:][::-1], plain[::-1]))
    return shown[begin:end], shown[:begin]


def _behind_question(prompt: str, shown: str, plain: str) -> int:
    """Where an answer begins whose prompt stands otherwise in the history: behind what all answers share."""
    begin = whole_tags(shown, common_length(prompt, shown))
    before, found, behind = shown.partition(_QUESTION.content)
    at = len(before) + len(found)
    shared = common_length(behind, plain.partition(_QUESTION.content)[2])
    return max(begin, whole_tags(shown, at + shared) if found else 0)


def _expected(reply: Message, text: str) -> _Parts:
    """Thinking, text and calls of a reply, as far as the template wrote them."""
    thinking = reply.thinking if reply.thinking and reply.thinking in text else ""
    content = reply.content if reply.content in text else ""
    calls = tuple((call.name, _normal(call.arguments)) for call in reply.tool_calls if call.name in text)
    return thinking, content, calls


def _parts(events: list[Event]) -> _Parts:
    said = {ThinkingDelta: "", ContentDelta: ""}
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, (ThinkingDelta, ContentDelta)):
            said[type(event)] += event.text
        elif isinstance(event, ToolCallDelta) and event.name is not None:
            calls.append((event.name, ""))
        elif isinstance(event, ToolCallDelta):
            calls[-1] = (calls[-1][0], calls[-1][1] + event.arguments)
    read = tuple((name, _normal(arguments)) for name, arguments in calls)
    # What begins and ends a turn is a token of its own, which the engine does not give out.
    return said[ThinkingDelta].strip(), _TURN_TAGS.sub("", said[ContentDelta].strip()), read


def _told(parts: _Parts) -> str:
    thinking, content, calls = parts
    said = [f"{kind} {_quoted(text)}" for kind, text in (("thinking", thinking), ("text", content)) if text]
    return (
        ", ".join([*said, *(f"a call of {name} with {_quoted(arguments)}" for name, arguments in calls)]) or "nothing"
    )


def _form(calls: Syntax) -> str:
    """How calls are written, in words, and what begins one."""
    match calls:
        case CallSyntax():
            form = "JSON objects of name and arguments" if calls.name_key else "JSON objects under their names"
        case TaggedSyntax(arguments=None):
            form = "names, each with a JSON object of arguments"
        case TaggedSyntax():
            form = "names and arguments between tags"
        case ElementSyntax():
            form = "XML elements, one for each argument"
        case PythonSyntax():
            form = f"{'calls' if calls.on_lines else 'a list of calls'} as Python writes them"
        case GemmaSyntax():
            form = "Gemma writes them, call:name{key:value}"
    is_bare = isinstance(calls, (CallSyntax, PythonSyntax)) and calls.bare
    places = ["where the answer begins"] if is_bare else []
    return f"{form}, {' or '.join([*places, *(f'behind {_quoted(start)}' for start in calls.starts[:1])])}"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MOST_QUOTED_CHARACTERS else text[:_MOST_QUOTED_CHARACTERS] + "…")


def _normal(arguments: str) -> str:
    # Some templates sort the arguments, which is no loss.
    return json.dumps(json.loads(arguments), sort_keys=True, ensure_ascii=False)


def _ok(subject: str) -> Finding:
    return Finding("ok", subject, "")


def _failure(subject: str, error: TemplateError) -> Finding:
    is_violation = any(words in error.message for words in _SANDBOX_WORDS)
    return Finding("problem", subject, f"sandbox: {error.message}" if is_violation else error.message)
