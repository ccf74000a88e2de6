"""Effects on real runners: plan a load, ask whether the engine runs here, start a child, load the model, prove it.

    plan ─▶ (GPUs) llama.cpp's own figures ─▶ child ─▶ Load ─▶ Loaded ─▶ compared with the plan, and remembered
                                                         └─▶ a device had not the memory: planned once more with
                                                             what was missing, then told

Decides nothing about which model is loaded (policy) and remembers no runner (loop).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from localllm.config import Settings
from localllm.errors import LoadError, OutOfMemoryError
from localllm.placement.arrange import CPU
from localllm.placement.confirm import confirmed, excess
from localllm.placement.layout import Layout, Measured
from localllm.placement.plan import Plan
from localllm.placement.shape import ContextShape
from localllm.runner.handle import Deadlines, RunnerHandle
from localllm.runner.measuring import measure
from localllm.runner.process import start_process, worker_command
from localllm.runner.protocol import Load, LoadDraft, Loaded
from localllm.scheduler.planner import Planner, Survey, free_of_pages
from localllm.scheduler.state import DeviceBytes
from localllm.sizes import size_text
from localllm.store.model import Model

# What a second plan leaves beside what was missing: allocations that come after the one that failed.
MARGIN_BYTES = 64 * 2**20

log = logging.getLogger(__name__)


class EngineCheck(Protocol):
    """Whether the engine runs on this CPU, and how; runner/preflight has the real one."""

    async def use_extra_buffers(self) -> bool: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """A runner that is ready, the plan it was loaded by, and bytes by device: what it was measured to take, the larger
    of that and the plan, and what of it the machine's own figure of free memory lacks."""

    handle: RunnerHandle
    loaded: Loaded
    plan: Plan
    measured: DeviceBytes
    taken: DeviceBytes
    held: DeviceBytes


class Measure(Protocol):
    """runner.measuring.measure."""

    async def __call__(
        self,
        model: Path,
        layout: Layout,
        shape: ContextShape,
        environment: Mapping[str, str],
        *,
        adapters: Sequence[Path],
    ) -> Measured: ...


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
        planner: Planner,
        *,
        command_for: Callable[[Model], Sequence[str]] = real_worker,
        backend: str = "llama",
        measure: Measure = measure,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._engine_check = engine_check
        self._planner = planner
        self._command_for = command_for
        self._backend = backend
        self._measure = measure

    async def survey(self, model: Model, held: DeviceBytes) -> Survey:
        """What `model` needs, and what there is beside what loaded models hold. Raises DoesNotFitError, and
        ImpossibleWishError for a Modelfile that asks for what cannot be."""
        return await self._planner.survey(model, held)

    async def start(
        self,
        model: Model,
        budget: DeviceBytes | None,
        on_planned: Callable[[DeviceBytes], None],
        on_progress: Callable[[float], None],
    ) -> LoadedRunner:
        """A runner with `model` loaded, within `budget`. `on_planned` hears what it will take before it takes it.

        A device that had not the memory is planned for once more. Raises LoadError, EngineMismatchError, ModelFileError
        or what else the runner refused it with; no process is left then, nor when the caller is cancelled.
        """
        extra = self._backend == "fake" or await self._engine_check.use_extra_buffers()
        first: OutOfMemoryError | None = None
        short: dict[str, int] = {}
        while True:
            try:
                made = await self._planned(model, budget, extra, short)
                on_planned(made.bytes_by_device())
                _tell_plan(model, made)
                return await self._load(model, made, on_progress)
            except LoadError as error:
                if first is not None:
                    raise _failed_twice(first, short, error) from error
                if not isinstance(error, OutOfMemoryError):
                    raise
                first, short = error, _short(made, error)
                log.warning("%s: %s; planning once more", model.name, error)

    async def _planned(self, model: Model, budget: DeviceBytes | None, extra: bool, short: dict[str, int]) -> Plan:
        """The plan, and where it uses a GPU, with llama.cpp's own figures; made again if these are over the budget."""
        made = await self._planner.plan(model, budget, use_extra_buffers=extra, short=short)
        if made.tier == "cpu" or not made.shape.cells:
            return made
        made = await self._confirmed(model, made)
        if over := excess(made):
            log.info("%s: llama.cpp would take more than was reckoned: %s; planning again", model.name, over)
            more = {device: short.get(device, 0) + over.get(device, 0) for device in {*short, *over}}
            made = await self._planner.plan(model, budget, use_extra_buffers=extra, short=more)
            made = await self._confirmed(model, made)
        return made

    async def _confirmed(self, model: Model, made: Plan) -> Plan:
        try:
            measured = await self._measure(
                model.file, made.layout, made.shape, self._environment, adapters=model.adapters
            )
            return confirmed(made, measured)
        except LoadError as error:  # the load itself will tell, if it is not the measurement that is wrong
            log.warning("%s: planned without llama.cpp's own figures: %s", model.name, error)
            return made

    async def close(self) -> None:
        """End what the fleet still does beside its runners."""
        await self._engine_check.close()

    async def _load(self, model: Model, made: Plan, on_progress: Callable[[float], None]) -> LoadedRunner:
        process = await start_process(self._command_for(model), self._environment, model.name)
        deadlines = Deadlines(self._settings.load_timeout_seconds, self._settings.render_timeout_seconds)
        handle = RunnerHandle(process, deadlines)
        is_loaded = False
        try:
            loaded = await handle.load(self._load_message(model, made), on_progress)
            measured = measured_bytes(loaded, made)
            if made.tier != "cpu":
                measured |= await self._planner.gpu_bytes(process.process_id)
            self._planner.learn(model, made, measured)
            _tell_difference(model, made, measured)
            is_loaded = True
            planned = made.bytes_by_device()
            taken = {device: max(size, measured.get(device, 0)) for device, size in planned.items()}
            return LoadedRunner(handle, loaded, made, measured, taken, free_of_pages(made))
        finally:
            if not is_loaded:
                await handle.discard()

    def _load_message(self, model: Model, made: Plan) -> Load:
        return Load(
            model_path=str(model.file),
            layout=made.layout,
            shape=made.shape,
            parallel=made.parallel,
            threads=made.threads,
            pool_bytes_limit=made.pool_bytes_limit,
            cells=made.cells,
            kv_layout=made.kv_layout,
            stream_slowdown=made.stream_slowdown,
            template=model.template,
            backend=self._backend,
            purpose="embed" if "embedding" in model.capabilities else "generate",
            adapters=tuple(str(adapter) for adapter in model.adapters),
            draft=_load_draft(model, made),
        )


def _load_draft(model: Model, made: Plan) -> LoadDraft | None:
    if model.draft_model is None or made.draft is None:
        return None
    return LoadDraft(
        model_path=str(model.draft_model),
        layout=made.draft.layout,
        shape=made.draft.shape,
        threads=made.draft.threads,
        tokens_most=model.load.draft_max,
        least_probability=model.load.draft_p_min,
    )


def measured_bytes(loaded: Loaded, made: Plan) -> dict[str, int]:
    """What a loaded model takes of each device: llama.cpp's buffers, and of the host all of the process.

    Pages of a mapped file whose tensors lie elsewhere, packed or on a GPU, are left out: the system takes them back.
    """
    sums: Counter[str] = Counter()
    for buffer in loaded.buffers:
        sums[buffer.device] += buffer.total
    if loaded.buffers and loaded.resident_bytes:
        least, spare = sums[CPU], _spare_pages(loaded, made)
        sums[CPU] = max(loaded.resident_bytes - spare, min(least - spare, loaded.resident_bytes))
    return dict(sums)


def _spare_pages(loaded: Loaded, made: Plan) -> int:
    """Bytes that are mapped beyond the weights that lie in host memory."""
    planned = next((share.weights for share in made.shares if share.device == CPU), None)
    if planned is None or not made.layout.use_mmap:
        return 0
    return max(0, sum(buffer.weights for buffer in loaded.buffers if buffer.device == CPU) - planned)


def _short(made: Plan, error: OutOfMemoryError) -> dict[str, int]:
    """How much less there is of the device than its budget said. Where nobody knows what was free, half of what was
    wanted is taken to be missing."""
    free = error.wanted_bytes // 2 if error.free_bytes is None else error.free_bytes
    missing = max(0, error.wanted_bytes - free) + MARGIN_BYTES
    share = next((share for share in made.shares if share.device == error.device), None)
    unused = max(0, share.budget - share.total) if share is not None else 0
    return {error.device: unused + missing}


def _failed_twice(first: OutOfMemoryError, short: Mapping[str, int], again: LoadError) -> LoadError:
    free = "" if first.free_bytes is None else f" with {size_text(first.free_bytes)} free"
    return LoadError(
        f"{first.device} has not the memory for the model: {size_text(first.wanted_bytes)} could not be allocated{free}"
        f", and with {size_text(short[first.device])} less to plan with: {again}",
        hint=again.hint or first.hint,
    )


def _tell_plan(model: Model, made: Plan) -> None:
    if not made.reason:
        return
    rows = ", ".join(f"{share.device} {share.total} of {share.budget} bytes" for share in made.shares if share.total)
    log.info("%s: planned %s: %s", model.name, rows, made.reason)
    for note in made.notes:
        log.info("%s: %s", model.name, note)
    if made.fallback:
        log.warning("%s: on the CPU: %s", model.name, made.fallback)


def _tell_difference(model: Model, made: Plan, measured: Mapping[str, int]) -> None:
    for share in made.shares:
        if share.total and share.device in measured:
            log.info("%s: took %d bytes of %s, planned %d",
                     model.name, measured[share.device], share.device, share.total)  # fmt: skip
