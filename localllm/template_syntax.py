"""Which language a chat template is written in: Jinja, as model files have it, or Go's, as Ollama's Modelfiles do.

Told apart by what stands between "{{" and "}}", since both use these. Looks only; neither language is run here.
"""

from __future__ import annotations

import re

_JINJA = re.compile(r"\{%|\{#")
_GO = re.compile(
    r"""\{\{-?\s*(?:
        [.$]                                                                    # a field or a variable
        | /\*                                                                   # a comment
        | (?:if|else|end|range|with|define|template|block|break|continue)\b(?!\s*[.(|=\[])
        | (?:json|print|printf|println|eq|ne|and|or|not|len|index|slice)\s+[.$("]
        | (?:currentDate|yesterdayDate)\b
        | \w+\s+[.$][A-Za-z]                                                    # a function of a field, known or not
    )""",
    re.VERBOSE,
)
_GO_FIELDS = {
    "tools": re.compile(r"\{\{[^}]*\.(?:Tools|ToolCalls)\b"),
    "thinking": re.compile(r"\{\{[^}]*\.(?:Thinking|Think|ThinkLevel|IsThinkSet)\b|</think>"),
    "insert": re.compile(r"\{\{[^}]*\.Suffix\b"),
}


def is_go(source: str) -> bool:
    """Whether a template is written in Go's language; a text without any action is not."""
    return _JINJA.search(source) is None and _GO.search(source) is not None


def go_capabilities(source: str) -> tuple[str, ...]:
    """What a Go template shows a model can do, in Ollama's words: tools, thinking, insert."""
    return tuple(name for name, pattern in _GO_FIELDS.items() if pattern.search(source))
