"""What a template writes for conversations whose words stand in no template, so that all else is the template's own.

Renders only; what is read off the difference between two of them is the business of formats.py and the modules it asks.
"""

from __future__ import annotations

import json
import re
from functools import cached_property

from localllm.chat.syntax import TAG, common_length, whole_tags
from localllm.chat.templates import Template
from localllm.errors import TemplateError
from localllm.generation import Message, Tool, ToolCall

QUESTION = Message("user", "Zquestion")
ANSWER = Message("assistant", "Zanswer")
THOUGHT = "Zthought"
DECLARED_TOOL = "zdeclared_tool"
CALLED_TOOL, OTHER_TOOL = "zcalled_tool", "zother_tool"
ARGUMENTS = {"zargument": "zvalue"}
TOOLS = (
    Tool(
        DECLARED_TOOL,
        json.dumps(
            {
                "type": "function",
                "function": {
                    "name": DECLARED_TOOL,
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
CALL = Message("assistant", tool_calls=(ToolCall("call_abcd1234", CALLED_TOOL, json.dumps(ARGUMENTS)),))
THOUGHTFUL_ANSWER = Message("assistant", ANSWER.content, thinking=THOUGHT)
THOUGHTFUL_CALL = Message("assistant", thinking=THOUGHT, tool_calls=CALL.tool_calls)

_TAGS = re.compile(rf"(?:{TAG}\s*)*")
_MOST_ENDS = 4


class Probe:
    """The renders of one template. None where it refuses."""

    def __init__(self, template: Template) -> None:
        self.template = template

    def show(
        self,
        *replies: Message,
        tools: tuple[Tool, ...] = (),
        think: bool | None = None,
        prompts: bool = False,
    ) -> str | None:
        """The question and these replies; with `prompts` what asks for the next one."""
        try:
            return self.template.render([QUESTION, *replies], tools, think=think, add_generation_prompt=prompts)
        except TemplateError:
            return None

    @cached_property
    def answered(self) -> str | None:
        """A plain answer to the question, beside tools."""
        return self.show(ANSWER, tools=TOOLS)

    @cached_property
    def called(self) -> str | None:
        """A call instead; None where the template leaves it out."""
        called = self.show(CALL, tools=TOOLS)
        return called if called is not None and CALLED_TOOL in called else None

    @cached_property
    def called_builtin(self) -> str:
        """A call of a tool that the model was trained on, which Llama's templates write in a way of its own."""
        known = {"builtin_tools": [CALLED_TOOL]}
        try:
            return self.template.render([QUESTION, CALL], TOOLS, add_generation_prompt=False, variables=known)
        except TemplateError:
            return ""

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the model is told of its tools; some templates do so in the last turn only, if that is the user's."""
        return any(DECLARED_TOOL in (text or "") for text in (self.called, self.answered, self.show(tools=TOOLS)))

    @cached_property
    def parallel_calls(self) -> bool:
        """Whether two calls can stand in one answer, and not only in two, one after the other."""
        first = CALL.tool_calls[0]
        second = ToolCall("efgh67890", OTHER_TOOL, first.arguments)
        shown = self.show(Message("assistant", tool_calls=(first, second)), tools=TOOLS) or ""
        if CALLED_TOOL not in shown or OTHER_TOOL not in shown:
            return False
        value = next(iter(ARGUMENTS.values()))
        between = shown.partition(value)[2].partition(OTHER_TOOL)[0]
        begun_anew = self.prompt_end.strip()
        if not begun_anew or begun_anew not in between:
            return True
        # Where every message begins as the prompt ends, an answer of several goes on behind another end than its last.
        one, last = re.findall(TAG, between.partition(begun_anew)[0]), re.findall(TAG, shown.rpartition(value)[2])
        return one[-1:] != last[-1:]

    @cached_property
    def prompt(self) -> str:
        """What asks for an answer to the question; empty where the template refuses."""
        return self.show(prompts=True) or ""

    @cached_property
    def prompt_with_tools(self) -> str:
        """What asks for an answer beside tools; empty where the template refuses."""
        return self.show(tools=TOOLS, prompts=True) or ""

    @cached_property
    def prompt_end(self) -> str:
        """The part of it that is there for the answer only."""
        return self.prompt.removeprefix(self.show() or "")

    @cached_property
    def lead(self) -> str:
        """What a template writes before a plain answer besides what the prompt says already, whole tags."""
        plain = self.show(ANSWER) or ""
        begin = whole_tags(plain, common_length(self.prompt, plain))
        return plain[begin : max(begin, plain.find(ANSWER.content))]

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The tags right behind a plain answer."""
        behind = (self.show(ANSWER) or "").rpartition(ANSWER.content)[2].lstrip()
        found = _TAGS.match(behind)
        return tuple(re.findall(TAG, found.group() if found else ""))[:_MOST_ENDS]


def place_behind(prompt: str, shown: str) -> int | None:
    """Where `shown` goes on behind a prompt that it begins with, but for blanks; None where it does not."""
    if shown.startswith(prompt):
        return len(prompt)
    at = 0
    for character in "".join(prompt.split()):
        while at < len(shown) and shown[at].isspace():
            at += 1
        if not shown.startswith(character, at):
            return None
        at += 1
    return at
