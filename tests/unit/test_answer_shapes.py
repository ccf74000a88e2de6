"""The shapes in the document of the API have all that the encoders write, and nothing that they never do."""

from __future__ import annotations

import json

import msgspec
import pytest
from answer_shapes import fields_beside, fields_in
from msgspec import inspect

from localllm.dialects import answers as a
from localllm.dialects import answers_v1 as v1
from localllm.dialects import openai_responses
from localllm.dialects.anthropic_encode import AnthropicEncoder
from localllm.dialects.body import Decoded
from localllm.dialects.llamacpp_encode import LlamaCppEncoder
from localllm.dialects.ollama_encode import OllamaEncoder, rendered_body
from localllm.dialects.openai_completion_encode import CompletionEncoder, Shape
from localllm.dialects.openai_encode import OpenAIEncoder
from localllm.dialects.openai_responses_encode import ResponsesEncoder
from localllm.generation import (
    CacheMiss,
    ContentDelta,
    Failed,
    Finished,
    GenerationRequest,
    PromptProgress,
    ThinkingDelta,
    Timings,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

SECOND = 1_000_000_000
LOGPROBS = (TokenLogprob(b"a", -0.5, (TokenLogprob(b"a", -0.5),)),)
FINISHED = Finished(
    "length",
    Usage(5, 2, 3, 1, 4, 2),
    Timings(0.1, 0.2, 0.3, 0.4, 1.0),
    dropped_messages=1,
    dropped_tokens=2,
    cache_miss=CacheMiss(1, "a", 7, "b", "c"),
    stop_text="END",
    context=(1, 2),
    unfinished_tool_call=True,
    fallback="no CUDA",
)
# Every kind of event, with all that it can hold.
EVENTS = (
    PromptProgress(2, 5, 2),
    ThinkingDelta("hm"),
    ContentDelta("a\n", LOGPROBS),
    ToolCallDelta(0, "call_1", "add", '{"a"'),
    ToolCallDelta(0, arguments=": 1}"),
    ToolCallDelta(1, "call_2", "patch", '{"input": "x"}'),
    FINISHED,
)
FAILED = Failed("busy", 503, "too many wait", "wait, too")


def responses(**fields) -> ResponsesEncoder:
    text = json.dumps({"model": "m", "input": "x", "tools": [{"type": "custom", "name": "patch"}], **fields}).encode()
    decoded = openai_responses.decode(openai_responses.read_body(text), text, (), lambda _: None)
    return ResponsesEncoder("resp_ab", decoded, SECOND, stores=True)


def llamacpp() -> LlamaCppEncoder:
    request = GenerationRequest("m", prompt="x")
    return LlamaCppEncoder(Decoded(request, stream=True, reports_progress=True, reports_timings=True))


def openai() -> OpenAIEncoder:
    return OpenAIEncoder("id", "m", SECOND, include_usage=True, service_tier="auto", reports_progress=True)


# But for what never happens: a chat that gives a context, tools in /api/generate.
EVENTS_OF = {
    "chat": (*EVENTS[:-1], msgspec.structs.replace(FINISHED, context=())),
    "generate": tuple(event for event in EVENTS if not isinstance(event, ToolCallDelta)),
}
ENCODERS = {
    "chat": (lambda: OllamaEncoder("chat", "m"), a.OllamaChat, a.OllamaChat),
    "generate": (lambda: OllamaEncoder("generate", "m"), a.OllamaGenerated, a.OllamaGenerated),
    "openai": (openai, v1.OpenAIChat, v1.OpenAIChunk),
    "completion": (
        lambda: CompletionEncoder("id", "m", SECOND, Shape(include_usage=True, shows_logprobs=True)),
        v1.OpenAICompletion,
        v1.OpenAIChunk,
    ),
    "responses": (responses, v1.OpenAIResponse, v1.OpenAIEvent),
    "responses, summarized": (
        lambda: responses(reasoning={"summary": "auto"}),
        v1.OpenAIResponse,
        v1.OpenAIEvent,
    ),
    "anthropic": (lambda: AnthropicEncoder("id", "m", ("END",), 100), v1.AnthropicMessage, v1.AnthropicEvent),
    "llamacpp": (llamacpp, a.LlamaCppCompletion, a.LlamaCppCompletion),
}
ERRORS = {
    "chat": a.OllamaError,
    "generate": a.OllamaError,
    "anthropic": v1.AnthropicError,
    "llamacpp": a.LlamaCppError,
}
SHOWN = {
    is_chat: rendered_body("m", "x", [1], SECOND, is_chat=is_chat) for is_chat in (True, False)
}  # what `_debug_render_only` shows


def whole(name: str) -> bytes:
    return ENCODERS[name][0]().whole(EVENTS_OF.get(name, EVENTS), 2 * SECOND)


def pieces(name: str, *instead: Failed) -> list[str]:
    encoder = ENCODERS[name][0]()
    events = instead or EVENTS_OF.get(name, EVENTS)
    lines = b"".join(encoder.chunk(event, 2 * SECOND) for event in events).decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith(("{", "data: {"))]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_answer_has_no_field_that_its_shape_does_not_tell(name):
    assert [] == fields_beside(whole(name), ENCODERS[name][1])


@pytest.mark.parametrize("name", ENCODERS)
def test_the_pieces_of_a_stream_have_no_field_that_their_shape_does_not_tell(name):
    found = pieces(name)
    assert len(found) > 2
    assert [] == [field for piece in found for field in fields_beside(piece, ENCODERS[name][2])]


@pytest.mark.parametrize("name", ENCODERS)
def test_an_error_has_no_field_that_its_shape_does_not_tell(name):
    assert [] == fields_beside(ENCODERS[name][0]().error(FAILED), ERRORS.get(name, v1.OpenAIError))


@pytest.mark.parametrize(("name", "shape"), [("anthropic", v1.AnthropicEvent), ("responses", v1.OpenAIEvent)])
def test_a_stream_that_fails_has_no_field_that_its_shape_does_not_tell(name, shape):
    found = pieces(name, FAILED)
    assert found
    assert [] == [field for piece in found for field in fields_beside(piece, shape)]


@pytest.mark.parametrize(("is_chat", "shape"), [(True, a.OllamaChat), (False, a.OllamaGenerated)])
def test_a_prompt_that_is_only_shown_has_no_field_that_its_shape_does_not_tell(is_chat, shape):
    assert [] == fields_beside(SHOWN[is_chat], shape)


def test_a_shape_tells_no_field_that_is_never_written():
    told, written = set(), set()
    samples = [(text, shape) for name, (_, shape, _) in ENCODERS.items() for text in [whole(name)]]
    samples += [(text, shape) for name, (_, _, shape) in ENCODERS.items() for text in pieces(name)]
    samples += [(text, v1.AnthropicEvent) for text in pieces("anthropic", FAILED)]
    samples += [(SHOWN[True], a.OllamaChat), (SHOWN[False], a.OllamaGenerated)]
    samples += [(ENCODERS[name][0]().error(FAILED), ERRORS.get(name, v1.OpenAIError)) for name in ENCODERS]
    for text, shape in samples:
        written |= fields_in(text, shape)
        told |= {f"{shape.__name__}.{field.encode_name}" for field in inspect.type_info(shape).fields}
    assert set() == told - written
