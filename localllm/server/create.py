"""POST /api/create, /api/copy and /api/blobs: make models, and take the files they are made of.

A base that is not there and can be pulled is pulled first, as Ollama does. An upload goes to the disk piece by piece,
whatever its size, and becomes visible once its hash is right. Files of a model in safetensors are converted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from localllm.creating import ConverterPlace, CreateEvent, Creation
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
        creation = dataclasses.replace(creation, files=(await _blob(services, decoded.digest),))
    if decoded.adapters:
        blobs = [await _blob(services, digest) for digest in decoded.adapters]
        creation = dataclasses.replace(creation, adapters=tuple(blobs))
    if decoded.draft is not None:
        creation = dataclasses.replace(creation, draft=await _blob(services, decoded.draft))
    model = {path: await _blob(services, digest) for path, digest in decoded.folder}
    adapter = {path: await _blob(services, digest) for path, digest in decoded.adapter_folder}
    are_folders = model or adapter
    events = _events_of_folders(services, creation, model, adapter) if are_folders else _events(services, creation)
    return PullResponse(events, services.activity, is_stream=decoded.stream, ignored=decoded.ignored)


async def _blob(services: Services, digest: str) -> str:
    return str(await services.in_store(find_blob, services.store.blobs_dir, digest))


async def _events_of_folders(
    services: Services, creation: Creation, model: Mapping[str, str], adapter: Mapping[str, str]
) -> AsyncGenerator[CreateEvent | PullEvent, None]:
    """Convert what was sent: the converter reads folders, so there are some, with links to the blobs."""
    settings = services.settings
    place = ConverterPlace(services.converter, str(settings.cache_dir), settings.package_index)
    creation = dataclasses.replace(creation, converter=place)
    with tempfile.TemporaryDirectory(prefix="localllm-") as text:
        # The folder's name becomes the model's own, where the files say none.
        named, trained = Path(text) / "model" / parse_local_name(creation.name).model, Path(text) / "adapter"
        if model:
            await asyncio.to_thread(_link, named, model)
            creation = dataclasses.replace(creation, folder=str(named))
        if adapter:
            await asyncio.to_thread(_link, trained, adapter)
            creation = dataclasses.replace(creation, adapters=(str(trained),))
        async with aclosing(_events(services, creation)) as events:
            async for event in events:
                if event == SUCCESS:
                    yield PullStatus("what was sent stays until `localllm gc`, for other models of it")
                yield event


def _link(folder: Path, files: Mapping[str, str]) -> None:
    for path, blob_file in files.items():
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob_file)


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
