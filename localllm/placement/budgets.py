"""What a model may take of each device: what is free, less what is to stay free, less what was learnt to be missing.

free ── reserve ── budget            a plan's total, its overheads counted, must be within it
overhead: what the process takes beside llama.cpp's own buffers, and what loads took beyond that (learned.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from localllm.placement.arrange import CPU
from localllm.placement.choose import Room
from localllm.placement.devices import Device, Host, Machine
from localllm.placement.wishes import Wishes

# The interpreter and its libraries, and llama.cpp's tables of the vocabulary. Resident memory less buffers, measured:
# 58 MB with 3 thousand tokens, 57 MB with 32 thousand, 99 MB with 152 thousand, 154 MB with 262 thousand. Where a
# buffer for computing has not been filled yet, it makes up for some.
PROCESS_BYTES = 55 * 10**6
TOKEN_BYTES = 360
MOST_KEPT_OF_HOST = 0.25
NOTHING: Mapping[str, int] = MappingProxyType({})


def machine_of(host: Host) -> Machine:
    """A machine of which only the host is known."""
    return Machine((Device("cpu", CPU, total_bytes=host.total_bytes, free_bytes=host.available_bytes),), host)


def budgets_of(machine: Machine, wishes: Wishes) -> dict[str, int]:
    """What may be taken of each device now."""
    return {device.name: device.free_bytes - _kept_bytes(device, wishes) for device in machine.devices}


def _kept_bytes(device: Device, wishes: Wishes) -> int:
    """What stays free. Of a host that is nearly full no more than a part: a small model would still run there."""
    most = int(device.free_bytes * MOST_KEPT_OF_HOST) if device.name == CPU else device.free_bytes
    return min(wishes.reserve.of(device.total_bytes), most)


def process_bytes(vocabulary: int) -> int:
    """What a runner takes of the host before it computes anything, beside llama.cpp's buffers."""
    return PROCESS_BYTES + table_bytes(vocabulary)


def table_bytes(vocabulary: int) -> int:
    """Of that, llama.cpp's tables of a vocabulary of so many tokens: each model has its own."""
    return TOKEN_BYTES * vocabulary


def room_of(
    machine: Machine,
    vocabulary: int,
    wishes: Wishes,
    budgets: Mapping[str, int] | None = None,
    learned: Mapping[str, int] = NOTHING,
    without_gpu: str = "",
) -> Room:
    """The room for a model of so many tokens. `budgets` replace those of the machine; `learned` are bytes that loads
    took beyond what was reckoned."""
    overheads = {device.name: max(0, learned.get(device.name, 0)) for device in machine.devices}
    overheads[CPU] += process_bytes(vocabulary)
    return Room(
        machine,
        budgets_of(machine, wishes) if budgets is None else budgets,
        overheads,
        ignores_host=wishes.use_mmap is True,
        without_gpu=without_gpu,
    )


def with_moved(room: Room, moved: Mapping[str, int]) -> Room:
    """The room in which some devices hold tensors of the model that were told to lie there, whatever its layers do."""
    overheads = {device: size + moved.get(device, 0) for device, size in room.overheads.items()}
    beside = {device: room.beside.get(device, 0) + moved.get(device, 0) for device in (*room.beside, *moved)}
    return replace(room, overheads=overheads, beside=beside)
