"""An arrangement of a model's layers over devices, and what it takes of each: arithmetic on an Estimate, no choices.

llama.cpp counts layers from the first, and the output as one more behind the last. The last `gpu_layers` of them lie on
GPUs, in blocks one behind the other in the order of the GPUs; the rest, and always the embedding, in host memory:

    embedding | 0 1 2 3 4 … … … L-1 | output
    ── host ──────────┘└ GPU A ┘└─ GPU B ──┘      gpu_layers = blocks of A and B together

The experts of the first `cpu_experts` layers may stay in host memory while their layers are on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localllm.placement.compute import ComputeBytes
from localllm.placement.devices import Device
from localllm.placement.estimate import Estimate
from localllm.placement.shape import ContextShape

CPU = "CPU"
TYPICAL_TOKENS = 2048  # that a sequence has when its speed is told
# A matrix in host memory that a GPU multiplies a prompt with is copied there first, into its compute buffer. A layer
# has about three of its size.
_MATRICES_PER_LAYER = 3
PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """Bytes of a model on one device. `overhead` is what the process takes beside llama.cpp's own buffers.

    `budget` is what the model may take there; `layers` counts whole and partly placed ones, the output too.
    """

    device: str
    weights: int
    context: int
    compute: int
    overhead: int = 0
    budget: int = 0
    layers: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.context + self.compute + self.overhead


@dataclass(frozen=True, slots=True)
class Arrangement:
    """`blocks[i]` layers lie on `gpus[i]`; see the module."""

    gpus: tuple[Device, ...] = ()
    blocks: tuple[int, ...] = ()
    cpu_experts: int = 0

    @property
    def gpu_layers(self) -> int:
        return sum(self.blocks)


@dataclass(frozen=True, slots=True)
class Costs:
    """What each layer takes in a context of one shape: on its device, and what its experts are of that; the last entry
    is the output. `embedding` is always in host memory; `remembered` is what a sequence of a typical length keeps."""

    estimate: Estimate
    shape: ContextShape
    weights: tuple[int, ...]
    experts: tuple[int, ...]
    context: tuple[int, ...]
    embedding: int
    remembered: tuple[int, ...]
    compute: ComputeBytes
    packing: int = 0

    @property
    def count(self) -> int:
        return len(self.weights)


def costs_of(estimate: Estimate, shape: ContextShape, *, packs: bool = False) -> Costs:
    """The costs of a model in a context of `shape`. Layers that guess tokens ahead are not loaded. `packs`: a CPU keeps
    matrices in layouts of its own."""
    layers = estimate.layers
    typical = ContextShape(min(TYPICAL_TOKENS, max(estimate.context_length, 1)), 1)
    return Costs(
        estimate,
        shape,
        weights=(*(0 if layer.is_mtp else layer.total for layer in layers), estimate.output_bytes),
        experts=(*(0 if layer.is_mtp else layer.experts for layer in layers), 0),
        context=(
            *(0 if layer.is_mtp else estimate.kv_bytes(shape, index) for index, layer in enumerate(layers)),
            0,
        ),
        embedding=estimate.embedding_bytes,
        compute=estimate.compute_bytes(shape),
        packing=estimate.packing_bytes if packs else 0,
        remembered=(*(0 if layer.is_mtp else estimate.kv_bytes(typical, at) for at, layer in enumerate(layers)), 0),
    )


def shares_of(
    arrangement: Arrangement, costs: Costs, overheads: Mapping[str, int], budgets: Mapping[str, int]
) -> tuple[DeviceShare, ...]:
    """What the arrangement takes of each device it uses, GPUs first and the host last."""
    first = costs.count - arrangement.gpu_layers
    shares: list[DeviceShare] = []
    at = first
    for device, block in zip(arrangement.gpus, arrangement.blocks, strict=True):
        rows = range(at, at + block)
        at += block
        shares.append(
            DeviceShare(
                device.name,
                weights=sum(_on_gpu(index, arrangement.cpu_experts, costs) for index in rows),
                context=sum(costs.context[index] for index in rows),
                compute=gpu_compute(
                    costs,
                    has_output=at == costs.count,
                    first=first,
                    experts=arrangement.cpu_experts,
                    gpus=len(arrangement.gpus),
                ),
                overhead=overheads.get(device.name, 0),
                budget=budgets.get(device.name, 0),
                layers=block,
            )
        )
    return (*shares, _host_share(arrangement, costs, overheads, budgets))


def _host_share(
    arrangement: Arrangement, costs: Costs, overheads: Mapping[str, int], budgets: Mapping[str, int]
) -> DeviceShare:
    first = costs.count - arrangement.gpu_layers
    kept = costs.experts[first:] if arrangement.cpu_experts else ()
    kept = tuple(experts for index, experts in enumerate(kept, start=first) if index < arrangement.cpu_experts)
    weights = costs.embedding + sum(costs.weights[:first]) + sum(kept)
    if arrangement.gpu_layers == 0:
        weights += costs.packing - costs.estimate.tied_output_bytes  # one copy serves as both
    compute = costs.compute
    if arrangement.gpu_layers == 0:
        needed = compute.whole
    else:
        needed = compute.input if first == 0 and not kept else max(compute.layers, compute.input)
    return DeviceShare(
        CPU,
        weights,
        context=sum(costs.context[:first]),
        compute=needed,
        overhead=overheads.get(CPU, 0),
        budget=budgets.get(CPU, 0),
        layers=first,
    )


def gpu_compute(costs: Costs, *, has_output: bool, first: int, experts: int, gpus: int) -> int:
    """The compute buffer of a GPU, with room for a matrix that comes from host memory if any lies there.

    Several GPUs that hold everything work on several batches at once: each keeps copies of what comes in.
    """
    own = costs.compute.output if has_output else costs.compute.layers
    if gpus > 1 and first == 0 and experts == 0:
        own += (PIPELINE_COPIES - 1) * _incoming_bytes(costs)
    layers = costs.estimate.layers
    copied = [layer.largest_expert_tensor for layer in layers[: max(first, experts)]]
    copied += [max(layer.dense_ffn, layer.attention) // _MATRICES_PER_LAYER for layer in layers[:first]]
    return own + max(copied, default=0)


def _incoming_bytes(costs: Costs) -> int:
    """What a GPU is handed for a batch: activations, and the mask of which cells each row sees (16 bits each)."""
    rows = costs.shape.batch_tokens
    return rows * (4 * costs.estimate.embedding_length + 2 * costs.shape.stream_cells)


def fill(
    costs: Costs,
    gpus: Sequence[Device],
    gpu_layers: int,
    cpu_experts: int,
    overheads: Mapping[str, int],
    budgets: Mapping[str, int],
) -> Arrangement | None:
    """The last `gpu_layers` over `gpus`, each filled before the next; None when they have not the room.

    The output goes with the last block, whose buffers are larger: a device takes it only when both fit.
    """
    first = costs.count - gpu_layers
    at, used, blocks = first, [], []
    for device in gpus:
        room = budgets.get(device.name, 0) - overheads.get(device.name, 0)
        taken = _block(costs, at, room, first, cpu_experts, len(gpus))
        if taken:
            used.append(device)
            blocks.append(taken)
            at += taken
        if at == costs.count:
            return Arrangement(tuple(used), tuple(blocks), cpu_experts)
    return None


def _block(costs: Costs, at: int, room: int, first: int, cpu_experts: int, gpus: int) -> int:
    """How many layers from `at` on one device holds in `room` bytes."""
    left = room - gpu_compute(costs, has_output=False, first=first, experts=cpu_experts, gpus=gpus)
    extra = gpu_compute(costs, has_output=True, first=first, experts=cpu_experts, gpus=gpus) - (room - left)
    taken = 0
    for index in range(at, costs.count):
        left -= _on_gpu(index, cpu_experts, costs) + costs.context[index]
        if index == costs.count - 1:
            left -= extra
        if left < 0:
            break
        taken += 1
    return taken


def _on_gpu(index: int, cpu_experts: int, costs: Costs) -> int:
    return costs.weights[index] - (costs.experts[index] if index < cpu_experts else 0)


def split(
    costs: Costs, gpus: Sequence[Device], shares: Sequence[float], gpu_layers: int, cpu_experts: int
) -> Arrangement:
    """The layers over `gpus` by `shares`, as llama.cpp counts them out. GPUs without a layer are left out."""
    total = sum(shares)
    ends = [sum(shares[: at + 1]) / total for at in range(len(shares))]
    counts = [0] * len(shares)
    for position in range(gpu_layers):
        counts[next((at for at, end in enumerate(ends) if end > position / gpu_layers), len(ends) - 1)] += 1
    pairs = [(device, count) for device, count in zip(gpus, counts, strict=False) if count]
    return Arrangement(tuple(device for device, _ in pairs), tuple(count for _, count in pairs), cpu_experts)


def host_of(shares: Sequence[DeviceShare]) -> DeviceShare:
    """The host's share."""
    return next(share for share in shares if share.device == CPU)


def shortfall(shares: Sequence[DeviceShare]) -> int:
    """By how many bytes the budgets are too small, all devices together."""
    return sum(max(0, share.total - share.budget) for share in shares)
