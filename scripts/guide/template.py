"""Renders conversations with chat_template.jinja, as the program's own renderer does.

The environment is that of Hugging Face's transformers: sandboxed, trimmed blocks, a `tojson` that keeps
key order and non-ASCII letters.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")

Message = dict[str, Any]


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def template_source() -> str:
    return TEMPLATE_PATH.read_text(encoding="utf-8")


@cache
def compiled_template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = to_json
    return environment.from_string(template_source())


def render_prompt(messages: list[Message], tools: list[Any] | None = None, *, thinking: bool = False) -> str:
    """The text up to where the model begins to write."""
    return compiled_template().render(
        messages=messages, tools=tools, add_generation_prompt=True, enable_thinking=thinking
    )


def call_text(calls: list[Message]) -> str:
    """What the model writes to call tools; the template renders earlier calls in the same form."""
    return "\n".join(f"<tool_call>\n{to_json(call)}\n</tool_call>" for call in calls)
