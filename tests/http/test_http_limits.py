"""How much one request may hold: beyond it a 400 that says how much there was and may be."""

from __future__ import annotations

import httpx
import pytest

from localllm.errors import InvalidFieldError
from localllm.generation import GenerationRequest, Message, Options, ResponseFormat, Tool
from localllm.server.limits import (
    LARGEST_SCHEMA,
    LONGEST_STOP,
    MOST_BIASES,
    MOST_MESSAGES,
    MOST_STOPS,
    MOST_TOOLS,
    check_limits,
)

TURN, TOOL = Message("user", "x"), Tool("a", "{}")


def requests(more: int):
    """A request at each limit, or beyond it by `more`."""
    schema = ResponseFormat("json_schema", "x" * (LARGEST_SCHEMA + more))
    yield "messages", GenerationRequest("m", messages=(TURN,) * (MOST_MESSAGES + more))
    yield "tools", GenerationRequest("m", tools=(TOOL,) * (MOST_TOOLS + more))
    yield "tools", GenerationRequest("m", tools=(Tool("a", "x" * (LARGEST_SCHEMA + more)),))
    yield "stop", GenerationRequest("m", options=Options(stop=("x",) * (MOST_STOPS + more)))
    yield "stop", GenerationRequest("m", options=Options(stop=("x" * (LONGEST_STOP + more),)))
    yield "logit_bias", GenerationRequest("m", options=Options(logit_bias=((1, 1.0),) * (MOST_BIASES + more)))
    yield "format", GenerationRequest("m", response_format=schema)


def test_what_is_at_the_limit_is_taken():
    for _, request in requests(0):
        check_limits(request)


@pytest.mark.parametrize(
    ("field", "request_beyond"), list(requests(1)), ids=lambda one: one if isinstance(one, str) else ""
)
def test_what_is_beyond_is_refused_by_name_and_numbers(field, request_beyond):
    with pytest.raises(InvalidFieldError, match=r"has \d+ .*, and \d+ is the most") as caught:
        check_limits(request_beyond)
    assert field == caught.value.field


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/chat", {"options": {"stop": ["x"] * 65}}),
        ("/v1/chat/completions", {"stop": ["x"] * 65}),
        ("/v1/messages", {"stop_sequences": ["x"] * 65, "max_tokens": 1}),
        ("/v1/messages/count_tokens", {"stop_sequences": ["x"] * 65}),
        ("/completion", {"stop": ["x"] * 65, "prompt": "x"}),
        ("/apply-template", {"stop": ["x"] * 65}),
    ],
)
def test_every_dialect_has_the_limits(server, path, more):
    body = {"model": "guide", "messages": [{"role": "user", "content": "echo a"}], **more}
    answer = httpx.post(server.url + path, json=body)
    assert (400, True) == (answer.status_code, "stop has 65 texts, and 64 is the most" in answer.text)
