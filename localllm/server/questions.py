"""Questions that a loaded model answers at once: how a conversation becomes a prompt, a text tokens, tokens a text.

Asking one loads the model if it is not, so it may take long; it ends with its client, as an answer does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from localllm.dialects.body import Decoded
from localllm.errors import LocalllmError
from localllm.generation import GenerationRequest
from localllm.server.generate import completed, within_capabilities
from localllm.server.services import Runner, Services, Turn
from localllm.server.terms import terms_of
from localllm.store.model import Model

T = TypeVar("T")


async def ask_about(
    services: Services,
    request: Request,
    decoded: Decoded,
    question: Callable[[Runner, GenerationRequest], Awaitable[T]],
) -> T:
    """The answer to `question` about a request as its model would get it. Raises LocalllmError's kinds."""
    model = await services.in_store(services.store.find, decoded.request.model)
    decoded = within_capabilities(decoded, model, "chat")
    (asked,) = completed(decoded, model, services.settings.context_length)
    return await ask(services, request, model, lambda runner: question(runner, asked), asked.keep_alive_seconds)


async def ask(
    services: Services,
    request: Request,
    model: Model,
    question: Callable[[Runner], Awaitable[T]],
    keep_alive_seconds: float | None = None,
) -> T:
    """The answer of a model's runner. Raises LocalllmError's kinds, or ClientDisconnect."""
    turn = services.scheduler.lease(model, keep_alive_seconds, terms_of(request).requester)
    asking = _Asking(asyncio.create_task(_answer(turn, question)))
    gone = asyncio.create_task(_until_gone(request.receive))
    try:
        with services.activity.answer(asking):
            await asyncio.wait((asking.task, gone), return_when=asyncio.FIRST_COMPLETED)
        if asking.task.done() and not asking.task.cancelled():
            return asking.task.result()
        raise asking.error or ClientDisconnect
    finally:
        asking.task.cancel()
        gone.cancel()
        await asyncio.wait((asking.task, gone))


async def _answer(turn: Turn, question: Callable[[Runner], Awaitable[T]]) -> T:
    async with turn as lease:
        return await question(lease.runner)


class _Asking(Generic[T]):
    """A question that the daemon's end can end."""

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.error: LocalllmError | None = None

    def fail(self, error: LocalllmError) -> None:
        """Give it up with `error`."""
        self.error = self.error or error
        self.task.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
