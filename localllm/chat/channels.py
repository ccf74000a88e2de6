"""Find out whether a template writes an answer as messages with headers (Channels), and how.

    gpt-oss             <|start|>assistant<|channel|>final<|message|>text<|return|>
    Muse Glimmer        <|start|>assistant to=user<|message|>text<|eot|>
    Functionary 3.2     >>>all\\ntext
    GLM-4               \\ntext   or   name\\n{arguments}

It does when words, not only tags, stand between the prompt and the answer, and the name of a call stands there too; or
nothing but a new line, before which a call has its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.chat.probes import (
    ANSWER,
    ARGUMENTS,
    CALL,
    CALLED_TOOL,
    OTHER_TOOL,
    THOUGHT,
    THOUGHTFUL_ANSWER,
    TOOLS,
    Probe,
)
from localllm.chat.probing import find_syntax
from localllm.chat.syntax import TAG, Channels, Marker, Syntax, TaggedSyntax, common_length, marker, whole_tags
from localllm.generation import Message, ToolCall

_WORD = re.compile(r"\w+")
_TAGS = re.compile(rf"(?:{TAG}\s*)*")
_VALUE = next(iter(ARGUMENTS.values()))
_SECOND = ToolCall("efgh67890", OTHER_TOOL, CALL.tool_calls[0].arguments)


@dataclass(frozen=True, slots=True)
class _Heads:
    """What stands between the prompt and a text, a thought, and a call's arguments."""

    text: str
    thought: str | None
    call: str


def find_channels(probe: Probe) -> Channels | None:
    """The channels of a template's answers, or None."""
    heads = _heads(probe)
    if heads is None:
        return None
    header_end = _shared_end(heads.text, heads.thought or heads.call)
    start, ends = _between(probe)
    if not header_end or not start:
        return None
    header = heads.call.partition(header_end)[0]
    before_name, _, _ = header.partition(CALLED_TOOL)
    body = _body_syntax(probe, header_end)
    return Channels(
        start=start,
        header_end=header_end,
        ends=tuple(end for end in ends if body is None or end not in body.markers),
        text=_last_word(heads.text.removesuffix(header_end)),
        thinking=_last_word(heads.thought.removesuffix(header_end)) if heads.thought else None,
        recipient=re.split(r"\s", before_name)[-1],
        calls=body,
    )


def head_of_thinking(probe: Probe) -> str | None:
    """What stands between the prompt and a thought."""
    return _head(probe, THOUGHTFUL_ANSWER, THOUGHT)


def written_calls(channels: Channels, probe: Probe) -> TaggedSyntax:
    """A call with its header, as a syntax of its own: what a grammar can hold a model to."""
    after_name = (_head(probe, CALL, _VALUE) or "").partition(CALLED_TOOL)[2].partition("{")[0]
    end = next((end for end in channels.ends if "call" in end), "")
    return TaggedSyntax(
        section=Marker(),
        lead=marker(channels.recipient or channels.start),
        after_name=marker(after_name),
        call_end=Marker((end,)) if end else Marker(),
        section_end=Marker(),
    )


def _heads(probe: Probe) -> _Heads | None:
    text = _head(probe, ANSWER, ANSWER.content)
    if text is None or not (text == "\n" or _WORD.search(re.sub(TAG, "", text))):
        return None
    call = _head(probe, CALL, _VALUE)
    if call is None or CALLED_TOOL not in call or (text == "\n" and not call.startswith(f"{CALLED_TOOL}\n{{")):
        return None
    return _Heads(text, _head(probe, THOUGHTFUL_ANSWER, THOUGHT), call)


def _head(probe: Probe, reply: Message, body: str) -> str | None:
    """What stands between the prompt's end and the body of a reply."""
    prompt, shown = probe.show(tools=TOOLS, prompts=True), probe.show(reply, tools=TOOLS)
    if not prompt or not shown or not shown.startswith(prompt) or body not in shown:
        return None
    return shown[len(prompt) : shown.rindex(body)]


def _shared_end(one: str, other: str) -> str:
    """What two headers end with: a tag, or a line's end."""
    one, other = one.partition("{")[0], other.partition("{")[0]
    shared = one[len(one) - common_length(one[::-1], other[::-1]) :]
    return re.sub(r"\A\w+", "", shared)


def _between(probe: Probe) -> tuple[str, tuple[str, ...]]:
    """What begins a message that is not the first, and the tags that end one."""
    rows = [
        (THOUGHTFUL_ANSWER, THOUGHT, ANSWER.content),
        (Message("assistant", ANSWER.content, tool_calls=CALL.tool_calls), ANSWER.content, CALLED_TOOL),
        (Message("assistant", tool_calls=(*CALL.tool_calls, _SECOND)), _VALUE, OTHER_TOOL),
    ]
    start, ends = "", []
    for reply, one, other in rows:
        shown = probe.show(reply, tools=TOOLS) or ""
        behind = shown.partition(one)[2]
        tags = _TAGS.match(behind.lstrip('"}'))
        ends += re.findall(TAG, tags.group()) if tags else []
        if other in behind and not start:
            start = _beginning(behind.partition(other)[0], probe.prompt_end)
    for reply, body in ((ANSWER, ANSWER.content), (CALL, _VALUE)):
        behind = (probe.show(reply, tools=TOOLS) or "").rpartition(body)[2]
        ends += re.findall(TAG, behind.lstrip('"}'))[:1] if body == _VALUE or behind.lstrip()[:1] in "<[" else []
    first = re.match(TAG, start)
    return start, tuple(dict.fromkeys(end for end in ends if not (first and end == first.group())))


def _beginning(text: str, prompt_end: str) -> str:
    """The end of the prompt, as far as it stands in `text` too: the longest of its ends that does, in whole tags."""
    places = (at for at in range(len(prompt_end)) if at == whole_tags(prompt_end, at))
    return next((prompt_end[at:] for at in places if prompt_end[at:] in text), "").strip()


def _last_word(header: str) -> str:
    words = _WORD.findall(header)
    return words[-1] if words else ""


def _body_syntax(probe: Probe, header_end: str) -> Syntax | None:
    """How a call's body is written; None for a JSON object of its arguments."""

    def body(calls: Sequence[ToolCall]) -> str | None:
        if len(calls) != 1:
            return None  # each call is a message of its own
        head = _head(probe, Message("assistant", tool_calls=tuple(calls)), "zmore")
        shown = probe.show(Message("assistant", tool_calls=tuple(calls)), tools=TOOLS) or ""
        if head is None:
            return None
        prompt = probe.show(tools=TOOLS, prompts=True) or ""
        text = shown[len(prompt) :].partition(header_end)[2]
        return text[: len(text) - len(_last_tag(text))]

    text = body([ToolCall("abcd12345", CALLED_TOOL, '{"zargument": "zvalue", "zfurther": "zmore"}')])
    return None if text is None or text.lstrip().startswith("{") else find_syntax(body)


def _last_tag(text: str) -> str:
    found = re.search(rf"{TAG}\s*\Z", text)
    return found.group() if found else ""
