"""The handlers that generate: decode, find the model, check what it can do, lease it, encode.

What a model cannot do is said in Ollama's words, since clients match on them. The Modelfile's part (options, SYSTEM,
MESSAGEs) is laid under what the client sent here, so that a runner gets complete requests.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import msgspec
from starlette.requests import Request

from localllm.dialects import ollama, openai
from localllm.dialects.body import Decoded
from localllm.dialects.framing import Encoder
from localllm.dialects.ollama_encode import OllamaEncoder
from localllm.dialects.openai_completion import decode_completion
from localllm.dialects.openai_completion_encode import CompletionEncoder, Shape
from localllm.dialects.openai_encode import OpenAIEncoder
from localllm.errors import UnsupportedError
from localllm.generation import (
    AnswerEvent,
    Finished,
    GenerationRequest,
    Message,
    Options,
    Timings,
    merge_options,
)
from localllm.server.choices import Answers, answers
from localllm.server.limits import check_limits
from localllm.server.progress import Progress
from localllm.server.replies import told_headers
from localllm.server.services import Lease, Services, Turn
from localllm.server.streaming import AnswerResponse
from localllm.server.terms import terms_of
from localllm.store.model import Model

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """What differs between the routes. `verb` is what the route does in "does not support …"."""

    verb: str
    decode: Callable[[bytes], Decoded]
    encoder: Callable[[Decoded, Services], Encoder]


async def openai_completion(services: Services, request: Request) -> AnswerResponse:
    """POST /v1/completions."""
    return await answer(services, request, _OPENAI_COMPLETION)


async def openai_chat(services: Services, request: Request) -> AnswerResponse:
    """POST /v1/chat/completions."""
    return await answer(services, request, _OPENAI_CHAT)


def _openai_encoder(decoded: Decoded, services: Services) -> OpenAIEncoder:
    return OpenAIEncoder(
        f"chatcmpl-{services.new_id()}",
        decoded.request.model,
        services.clock.time_ns(),
        include_usage=decoded.include_usage,
        service_tier=decoded.service_tier,
        reports_progress=decoded.reports_progress,
    )


def _completion_encoder(decoded: Decoded, services: Services) -> CompletionEncoder:
    shape = Shape(
        decoded.include_usage, decoded.candidates_per_prompt, decoded.answers_per_prompt, decoded.shows_logprobs
    )
    return CompletionEncoder(f"cmpl-{services.new_id()}", decoded.request.model, services.clock.time_ns(), shape)


OLLAMA_GENERATE = Route("generate", ollama.decode_generate, lambda d, _: OllamaEncoder("generate", d.request.model))
OLLAMA_CHAT = Route("chat", ollama.decode_chat, lambda d, _: OllamaEncoder("chat", d.request.model))
_OPENAI_CHAT = Route("chat", openai.decode_chat, _openai_encoder)
_OPENAI_COMPLETION = Route("generate", decode_completion, _completion_encoder)


async def answer(services: Services, request: Request, route: Route) -> AnswerResponse:
    """The answer to a request of a route: its events, in the route's words. Raises LocalllmError's kinds."""
    return await answer_decoded(services, request, route.decode(await request.body()), route)


async def answer_decoded(
    services: Services, request: Request, decoded: Decoded, route: Route, found: Model | None = None
) -> AnswerResponse:
    """The answer to a body that was decoded; `found` is its model if that is known. Raises LocalllmError's kinds."""
    arrived = services.clock.monotonic()
    terms = terms_of(request, decoded.request.client, decoded.request.priority)
    model = await services.find(decoded.request.model) if found is None else found
    decoded = within_capabilities(decoded, model, route.verb)
    if decoded.unknown_options:
        logger.warning("unknown options are ignored: %s", ", ".join(decoded.unknown_options))
    turn = services.scheduler.lease(model, decoded.request.keep_alive_seconds, terms.requester)
    progress = Progress(turn, terms.timeout_seconds)
    if decoded.action == "unload":
        events: AsyncGenerator[AnswerEvent, None] = _unload(services, model)
    elif decoded.action == "load":
        events = _load(services, turn, progress, arrived)
    else:
        requests = [
            msgspec.structs.replace(one, client=terms.requester.client, priority=terms.requester.priority)
            for one in completed(decoded, model, services.settings.context_length)
        ]
        events = _generate(services, model, turn, progress, answers(decoded, requests), arrived)
        if services.traces is not None:
            events = services.traces.follow(events, request.headers, requests[0], model.name)
    options = (f"options.{name}" for name in decoded.unknown_options)
    ignored = dict.fromkeys((*decoded.ignored, *options, *(("DRAFT",) if model.ignores_draft else ())))
    encoder, headers = route.encoder(decoded, services), told_headers(tuple(ignored))
    return AnswerResponse(events, encoder, services, progress, is_stream=decoded.stream, headers=headers)


def completed(decoded: Decoded, model: Model, context_length: int) -> list[GenerationRequest]:
    """The requests that answer a body: one, or one for each choice."""
    return [complete(request, model, context_length) for request in decoded.choices or (decoded.request,)]


def within_capabilities(decoded: Decoded, model: Model, verb: str) -> Decoded:
    """The body as `model` can serve it. Raises UnsupportedError where it cannot, InvalidFieldError for too much."""
    check_limits(decoded.request)
    if decoded.thinks_if_it_can and decoded.request.think and "thinking" not in model.capabilities:
        request = msgspec.structs.replace(decoded.request, think=None)
        decoded = replace(decoded, request=request, ignored=(*decoded.ignored, "thinking"))
    check_capabilities(model, decoded.request, verb)
    return decoded


def check_capabilities(model: Model, request: GenerationRequest, verb: str) -> None:
    """Raises UnsupportedError, in Ollama's words, for what `model` cannot do."""
    if "completion" not in model.capabilities:
        raise UnsupportedError(f'"{request.model}" does not support {verb}')
    if request.tools and "tools" not in model.capabilities:
        raise UnsupportedError(f"{model.name} does not support tools")
    if request.think and "thinking" not in model.capabilities:
        raise UnsupportedError(f'"{request.model}" does not support thinking')


def complete(request: GenerationRequest, model: Model, context_length: int) -> GenerationRequest:
    """Lay what the client sent over what the Modelfile says, and that over the configured context (0: none)."""
    asked = request.options
    if asked.num_ctx == 0:  # how clients write "the default"
        asked = msgspec.structs.replace(asked, num_ctx=None)
    options = merge_options(asked, model.options, Options(num_ctx=context_length or None))
    request = msgspec.structs.replace(request, options=options)
    if request.raw or request.prompt_tokens is not None or request.fill_in is not None:
        return request
    if request.messages is None:
        return _complete_prompt(request, model)
    messages = (*model.messages, *request.messages)
    if model.system and request.messages[0].role != "system":
        messages = (Message("system", model.system), *messages)
    return msgspec.structs.replace(request, messages=messages)


def _complete_prompt(request: GenerationRequest, model: Model) -> GenerationRequest:
    if request.context_tokens is not None:  # there the Modelfile has been told already
        return request
    system = request.system or model.system
    if not model.messages:
        return msgspec.structs.replace(request, system=system)
    opening = (Message("system", system),) if system else ()
    messages = (*opening, *model.messages, Message("user", request.prompt or ""))
    return msgspec.structs.replace(request, messages=messages, prompt=None, system=None)


async def _generate(
    services: Services, model: Model, turn: Turn, progress: Progress, answers: Answers, arrived: float
) -> AsyncGenerator[AnswerEvent, None]:
    async with turn as lease, aclosing(answers(lease.runner)) as events:
        progress.lease = lease
        meter = services.metrics.answer(model.name, arrived)
        async for event in events:
            meter.see(event, services.clock.monotonic())
            if isinstance(event, Finished):
                event = _with_times(event, lease, services, arrived)
                services.metrics.finished(model.name, event)
            yield event


async def _load(
    services: Services, turn: Turn, progress: Progress, arrived: float
) -> AsyncGenerator[AnswerEvent, None]:
    async with turn as lease:
        progress.lease = lease
        yield _with_times(Finished("load"), lease, services, arrived)


async def _unload(services: Services, model: Model) -> AsyncGenerator[AnswerEvent, None]:
    await services.scheduler.unload(model)
    yield Finished("unload")


def _with_times(event: Finished, lease: Lease, services: Services, arrived: float) -> Finished:
    timings: Timings = msgspec.structs.replace(
        event.timings,
        load_seconds=lease.load_seconds,
        queue_seconds=lease.queue_seconds + event.timings.queue_seconds,
        total_seconds=services.clock.monotonic() - arrived,
    )
    return msgspec.structs.replace(event, timings=timings, fallback=lease.fallback)
