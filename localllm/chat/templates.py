"""The chat template of a model, in whichever language it is written; what the runner and formats.py know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from localllm.chat.go_template import GoTemplate
from localllm.chat.template import ChatTemplate
from localllm.generation import Message, Tool
from localllm.template_syntax import is_go


class Template(Protocol):
    """A template that was read: a conversation in, the prompt's text out. `source` is as it was written.

    `missing_prompt` is what is written behind a conversation because the template never asks for an answer.
    """

    @property
    def source(self) -> str: ...
    @property
    def is_default(self) -> bool: ...
    @property
    def missing_prompt(self) -> str: ...
    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        think: bool | str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str: ...


def open_template(source: str | None, *, bos_token: str, eos_token: str, today: Callable[[], datetime]) -> Template:
    """Read a template; None or blank stands for ChatML. Raises TemplateError for one that cannot be read."""
    if source is not None and is_go(source):
        return GoTemplate(source, today=today)
    return ChatTemplate(source, bos_token=bos_token, eos_token=eos_token, today=today)
