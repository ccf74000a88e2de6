"""What NVIDIA's management library says of its GPUs now: free memory, who holds it, the driver, the power limit.

It needs no CUDA context, so that the daemon may ask before each plan and sees what other processes have taken. Neither
the Python package nor the driver need be there: then nothing is known, and nothing fails.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from localllm.placement.devices import Device, DeviceProcess, process_name

_SAME_SHARE = 0.8  # of NVML's total that a whole GPU has in CUDA's eyes, at least
_DRIVER_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")  # the last under Windows


@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """One GPU. `id` is its PCI address as llama.cpp writes it."""

    id: str
    name: str
    total_bytes: int
    free_bytes: int
    driver: str
    power_limit_watts: float | None
    processes: tuple[DeviceProcess, ...]


class Nvml:
    """The library, opened once; every question may find it gone."""

    def __init__(self) -> None:
        self._library = _open()

    def gpus(self) -> tuple[NvidiaGpu, ...]:
        """All GPUs that can be asked."""
        library = self._library
        if library is None:
            return ()
        try:
            handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
            driver = str(library.nvmlSystemGetDriverVersion())
            return tuple(_gpu(library, handle, driver) for handle in handles)
        except library.NVMLError:  # a driver that was unloaded, a GPU that fell off the bus
            return ()

    def joules(self) -> dict[str, float]:
        """What each GPU has taken since its driver was loaded, by PCI address and name; those that can say."""
        library, taken = self._library, dict[str, float]()
        if library is None:
            return taken
        with contextlib.suppress(library.NVMLError):
            for index in range(library.nvmlDeviceGetCount()):
                handle = library.nvmlDeviceGetHandleByIndex(index)
                with contextlib.suppress(library.NVMLError):  # those before Volta do not know
                    millijoules = library.nvmlDeviceGetTotalEnergyConsumption(handle)
                    taken[f"gpu {index} {library.nvmlDeviceGetName(handle)}"] = millijoules / 1000
        return taken


def is_same(device: Device, gpu: NvidiaGpu) -> bool:
    """Whether they are one. A part of a GPU (MIG) has its address and less memory, of which NVML tells nothing here."""
    return device.id == gpu.id and device.total_bytes > _SAME_SHARE * gpu.total_bytes


def enriched(devices: Iterable[Device], gpus: Iterable[NvidiaGpu]) -> tuple[Device, ...]:
    """The devices, with what is known of those that are NVIDIA's: matched by their PCI address."""
    known = tuple(gpus)
    return tuple(_enriched(device, next((gpu for gpu in known if is_same(device, gpu)), None)) for device in devices)


def _enriched(device: Device, gpu: NvidiaGpu | None) -> Device:
    if gpu is None or device.kind == "cpu":
        return device
    return replace(
        device,
        free_bytes=min(gpu.free_bytes, device.total_bytes),
        driver=gpu.driver,
        power_limit_watts=gpu.power_limit_watts,
        processes=gpu.processes,
    )


def _open() -> Any:
    """The module with the library open, or None."""
    if sys.platform == "linux" and not any(Path(sign).exists() for sign in _DRIVER_SIGNS):
        return None
    try:
        import pynvml  # here, because a machine without it does without
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return None
    return pynvml


def _gpu(library: Any, handle: Any, driver: str) -> NvidiaGpu:
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    power: float | None = None
    processes: tuple[DeviceProcess, ...] = ()
    with contextlib.suppress(library.NVMLError):  # not every GPU has a limit
        power = library.nvmlDeviceGetPowerManagementLimit(handle) / 1000
    with contextlib.suppress(library.NVMLError):  # nor tells a container who uses it
        processes = tuple(
            DeviceProcess(process.pid, process_name(process.pid), int(process.usedGpuMemory or 0))
            for process in library.nvmlDeviceGetComputeRunningProcesses(handle)
        )
    return NvidiaGpu(
        id=pci_id(str(library.nvmlDeviceGetPciInfo(handle).busId)),
        name=str(library.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver=driver,
        power_limit_watts=power,
        processes=processes,
    )


def pci_id(text: str) -> str:
    """A PCI address with four digits of domain, in lower case: "00000000:C1:00.0" → "0000:c1:00.0"."""
    domain, _, rest = text.lower().partition(":")
    return f"{domain[-4:].rjust(4, '0')}:{rest}"
