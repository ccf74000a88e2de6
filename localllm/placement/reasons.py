"""Why a plan is as it is, in words for people. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.placement.arrange import Arrangement, Costs, DeviceShare, shares_of
from localllm.placement.choose import Room
from localllm.placement.layout import ALL_LAYERS
from localllm.placement.pool import HOST_POOL_BYTES_MOST, PoolBounds
from localllm.placement.shape import ContextShape
from localllm.placement.wishes import Wishes
from localllm.sizes import size_text


def reason(tier: str, arrangement: Arrangement, costs: Costs, room: Room, wishes: Wishes) -> str:
    """One line: where the layers are, and why there."""
    names = _listed([device.name for device in arrangement.gpus])
    count = costs.count
    match tier:
        case "gpu":
            if wishes.tensor_split is not None:
                return f"all {count} layers on {names}: shared as asked for"
            if len(arrangement.gpus) == 1:
                return f"all {count} layers on {names}, which holds them"
            return f"all {count} layers on {names}: no fewer GPUs hold them, or none is as fast"
        case "experts":
            out = sum(1 for experts in costs.experts[: arrangement.cpu_experts] if experts)
            experts = sum(1 for experts in costs.experts if experts)
            why = _said(wishes.cpu_experts is not None, _lacking(arrangement, costs, room))
            return f"all attention on {names}, the experts of {out} of {experts} layers in host memory: {why}"
        case "layers":
            why = _said(wishes.gpu_layers is not None, _lacking(arrangement, costs, room))
            return f"{arrangement.gpu_layers} of {count} layers on {names}, the others on the CPU: {why}"
    return f"all {count} layers on the CPU: {_why_cpu(room, wishes)}"


def fallback(tier: str, arrangement: Arrangement, costs: Costs, room: Room, wishes: Wishes) -> str:
    """Why something is on the CPU that nobody wanted there; empty when nothing is."""
    if tier == "gpu" or (tier == "cpu" and not room.machine.gpus and not room.without_gpu):
        return ""
    if wishes.gpu_layers is not None and wishes.gpu_layers <= arrangement.gpu_layers and room.machine.gpus:
        return ""
    if tier == "experts" and wishes.cpu_experts is not None:
        return ""
    if tier == "cpu":
        return room.without_gpu or "not one layer fits on a GPU beside what else is there"
    return _lacking(arrangement, costs, room)


def notes(
    shape: ContextShape, bounds: PoolBounds, room: Room, wishes: Wishes, shares: Sequence[DeviceShare]
) -> tuple[str, ...]:
    """What else one should know."""
    said = []
    if not room.machine.gpus:
        for name, value in (("num_gpu", wishes.gpu_layers), ("main_gpu", wishes.main_gpu)):
            if value:
                said.append(f"{name} {value} has no effect: no GPU is used here")
        for name, is_said in (("tensor_split", wishes.tensor_split), ("cpu_moe", wishes.cpu_experts)):
            if is_said:
                said.append(f"{name} has no effect: no GPU is used here")
    if not wishes.embeds and shape.cells < bounds.usual:
        why = (
            "more does not fit"
            if len(shares) > 1
            else f"in host memory it takes {size_text(HOST_POOL_BYTES_MOST)} at most"
        )
        said.append(f"a pool of {shape.cells:,} cells: {why}")
    if wishes.may_quantize_cache is False and wishes.k_type != "f16":
        said.append(f"keys as {wishes.k_type} and values as {wishes.v_type}, as asked for")
    elif wishes.may_quantize_cache and wishes.k_type != "f16":
        said.append(f"keys and values as {wishes.k_type}: that keeps more of the model on a GPU")
    if room.ignores_host and shares[-1].total > shares[-1].budget:
        said.append("weights that do not fit in host memory are read from the disk again and again, as use_mmap asks")
    return tuple(said)


def _why_cpu(room: Room, wishes: Wishes) -> str:
    if not room.machine.gpus:
        return room.without_gpu or "no GPU here"
    if wishes.gpu_layers == 0:
        return "as asked for"
    return "not one layer fits on a GPU"


def _lacking(arrangement: Arrangement, costs: Costs, room: Room) -> str:
    """By how much the GPUs in use are too small for all of the model."""
    everything = Arrangement(arrangement.gpus[:1], (costs.count,), 0)
    whole = shares_of(everything, costs, room.overheads, room.budgets)[0]
    there = sum(room.budgets.get(device.name, 0) for device in arrangement.gpus)
    names = _listed([device.name for device in arrangement.gpus])
    has = "has" if len(arrangement.gpus) == 1 else "have"
    return f"all of it would take {size_text(whole.total)}, and {names} {has} {size_text(there)}"


def _said(is_said: bool, otherwise: str) -> str:
    return "as asked for" if is_said else otherwise


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))


def gpu_layers_text(layers: int, count: int) -> str:
    """A number of layers as llama.cpp counts them: "all" or "21 of 33"."""
    return "all" if layers in (ALL_LAYERS, count) else f"{layers} of {count}"
