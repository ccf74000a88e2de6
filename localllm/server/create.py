"""POST /api/create, /api/copy and /api/blobs: make models, and take the files they are made of.

A base that is not there and can be pulled is pulled first, as Ollama does. An upload goes to the disk piece by piece,
whatever its size, and becomes visible once its hash is right.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from localllm.creating import CreateEvent, Creation
from localllm.dialects.ollama_create import decode_copy, decode_create
from localllm.errors import LocalllmError, ModelNotFoundError
from localllm.failures import failed_from
from localllm.generation import Failed
from localllm.pulling import PullEvent, PullStatus
from localllm.server.access import announced_length
from localllm.server.pull import PullResponse
from localllm.server.pulls import SUCCESS, is_last
from localllm.server.services import Services
from localllm.store.blobs import BlobWriter, blob_path, find_blob, refuse_too_large
from localllm.store.create import create, refuse_unsupported
from localllm.store.names import parse_local_name, parse_name
from localllm.store.quantize import parse_target

logger = logging.getLogger(__name__)

_PIECE_BYTES = 4 * 2**20


async def ollama_create(services: Services, request: Request) -> ASGIApp:
    """POST /api/create."""
    decoded = decode_create(await request.body())
    creation = decoded.creation
    # What can be known at once is told with its status; the rest goes into the stream.
    parse_local_name(creation.name)
    refuse_unsupported(creation.settings)
    if creation.quantization:
        parse_target(creation.quantization)
    if decoded.digest is not None:
        blob = await services.in_store(find_blob, services.store.blobs_dir, decoded.digest)
        creation = dataclasses.replace(creation, files=(str(blob),))
    if decoded.adapters:
        blobs = [await services.in_store(find_blob, services.store.blobs_dir, digest) for digest in decoded.adapters]
        creation = dataclasses.replace(creation, adapters=tuple(map(str, blobs)))
    if decoded.draft is not None:
        blob = await services.in_store(find_blob, services.store.blobs_dir, decoded.draft)
        creation = dataclasses.replace(creation, draft=str(blob))
    return PullResponse(_events(services, creation), services.activity, is_stream=decoded.stream)


async def _events(services: Services, creation: Creation) -> AsyncGenerator[CreateEvent | PullEvent, None]:
    for warning in creation.settings.warnings:
        yield PullStatus(warning)
    try:
        if creation.base is not None:
            async with aclosing(_pulled(services, creation)) as pulling:
                async for pull_event in pulling:
                    yield pull_event
                    if isinstance(pull_event, Failed):
                        return
        async with aclosing(create(services.store, services.in_store, creation)) as events:
            async for event in events:
                yield event
    except LocalllmError as error:
        yield failed_from(error)
    else:
        logger.info("made %s of %s", creation.name, creation.base or "a file")


async def _pulled(services: Services, creation: Creation) -> AsyncGenerator[PullEvent, None]:
    """Pull the base if it is not there: its events but for the last, unless that is Failed."""
    assert creation.base is not None
    try:
        await services.find(creation.base)
    except ModelNotFoundError:
        wanted = await services.in_store(services.store.pull_request, creation.base)
    else:
        return
    if wanted is None:
        return
    async with aclosing(services.pulls.follow(str(parse_name(creation.base)), wanted)) as events:
        async for event in events:
            if event != SUCCESS:
                yield event
            if is_last(event):
                return


async def ollama_copy(services: Services, request: Request) -> Response:
    """POST /api/copy."""
    source, destination = decode_copy(await request.body())
    await services.in_store(services.store.copy, source, destination)
    return Response(status_code=200)


async def blob(services: Services, request: Request) -> Response:
    """HEAD|POST /api/blobs/DIGEST: whether a file is there, and sending one."""
    digest, folder = request.path_params["digest"], services.store.blobs_dir
    path = blob_path(folder, digest)
    is_there = await asyncio.to_thread(path.is_file)
    if request.method == "HEAD":
        return Response(status_code=200 if is_there else 404)
    if is_there:
        # The body is not read, so the connection cannot be used for another request.
        return Response(status_code=200, headers={"connection": "close"})
    await _receive(services, request, digest)
    return Response(status_code=201)


async def _receive(services: Services, request: Request, digest: str) -> None:
    folder = services.store.blobs_dir
    if length := announced_length(request.headers):
        await asyncio.to_thread(refuse_too_large, folder, length)
    pending = bytearray()
    with await asyncio.to_thread(BlobWriter, folder) as writer:
        async for piece in request.stream():
            pending += piece
            if len(pending) >= _PIECE_BYTES:
                # In a thread: a slow disk must not hold up the answers that are being streamed.
                await asyncio.to_thread(writer.write, pending)
                pending = bytearray()
        await asyncio.to_thread(writer.write, pending)
        await asyncio.to_thread(writer.keep, digest)
    logger.info("took %s", digest)
