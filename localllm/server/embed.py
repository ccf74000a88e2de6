"""The handlers that embed: decode, find the model, lease it, ask its runner, encode.

A request with many inputs goes to the runner in parts, so that one message never holds more than fits a frame, and
others have their turn between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects import ollama_embed, openai_embed
from localllm.dialects.framing import JSON_MEDIA_TYPE
from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import ModelNotFoundError, UnsupportedError
from localllm.generation import Failed
from localllm.server.meant_model import find
from localllm.server.progress import Progress
from localllm.server.replies import failed_response, told_headers
from localllm.server.services import Services, Turn
from localllm.server.terms import terms_of
from localllm.server.waiting import while_client_waits

INPUTS_PER_MESSAGE = 1024
PLACEHOLDER = "GPT-4"  # what llama.vscode calls whichever model embeds


@dataclass(frozen=True, slots=True)
class Done:
    """The vectors, part by part, and what the request waited for the model; `headers` tell the latter."""

    parts: tuple[Embeddings, ...]
    load_seconds: float
    headers: list[tuple[bytes, bytes]]


async def ollama_embed_inputs(services: Services, request: Request) -> Response:
    """POST /api/embed."""
    arrived = services.clock.monotonic()
    body = await request.body()
    wanted = ollama_embed.decode_embed(body)
    try:
        done = await embed(services, request, wanted)
    except ModelNotFoundError as error:
        return _not_found(error, request)
    total_seconds = services.clock.monotonic() - arrived
    answer = ollama_embed.encode_embed(wanted.model, done.parts, total_seconds, done.load_seconds)
    return embedded_response(answer, done, _ignored(body, ollama_embed.BODIES, request))


async def ollama_embed_prompt(services: Services, request: Request) -> Response:
    """POST /api/embeddings."""
    body = await request.body()
    wanted = ollama_embed.decode_embeddings(body)
    try:
        done = await embed(services, request, wanted)
    except ModelNotFoundError as error:
        return _not_found(error, request)
    return embedded_response(
        ollama_embed.encode_embeddings(done.parts), done, _ignored(body, ollama_embed.BODIES, request)
    )


async def openai_embeddings(services: Services, request: Request) -> Response:
    """POST /v1/embeddings."""
    body = await request.body()
    wanted, as_base64 = openai_embed.decode_embeddings(body)
    unused: tuple[str, ...] = ()
    if wanted.model == PLACEHOLDER:
        model, unused = await find(services, wanted.model, "embedding")
        wanted = msgspec.structs.replace(wanted, model=model.name)
    done = await embed(services, request, wanted)
    answer = openai_embed.encode_embeddings(wanted.model, done.parts, as_base64=as_base64)
    return embedded_response(answer, done, (*_ignored(body, openai_embed.BODIES, request), *unused))


async def embed(services: Services, request: Request, wanted: EmbedRequest) -> Done:
    """The vectors of a request's inputs. Raises LocalllmError's kinds, or ClientDisconnect."""
    model = await services.in_store(services.store.find, wanted.model)
    if "embedding" not in model.capabilities:
        raise UnsupportedError(f'"{wanted.model}" does not support embedding', hint="use an embedding model")
    num_ctx = wanted.num_ctx or model.options.num_ctx or services.settings.context_length or None
    wanted = msgspec.structs.replace(wanted, num_ctx=num_ctx)
    terms = terms_of(request)
    turn = services.scheduler.lease(model, wanted.keep_alive_seconds, terms.requester)
    progress = Progress(turn, terms.timeout_seconds)
    return await while_client_waits(services, request, _compute(turn, wanted, progress), progress)


async def _compute(turn: Turn, wanted: EmbedRequest, progress: Progress) -> Done:
    async with turn as lease:
        progress.lease = lease
        parts = []
        for start in range(0, len(wanted.inputs), INPUTS_PER_MESSAGE):
            inputs = wanted.inputs[start : start + INPUTS_PER_MESSAGE]
            parts.append(await lease.runner.embed(msgspec.structs.replace(wanted, inputs=inputs)))
        return Done(tuple(parts), lease.load_seconds, progress.headers())


def _not_found(error: ModelNotFoundError, request: Request) -> Response:
    """Ollama has other words for it here."""
    message = f'model "{error.name}" not found, try pulling it first'
    return failed_response(Failed(error.code, error.status, message, error.hint), request.url.path)


def _ignored(body: bytes, shapes: Mapping[str, type[msgspec.Struct]], request: Request) -> tuple[str, ...]:
    return ollama_embed.ignored_fields(body, shapes[request.url.path])


def embedded_response(body: bytes, done: Done, ignored: Sequence[str]) -> Response:
    """The answer as `body`, with what was waited for and the names of what was ignored."""
    response = Response(body, headers=told_headers(ignored), media_type=JSON_MEDIA_TYPE)
    response.raw_headers.extend(done.headers)
    return response
