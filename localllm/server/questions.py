"""Questions that a loaded model answers at once: how a conversation becomes a prompt, a text tokens or a vector.

Asking one loads the model if it is not, so it may take long; it ends with its client and its time, as an answer does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from localllm.dialects.body import Decoded
from localllm.dialects.framing import JSON_MEDIA_TYPE
from localllm.generation import GenerationRequest
from localllm.server.generate import completed, within_capabilities
from localllm.server.progress import Progress
from localllm.server.replies import told_headers
from localllm.server.services import Runner, Services, Turn
from localllm.server.terms import terms_of
from localllm.server.waiting import while_client_waits
from localllm.store.model import Model

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """What a model answered, and what was waited for it; `headers` tell the latter."""

    value: T
    load_seconds: float
    headers: Sequence[tuple[bytes, bytes]]

    def response(self, body: bytes, ignored: Sequence[str]) -> Response:
        """The answer as `body`, with its headers and the names of what was ignored."""
        response = Response(body, headers=told_headers(ignored), media_type=JSON_MEDIA_TYPE)
        response.raw_headers.extend(self.headers)
        return response


async def ask_about(
    services: Services,
    request: Request,
    decoded: Decoded,
    question: Callable[[Runner, GenerationRequest], Awaitable[T]],
) -> Asked[T]:
    """The answer to `question` about a request as its model would get it. Raises LocalllmError's kinds."""
    model = await services.find(decoded.request.model)
    decoded = within_capabilities(decoded, model, "chat")
    (asked,) = completed(decoded, model, services.settings.context_length)
    keep_alive, client = asked.keep_alive_seconds, decoded.request.client
    return await ask(services, request, model, lambda runner: question(runner, asked), keep_alive, client)


async def ask(
    services: Services,
    request: Request,
    model: Model,
    question: Callable[[Runner], Awaitable[T]],
    keep_alive_seconds: float | None = None,
    client: str = "",
) -> Asked[T]:
    """The answer of a model's runner. Raises LocalllmError's kinds, or ClientDisconnect."""
    terms = terms_of(request, client)
    turn = services.scheduler.lease(model, keep_alive_seconds, terms.requester)
    progress = Progress(turn, terms.timeout_seconds)
    return await while_client_waits(services, request, _answer(turn, question, progress), progress)


async def _answer(turn: Turn, question: Callable[[Runner], Awaitable[T]], progress: Progress) -> Asked[T]:
    async with turn as lease:
        progress.lease = lease
        return Asked(await question(lease.runner), lease.load_seconds, progress.headers())
