"""How a model talks: the template for what a request has, and the format of the answers that it describes.

    a request with tools, and the file has a template named tool_use     that one
    a Modelfile's TEMPLATE, or the file's default one                    it
    none of these                                                        a known family's, by the vocabulary's tokens
    no such tokens                                                       ChatML, with a warning
    a request that brings a template                                     that one

Templates are compiled and probed at their first use: whoever asks does so where a template may hang.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from localllm.chat.formats import OutputFormat, detect
from localllm.chat.known_templates import known_template
from localllm.chat.templates import Template, open_template

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """A model's templates and the texts they may use. `for_tools` is the one named tool_use."""

    default: str | None
    for_tools: str | None = None
    bos_token: str = ""
    eos_token: str = ""


class Voice:
    """One template, and what was found of it. The answers are in the format of those of `like`, if there is one."""

    def __init__(self, template: Template, like: Voice | None = None) -> None:
        self.template = template
        self._like = like

    @cached_property
    def format(self) -> OutputFormat:
        """The format of the answers."""
        if self._like is not None:
            return self._like.format
        found = detect(self.template)
        if found.calls is not None and not found.shows_tools:
            logger.warning("the chat template shows calls, but does not tell the model which tools there are")
        return found


class Voices:
    """The templates of one model. `knows` says whether a text is one token of its vocabulary."""

    def __init__(self, sources: Sources, knows: Callable[[str], bool], today: Callable[[], datetime]) -> None:
        self._sources = sources
        self._knows = knows
        self._today = today
        self._brought: Voice | None = None

    def of(self, *, has_tools: bool, instead: str | None = None) -> Voice:
        """The one for a request, or for the template it brings. Raises TemplateError for one that cannot be read."""
        usual = self._with_tools if has_tools and self._sources.for_tools else self._default
        if instead is None:
            return usual
        if self._brought is None or self._brought.template.source != instead:
            # How the model answers is its habit, and none of the template's: nothing is probed.
            self._brought = Voice(self._open(instead), usual)
        return self._brought

    @cached_property
    def _default(self) -> Voice:
        source = self._sources.default
        if source is not None and source.strip():
            return Voice(self._open(source))
        known = known_template(self._knows)
        if known is None:
            logger.warning("the file has no chat template: conversations are written as ChatML, which may not suit it")
            return Voice(self._open(None))
        logger.warning("the file has no chat template: by its tokens its conversations are written as %s's", known.name)
        return Voice(self._open(known.source))

    @cached_property
    def _with_tools(self) -> Voice:
        return Voice(self._open(self._sources.for_tools))

    def _open(self, source: str | None) -> Template:
        sources = self._sources
        return open_template(source, bos_token=sources.bos_token, eos_token=sources.eos_token, today=self._today)
