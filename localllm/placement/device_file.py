"""A file that describes a machine: to plan for one that is not here, or to keep models within less than there is. Pure.

    {"host": {"physical_cores": 16, "total": "64GiB", "free": "60GiB", "bandwidth": 80e9, "flops": 1.5e12},
     "gpus": [{"name": "CUDA0", "description": "RTX 4090", "total": "24GiB", "free": "23GiB", "bandwidth": 1008e9,
               "flops": 330e12, "link": 25e9}]}

Amounts are bytes, or texts such as "24GiB"; `free` is all of `total` when unsaid, speeds are assumed by kind. A file
without GPUs describes a machine without one.
"""

from __future__ import annotations

import math

import msgspec

from localllm.errors import ConfigError
from localllm.placement.devices import Device, Host, Machine
from localllm.sizes import parse_size

MOST_GPUS = 16  # llama_max_devices()
MOST_BYTES = 2**50


class _Place(msgspec.Struct, forbid_unknown_fields=True):
    total: int | str
    free: int | str | None = None
    bandwidth: float | None = None
    flops: float | None = None
    link: float | None = None
    name: str = ""
    description: str = ""
    physical_cores: int = 1
    backend: str = "CUDA"
    is_integrated: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    host: _Place
    gpus: list[_Place] = []


_decoder = msgspec.json.Decoder(_File)


def parse_devices(data: bytes, source: str) -> Machine:
    """The machine that a device file describes. Raises ConfigError that names `source` and what is wrong."""
    try:
        file = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(f"{source} is no description of devices: {error}", hint=_EXAMPLE) from error
    if len(file.gpus) > MOST_GPUS:
        raise ConfigError(f"{source} has {len(file.gpus)} GPUs, and {MOST_GPUS} are the most")
    gpus = tuple(_gpu(place, index, source) for index, place in enumerate(file.gpus))
    if len({gpu.name for gpu in gpus} | {"CPU"}) != len(gpus) + 1:
        raise ConfigError(f"{source} names two devices alike")
    total, free = _memory(file.host, f"{source}: host")
    _check_speeds(file.host, f"{source}: host")
    if not 1 <= file.host.physical_cores <= 4096:
        raise ConfigError(f"{source}: host: physical_cores is {file.host.physical_cores}, but must be 1 to 4096")
    cpu = Device(
        "cpu",
        "CPU",
        file.host.description,
        total_bytes=total,
        free_bytes=free,
        bandwidth_bytes_per_second=file.host.bandwidth,
        flops=file.host.flops,
    )
    return Machine((*gpus, cpu), Host(file.host.physical_cores, total, free), is_replaced=True)


_EXAMPLE = 'such as {"host": {"total": "64GiB"}, "gpus": [{"total": "24GiB"}]}'


def _gpu(place: _Place, index: int, source: str) -> Device:
    name = place.name or f"CUDA{index}"
    total, free = _memory(place, f"{source}: {name}")
    _check_speeds(place, f"{source}: {name}")
    return Device(
        "gpu",
        name,
        place.description,
        total_bytes=total,
        free_bytes=free,
        backend=place.backend,
        is_integrated=place.is_integrated,
        bandwidth_bytes_per_second=place.bandwidth,
        flops=place.flops,
        link_bytes_per_second=place.link,
    )


def _memory(place: _Place, where: str) -> tuple[int, int]:
    total = _bytes(place.total, f"{where}: total")
    free = total if place.free is None else _bytes(place.free, f"{where}: free")
    if free > total:
        raise ConfigError(f"{where}: free is more than total")
    return total, free


def _bytes(value: int | str, where: str) -> int:
    try:
        size = parse_size(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not 0 <= size <= MOST_BYTES:
        raise ConfigError(f"{where} is {size}, but must be 0 to {MOST_BYTES} bytes")
    return size


def _check_speeds(place: _Place, where: str) -> None:
    for name, value in (("bandwidth", place.bandwidth), ("flops", place.flops), ("link", place.link)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{where}: {name} is {value}, but must be a number above 0")
