"""Models that load or run, as the scheduler keeps them and as others see them; and what starts them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from localllm.errors import LocalllmError
from localllm.placement.plan import Plan
from localllm.runner.handle import RunnerHandle
from localllm.runner.protocol import Loaded, Stats
from localllm.scheduler.fleet import LoadedRunner
from localllm.scheduler.planner import Survey
from localllm.scheduler.state import DeviceBytes, Phase
from localllm.store.model import Model

STATS_SECONDS = 1.0  # a busy engine answers between two steps


class Fleet(Protocol):
    """What starts runners; scheduler/fleet has the real one."""

    async def survey(self, model: Model, held: DeviceBytes) -> Survey: ...
    async def start(
        self,
        model: Model,
        budget: DeviceBytes | None,
        on_planned: Callable[[DeviceBytes], None],
        on_progress: Callable[[float], None],
    ) -> LoadedRunner: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Lease:
    """A runner to use until the lease ends. The seconds are what this request waited: for a load, and for its turn.

    `fallback` says why something is on the CPU that was meant for a GPU; empty when nothing is.
    """

    runner: RunnerHandle
    loaded: Loaded
    load_seconds: float
    queue_seconds: float
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model that takes up room. `expires_at` None is never; `progress` is the share of the weights that is loaded.

    `plan` is how it lies; None while that is not decided. `measured` are bytes by device, once it is loaded.
    """

    model: Model
    loaded: Loaded | None
    state: Phase
    active: int
    waiting: int
    expires_at: datetime | None
    progress: float = 0.0
    plan: Plan | None = None
    measured: DeviceBytes = field(default_factory=dict)


@dataclass(slots=True)
class Runner:
    """What belongs to one load, beside the policy's slot."""

    model: Model
    started_at: float
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    load_task: asyncio.Task[LoadedRunner] | None = None
    stop_task: asyncio.Task[None] | None = None
    ready: LoadedRunner | None = None
    ready_at: float = math.inf
    progress: float = 0.0

    async def stats(self) -> Stats | None:
        """What its engine holds; None of one that is not loaded or does not answer soon."""
        if self.ready is None:
            return None
        try:
            async with asyncio.timeout(STATS_SECONDS):
                return await self.ready.handle.stats()
        except (TimeoutError, LocalllmError):  # busy with a template, or at its end: its figures are missing this time
            return None
