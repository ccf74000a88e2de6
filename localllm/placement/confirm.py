"""A plan held against llama.cpp's own figures for its layout, before anything is loaded. Pure.

The estimate never reckons less than llama.cpp takes, as far as its tests reach. A GPU that is over its budget all the
same would fail a load of minutes at its end, so what can be asked in half a second is asked.
"""

from __future__ import annotations

from dataclasses import replace

from localllm.placement.arrange import CPU, DeviceShare
from localllm.placement.layout import Measured
from localllm.placement.plan import Plan

_NOTHING = DeviceShare("", 0, 0, 0)


def confirmed(plan: Plan, measured: Measured) -> Plan:
    """The plan with llama.cpp's bytes of each GPU. The host's stay: what is mapped from a file is counted otherwise."""
    return replace(plan, shares=tuple(_confirmed(share, measured, plan) for share in plan.shares))


def _confirmed(share: DeviceShare, measured: Measured, plan: Plan) -> DeviceShare:
    if share.device == CPU:
        return share
    real, own = measured.on(share.device), plan.draft.on(share.device) if plan.draft else _NOTHING
    # llama.cpp measures without a draft model, and without the computing of adapters, which are set in a context that
    # is there.
    return replace(
        share,
        weights=real.weights + own.weights,
        context=real.context + own.context,
        compute=real.compute + plan.adapter_compute_bytes + own.compute,
    )


def excess(plan: Plan) -> dict[str, int]:
    """By how many bytes each GPU is over its budget."""
    over = {share.device: share.total - share.budget for share in plan.shares if share.device != CPU}
    return {device: size for device, size in over.items() if size > 0}
