"""A model's own Jinja chat template: a conversation in, the text of the prompt out.

The output is what transformers' `apply_chat_template` makes of the same conversation, byte for byte
(tests/unit/test_render_conformance.py); where a template cannot take a conversation as it is, demands.py finds out and
the conversation is told differently. The template is a stranger's program: sandbox.py runs it, within bounds.
What the model's answer looks like is not known here but in formats.py.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from localllm.chat import conversation
from localllm.chat.conversation import PLAIN, Form
from localllm.chat.demands import Demands
from localllm.chat.effort import Efforts
from localllm.chat.lengths import MAX_OUTPUT_CHARACTERS
from localllm.chat.openings import missing_prompt
from localllm.chat.sandbox import MAX_SOURCE_CHARACTERS, Program
from localllm.errors import TemplateError
from localllm.generation import Message, Tool

logger = logging.getLogger(__name__)

__all__ = ["DEFAULT_TEMPLATE", "MAX_OUTPUT_CHARACTERS", "MAX_SOURCE_CHARACTERS", "ChatTemplate"]

DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

_TOOL_NAME = "zdeclared_tool"
_TOOL = {"type": "function", "function": {"name": _TOOL_NAME, "description": "Z", "parameters": {"type": "object"}}}
# Stands behind the text that is to be continued, to find the place where to cut; as transformers has it.
_CONTINUE_HERE = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """One compiled template. `source` None or blank stands for DEFAULT_TEMPLATE, and `is_default` says so.

    Raises TemplateError for a source that does not compile, naming the line. Constructing renders nothing.
    """

    def __init__(
        self, source: str | None, *, bos_token: str = "", eos_token: str = "", today: Callable[[], datetime]
    ) -> None:
        self.is_default = source is None or not source.strip()
        self.source = DEFAULT_TEMPLATE if source is None or self.is_default else source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._today = today
        self._program = Program(self.source, today=today)
        self._demands = Demands(self._show)
        self._efforts = Efforts(self._program.variables, self._show_question)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        think: bool | str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
        **extra: object,
    ) -> str:
        """The prompt's text. `think` None leaves thinking to the template; a level also says that thinking is on.

        With `continue_final_message` it ends with the last message's text, open, for the model to go on with.
        `variables` and `extra` are further names for the template to read. Raises TemplateError with the template's own
        words when it refuses the conversation, or with the reason when it fails or makes too much.
        """
        adapted, form = self._demands.adapt(messages)
        if continue_final_message:
            adapted = _marked(adapted)
        known = self._variables(adapted, form) | self._tool_variables(tools)
        if tools and self._tools_in_turns is not None:
            known["messages"] = conversation.with_tools(
                _turns(adapted, form), self._tools_in_turns(list(map(conversation.definition, tools)))
            )
        known |= conversation.thinking_variables(think) | self._efforts.variables(think)
        known["add_generation_prompt"] = add_generation_prompt and not continue_final_message
        text = self._program.run(known | dict(variables or {}) | extra)
        if known["add_generation_prompt"]:
            text += self.missing_prompt
        return _cut(text) if continue_final_message else text

    @functools.cached_property
    def missing_prompt(self) -> str:
        """What is written behind a conversation to ask for an answer, since the template never does; mostly nothing."""
        begun = missing_prompt(lambda messages, asks: self._show(messages, PLAIN, asks=asks))
        if begun:
            logger.warning(
                "the chat template does not ask for answers: prompts end with %r, as its answers begin", begun
            )
        return begun

    def _variables(self, messages: Sequence[Message], form: Form = PLAIN) -> dict[str, object]:
        return {**self._tokens, "messages": _turns(messages, form), "tools": None, "documents": None}

    def _tool_variables(self, tools: Sequence[Tool]) -> dict[str, object]:
        definitions = [conversation.definition(tool) for tool in tools]
        nothing: list[object] | None = [] if self._needs_a_list_of_tools else None
        variables: dict[str, object] = {"tools": definitions or nothing}
        if "functions" in self._program.variables and "datetime" in self._program.variables:
            # FireFunction v2 reads the tools as a text of its own and the date as a variable (its model card).
            variables["functions"] = conversation.functions_text(definitions, indent=4)
            variables["datetime"] = self._today().strftime("%Y-%m-%d %H:%M:%S")
        return variables

    @functools.cached_property
    def _needs_a_list_of_tools(self) -> bool:
        """Whether "no tools" has to be an empty list, and not None as transformers has it."""
        variables = self._variables([Message("user", "probe")])
        return not self._can_run(variables) and self._can_run(variables | {"tools": []})

    @functools.cached_property
    def _tools_in_turns(self) -> Callable[[list[object]], object] | None:
        """How tools are told in a system turn of the conversation, where a template looks for them there.

        GLM-4's first template wants the list, Phi-4-mini's their functions as a text of JSON.
        """
        question = _turns([Message("user", "Zquestion")], PLAIN)
        variables = self._variables([Message("user", "Zquestion")]) | {"tools": [_TOOL], "add_generation_prompt": True}
        if self._shows_tool(variables) is not False:
            return None
        for told in (lambda tools: tools, conversation.functions_text):
            if self._shows_tool(variables | {"messages": conversation.with_tools(question, told([_TOOL]))}):
                return told
        return None

    def _shows_tool(self, variables: dict[str, object]) -> bool | None:
        try:
            return _TOOL_NAME in self._program.run(variables)
        except TemplateError:
            return None

    def _show(self, messages: Sequence[Message], form: Form, *, asks: bool = False) -> str | None:
        known = self._variables(messages, form) | self._tool_variables(())
        try:
            return self._program.run(known | ({"add_generation_prompt": True} if asks else {}))
        except TemplateError:
            return None

    def _show_question(self, variables: Mapping[str, object]) -> str | None:
        question = self._variables([Message("user", "Zquestion")]) | self._tool_variables(())
        try:
            return self._program.run(question | dict(variables) | {"add_generation_prompt": True})
        except TemplateError:
            return None

    def _can_run(self, variables: dict[str, object]) -> bool:
        try:
            self._program.run(variables | {"add_generation_prompt": True})
        except TemplateError:
            return False
        return True


def _turns(messages: Sequence[Message], form: Form) -> list[dict[str, object]]:
    return [conversation.turn(message, form) for message in messages]


def _marked(messages: Sequence[Message]) -> list[Message]:
    if not messages or messages[-1].role != "assistant" or not messages[-1].content:
        raise TemplateError("there is no answer to continue", hint="end the conversation with an assistant's text")
    last = messages[-1]
    return [*messages[:-1], conversation.replace_content(last, last.content + _CONTINUE_HERE)]


def _cut(text: str) -> str:
    """What stands before the mark; a template that trims content has trimmed the mark's blank, and then text too."""
    at = text.rfind(_CONTINUE_HERE.strip())
    if at < 0:
        raise TemplateError("this model's chat template does not show the answer that is to be continued")
    return text[:at] if text.startswith(_CONTINUE_HERE, at) else text[:at].rstrip()
