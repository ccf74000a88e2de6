"""What cannot be: wishes that no arrangement fulfils, and models that nothing here holds, with what would fit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from localllm.errors import DoesNotFitError, ImpossibleWishError
from localllm.placement.arrange import CPU, Arrangement, Costs, DeviceShare, costs_of, shares_of, shortfall, split
from localllm.placement.choose import Room
from localllm.placement.estimate import Estimate
from localllm.placement.layout import TensorOverride
from localllm.placement.pool import LEAST_CELLS, bounds_of, largest, shape_for
from localllm.placement.shape import CELL_STEP, KV_TYPES
from localllm.placement.wishes import Wishes
from localllm.sizes import size_text

# Bits of a weight in the usual quantisations, large ones first: what a model would have in another one.
QUANT_BITS = (
    ("Q8_0", 8.5), ("Q6_K", 6.6), ("Q5_K_M", 5.7), ("Q4_K_M", 4.85), ("Q3_K_M", 3.95), ("IQ3_XXS", 3.25),
    ("Q2_K", 2.95), ("IQ2_XXS", 2.4), ("IQ1_S", 1.9),
)  # fmt: skip
MOST_ALTERNATIVES = 3
_WIDE = ("f16", "bf16", "f32")  # types of keys and values that q8_0 would halve
Attempt = Callable[[Estimate, Wishes], bool]


def refuse_impossible(estimate: Estimate, room: Room, wishes: Wishes) -> None:
    """Raises ImpossibleWishError, with what is possible, for a wish that this machine or model cannot fulfil."""
    gpus = room.machine.gpus
    names = ", ".join(device.name for device in gpus)
    count = "one GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
    if gpus and wishes.main_gpu is not None and wishes.main_gpu >= len(gpus):
        there = f"there {'is' if len(gpus) == 1 else 'are'} {count}"
        raise ImpossibleWishError(f"main_gpu {wishes.main_gpu}: {there}, counted from 0 ({names})")
    if gpus and wishes.tensor_split is not None and len(wishes.tensor_split) > len(gpus):
        raise ImpossibleWishError(f"tensor_split has {len(wishes.tensor_split)} shares for {count} ({names})")
    if wishes.tensor_split is not None and wishes.is_single_gpu:
        raise ImpossibleWishError("tensor_split shares a model among GPUs, and split_mode none forbids that")
    for kind in (wishes.k_type, wishes.v_type):
        if kind not in KV_TYPES:
            raise ImpossibleWishError(f"keys and values cannot be kept as {kind}: {', '.join(KV_TYPES)} are possible")
    if wishes.k_type != wishes.v_type and _keeps_latents(estimate):
        raise ImpossibleWishError(
            f"keys as {wishes.k_type} and values as {wishes.v_type}: this model keeps one latent for both, in one type"
        )
    if wishes.flash_attention == "off" and wishes.v_type not in ("f16", "bf16", "f32"):
        raise ImpossibleWishError(f"values as {wishes.v_type} need flash attention, and flash_attn is off")
    _refuse_overrides(wishes.overrides, [CPU, *(device.name for device in gpus)])


def _keeps_latents(estimate: Estimate) -> bool:
    first = [cache for memory in estimate.memories for cache in memory.caches[:1]]
    return any(cache.key_elements and not cache.value_elements and not cache.per_sequence for cache in first)


def _refuse_overrides(overrides: tuple[TensorOverride, ...], names: list[str]) -> None:
    for override in overrides:
        if override.device not in names:
            raise ImpossibleWishError(
                f"override_tensor {override.pattern}={override.device}: the devices are {', '.join(names)}"
            )


def does_not_fit(estimate: Estimate, room: Room, wishes: Wishes, fits: Attempt) -> DoesNotFitError:
    """The error for a model that no arrangement holds: what it needs, what is there, what is missing, what would do."""
    shares = [room.asked(share) for share in _nearest(estimate, room, wishes)]
    missing = max(shortfall(shares), 1)
    needs = "; ".join(_need_text(share) for share in shares if share.total > share.budget)
    would = tuple(alternatives(estimate, room, wishes, fits))[:MOST_ALTERNATIVES]
    hint = f"what would fit: {'; '.join(would)}" if would else "end other programs, or choose a smaller model"
    return DoesNotFitError(f"the model does not fit: {size_text(missing)} are missing ({needs})", missing, hint=hint)


def _need_text(share: DeviceShare) -> str:
    return (
        f"{share.device} would hold {size_text(share.total)}: weights {size_text(share.weights)}, cache "
        f"{size_text(share.context)}, computing {size_text(share.compute + share.overhead)}; "
        f"{size_text(share.budget)} are there"
    )


def _nearest(estimate: Estimate, room: Room, wishes: Wishes) -> tuple[DeviceShare, ...]:
    """Of the simplest arrangements the one that lacks least."""
    cells = bounds_of(estimate, wishes).least
    tried = []
    if room.machine.gpus and wishes.gpu_layers != 0:
        costs = costs_of(estimate, shape_for(estimate, wishes, cells, is_on_gpu=True))
        tried += list(_spread(costs, room, wishes))
    if not room.machine.gpus or not wishes.gpu_layers:
        costs = costs_of(estimate, shape_for(estimate, wishes, cells, is_on_gpu=False), packs=wishes.use_extra_buffers)
        tried.append(shares_of(Arrangement(), costs, room.overheads, room.budgets))
    return min(tried, key=lambda shares: shortfall([room.asked(share) for share in shares]))


def _spread(costs: Costs, room: Room, wishes: Wishes) -> Iterator[tuple[DeviceShare, ...]]:
    gpus = room.machine.gpus
    parts: tuple[float, ...] = tuple(max(1, room.budgets.get(device.name, 0)) for device in gpus)
    if wishes.tensor_split is not None:
        parts = (*wishes.tensor_split, *(0.0 for _ in gpus[len(wishes.tensor_split) :]))
    elif wishes.is_single_gpu:
        one = wishes.main_gpu if wishes.main_gpu is not None else max(range(len(gpus)), key=lambda at: parts[at])
        parts = tuple(1.0 if at == one else 0.0 for at in range(len(gpus)))
    experts = min(wishes.cpu_experts or 0, costs.estimate.layer_count)
    asked = costs.count if wishes.gpu_layers is None else min(wishes.gpu_layers, costs.count)
    for layers in {asked} if wishes.gpu_layers is not None else range(1, costs.count + 1):
        for kept in {experts} if wishes.cpu_experts is not None else {0, costs.estimate.layer_count}:
            yield shares_of(split(costs, gpus, parts, layers, kept), costs, room.overheads, room.budgets)


def alternatives(estimate: Estimate, room: Room, wishes: Wishes, fits: Attempt) -> Iterator[str]:
    """What would fit, in words: fewer layers where that was said, another quant, a smaller cache, a smaller context."""
    if wishes.gpu_layers and room.machine.gpus:
        most = _most_layers(estimate, wishes, fits)
        if most is not None:
            yield f"num_gpu {most}"
    if wishes.context_tokens is not None:
        bounds = bounds_of(estimate, wishes)
        cells = largest(
            0, bounds.least - CELL_STEP, lambda c: c < LEAST_CELLS or fits(estimate, replace(wishes, context_tokens=c))
        )
        if LEAST_CELLS <= cells < bounds.least:
            yield f"a context of {cells:,} tokens (num_ctx)"
    eight_bits = replace(wishes, k_type="q8_0", v_type="q8_0")
    if wishes.k_type in _WIDE and wishes.flash_attention != "off" and fits(estimate, eight_bits):
        yield "keys and values as q8_0 (cache_type_k, cache_type_v)"
    if name := fitting_quant(estimate, wishes, fits):
        yield name
    if wishes.use_mmap is None and fits(estimate, replace(wishes, use_mmap=True)):
        yield "weights read from the disk whenever they are needed, which is slow (use_mmap true)"
    if wishes.parallel > 1 and fits(estimate, replace(wishes, parallel=1, batch_tokens=min(wishes.batch_tokens, 128))):
        yield "one request at a time in small steps (num_parallel 1, num_batch 128)"


def _most_layers(estimate: Estimate, wishes: Wishes, fits: Attempt) -> int | None:
    for layers in range(min(wishes.gpu_layers or 0, estimate.layer_count + 1) - 1, -1, -1):
        if fits(estimate, replace(wishes, gpu_layers=layers)):
            return layers
    return None


def fitting_quant(estimate: Estimate, wishes: Wishes, fits: Attempt) -> str:
    """The largest usual quantisation, smaller than this one, in which the model would fit, with its size."""
    bits = bits_per_weight(estimate)
    for name, other in QUANT_BITS:
        if other < bits * 0.97 and fits(in_bits(estimate, other), wishes):
            return f"{name} instead of {bits:.1f} bits per weight ({size_text(in_bits(estimate, other).weight_bytes)})"
    return ""


def bits_per_weight(estimate: Estimate) -> float:
    """The mean over layers and output."""
    layers = estimate.layers
    parameters = estimate.output_parameters + sum(row.active_parameters + row.expert_parameters for row in layers)
    size = estimate.output_bytes + sum(row.total for row in layers)
    return 8 * size / max(parameters, 1)


def in_bits(estimate: Estimate, bits: float) -> Estimate:
    """The same model with so many bits per weight."""
    factor = bits / max(bits_per_weight(estimate), 0.01)

    def scaled(size: int) -> int:
        return int(size * factor)

    layers = tuple(
        replace(
            layer,
            attention=scaled(layer.attention),
            recurrent=scaled(layer.recurrent),
            dense_ffn=scaled(layer.dense_ffn),
            experts=scaled(layer.experts),
            shared_experts=scaled(layer.shared_experts),
            largest_expert_tensor=scaled(layer.largest_expert_tensor),
            packing=scaled(layer.packing),
            packed=scaled(layer.packed),
            packed_with_amx=scaled(layer.packed_with_amx),
        )
        for layer in estimate.layers
    )
    return replace(
        estimate,
        layers=layers,
        embedding_bytes=scaled(estimate.embedding_bytes),
        output_bytes=scaled(estimate.output_bytes),
        output_packing=scaled(estimate.output_packing),
        output_packed=scaled(estimate.output_packed),
        output_packed_with_amx=scaled(estimate.output_packed_with_amx),
        tied_output_bytes=scaled(estimate.tied_output_bytes),
    )
