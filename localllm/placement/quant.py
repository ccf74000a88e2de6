"""Which quantisation of a model to take for a machine: the largest that runs well there. Pure.

    with GPUs   1. of those with four bits or more: the largest that lies whole on GPUs
                2. the usual one, if it fits with a part of it in host memory and the rest on GPUs
    always      3. the largest that fits

A larger one is better than a smaller one, but not so much better that it is worth the tenfold time of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from localllm.errors import DoesNotFitError
from localllm.placement.arrange import CPU
from localllm.placement.choose import Room
from localllm.placement.estimate import Estimate
from localllm.placement.plan import Tier, choose_plan, tier_of
from localllm.placement.refusal import bits_per_weight, in_bits, refuse_impossible
from localllm.placement.wishes import Wishes
from localllm.sizes import size_text

FEWEST_BITS = 4.0  # of a weight; with fewer, answers become clearly worse
_MOST_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Quant:
    """One that can be had: its name, and the bytes of its files."""

    label: str
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.label} ({size_text(self.size_bytes)})"


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of planning one: where it would lie and what it would take of each device, or what is missing."""

    quant: Quant
    bits: float
    tier: Tier | None
    bytes_by_device: dict[str, int]
    missing_bytes: int = 0


def largest_quant(
    estimate: Estimate, usual: Quant, others: Sequence[Quant], room: Room, wishes: Wishes
) -> tuple[Quant, str]:
    """The one to take, and why, in words. `estimate` is of the `usual` one. Raises DoesNotFitError when none fits."""
    refuse_impossible(estimate, room, wishes)
    quants = sorted((usual, *others), key=lambda quant: -quant.size_bytes)
    tried = [_try(estimate, usual, quant, room, wishes) for quant in quants]
    taken = _choose(tried, usual, uses_gpus=bool(room.machine.gpus) and wishes.gpu_layers != 0)
    if taken is None:
        raise _none_fits(tried[-1], room)
    return taken.quant, "; ".join(_why(taken, tried, room))


def _try(estimate: Estimate, usual: Quant, quant: Quant, room: Room, wishes: Wishes) -> _Tried:
    bits = bits_per_weight(estimate) * quant.size_bytes / max(usual.size_bytes, 1)
    try:
        found, costs, _ = choose_plan(in_bits(estimate, bits), room, wishes)
    except DoesNotFitError as error:
        return _Tried(quant, bits, None, {}, error.missing_bytes)
    taken = {share.device: share.total for share in found.shares if share.total}
    return _Tried(quant, bits, tier_of(found.arrangement, costs), taken)


def _choose(tried: Sequence[_Tried], usual: Quant, *, uses_gpus: bool) -> _Tried | None:
    fits = [one for one in tried if one.tier is not None]
    if uses_gpus:
        whole = (one for one in fits if one.tier == "gpu" and one.bits >= FEWEST_BITS)
        usual_one = (one for one in fits if one.quant == usual and one.tier != "cpu")
        return next((one for ones in (whole, usual_one, fits) for one in ones), None)
    return next(iter(fits), None)


def _why(taken: _Tried, tried: Sequence[_Tried], room: Room) -> Iterator[str]:
    gpus = [device for device in taken.bytes_by_device if device != CPU]
    match taken.tier:
        case "gpu":
            how = f"the largest that lies whole on {' and '.join(gpus)}"
        case "experts":
            how = f"of which only experts are not on {' and '.join(gpus)}"
        case "layers":
            how = f"of which some layers lie on {' and '.join(gpus)}"
        case _:
            how = "the largest that fits"
    needs = ", ".join(
        f"about {size_text(size)} of {_memory(device)}, of which {size_text(room.budgets.get(device, 0))} may be used"
        for device, size in taken.bytes_by_device.items()
    )
    yield f"taking {taken.quant}, {how}: it needs {needs}"
    place = tried.index(taken)
    if place:
        nearest = tried[max(0, place - _MOST_SHOWN) : place]
        yield "too large: " + ", ".join(_lack(one, taken) for one in nearest) + _more(place)
    if smaller := tried[place + 1 :]:
        yield "smaller: " + ", ".join(str(one.quant) for one in smaller[:_MOST_SHOWN]) + _more(len(smaller))


def _lack(other: _Tried, taken: _Tried) -> str:
    if other.tier is None:
        return f"{other.quant} lacks {size_text(other.missing_bytes)}"
    part = "experts" if other.tier == "experts" else "layers"
    return f"{other.quant} would have {'more ' * (taken.tier == other.tier)}{part} in host memory"


def _more(count: int) -> str:
    """How many are there beside the nearest ones."""
    return f" and {count - _MOST_SHOWN} more" if count > _MOST_SHOWN else ""


def _memory(device: str) -> str:
    return "main memory" if device == CPU else device


def _none_fits(smallest: _Tried, room: Room) -> DoesNotFitError:
    there = ", ".join(f"{size_text(size)} of {_memory(device)}" for device, size in room.budgets.items())
    missing = size_text(smallest.missing_bytes)
    return DoesNotFitError(
        f"no quant of it fits: {smallest.quant} lacks {missing}, of {there} that may be used",
        smallest.missing_bytes,
        hint="end other programs, choose a smaller model, or name a quant all the same: it will be slow",
    )
