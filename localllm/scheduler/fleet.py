"""Effects on real runners: look at the machine, ask whether the engine runs here, start a child, load the model.

Decides nothing about which model is loaded (policy) and remembers no runner (loop).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from localllm.config import Settings
from localllm.placement.devices import Host
from localllm.placement.plan import plan_unseen
from localllm.placement.wishes import wishes_from
from localllm.runner.handle import Deadlines, RunnerHandle
from localllm.runner.process import start_process, worker_command
from localllm.runner.protocol import Load, Loaded
from localllm.store.model import Model


class EngineCheck(Protocol):
    """Whether the engine runs on this CPU, and how; runner/preflight has the real one."""

    async def use_extra_buffers(self) -> bool: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """A runner that is ready."""

    handle: RunnerHandle
    loaded: Loaded


def real_worker(model: Model) -> Sequence[str]:
    """The command of every model's runner outside tests."""
    return worker_command()


class RunnerFleet:
    """Starts runners. `environment` is what their processes get; `backend` "fake" needs neither engine nor check."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        engine_check: EngineCheck,
        look_at_host: Callable[[], Host],
        *,
        command_for: Callable[[Model], Sequence[str]] = real_worker,
        backend: str = "llama",
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._engine_check = engine_check
        self._look_at_host = look_at_host
        self._command_for = command_for
        self._backend = backend

    async def start(self, model: Model, on_progress: Callable[[float], None]) -> LoadedRunner:
        """A runner with `model` loaded. Raises LoadError, EngineMismatchError, ModelFileError or what else the runner
        refused it with; no process is left then, nor when the caller is cancelled."""
        use_extra_buffers = self._backend == "fake" or await self._engine_check.use_extra_buffers()
        load = self._load_message(model, use_extra_buffers)
        process = await start_process(self._command_for(model), self._environment, model.name)
        deadlines = Deadlines(self._settings.load_timeout_seconds, self._settings.render_timeout_seconds)
        handle = RunnerHandle(process, deadlines)
        loaded = None
        try:
            loaded = await handle.load(load, on_progress)
            return LoadedRunner(handle, loaded)
        finally:
            if loaded is None:
                await handle.discard()

    async def close(self) -> None:
        """End what the fleet still does beside its runners."""
        await self._engine_check.close()

    def _load_message(self, model: Model, use_extra_buffers: bool) -> Load:
        wishes = wishes_from(self._settings, model.options, model.load)
        planned = plan_unseen(self._look_at_host(), wishes, model.size_bytes)
        return Load(
            model_path=str(model.file),
            template=model.template,
            use_extra_buffers=use_extra_buffers,
            backend=self._backend,
            purpose="embed" if "embedding" in model.capabilities else "generate",
            parallel=planned.parallel,
            pool_tokens=planned.shape.cells,
            pool_bytes_limit=planned.pool_bytes_limit,
            batch_tokens=planned.shape.batch_tokens,
            threads=planned.threads,
            gpu_layers=planned.layout.gpu_layers,
            use_mmap=planned.layout.use_mmap,
            kv_layout=planned.kv_layout,
            stream_slowdown=planned.stream_slowdown,
        )
