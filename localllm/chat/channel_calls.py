"""Grammars of calls that are messages of their own (Channels): a header names the tool, and the body is the call.

gpt-oss             to=functions.NAME<|channel|>commentary json<|message|>{…}
Muse Glimmer        to=NAME<|message|>, then a call in a syntax of its own
Functionary 3.2     NAME\\n{…}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from localllm.chat.call_grammar import CallableTool, call_grammar, json_arguments
from localllm.chat.lark import BLANKS, SPACE, Lark, Part, literal
from localllm.chat.syntax import Channels, Marker, Syntax, TaggedSyntax

# What models say in the header's place although their templates write something else there.
_OTHER_HEADS = ("<|constrain|>json",)


def whole_calls(
    lark: Lark, channels: Channels, syntax: Syntax, tools: Sequence[CallableTool], *, is_first: bool
) -> str:
    """A call from where a message begins: behind the prompt if it `is_first`, else with the start of a message."""
    start: tuple[Part, ...] = () if is_first else lark.mark(channels.start)
    if channels.recipient == "":
        return lark.rule(*(lark.sequence(*start, *_named(lark, channels, tool)) for tool in tools)).name
    start = (*start, SPACE) if start or is_first else start
    recipient = lark.mark(channels.recipient or "")
    if channels.calls is None:
        calls = lark.rule(call_grammar(lark, syntax, tools, channels.recipient, several=False))
        return lark.sequence(*start, *recipient, calls)
    own = channels.calls
    return lark.rule(
        *(
            f"{lark.sequence(*start, *recipient, *_named_head(lark, channels, tool))} "
            f"{call_grammar(lark, own, [tool], None, several=False)}"
            for tool in tools
        )
    ).name


def starts_of(channels: Channels, tools: Sequence[CallableTool]) -> dict[str, list[CallableTool]]:
    """The texts in an answer behind which a call stands, and of which tools it may be."""
    recipient = channels.recipient or ""
    if recipient and channels.calls is None:
        return {recipient: list(tools)}
    before = recipient or channels.start
    return {f"{before}{tool.name}{channels.header_end}": [tool] for tool in tools}


def begun_call(lark: Lark, channels: Channels, syntax: Syntax, tools: Sequence[CallableTool]) -> str:
    """What follows one of those texts."""
    if channels.calls is not None:
        return call_grammar(lark, channels.calls, tools, None, several=False)
    if channels.recipient == "":
        return lark.sequence(BLANKS, json_arguments(lark, tools[0]))
    heads = [syntax]
    if isinstance(syntax, TaggedSyntax):
        heads += [
            replace(syntax, after_name=Marker((head, channels.header_end)))
            for head in _OTHER_HEADS
            if lark.marks.special_token(head.partition(">")[0] + ">") is not None
        ]
    return lark.rule(*(call_grammar(lark, one, tools, channels.recipient, several=False) for one in heads)).name


def _named_head(lark: Lark, channels: Channels, tool: CallableTool) -> tuple[Part, ...]:
    return (literal(tool.name), *lark.mark(channels.header_end))


def _named(lark: Lark, channels: Channels, tool: CallableTool) -> tuple[Part, ...]:
    return (*_named_head(lark, channels, tool), json_arguments(lark, tool))
