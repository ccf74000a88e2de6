"""The least that a model takes where it runs as fast as a machine can: what a scheduler makes room for. Pure."""

from __future__ import annotations

from localllm.placement.choose import Room, all_found
from localllm.placement.estimate import Estimate
from localllm.placement.plan import choose_plan
from localllm.placement.refusal import refuse_impossible
from localllm.placement.wishes import Wishes

_AS_FAST = 1.02  # times the seconds of the fastest place: two GPUs of one kind are as good


def demands(estimate: Estimate, room: Room, wishes: Wishes) -> tuple[dict[str, int], ...]:
    """Bytes by device, one choice for each place that is as fast as the best: a pool of the usual size and no more.

    Raises DoesNotFitError when nothing holds the model, and ImpossibleWishError.
    """
    refuse_impossible(estimate, room, wishes)
    best, costs, chosen = choose_plan(estimate, room, wishes)
    on_gpu = best.arrangement.gpu_layers > 0
    places = all_found(costs, room, chosen, may_use_gpus=on_gpu)
    few = len(best.arrangement.gpus)
    as_good = [
        found for found in places if found.seconds <= best.seconds * _AS_FAST and len(found.arrangement.gpus) <= few
    ]
    # What lies beside the model takes room where none of its layers are, too.
    beside = {device: room.overheads[device] for device, size in room.beside.items() if size}
    choices = [
        beside | {share.device: share.total for share in found.shares if share.total} for found in (best, *as_good)
    ]
    return tuple({tuple(sorted(choice.items())): choice for choice in choices}.values())
