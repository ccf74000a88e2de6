"""Which devices this machine has, and how fast they are: asked of the engine in a child, remembered, kept up to date.

    machine()   devices as llama.cpp sees them (once per daemon; never, where the build has no GPU backend),
                free memory now (NVML, or the child again), speeds (measured once per machine, some time after the
                first look, when nobody waits for a load)

The speeds are kept in `<state_dir>/device-speeds.json`, {"key": …, "speeds": {name: [bandwidth, flops, link]}}; the key
is a hash of the devices, the CPU and the engine's files. The daemon itself never loads the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from localllm.placement.devices import Device, Host, Machine, host
from localllm.placement.nvml import NvidiaGpu, Nvml, enriched, is_same
from localllm.runner.child import answer_in, run_child

SPEEDS_FILE = "device-speeds.json"
SURVEY_SECONDS = 60.0
SPEEDS_SECONDS = 15.0  # a machine that needs longer is busy
FRESH_SECONDS = 2.0  # how long what the engine said of free memory holds; one load looks several times
SETTLE_SECONDS = 60.0  # after the first look, before speeds are measured: a load follows most looks
_ATTEMPTS = 9  # at speeds, each after twice the pause: a machine may be busy for hours
_GPU_LIBRARIES = ("cuda", "hip", "vulkan", "metal", "sycl", "opencl", "musa", "cann", "webgpu")

log = logging.getLogger(__name__)


class _Row(msgspec.Struct, frozen=True):
    """A device as engine/survey prints it; a CPU's memory is asked of the system instead."""

    kind: str
    name: str
    description: str = ""
    id: str = ""
    backend: str = ""
    is_integrated: bool = False
    total_bytes: int = 0
    free_bytes: int = 0
    bandwidth_bytes_per_second: float | None = None
    flops: float | None = None
    link_bytes_per_second: float | None = None


class _Report(msgspec.Struct, frozen=True):
    devices: tuple[_Row, ...]


_Speeds = tuple[float | None, float | None, float | None]


class _Remembered(msgspec.Struct, frozen=True):
    key: str
    speeds: dict[str, _Speeds]


def survey_command() -> tuple[str, ...]:
    """The program that lists devices; `--speeds THREADS` may follow."""
    return (sys.executable, "-P", "-m", "localllm.engine.survey")


def has_gpu_backend(folder: Path | None = None) -> bool:
    """Whether the engine's build has a backend for any GPU, told by its libraries."""
    if folder is None:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            return False
        folder = Path(spec.origin).parent / "lib"
    return any(f"ggml-{backend}" in file.name for file in folder.glob("*ggml-*") for backend in _GPU_LIBRARIES)


class Inventory:
    """One per daemon. Whoever asks at the same time shares one survey; a failed one is asked again.

    `processor` is the CPU's name; `identity` is all that remembered speeds depend on, the engine's files among it.
    """

    def __init__(
        self,
        processor: str,
        identity: Sequence[str],
        state_dir: Path,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = (),
        look_at_host: Callable[[], Host] = host,
        gpu_backend: bool | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        now: Callable[[], float] = time.monotonic,
        ask_nvml: Callable[[], tuple[NvidiaGpu, ...]] | None = None,
    ) -> None:
        self._processor = processor
        self._identity = tuple(identity)
        self._speeds_file = state_dir / SPEEDS_FILE
        self._environment = environment
        self._command = tuple(command) or survey_command()
        self._look_at_host = look_at_host
        self._has_gpu_backend = has_gpu_backend() if gpu_backend is None else gpu_backend
        self._settle_seconds = settle_seconds
        self._now = now
        self._asked_at = 0.0
        self._ask_nvml = ask_nvml
        self._present: tuple[NvidiaGpu, ...] = ()
        self._surveying: asyncio.Task[tuple[Device, ...]] | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._speeds: dict[str, _Speeds] | None = None
        self._survey_failure = ""
        self._was_slow = False

    async def machine(self) -> Machine:
        """What is here now. Speeds that nobody knows are measured later, for the next time."""
        known = await self._survey() if self._has_gpu_backend else ()
        # In a thread: opening NVML may take a second, and a host of many cores has many files to read.
        self._present = await asyncio.to_thread(self._nvml)
        gpus = await self._with_free_memory(known)
        there = await asyncio.to_thread(self._look_at_host)
        cpu = Device("cpu", "CPU", self._processor, "", there.total_bytes, there.available_bytes)
        key = self._key(gpus)
        if self._speeds is None:
            self._speeds = _read_speeds(self._speeds_file, key)
        if not self._speeds and self._measuring is None:
            self._measuring = asyncio.create_task(self._measure(there.physical_cores, key))
        return Machine(tuple(_with_speeds(device, self._speeds) for device in (*gpus, cpu)), there)

    def without_gpu(self, machine: Machine) -> str:
        """Why a GPU that is in the `machine` last looked at cannot be used; empty when none is, or it can."""
        if machine.gpus or machine.is_replaced:
            return ""
        if not self._present:
            return ""
        names = ", ".join(gpu.name for gpu in self._present)
        if not self._has_gpu_backend:
            return f"the engine was built without CUDA, so {names} cannot be used"
        return f"the engine does not see {names}" + (f": {self._survey_failure}" if self._survey_failure else "")

    async def close(self) -> None:
        """End what still runs."""
        tasks = [task for task in (self._surveying, self._measuring) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _nvml(self) -> tuple[NvidiaGpu, ...]:
        if self._ask_nvml is None:
            self._ask_nvml = Nvml().gpus
        return self._ask_nvml()

    async def _with_free_memory(self, known: tuple[Device, ...]) -> tuple[Device, ...]:
        """The GPUs, with the memory that is free now."""
        if any(not any(is_same(device, gpu) for gpu in self._present) for device in known):
            if self._now() - self._asked_at > FRESH_SECONDS:
                self._surveying = None  # nobody but the engine knows what is free: ask it again
            known = await self._survey()
        return enriched(known, self._present)

    async def _survey(self) -> tuple[Device, ...]:
        if self._surveying is None or (self._surveying.done() and not _is_kept(self._surveying)):
            self._surveying = asyncio.create_task(self._ask())
        return await asyncio.shield(self._surveying)

    async def _ask(self) -> tuple[Device, ...]:
        self._asked_at = self._now()
        rows = await self._run((), SURVEY_SECONDS)
        return tuple(_device(row) for row in rows or () if row.kind == "gpu")

    async def measured_machine(self) -> Machine:
        """What is here, with speeds: measured now when nobody knows them. A busy machine has none."""
        machine = await self.machine()
        if not self._speeds:
            await self._measure_once(machine.host.physical_cores, self._key(machine.gpus))
        return await self.machine()

    async def _measure(self, threads: int, key: str) -> None:
        """Later, and again where the machine was busy."""
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(self._settle_seconds * 2**attempt)
            if self._speeds or await self._measure_once(threads, key):
                return

    async def _measure_once(self, threads: int, key: str) -> bool:
        """Speeds of all devices, remembered; what a busy machine gives is no speed."""
        flags = ("--speeds", str(max(threads, 1)))
        rows = await self._run(flags, SPEEDS_SECONDS)
        if rows is None and not self._was_slow:  # it died: perhaps of a layout that does not work here
            rows = await self._run((*flags, "--plain"), SPEEDS_SECONDS)
        speeds: dict[str, _Speeds] = {
            row.name: (row.bandwidth_bytes_per_second, row.flops, row.link_bytes_per_second)
            for row in rows or ()
            if row.bandwidth_bytes_per_second
        }
        if not rows or len(speeds) != len(rows):
            return False
        self._speeds = speeds
        _write_speeds(self._speeds_file, _Remembered(key, speeds))
        return True

    async def _run(self, flags: Sequence[str], seconds: float) -> tuple[_Row, ...] | None:
        """The survey's answer; None when it has none, which is logged."""
        report, self._was_slow = None, False
        try:
            return_code, output = await run_child((*self._command, *flags), self._environment, seconds)
        except TimeoutError:
            failure, self._was_slow = f"the survey did not end within {seconds:g} s", True
        except OSError as error:
            failure = f"the survey could not be started ({error.strerror})"
        else:
            report = answer_in(output, _Report)
            failure = "" if report else f"the survey ended with {return_code}"
        if flags:  # speeds are no more than wanted: a busy machine has none
            if failure:
                log.info("the speeds of this machine's devices are not known: %s", failure)
        else:
            self._survey_failure = failure
            if failure:
                log.warning("the devices of this machine are not known: %s", failure)
        return None if report is None else report.devices

    def _key(self, gpus: Sequence[Device]) -> str:
        names = [f"{gpu.name} {gpu.description} {gpu.id} {gpu.total_bytes}" for gpu in gpus]
        return hashlib.sha256("\n".join((self._processor, *self._identity, *names)).encode()).hexdigest()


def _is_kept(asked: asyncio.Task[tuple[Device, ...]]) -> bool:
    """A survey that found GPUs is kept; one that failed or found none, where the build could use some, is not."""
    return not asked.cancelled() and asked.exception() is None and bool(asked.result())


def _device(row: _Row) -> Device:
    return Device(
        "gpu",
        row.name,
        row.description,
        row.id,
        row.total_bytes,
        row.free_bytes,
        backend=row.backend,
        is_integrated=row.is_integrated,
    )


def _with_speeds(device: Device, speeds: Mapping[str, _Speeds]) -> Device:
    bandwidth, flops, link = speeds.get(device.name, (None, None, None))
    return replace(device, bandwidth_bytes_per_second=bandwidth, flops=flops, link_bytes_per_second=link)


def _read_speeds(file: Path, key: str) -> dict[str, _Speeds]:
    with contextlib.suppress(OSError, msgspec.MsgspecError):  # not measured yet, or a file that was cut short
        remembered = msgspec.json.decode(file.read_bytes(), type=_Remembered)
        if remembered.key == key:
            return remembered.speeds
    return {}


def _write_speeds(file: Path, remembered: _Remembered) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(remembered))
        temporary.replace(file)
    except OSError as error:  # what cannot be kept is measured again at the next start
        log.warning("the devices' speeds cannot be written to %s: %s", file, error)
