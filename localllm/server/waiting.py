"""Work that ends with its client, its request's own time or the daemon: for answers that come all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from localllm.errors import LocalllmError
from localllm.server.progress import Progress
from localllm.server.services import Services

T = TypeVar("T")


class _Work:
    """A task that can be ended from outside."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self.error: LocalllmError | None = None

    def fail(self, error: LocalllmError) -> None:
        """Give the task up; its request ends with `error`."""
        self.error = self.error or error
        self._task.cancel()


async def while_client_waits(
    services: Services, request: Request, work: Coroutine[Any, Any, T], progress: Progress
) -> T:
    """The result of `work`. Raises what it raises, LocalllmError's kinds for what ended it, or ClientDisconnect."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(request.receive))
    answer = _Work(task)
    try:
        with services.activity.answer(answer), progress.time_limit(answer.fail):
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled():
            return task.result()
        raise answer.error or ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.wait((task, gone))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
