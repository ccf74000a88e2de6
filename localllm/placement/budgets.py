"""What a model may take of each device: what is free, less what is to stay free, less what was learnt to be missing.

free ── reserve ── budget            a plan's total, its overheads counted, must be within it
overhead: of the process beside llama.cpp's own buffers; measured after loads and remembered (learned.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from localllm.placement.arrange import CPU
from localllm.placement.choose import Room
from localllm.placement.devices import Device, Host, Machine
from localllm.placement.wishes import Wishes

# The interpreter, its libraries and the engine's own tables; measured as 150 MB for a model of 3 MB.
RUNNER_BYTES = 200 * 10**6
NOTHING: Mapping[str, int] = MappingProxyType({})


def machine_of(host: Host) -> Machine:
    """A machine of which only the host is known."""
    return Machine((Device("cpu", CPU, total_bytes=host.total_bytes, free_bytes=host.available_bytes),), host)


def budgets_of(machine: Machine, wishes: Wishes) -> dict[str, int]:
    """What may be taken of each device now."""
    return {
        device.name: max(0, device.free_bytes - wishes.reserve.of(device.total_bytes)) for device in machine.devices
    }


def room_of(
    machine: Machine,
    wishes: Wishes,
    budgets: Mapping[str, int] | None = None,
    learned: Mapping[str, int] = NOTHING,
    without_gpu: str = "",
) -> Room:
    """The room for one model. `budgets` replace those of the machine; `learned` are bytes beyond the estimate."""
    overheads = {device.name: max(0, learned.get(device.name, 0)) for device in machine.devices}
    overheads[CPU] = max(overheads[CPU], RUNNER_BYTES)
    return Room(
        machine,
        budgets_of(machine, wishes) if budgets is None else budgets,
        overheads,
        ignores_host=wishes.use_mmap is True,
        without_gpu=without_gpu,
    )
