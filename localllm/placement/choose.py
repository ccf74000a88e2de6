"""Which arrangement of a model's layers is best in a context of one shape: tries them in order, pure.

    whole on GPUs, as few as hold it  >  experts of the first layers in host memory  >  first layers there  >  the host

Of what fits the fastest is taken, which is that order unless GPUs differ much; so more memory never makes it slower.
What was said (layers, shares, one GPU, experts) leaves fewer to try, or none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from localllm.placement.arrange import CPU, Arrangement, Costs, DeviceShare, fill, host_of, shares_of, split
from localllm.placement.devices import Device, Machine
from localllm.placement.speed import decode_seconds, rates_of
from localllm.placement.wishes import Wishes

_ALL_SUBSETS = 4  # of so many GPUs; of more only those that come first by speed, and each alone


@dataclass(frozen=True, slots=True)
class Room:
    """What a model may take: `budgets` and `overheads` are bytes by device, `beside` those of the overheads that lie
    there whatever its layers do.

    `without_gpu`: why a GPU that is there cannot be used; empty when there is none, or all can.
    """

    machine: Machine
    budgets: Mapping[str, int]
    overheads: Mapping[str, int]
    ignores_host: bool = False  # weights may stay on the disk: use_mmap was asked for
    without_gpu: str = ""
    beside: Mapping[str, int] = field(default_factory=dict)

    @property
    def integrated(self) -> frozenset[str]:
        return frozenset(device.name for device in self.machine.gpus if device.is_integrated)

    def holds(self, shares: Sequence[DeviceShare]) -> bool:
        """Whether all of it fits."""
        return self.holds_each(shares) and self.on_host(shares) <= host_of(shares).budget

    def holds_each(self, shares: Sequence[DeviceShare]) -> bool:
        """Whether no device is over its budget by itself."""
        return all(self.asked(share).total <= share.budget for share in shares)

    def on_host(self, shares: Sequence[DeviceShare]) -> int:
        """What is taken of the host: also what lies on integrated GPUs, whose memory is the host's."""
        used = {share.device for share in shares}
        apart = sum(self.beside.get(device, 0) for device in self.integrated - used)
        shared = sum(share.total for share in shares if share.device in self.integrated)
        return self.asked(host_of(shares)).total + shared + apart

    def asked(self, share: DeviceShare) -> DeviceShare:
        """What of a share must be there: of weights that may stay on the disk nothing."""
        if not self.ignores_host or share.device != CPU:
            return share
        return DeviceShare(share.device, 0, share.context, share.compute, share.overhead, share.budget)


@dataclass(frozen=True, slots=True)
class Found:
    """An arrangement that fits, what it takes, and seconds of a next token."""

    arrangement: Arrangement
    shares: tuple[DeviceShare, ...]
    seconds: float


def best(costs: Costs, room: Room, wishes: Wishes, *, may_use_gpus: bool = True) -> Found | None:
    """The fastest arrangement that fits; None when none does."""
    found = all_found(costs, room, wishes, may_use_gpus=may_use_gpus)
    # Of equals rather on a GPU than not, on fewer of them, and where its pool and the next model have most room.
    return min(
        found,
        key=lambda one: (one.seconds, not one.arrangement.gpu_layers, len(one.arrangement.gpus), *_room_in(one)),
        default=None,
    )


def _room_in(found: Found) -> tuple[int, int]:
    """Less is better: integrated GPUs, which have the host's room, and bytes that are left on the GPUs."""
    left = sum(share.budget - share.total for share in found.shares if share.device != CPU)
    return sum(gpu.is_integrated for gpu in found.arrangement.gpus), -left


def all_found(costs: Costs, room: Room, wishes: Wishes, *, may_use_gpus: bool = True) -> list[Found]:
    """What fits of each group of GPUs, and on the host."""
    return [one for one in _tried(costs, room, wishes, may_use_gpus=may_use_gpus) if one is not None]


def gpu_layers_wanted(wishes: Wishes, costs: Costs) -> int | None:
    """The layers that were asked for on GPUs, no more than there are."""
    return None if wishes.gpu_layers is None else min(wishes.gpu_layers, costs.count)


def _tried(costs: Costs, room: Room, wishes: Wishes, *, may_use_gpus: bool) -> Iterator[Found | None]:
    wanted = gpu_layers_wanted(wishes, costs)
    gpus = room.machine.gpus if may_use_gpus else ()
    if gpus and wanted != 0:
        if (said := wishes.tensor_split) is not None:
            yield _in_order(costs, room, wishes, lambda layers, experts: split(costs, gpus, said, layers, experts))
        else:
            for group in groups_of(gpus, wishes):
                found = _in_order(costs, room, wishes, partial(_filled, costs, room, group))
                yield found and (_evened(found, costs, room) or found)
    if wanted is None or wanted == 0 or not gpus:
        yield _checked(Arrangement(), costs, room)


def groups_of(gpus: Sequence[Device], wishes: Wishes) -> Iterator[tuple[Device, ...]]:
    """The groups of GPUs to try, the fastest of each first; small ones before large ones."""
    order = sorted(gpus, key=lambda device: -rates_of(device).bandwidth)
    if wishes.main_gpu is not None:
        main = gpus[wishes.main_gpu]
        order = [main, *(device for device in order if device is not main)]
        most = 1 if wishes.is_single_gpu else len(order)
        yield from (tuple(order[:size]) for size in range(1, most + 1))
        return
    if wishes.is_single_gpu:
        yield from ((device,) for device in order)
    elif len(order) <= _ALL_SUBSETS:
        for size in range(1, len(order) + 1):
            yield from itertools.combinations(order, size)
    else:
        yield from ((device,) for device in order)
        yield from (tuple(order[:size]) for size in range(2, len(order) + 1))


Place = Callable[[int, int], Arrangement | None]


def _filled(costs: Costs, room: Room, group: tuple[Device, ...], layers: int, experts: int) -> Arrangement | None:
    return fill(costs, group, layers, experts, room.overheads, room.budgets)


def _evened(found: Found, costs: Costs, room: Room) -> Found | None:
    """The same on GPUs of one speed in even parts of their room, which leaves each of them some to grow in."""
    gpus = found.arrangement.gpus
    if len(gpus) < 2 or len({rates_of(device).bandwidth for device in gpus}) > 1:
        return None
    parts = [max(1, room.budgets.get(gpu.name, 0) - room.overheads.get(gpu.name, 0)) for gpu in gpus]
    even = split(costs, gpus, parts, found.arrangement.gpu_layers, found.arrangement.cpu_experts)
    return _checked(even, costs, room) if len(even.gpus) == len(gpus) else None


def _in_order(costs: Costs, room: Room, wishes: Wishes, place: Place) -> Found | None:
    """The first that fits: all layers, experts out, layers out."""
    expert_layers = costs.estimate.layer_count if any(costs.experts) else 0
    layers = gpu_layers_wanted(wishes, costs) or costs.count
    if wishes.cpu_experts is not None:
        experts: range = range(min(wishes.cpu_experts, expert_layers), min(wishes.cpu_experts, expert_layers) + 1)
    else:
        experts = range(expert_layers + 1)

    def fits(layer_count: int, expert_count: int) -> bool:
        arrangement = place(layer_count, expert_count)
        return arrangement is not None and _fits_gpus(arrangement, costs, room)

    least = _first_true(experts, lambda count: fits(layers, count))
    if least is not None:
        return _checked(place(layers, least), costs, room)
    if wishes.gpu_layers is not None:
        return None
    most = experts[-1]
    fewer = _first_true(range(1, costs.count), lambda out: fits(costs.count - out, most))
    return None if fewer is None else _checked(place(costs.count - fewer, most), costs, room)


def _first_true(values: range, is_true: Callable[[int], bool]) -> int | None:
    """The first of ascending values for which it is true, if it stays true from there on."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if is_true(values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low] if low < len(values) else None


def _fits_gpus(arrangement: Arrangement, costs: Costs, room: Room) -> bool:
    shares = shares_of(arrangement, costs, room.overheads, room.budgets)
    return all(share.total <= share.budget for share in shares if share.device != CPU)


def _checked(arrangement: Arrangement | None, costs: Costs, room: Room) -> Found | None:
    if arrangement is None:
        return None
    shares = shares_of(arrangement, costs, room.overheads, room.budgets)
    if not room.holds(shares):
        return None
    return Found(arrangement, shares, decode_seconds(arrangement, costs, room.machine.cpu))
