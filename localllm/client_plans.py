"""What /api/plan answers, and `ps` of a model's placement, as the client reads them. Bytes; the unsaid is 0 or "".

Unknown fields are ignored: a newer daemon may say more.
"""

from __future__ import annotations

from typing import Any

import msgspec


class MeasuredShare(msgspec.Struct, frozen=True):
    """What a device really holds; `total` None where nobody can tell."""

    weights: int = 0
    cache: int = 0
    compute: int = 0
    total: int | None = None


class DeviceShare(msgspec.Struct, frozen=True):
    """What one device is to hold, of `budget`; `layers` with the output. `measured` once it is loaded."""

    device: str
    layers: int = 0
    weights: int = 0
    cache: int = 0
    compute: int = 0
    overhead: int = 0
    total: int = 0
    budget: int = 0
    measured: MeasuredShare | None = None


class PlannedContext(msgspec.Struct, frozen=True):
    """The pool of cells and how requests share it."""

    pool_tokens: int = 0
    parallel: int = 0
    slots: int = 0
    layout: str = ""
    cache_type_k: str = ""
    cache_type_v: str = ""
    batch_tokens: int = 0


class PlannedSpeed(msgspec.Struct, frozen=True):
    """Tokens per second of one sequence; `is_assumed`: of some device nobody knows how fast it is."""

    decode_tokens_per_second: float = 0.0
    prefill_tokens_per_second: float = 0.0
    is_assumed: bool = False


class Placement(msgspec.Struct, frozen=True):
    """How a model lies, or would. `fallback` says why something is on the CPU that was meant for a GPU."""

    tier: str = ""
    reason: str = ""
    fallback: str = ""
    notes: tuple[str, ...] = ()
    gpu_layers: int = 0
    layers: int = 0
    context: PlannedContext = PlannedContext()
    size: int = 0
    size_vram: int = 0
    devices: tuple[DeviceShare, ...] = ()
    flags: tuple[str, ...] = ()
    speed: PlannedSpeed | None = None


class MachineDevice(msgspec.Struct, frozen=True):
    """A device that was planned for. `reserve` is what of its free memory stays free; its speeds are None until
    somebody measured or said them."""

    device: str
    kind: str = ""
    description: str = ""
    total: int = 0
    free: int = 0
    budget: int = 0
    reserve: int = 0
    bandwidth_bytes_per_second: float | None = None
    flops: float | None = None


class PlanAlternative(msgspec.Struct, frozen=True):
    """What else could be done; without a plan it would not fit, by `missing` bytes."""

    label: str
    fits: bool = False
    missing: int = 0
    plan: Placement | None = None


class PlanAnswer(msgspec.Struct, frozen=True):
    """The answer to /api/plan. Without a plan `error` says why."""

    model: str = ""
    is_here: bool = False
    quantization: str = ""
    file_bytes: int = 0
    repository: str = ""
    remarks: tuple[str, ...] = ()
    machine: tuple[MachineDevice, ...] = ()
    plan: Placement | None = None
    error: str = ""
    hint: str | None = None
    missing: int = 0
    alternatives: tuple[PlanAlternative, ...] = ()


class PlanBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of /api/plan. `devices` is a device file's JSON; without it the daemon's machine is planned for."""

    model: str
    options: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    quant: str = ""
    devices: Any = None
