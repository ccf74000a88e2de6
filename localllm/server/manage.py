"""The handlers that tell about models and remove them; nothing here generates."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects.ollama import decode_name
from localllm.errors import LocalllmError, ModelFileError, UnsupportedError
from localllm.server import model_json
from localllm.server.access import MAY_MANAGE
from localllm.server.metrics import MEDIA_TYPE, page
from localllm.server.replies import ANTHROPIC_PATH, error_response, json_response, text_response
from localllm.server.services import RunningModel, Services
from localllm.store.headers import projector_header
from localllm.store.model import Model
from localllm.version import __version__

# What this API is compatible with: editors look for at least 0.6.4 here, and ours is another count.
OLLAMA_API_VERSION = "0.32.0"
ANTHROPIC_VERSION = "anthropic-version"  # the header that each request of Anthropic's clients has
PAGE = (Path(__file__).parent / "web" / "index.html").read_bytes()
REFERENCE = (Path(__file__).parent / "web" / "reference.html").read_bytes()
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "vary": "Accept",
    "x-content-type-options": "nosniff",
}


async def root(services: Services, request: Request) -> Response:
    """GET|HEAD /: the line clients look for, or for a browser the page."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(PAGE, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)
    return text_response("Ollama is running", headers={"vary": "Accept"})


async def reference(services: Services, request: Request) -> Response:
    """GET /docs: a page that shows /openapi.json."""
    return Response(REFERENCE, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)


async def version(services: Services, request: Request) -> Response:
    """GET|HEAD /api/version: `localllm` is how our own CLI knows us."""
    return json_response({"version": OLLAMA_API_VERSION, "localllm": __version__})


async def status(services: Services, request: Request) -> Response:
    """GET /api/status: what Ollama's clients ask before they offer models of its cloud; there is none here."""
    return json_response({"cloud": {"disabled": True, "source": "localllm"}})


async def hello(services: Services, request: Request) -> Response:
    """GET|HEAD /api/hello: with this Claude Code finds out, before its first message, whether somebody is there."""
    return json_response({"message": "hello"})


async def push(services: Services, request: Request) -> Response:
    """POST /api/push: models come here and do not leave. Raises UnsupportedError, or that there is no such model."""
    name, _ = decode_name(await request.body())
    await services.find(name)
    raise UnsupportedError(
        "push is not supported: localllm does not upload models",
        hint="`hf upload` puts a GGUF file into a repository of Hugging Face",
    )


async def tags(services: Services, request: Request) -> Response:
    """GET|HEAD /api/tags."""
    models = await services.in_store(services.store.list)
    return json_response({"models": [model_json.tag(model) for model in models]})


async def show(services: Services, request: Request) -> Response:
    """POST /api/show."""
    name, verbose = decode_name(await request.body())
    model = await services.find(name)
    header = await services.in_store(services.store.header, model)
    answer = model_json.show(model, header, _served_context(services, model), verbose=verbose)
    projector = await services.in_store(projector_header, model.projector)
    answer |= model_json.projector(model, projector, verbose=verbose) | model_json.draft(model)
    if model.adapters:
        answer |= model_json.adapters(await services.in_store(services.store.adapters, model))
    if request.headers.get("user-agent", "").startswith("GitHubCopilotChat/"):
        answer["model_info"]["general.basename"] = name  # it shows this as the model's name
    return json_response(answer)


async def running(services: Services, request: Request) -> Response:
    """GET /api/ps: the latest to expire first, and every request that waits."""
    entries = sorted(services.scheduler.running(), key=lambda entry: entry.expires_at or model_json.FOREVER)
    models = [model_json.running(entry, _served_context(services, entry.model)) for entry in reversed(entries)]
    shows_clients = request.scope[MAY_MANAGE]  # who else asks is nobody's business but the owner's
    queue = [model_json.queued(place, shows_client=shows_clients) for place in services.scheduler.queue()]
    return json_response({"models": models, "queue": queue})


async def metrics(services: Services, request: Request) -> Response:
    """GET /metrics."""
    scheduler = services.scheduler
    stats = await scheduler.stats()
    joules = await asyncio.to_thread(services.energy.joules)
    body = page(services.metrics, scheduler.running(), scheduler.queue(), scheduler.counts, stats, joules)
    return Response(body, media_type=MEDIA_TYPE)


async def delete(services: Services, request: Request) -> Response:
    """DELETE /api/delete: the runner, if there is one, ends first, unless another name has it too."""
    name, _ = decode_name(await request.body())
    with contextlib.suppress(ModelFileError):  # a damaged model can only be deleted
        model = await services.find(name)
        if not model.is_bundled and not await _has_another_name(services, model):  # delete says that those stay
            await services.scheduler.unload(model)
    await services.in_store(services.store.delete, name)
    return Response(status_code=200)


async def _has_another_name(services: Services, model: Model) -> bool:
    models = await services.in_store(services.store.list)
    return any(other.key == model.key and other.name != model.name for other in models)


async def openai_models(services: Services, request: Request) -> Response:
    """GET /v1/models, in Anthropic's shape for its clients."""
    models = await services.in_store(services.store.list)
    if ANTHROPIC_VERSION in request.headers:
        return json_response(model_json.anthropic_models(models))
    return json_response({"object": "list", "data": [model_json.openai_model(model) for model in models]})


async def openai_model(services: Services, request: Request) -> Response:
    """GET /v1/models/NAME, where NAME may hold slashes."""
    name, is_anthropics = request.path_params["id"], ANTHROPIC_VERSION in request.headers
    try:
        model = await services.find(name)
    except LocalllmError as error:
        return error_response(error, ANTHROPIC_PATH if is_anthropics else request.url.path)
    shape = model_json.anthropic_model if is_anthropics else model_json.openai_model
    return json_response({**shape(model), "id": name})


def _served_context(services: Services, model: Model) -> int:
    entry = next((entry for entry in services.scheduler.running() if entry.model.key == model.key), None)
    return model_json.served_context(model, services.settings.context_length, _pool_tokens(entry))


def _pool_tokens(entry: RunningModel | None) -> int | None:
    return entry.loaded.pool_tokens if entry and entry.loaded else None
