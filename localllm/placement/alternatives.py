"""What else could be done with a model on a machine, each planned: for people to compare, side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from localllm.errors import DoesNotFitError, ImpossibleWishError
from localllm.placement.choose import Room
from localllm.placement.estimate import Estimate
from localllm.placement.plan import Plan, plan
from localllm.placement.pool import LEAST_CELLS, bounds_of
from localllm.placement.refusal import QUANT_BITS, bits_per_weight, in_bits
from localllm.placement.wishes import Wishes

_OTHER = 0.93  # of the bits: nearer ones are the same for this purpose


@dataclass(frozen=True, slots=True)
class Alternative:
    """One thing to do otherwise; `plan` is None when that would not fit, by `missing_bytes`."""

    label: str
    plan: Plan | None
    missing_bytes: int = 0


def alternatives_to(
    estimate: Estimate, room: Room, wishes: Wishes, others: Sequence[tuple[str, int]] = (), own: str = ""
) -> tuple[Alternative, ...]:
    """The nearest smaller and larger quantisation but its `own` (of `others`, name and bytes, if there are any), keys
    and values in fewer bits, half the context that was asked for, and the CPU alone."""
    tried = _tried(estimate, room, wishes, [one for one in _ladder(estimate, others) if one[0] != own])
    return tuple(_planned(label, other, room, changed) for label, other, changed in tried)


def _ladder(estimate: Estimate, others: Sequence[tuple[str, int]]) -> list[tuple[str, float]]:
    """Quantisations, and the bits of a weight in them."""
    bits = bits_per_weight(estimate)
    return [(label, bits * size / max(estimate.weight_bytes, 1)) for label, size in others] or list(QUANT_BITS)


def _tried(
    estimate: Estimate, room: Room, wishes: Wishes, ladder: Sequence[tuple[str, float]]
) -> Iterator[tuple[str, Estimate, Wishes]]:
    bits = bits_per_weight(estimate)
    smaller = [(label, other) for label, other in ladder if other < bits * _OTHER]
    larger = [(label, other) for label, other in ladder if other > bits / _OTHER]
    for found in (
        max(smaller, key=lambda one: one[1], default=None),
        min(larger, key=lambda one: one[1], default=None),
    ):
        if found is not None:
            yield found[0], in_bits(estimate, found[1]), wishes
    if wishes.k_type == "f16" and wishes.flash_attention != "off" and not wishes.embeds:
        yield "keys, values q8_0", estimate, replace(wishes, k_type="q8_0", v_type="q8_0")
    if wishes.context_tokens is not None and bounds_of(estimate, wishes).least > LEAST_CELLS:
        half = max(LEAST_CELLS, wishes.context_tokens // 2)
        yield f"context {half:,}", estimate, replace(wishes, context_tokens=half)
    if room.machine.gpus and wishes.gpu_layers != 0:
        yield "CPU alone", estimate, replace(wishes, gpu_layers=0, tensor_split=None, main_gpu=None)


def _planned(label: str, estimate: Estimate, room: Room, wishes: Wishes) -> Alternative:
    try:
        return Alternative(label, plan(estimate, room, wishes))
    except DoesNotFitError as error:
        return Alternative(label, None, error.missing_bytes)
    except ImpossibleWishError:  # what was asked for contradicts this one
        return Alternative(label, None)
