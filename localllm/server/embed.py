"""The handlers that embed: decode, find the model, lease it, ask its runner, encode.

A request with many inputs goes to the runner in parts, so that one message never holds more than fits a frame, and
others have their turn between them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects import ollama_embed, openai_embed
from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import ModelNotFoundError, UnsupportedError
from localllm.generation import Failed
from localllm.server.meant_model import find
from localllm.server.questions import Asked, ask
from localllm.server.replies import failed_response
from localllm.server.services import Runner, Services

INPUTS_PER_MESSAGE = 1024
PLACEHOLDER = "GPT-4"  # what llama.vscode calls whichever model embeds


Vectors = tuple[Embeddings, ...]  # part by part


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
    answer = ollama_embed.encode_embed(wanted.model, done.value, total_seconds, done.load_seconds)
    return done.response(answer, _ignored(body, ollama_embed.BODIES, request))


async def ollama_embed_prompt(services: Services, request: Request) -> Response:
    """POST /api/embeddings."""
    body = await request.body()
    wanted = ollama_embed.decode_embeddings(body)
    try:
        done = await embed(services, request, wanted)
    except ModelNotFoundError as error:
        return _not_found(error, request)
    return done.response(ollama_embed.encode_embeddings(done.value), _ignored(body, ollama_embed.BODIES, request))


async def openai_embeddings(services: Services, request: Request) -> Response:
    """POST /v1/embeddings."""
    body = await request.body()
    wanted, as_base64 = openai_embed.decode_embeddings(body)
    unused: tuple[str, ...] = ()
    if wanted.model == PLACEHOLDER:
        model, unused = await find(services, wanted.model, "embedding")
        wanted = msgspec.structs.replace(wanted, model=model.name)
    done = await embed(services, request, wanted)
    answer = openai_embed.encode_embeddings(wanted.model, done.value, as_base64=as_base64)
    return done.response(answer, (*_ignored(body, openai_embed.BODIES, request), *unused))


async def embed(services: Services, request: Request, wanted: EmbedRequest) -> Asked[Vectors]:
    """The vectors of a request's inputs. Raises LocalllmError's kinds, or ClientDisconnect."""
    model = await services.find(wanted.model)
    if "embedding" not in model.capabilities:
        raise UnsupportedError(f'"{wanted.model}" does not support embedding', hint="use an embedding model")
    num_ctx = wanted.num_ctx or model.options.num_ctx or services.settings.context_length or None
    wanted = msgspec.structs.replace(wanted, num_ctx=num_ctx)
    return await ask(services, request, model, lambda runner: _vectors(runner, wanted), wanted.keep_alive_seconds)


async def _vectors(runner: Runner, wanted: EmbedRequest) -> Vectors:
    parts = []
    for start in range(0, len(wanted.inputs), INPUTS_PER_MESSAGE):
        inputs = wanted.inputs[start : start + INPUTS_PER_MESSAGE]
        parts.append(await runner.embed(msgspec.structs.replace(wanted, inputs=inputs)))
    return tuple(parts)


def _not_found(error: ModelNotFoundError, request: Request) -> Response:
    """Ollama has other words for it here."""
    message = f'model "{error.name}" not found, try pulling it first'
    return failed_response(Failed(error.code, error.status, message, error.hint), request.url.path)


def _ignored(body: bytes, shapes: Mapping[str, type[msgspec.Struct]], request: Request) -> tuple[str, ...]:
    return ollama_embed.ignored_fields(body, shapes[request.url.path])
