"""`doctor`: what is known about this machine, the engine on it and the daemon; starts no daemon."""

from __future__ import annotations

import asyncio
import os
import platform

from localllm.cli.daemonize import client_of, find_daemon
from localllm.cli.output import aligned_lines, error_text, screen_of
from localllm.config import Settings, load_settings
from localllm.errors import DaemonError, EngineMismatchError
from localllm.placement.devices import Device, host
from localllm.placement.devices import Machine as Devices
from localllm.runner.inventory import Inventory
from localllm.runner.preflight import Machine, Preflight, look_at_machine
from localllm.sizes import size_text
from localllm.store.bundled import bundled_dir, probe_model
from localllm.store.store import Store
from localllm.version import __version__

FAILED = 1


def doctor() -> None:
    """Check the engine on this machine, and say what is there and what is wrong; exit code 1 if something is."""
    screen, settings, machine = screen_of(os.environ), load_settings(os.environ), look_at_machine()
    engine, problem = asyncio.run(_try_engine(settings, machine))
    there, without_gpu = asyncio.run(_look_at_devices(settings, machine))
    rows = (
        ("localllm", f"{__version__}, Python {platform.python_version()}"),
        ("processor", _processor_text(machine)),
        ("memory", _memory_text()),
        ("speed", _speed_text(there.cpu)),
        *((f"GPU {index}", _gpu_text(gpu)) for index, gpu in enumerate(there.gpus)),
        *([] if there.gpus else [("GPU", without_gpu or "none")]),
        ("engine", engine),
        ("daemon", _daemon_text(settings)),
        ("models", f"{settings.models_dir} ({len(Store(settings.models_dir, bundled_dir()).list())} known)"),
        ("settings", f"{settings.config_file}{'' if settings.config_file.exists() else ' (not there: defaults)'}"),
        ("logs", str(settings.state_dir)),
    )
    screen.out("\n".join(aligned_lines(rows)) + "\n")
    if problem is not None:
        screen.say(error_text(problem))
        raise SystemExit(FAILED)


async def _try_engine(settings: Settings, machine: Machine) -> tuple[str, EngineMismatchError | None]:
    """How the engine fares here, by the verdict the daemon uses too: a real decode the first time."""
    preflight = Preflight(machine, settings.state_dir, probe_model(), dict(os.environ))
    try:
        has_extra_buffers = await preflight.use_extra_buffers()
    except EngineMismatchError as error:
        return "does not run here", error
    version = machine.build.engine_version or "of unknown build"
    layouts = "with" if has_extra_buffers else "without"
    return f"llama-cpp-python {version}, runs here {layouts} its extra weight layouts", None


async def _look_at_devices(settings: Settings, machine: Machine) -> tuple[Devices, str]:
    """The devices, and why a GPU among them cannot be used. The speeds are measured, the first time."""
    inventory = Inventory(machine.cpu.model, machine.identity, settings.state_dir, dict(os.environ))
    try:
        there = await inventory.measured_machine()
        return there, inventory.without_gpu(there)
    finally:
        await inventory.close()


def _gpu_text(gpu: Device) -> str:
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    return (
        f"{gpu.description or gpu.name} ({gpu.name}{driver}), {size_text(gpu.total_bytes)}, "
        f"{size_text(gpu.free_bytes)} free; {_speed_text(gpu)}"
    )


def _speed_text(device: Device) -> str:
    """What large matrices are read and multiplied at."""
    if device.bandwidth_bytes_per_second is None or device.flops is None:
        return "not measured: something else keeps the machine busy"
    return f"{device.bandwidth_bytes_per_second / 1e9:.3g} GB/s, {device.flops / 1e9:.3g} GFLOP/s"


def _processor_text(machine: Machine) -> str:
    return f"{machine.cpu.model or platform.processor()}, {host().physical_cores} cores to use"


def _memory_text() -> str:
    here = host()
    return f"{size_text(here.total_bytes)}, {size_text(here.available_bytes)} free"


def _daemon_text(settings: Settings) -> str:
    with client_of(settings) as client:
        try:
            version = find_daemon(client, settings)
        except DaemonError as error:
            return error.message
    return f"not running at {settings.address.url}" if version is None else f"{version} at {settings.address.url}"
