"""Requests of OpenAI's Responses with one custom tool, whose input is a text that follows a grammar."""

from __future__ import annotations

import json

import msgspec

from localllm.dialects import openai_responses
from localllm.dialects.body import Decoded
from localllm.generation import GenerationRequest, Options


def decoded(syntax: str | None, definition: str | None, **more: object) -> Decoded:
    """A request with the tool "note", and with `more` of a body's fields."""
    wanted = {"type": "grammar", "syntax": syntax, "definition": definition}
    tool = {"type": "custom", "name": "note", "description": "Notes it", "format": wanted}
    body = json.dumps({"model": "m", "input": "Q?", "tools": [tool], **more}).encode()
    return openai_responses.decode(openai_responses.read_body(body), body, [], {}.get).decoded


def asked(syntax: str, definition: str, choice: str = "required") -> GenerationRequest:
    """As `decoded`, with little thinking, so that random models come to their call."""
    request = decoded(syntax, definition, tool_choice=choice).request
    return msgspec.structs.replace(request, think=False, options=Options(thinking_budget=10))
