"""What a template demands of a conversation, found by trying it on the shortest one that shows it.

Each demand is tried once, and only when a conversation has what it is about:

    a system role                     refused, or left out: the system's text begins the first user turn
    two turns of one side in a row    refused: they are merged
    several calls in one turn         refused, or all but one left out: the calls follow one another
    thinking and text before a call   refused: they become one thought
    calls of a turn with a content    left out, even if it is empty: that is none, and a text becomes a turn before it
    calls as such                     left out where a turn's "metadata" is shown: they become a text with a tool's name
    arguments as an object            refused, or written as Python writes a dict: they stay JSON text
    call ids of any form              refused: they become nine letters and digits, as Mistral has them
    call ids beside names             left out are the names: the ids become Kimi's, which have the names in them
    content as a string               left out: it becomes a list of typed parts
    results as strings                taken apart, letter by letter: each becomes a list of one text
    a call without a text             refused: the text becomes a list of one empty part
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from localllm.chat import conversation
from localllm.chat.conversation import PLAIN, Form
from localllm.generation import Message, ToolCall

# Words no template contains.
_QUESTION = Message("user", "Zquestion")
_ANY_ID, _LONG_ID = "abcd12345", "call_abcd1234"
_FIRST, _SECOND, _KEY = "zfirst", "zsecond", "zkey"
_ARGUMENTS = f'{{"{_KEY}": "zvalue"}}'


def _call(name: str = _FIRST, call_id: str = _ANY_ID) -> ToolCall:
    return ToolCall(call_id, name, _ARGUMENTS)


def _result(name: str = _FIRST, call_id: str = _ANY_ID) -> Message:
    return Message("tool", "Zresult", tool_name=name, tool_call_id=call_id)


def _after_call(said: Message) -> list[Message]:
    return [_QUESTION, said, _result()]


class Demands:
    """The demands of one template. `show` renders messages in a form, or returns None when the template refuses."""

    def __init__(self, show: Callable[[Sequence[Message], Form], str | None]) -> None:
        self._show = show

    def adapt(self, messages: Sequence[Message]) -> tuple[Sequence[Message], Form]:
        """The conversation as this template can show it, and the form of its turns."""
        if any(message.role == "system" for message in messages) and self._refuses_system_role:
            messages = conversation.with_system_in_user_turn(messages)
        if any(one.role == other.role for one, other in itertools.pairwise(messages)) and self._refuses_neighbours:
            messages = conversation.with_neighbours_merged(messages)
        has_calls = any(message.tool_calls for message in messages)
        if has_calls and (self._wants_metadata or self._shows_one_call_per_turn):
            messages = conversation.with_one_call_per_turn(messages)
        if any(map(conversation.says_all_before_call, messages)) and self._refuses_text_beside_thinking:
            messages = conversation.with_text_in_thinking(messages)
        if has_calls and (self._wants_metadata or self._wants_no_text_with_calls):
            messages = conversation.with_text_before_calls(messages)
        if has_calls and self._wants_named_ids:
            messages = conversation.with_named_ids(messages)
        return messages, self._form(messages)

    def _form(self, messages: Sequence[Message]) -> Form:
        has_calls = any(message.tool_calls for message in messages)
        has_ids = has_calls or any(message.tool_call_id for message in messages)
        has_results = any(message.role == "tool" for message in messages)
        return Form(
            short_call_ids=has_ids and self._wants_short_call_ids,
            text_arguments=has_calls and self._wants_text_arguments,
            parts=self._wants_parts,
            empty_part=not all(message.content for message in messages) and self._wants_empty_part,
            listed_results=has_results and self._wants_listed_results,
            no_text=has_calls and self._wants_no_text_with_calls,
            metadata=(has_calls or has_results) and self._wants_metadata,
        )

    def _takes(self, *messages: Message) -> bool:
        return self._show(messages, PLAIN) is not None

    @functools.cached_property
    def _refuses_system_role(self) -> bool:
        """Whether a system turn is refused, or left out, and its text in the user's turn is not."""
        shown = self._show([Message("system", "Zsystem"), _QUESTION], PLAIN)
        if shown is None:
            return self._takes(_QUESTION)
        return "Zsystem" not in shown and "Zsystem" in (self._show([Message("user", "Zsystem")], PLAIN) or "")

    @functools.cached_property
    def _refuses_neighbours(self) -> bool:
        return not self._takes(_QUESTION, _QUESTION) and self._takes(_QUESTION)

    @functools.cached_property
    def _shows_one_call_per_turn(self) -> bool:
        calls = (_call(), _call(_SECOND, _ANY_ID[::-1]))
        results = [_result(), _result(_SECOND, _ANY_ID[::-1])]
        parallel = [_QUESTION, Message("assistant", tool_calls=calls), *results]
        return not self._shows_both(parallel) and self._shows_both(conversation.with_one_call_per_turn(parallel))

    def _shows_both(self, messages: Sequence[Message]) -> bool:
        form = Form(text_arguments=self._wants_text_arguments, no_text=self._wants_no_text_with_calls)
        # The results may be written with the names of their calls, so only the calls may show.
        shown = self._show([m for m in messages if m.role != "tool"], form) or self._show(messages, form) or ""
        return _FIRST in shown and _SECOND in shown

    @functools.cached_property
    def _refuses_text_beside_thinking(self) -> bool:
        both = Message("assistant", "Ztext", thinking="Zthought", tool_calls=(_call(),))
        one = Message("assistant", thinking="Zthought", tool_calls=(_call(),))
        return not self._takes(*_after_call(both)) and self._takes(*_after_call(one))

    @functools.cached_property
    def _wants_text_arguments(self) -> bool:
        messages = _after_call(Message("assistant", tool_calls=(_call(),)))
        no_text = self._wants_no_text_with_calls
        as_text = self._show(messages, Form(text_arguments=True, no_text=no_text))
        as_object = self._show(messages, Form(no_text=no_text))
        return as_text is not None and _ARGUMENTS in as_text and (as_object is None or f"'{_KEY}'" in as_object)

    @functools.cached_property
    def _wants_no_text_with_calls(self) -> bool:
        """DeepSeek's R1 Distill Llama shows the calls of a turn whose content is null, and of no other."""
        messages = [_QUESTION, Message("assistant", tool_calls=(_call(),))]
        forms = [Form(text_arguments=as_text) for as_text in (False, True)]
        if any(_KEY in (self._show(messages, form) or "") for form in forms):
            return False
        return any(_KEY in (self._show(messages, replace(form, no_text=True)) or "") for form in forms)

    @functools.cached_property
    def _wants_metadata(self) -> bool:
        """GLM-4 writes the name of a tool where other turns have nothing, and its arguments as the turn's text."""
        messages = [_QUESTION, Message("assistant", tool_calls=(_call(),))]
        return _FIRST not in (self._show(messages, PLAIN) or "") and bool(
            re.search(rf"{_FIRST}\s*{re.escape(_ARGUMENTS)}", self._show(messages, Form(metadata=True)) or "")
        )

    @functools.cached_property
    def _wants_short_call_ids(self) -> bool:
        """Mistral's templates refuse ids that are not nine letters or digits."""
        long = Message("assistant", tool_calls=(_call(call_id=_LONG_ID),))
        short = Message("assistant", tool_calls=(_call(),))
        return not self._takes(_QUESTION, long, _result(call_id=_LONG_ID)) and self._takes(*_after_call(short))

    @functools.cached_property
    def _wants_named_ids(self) -> bool:
        """Kimi K2's and K2.5's own templates write the id of a call where others write its name."""
        form = Form(text_arguments=self._wants_text_arguments, no_text=self._wants_no_text_with_calls)
        shown = self._show([_QUESTION, Message("assistant", tool_calls=(_call(),))], form) or ""
        return _ANY_ID in shown and _KEY in shown and _FIRST not in shown

    @functools.cached_property
    def _wants_parts(self) -> bool:
        as_text = self._show([_QUESTION], PLAIN)
        if as_text is not None and _QUESTION.content in as_text:
            return False
        return _QUESTION.content in (self._show([_QUESTION], Form(parts=True)) or "")

    @functools.cached_property
    def _wants_empty_part(self) -> bool:
        """Command A Reasoning's looks into the first part of what is no thought, and so do those of some that see."""
        messages = [_QUESTION, Message("assistant", tool_calls=(_call(),))]
        parts = self._wants_parts
        if any(self._show(messages, form) is not None for form in (Form(parts=parts), Form(no_text=True))):
            return False
        shown = self._show(messages, Form(parts=parts, empty_part=True))
        return shown is not None and "'type'" not in shown

    @functools.cached_property
    def _wants_listed_results(self) -> bool:
        """Command A's takes every result for a list of documents."""
        messages = _after_call(Message("assistant", tool_calls=(_call(),)))
        form = Form(self._wants_short_call_ids, self._wants_text_arguments, empty_part=self._wants_empty_part)
        result = messages[-1].content
        if result in (self._show(messages, form) or result):
            return False
        return result in (self._show(messages, replace(form, listed_results=True)) or "")
