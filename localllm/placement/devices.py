"""What a machine has for a model: its devices as data, and this host's cores and memory within what may be used.

The only place that asks the operating system about the host. A container's quota and a process's affinity count, not
the machine's size: llama.cpp with more threads than cores it may use spends its time waiting at barriers. Which GPUs
there are is asked by runner/inventory, of a child; a plan needs only the data here.
"""

from __future__ import annotations

import functools
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

DeviceKind = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process that holds memory of a device; `name` is empty when it may not be seen."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Device:
    """One place for weights and caches. `name` is llama.cpp's ("CPU", "CUDA0"), `id` a GPU's PCI address.

    Speeds are measured or stated, None while nobody knows; `flops` is of a large matrix product, `link_...` of copies
    between host memory and the device. An integrated GPU shares the host's memory.
    """

    kind: DeviceKind
    name: str
    description: str = ""
    id: str = ""
    total_bytes: int = 0
    free_bytes: int = 0
    bandwidth_bytes_per_second: float | None = None
    flops: float | None = None
    link_bytes_per_second: float | None = None
    backend: str = "CPU"
    is_integrated: bool = False
    driver: str = ""
    power_limit_watts: float | None = None
    processes: tuple[DeviceProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Cpu:
    """The model's name and its feature flags as the kernel names them."""

    model: str
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Host:
    """Cores that may be used at once, and bytes of memory. `has_amx`: the CPU multiplies matrices of many types in a
    layout of its own."""

    physical_cores: int
    total_bytes: int
    available_bytes: int
    has_amx: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices in llama.cpp's order, GPUs first and the CPU last, and the host. `is_replaced`: they were read from
    a file, and are not those of this machine."""

    devices: tuple[Device, ...]
    host: Host
    is_replaced: bool = False

    @property
    def gpus(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.kind == "gpu")

    @property
    def cpu(self) -> Device:
        """The host's own device; its free bytes are those that the host has available."""
        return next(device for device in self.devices if device.kind == "cpu")


def host(root: Path = Path("/")) -> Host:
    """Ask the machine. `root` is where /sys and /proc are."""
    memory = psutil.virtual_memory()
    cores = _physical_cores(root, _usable_cpus())
    quota = _cpu_quota(root)
    limit, used = _memory_limit(root)
    return Host(
        physical_cores=max(1, min(cores, math.ceil(quota))) if quota else max(1, cores),
        total_bytes=min(memory.total, limit or memory.total),
        available_bytes=max(0, min(memory.available, limit - used)) if limit else memory.available,
        has_amx="amx_int8" in cpu(root).flags,
    )


def process_name(pid: int) -> str:
    """What a process is called; empty when it is gone or somebody else's."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""


@functools.cache
def cpu(root: Path = Path("/")) -> Cpu:
    """The processor, which stays the same: its file is long where there are many cores. `root` is where /proc is."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # macOS and Windows
        return Cpu(platform.processor() or platform.machine(), frozenset())
    rows = [line.partition(":") for line in text.splitlines()]
    values = {name.strip().lower(): value.strip() for name, _, value in reversed(rows)}
    flags = values.get("flags", values.get("features", ""))
    return Cpu(values.get("model name", platform.machine()), frozenset(flags.split()))


def _usable_cpus() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)  # macOS and Windows have no affinity to ask for


def _physical_cores(root: Path, cpus: Iterable[int]) -> int:
    """Cores behind these CPUs; two hyper-threads of one core count once."""
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        core, package = _number(topology / "core_id"), _number(topology / "physical_package_id")
        if core is None:  # no Linux
            return psutil.cpu_count(logical=False) or os.cpu_count() or 1
        cores.add((package, core))
    return len(cores)


def _cpu_quota(root: Path) -> float | None:
    """CPUs the innermost control group may use; None without a limit."""
    for folder in _group_folders(root, "cpu"):
        words = _text(folder / "cpu.max").split()  # "max 100000", "150000 100000"
        if len(words) == 2 and words[0].isdigit():
            return int(words[0]) / int(words[1])
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            return quota / period
    return None


def _memory_limit(root: Path) -> tuple[int | None, int]:
    """Bytes the control group may use and uses; page cache that can be given back does not count as used."""
    for folder in _group_folders(root, "memory"):
        for limit_name, used_name, cache_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(folder / limit_name)
            if limit is not None and limit < 2**60:  # version 1 writes "no limit" as a huge number
                used = _number(folder / used_name) or 0
                rows = (line.split() for line in _text(folder / "memory.stat").splitlines())
                cache = next((int(row[1]) for row in rows if row[0] == cache_name), 0)
                return limit, max(0, used - cache)
    return None, 0


def _group_folders(root: Path, controller: str) -> list[Path]:
    """The folders of this process's control group for `controller`, innermost first, then those of its parents."""
    folders: list[Path] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        innermost = mount / path.lstrip("/")
        folders += [folder for folder in (innermost, *innermost.parents) if folder == mount or mount in folder.parents]
    return folders


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no such limit on this machine
        return ""


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.lstrip("-").isdigit() else None
