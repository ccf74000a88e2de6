"""Where a draft model lies: whole on one device, the one on which both models together are fastest. Pure.

Its place is chosen first, as what that device holds whatever the larger model does (`budgets.with_moved`); the larger
one is planned in what is left. For a token the larger model takes one step and the draft model some, so a small one on
a GPU may be worth a layer that leaves it for that, or may not: both are reckoned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from localllm.errors import DoesNotFitError
from localllm.placement.arrange import CPU, Arrangement, Costs, DeviceShare, costs_of, fill, shares_of
from localllm.placement.budgets import NOTHING, table_bytes, with_moved
from localllm.placement.choose import Room
from localllm.placement.devices import Device
from localllm.placement.estimate import Estimate
from localllm.placement.layout import Layout
from localllm.placement.plan import DraftPlan, Plan, choose_plan, threads_for
from localllm.placement.pool import bounds_of
from localllm.placement.refusal import refuse_impossible
from localllm.placement.shape import CELL_STEP, ContextShape, outputs_for
from localllm.placement.speed import decode_seconds
from localllm.placement.wishes import Wishes
from localllm.sizes import size_text

BATCH_TOKENS = 256  # it catches up with a prompt in parts
STEPS_PER_TOKEN = 1.5  # of the draft model for each token that is kept: some of its guesses are wrong


def place_draft(estimate: Estimate, draft: Estimate, room: Room, wishes: Wishes) -> tuple[DraftPlan | None, Room]:
    """The draft model's place beside a model, and the room that is left for that; None and all the room where both
    together do not fit. Raises ImpossibleWishError as a plan does."""
    refuse_impossible(estimate, room, wishes)
    costs = costs_of(draft, _shape(estimate, draft, wishes), packs=wishes.use_extra_buffers)
    found = []
    tables = {CPU: table_bytes(draft.vocabulary)}
    for arrangement in _places(costs, room, wishes):
        shares = shares_of(arrangement, costs, tables, NOTHING)
        left = with_moved(room, {share.device: share.total for share in shares})
        try:
            beside, *_ = choose_plan(estimate, left, wishes)
        except DoesNotFitError:
            continue
        seconds = beside.seconds + STEPS_PER_TOKEN * decode_seconds(arrangement, costs, room.machine.cpu)
        # Of equals the one that leaves the model's own GPUs more room to grow in.
        spare = sum(left.budgets[gpu.name] - left.overheads[gpu.name] for gpu in beside.arrangement.gpus)
        found.append((seconds, -spare, arrangement, shares, left))
    if not found:
        return None, room
    *_, arrangement, shares, left = min(found, key=lambda one: one[:2])
    return _plan_of(arrangement, costs, shares, room, wishes), left


def with_draft(plan: Plan, placed: DraftPlan | None) -> Plan:
    """The larger model's plan in the room that was left, told as what both take."""
    if placed is None:
        return replace(
            plan, notes=(*plan.notes, "the draft model is not used: there is no room for it beside the model")
        )
    own = {share.device: share for share in placed.shares}
    shares = [_joined(share, own.pop(share.device, None)) for share in plan.shares]
    host = shares.pop()
    cells = f"{placed.shape.cells:,}"
    total = size_text(sum(share.total for share in placed.shares))
    note = f"the draft model on {placed.device}, {total}: it guesses in contexts of up to {cells} tokens"
    return replace(plan, shares=(*shares, *own.values(), host), draft=placed, notes=(*plan.notes, note))


def _shape(estimate: Estimate, draft: Estimate, wishes: Wishes) -> ContextShape:
    """One sequence as long as a request of the larger model should be able to have."""
    usual = bounds_of(estimate, wishes).usual
    cells = min(usual, draft.context_length) if draft.context_length else usual
    return ContextShape(
        cells=max(CELL_STEP, cells - cells % CELL_STEP),
        sequences=1,
        batch_tokens=min(BATCH_TOKENS, cells),
        outputs=outputs_for(1),
        flash_attention=wishes.flash_attention != "off",
    )


def _places(costs: Costs, room: Room, wishes: Wishes) -> Iterator[Arrangement]:
    """On each GPU that holds all of it, of those that may be used, and on the host."""
    if wishes.gpu_layers != 0:
        # Of equal ones the last: the model itself begins with the first.
        for device in reversed(_allowed(room.machine.gpus, wishes)):
            arrangement = fill(costs, (device,), costs.count, 0, room.overheads, room.budgets)
            if arrangement is not None:
                yield arrangement
    yield Arrangement()


def _allowed(gpus: Sequence[Device], wishes: Wishes) -> Sequence[Device]:
    if wishes.is_single_gpu and wishes.main_gpu is not None:
        return [gpus[wishes.main_gpu]] if gpus else []
    if wishes.tensor_split is not None:
        return [gpu for gpu, part in zip(gpus, wishes.tensor_split, strict=False) if part]
    return gpus


def _plan_of(
    arrangement: Arrangement, costs: Costs, shares: tuple[DeviceShare, ...], room: Room, wishes: Wishes
) -> DraftPlan:
    layout = Layout(
        gpu_layers=arrangement.gpu_layers,
        devices=tuple(device.name for device in arrangement.gpus),
        # Read, not mapped: it is small, and its bytes are then those that were reckoned.
        use_mmap=False,
        use_extra_buffers=wishes.use_extra_buffers,
    )
    threads = threads_for(room.machine.host, wishes, costs.estimate.weight_bytes)
    shares = tuple(_in_room(share, room) for share in shares)
    device = arrangement.gpus[0].name if arrangement.gpus else CPU
    return DraftPlan(layout, costs.shape, device, shares, threads)


def _in_room(share: DeviceShare, room: Room) -> DeviceShare:
    """With what the device has, for one on which nothing else lies."""
    overhead = share.overhead if share.device == CPU else room.overheads.get(share.device, 0)
    return replace(share, layers=0, overhead=overhead, budget=room.budgets.get(share.device, 0))


def _joined(share: DeviceShare, own: DeviceShare | None) -> DeviceShare:
    """What both models take of a device, of which the plan knew the draft model's part as overhead."""
    if own is None:
        return share
    mine = own.weights + own.context + own.compute
    return replace(
        share,
        weights=share.weights + own.weights,
        context=share.context + own.context,
        compute=share.compute + own.compute,
        overhead=share.overhead - mine,
    )
