"""The application: the one table of routes, and the layers every request goes through.

    Gate (server header, request id, log line, count, 503 while stopping)
      └─ Access (Host, Origin, key, body size)
           └─ Paths ── 404 and 405 in the words of the dialect; Starlette's router finds paths with parameters
                └─ Endpoint ── handler(services, request); its errors in the words of the route's dialect

README's table of routes is checked against ROUTES.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.dialects.framing import JSON_MEDIA_TYPE, to_json
from localllm.errors import LocalllmError
from localllm.generation import Failed
from localllm.logs import request_id
from localllm.server import anthropic, create, embed, generate, llamacpp, manage, ollama, plan, pull, responses
from localllm.server.access import OPEN_PATHS, Access, AccessRules
from localllm.server.openapi import document
from localllm.server.replies import ANTHROPIC_PATH, INTERNAL, error_response, failed_response, no_route_response
from localllm.server.services import Services
from localllm.version import __version__

logger = logging.getLogger(__name__)

Handler = Callable[[Services, Request], Awaitable[ASGIApp]]


class Entry(NamedTuple):
    """One row. `method` may be several, joined by `|`; `{id:path}` in a path may hold slashes."""

    method: str
    path: str
    handler: Handler
    purpose: str


async def _openapi(services: Services, request: Request) -> Response:
    """GET /openapi.json."""
    # The first time it takes a sixth of a second, in which streams must go on.
    return Response(await asyncio.to_thread(_document), media_type=JSON_MEDIA_TYPE)


@functools.cache
def _document() -> bytes:
    return to_json(document(ROUTES))


ROUTES: tuple[Entry, ...] = (
    Entry("GET|HEAD", "/", manage.root, "`Ollama is running`; for a browser a page with the models"),
    Entry("GET", "/openapi.json", _openapi, "This table and all that can be sent and answered, as an OpenAPI document"),
    Entry("GET", "/docs", manage.reference, "The same for people: the reference of the API"),
    Entry("GET|HEAD", "/api/version", manage.version, "The Ollama version this API follows, and localllm's own"),
    Entry("GET", "/api/status", manage.status, "That there is no cloud behind this"),
    Entry("GET|HEAD", "/api/hello", manage.hello, "That somebody is here, as Claude Code asks"),
    Entry("GET|HEAD", "/api/tags", manage.tags, "The models there are"),
    Entry("POST", "/api/show", manage.show, "Everything about one model"),
    Entry("GET", "/api/ps", manage.running, "The models that are loaded, and the requests that wait"),
    Entry("POST", "/api/generate", ollama.generate, "Answer a prompt; an empty one loads or unloads"),
    Entry("POST", "/api/chat", ollama.chat, "Answer a conversation; an empty one loads or unloads"),
    Entry("POST", "/api/embed", embed.ollama_embed_inputs, "Turn texts into vectors"),
    Entry("POST", "/api/embeddings", embed.ollama_embed_prompt, "Turn one text into a vector; older than the above"),
    Entry("POST", "/api/pull", pull.ollama_pull, "Download a model from Hugging Face or Ollama's registry"),
    Entry("POST", "/api/plan", plan.make_plan, "How a model would lie here, or elsewhere, before it is loaded"),
    Entry("POST", "/api/push", manage.push, "Refused: models are not uploaded"),
    Entry("POST", "/api/create", create.ollama_create, "Make a model of another one, or of a file that was sent"),
    Entry("POST", "/api/copy", create.ollama_copy, "Give a model a second name"),
    Entry("HEAD|POST", "/api/blobs/{digest}", create.blob, "Ask for a file by its sha256, or send one"),
    Entry("DELETE", "/api/delete", manage.delete, "Forget a model"),
    Entry("GET", "/metrics", manage.metrics, "Counts, times and memory, for Prometheus"),
    Entry("GET", "/v1/models", manage.openai_models, "The models, as OpenAI lists them"),
    Entry("GET", "/v1/models/{id:path}", manage.openai_model, "One model, as OpenAI describes it"),
    Entry("POST", "/v1/chat/completions", generate.openai_chat, "Answer a conversation, as OpenAI does"),
    Entry("POST", "/v1/completions", generate.openai_completion, "Go on with texts or token ids, or fill a gap in one"),
    Entry("POST", "/v1/responses", responses.create, "Answer a conversation and keep it, as OpenAI's Responses do"),
    Entry("POST", "/v1/responses/input_tokens", responses.count_tokens, "How many tokens such a conversation would be"),
    Entry("GET", "/v1/responses/{id}", responses.retrieve, "A response that was kept"),
    Entry("DELETE", "/v1/responses/{id}", responses.delete, "Forget a response"),
    Entry("POST", "/v1/responses/{id}/cancel", responses.cancel, "End a response that is still in progress"),
    Entry("GET", "/v1/responses/{id}/input_items", responses.input_items, "What the model was given for a response"),
    Entry("POST", "/v1/messages", anthropic.messages, "Answer a conversation, as Anthropic does"),
    Entry("POST", "/v1/messages/count_tokens", anthropic.count_tokens, "How many tokens a conversation would be"),
    Entry("POST", "/v1/embeddings", embed.openai_embeddings, "Turn texts or token ids into vectors, as OpenAI does"),
    Entry("POST", "/completion", llamacpp.completion, "Go on with texts or token ids, as llama-server does"),
    Entry("POST", "/completions", llamacpp.completion, "The same"),
    Entry("POST", "/infill", llamacpp.infill, "Fill the gap between two texts, as editors ask llama-server to"),
    Entry("POST", "/tokenize", llamacpp.tokenize, "The token ids of a text"),
    Entry("POST", "/detokenize", llamacpp.detokenize, "The text of token ids"),
    Entry("POST", "/apply-template", llamacpp.apply_template, "The prompt that a conversation becomes"),
    Entry("POST", "/embedding", llamacpp.embedding, "Turn texts or token ids into vectors, as llama-server does"),
    Entry("POST", "/embeddings", llamacpp.embedding, "The same"),
    Entry("POST", "/rerank", llamacpp.rerank, "Rank documents for a query, as llama-server, Jina and TEI do"),
    Entry("POST", "/v1/rerank", llamacpp.rerank, "The same"),
    Entry("POST", "/reranking", llamacpp.rerank, "The same"),
    Entry("POST", "/v1/reranking", llamacpp.rerank, "The same"),
    Entry("GET", "/props", llamacpp.properties, "What llama-server tells of its model"),
    Entry("GET", "/slots", llamacpp.slots, "How many requests a model serves at once, and how many it does"),
    Entry("GET", "/health", llamacpp.health, "Whether the daemon is well"),
    Entry("GET", "/v1/health", llamacpp.health, "The same"),
    Entry("GET", "/models", manage.openai_models, "As `/v1/models`, where llama-server has it, too"),
    Entry("POST", "/chat/completions", generate.openai_chat, "As `/v1/chat/completions`"),
)


_PLAIN_PATHS = frozenset(entry.path for entry in ROUTES if "{" not in entry.path)


def route_of(path: str) -> str:
    """The path of the row that `path` belongs to; "other" for what clients made up."""
    if path in _PLAIN_PATHS:
        return path
    begins = (entry.path for entry in ROUTES if "{" in entry.path and path.startswith(entry.path.partition("{")[0]))
    return next(begins, "other")


def build_app(services: Services, rules: AccessRules) -> ASGIApp:
    """The ASGI application of one daemon."""
    by_path: dict[str, dict[str, ASGIApp]] = {}
    for entry in ROUTES:
        endpoint = Endpoint(entry.handler, services)
        by_path.setdefault(entry.path, {}).update(dict.fromkeys(entry.method.split("|"), endpoint))
    return Gate(Access(Paths({path: Methods(endpoints) for path, endpoints in by_path.items()}), rules), services)


class Endpoint:
    """A handler as an ASGI application that answers every error."""

    def __init__(self, handler: Handler, services: Services) -> None:
        self._handler = handler
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: ASGIApp
        try:
            response = await self._handler(self._services, request)
        except LocalllmError as error:
            response = error_response(error, scope["path"])
        except ClientDisconnect:  # nobody is left to answer
            return
        except Exception:
            logger.exception("%s %s failed in a way nobody foresaw", scope["method"], scope["path"])
            response = failed_response(INTERNAL, scope["path"])
        await response(scope, receive, send)


class Methods:
    """All of one path: its endpoints by their methods. Where there is a GET, HEAD is the same without a body."""

    def __init__(self, endpoints: Mapping[str, ASGIApp]) -> None:
        self._endpoints = {"HEAD": endpoints["GET"], **endpoints} if "GET" in endpoints else endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._endpoints.get(scope["method"])
        if found is not None:
            await found(scope, receive, send)
            return
        allowed = ", ".join(sorted(self._endpoints))
        failed = Failed("wrong_method", 405, "405 method not allowed", hint=f"it takes {allowed}")
        await no_route_response(failed, scope["path"], {"allow": allowed})(scope, receive, send)


class Paths:
    """The innermost layer. What is asked most has no parameters, and is found without trying one row after another."""

    def __init__(self, paths: Mapping[str, ASGIApp]) -> None:
        self._plain = {path: app for path, app in paths.items() if path in _PLAIN_PATHS}
        rows = [Route(path, app) for path, app in paths.items() if path not in _PLAIN_PATHS]
        self._router = Router(rows, redirect_slashes=False, default=_not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._plain.get(scope["path"], self._router)(scope, receive, send)


class Gate:
    """The outermost layer: every answer is counted, named and logged; none is begun while the daemon stops."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services = self._services
        name = services.new_id()
        request_id.set(name)
        headers = [(b"server", f"localllm/{__version__}".encode()), (b"x-request-id", name.encode())]
        if scope["path"].startswith(ANTHROPIC_PATH):
            headers.append((b"request-id", name.encode()))  # where Anthropic's clients look for it
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        started = services.clock.monotonic()
        with services.activity.request():
            try:
                await self._admitted(scope)(scope, receive, send_named)
            finally:
                seconds = services.clock.monotonic() - started
                level = logging.DEBUG if scope["method"] in ("GET", "HEAD") else logging.INFO
                # As it was sent: decoded, it could hold line breaks and look like other lines of the log.
                path = scope["raw_path"].decode("ascii", "replace")
                logger.log(level, "%s %s %d in %.3f s", scope["method"], path, status, seconds)
                services.metrics.request_ended(route_of(scope["path"]), status, seconds)

    def _admitted(self, scope: Scope) -> ASGIApp:
        if scope["path"] in OPEN_PATHS:
            return self._app
        try:
            self._services.activity.check_open()
        except LocalllmError as error:
            return error_response(error, scope["path"])
        return self._app


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    hint = "GET /docs shows what there is"
    if scope["path"].startswith("/v1/v1/"):  # some libraries want the base URL with it, others add it
        hint = "/v1 stands there twice: give this client the base URL without it"
    failed = Failed("no_such_route", 404, "404 page not found", hint=hint)
    await no_route_response(failed, scope["path"])(scope, receive, send)
