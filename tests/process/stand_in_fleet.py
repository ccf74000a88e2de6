"""The real scheduler and fleet over stand-in runners: a model's name says how its process behaves.

    async with stand_in_scheduler(tmp_path, max_loaded_models=1) as scheduler:
        async with scheduler.lease(stand_in_model("answers"), None) as lease: ...

"waits-2" behaves like "waits", and is another model. On leaving, every process is ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from stand_in_runner import stand_in_command

from localllm.config import load_settings
from localllm.generation import Options
from localllm.placement.budgets import machine_of
from localllm.placement.devices import Host, Machine
from localllm.placement.learned import Learned
from localllm.scheduler.fleet import RunnerFleet
from localllm.scheduler.loop import Scheduler
from localllm.scheduler.planner import Planner, no_header
from localllm.scheduler.state import Limits
from localllm.store.model import Facts, Model


class WorkingEngine:
    """An engine check that found nothing wrong."""

    async def use_extra_buffers(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def stand_in_model(name: str) -> Model:
    """A model whose runner behaves as the name's part before "-" says."""
    return Model(
        name=f"{name}:latest",
        key=f"/models/{name}.gguf",
        file=Path(f"/models/{name}.gguf"),
        size_bytes=1000,
        digest="0" * 64,
        modified_at=datetime(2026, 1, 1, tzinfo=UTC),
        options=Options(),
        system=None,
        template=None,
        license=None,
        messages=(),
        facts=Facts(architecture="llama"),
        capabilities=("completion",),
        modelfile="",
    )


def stand_in_runner_fleet(folder: Path, **settings: float) -> RunnerFleet:
    """The real fleet, whose children are stand-ins, of models without a file. `settings` replace fields of Settings."""
    chosen = replace(load_settings({"LOCALLLM_HOME": str(folder), "LOCALLLM_NUM_PARALLEL": "2"}), **settings)

    async def look_at_machine() -> Machine:
        return machine_of(Host(2, 8 * 2**30, 4 * 2**30))

    return RunnerFleet(
        chosen,
        os.environ,
        WorkingEngine(),
        Planner(chosen, look_at_machine, no_header, Learned()),
        command_for=lambda model: stand_in_command(model.file.stem.partition("-")[0]),
    )


@contextlib.asynccontextmanager
async def stand_in_scheduler(folder: Path, limits: Limits | None = None, **settings: float) -> AsyncIterator[Scheduler]:
    """A started scheduler; every process is ended on leaving."""
    chosen = limits or Limits(max_loaded_models=3, max_queue=4, keep_alive_seconds=300)
    scheduler = Scheduler(chosen, stand_in_runner_fleet(folder, **settings))
    scheduler.start()
    try:
        yield scheduler
    finally:
        await scheduler.shutdown(0)
