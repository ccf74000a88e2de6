"""Tensors that were told where to lie: what that takes from a model's layers, and gives to devices. Pure.

llama.cpp looks for each pattern anywhere in a tensor's name; the first that is found decides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from localllm.gguf import Header, TensorInfo
from localllm.placement.arrange import CPU
from localllm.placement.estimate import Estimate
from localllm.placement.layout import TensorOverride
from localllm.placement.plan import Plan
from localllm.placement.weights import class_of

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


def overridden(
    estimate: Estimate, header: Header, overrides: Sequence[TensorOverride]
) -> tuple[Estimate, Mapping[str, int]]:
    """The model without what was moved, which counts as host memory or as bytes of the named GPUs."""
    if not overrides:
        return estimate, {}
    patterns = [(re.compile(override.pattern), override.device) for override in overrides]
    moved: Counter[str] = Counter()
    layers = list(estimate.layers)
    output, embedding = estimate.output_bytes, estimate.embedding_bytes
    for tensor in header.tensors:
        device = next((device for pattern, device in patterns if pattern.search(tensor.name)), None)
        found = _LAYER.fullmatch(tensor.name)
        if device is None or (found is not None and int(found[1]) >= len(layers)):
            continue
        if found is not None:
            kind = class_of(found[2])
            layer = layers[int(found[1])]
            layers[int(found[1])] = replace(layer, **{kind: max(0, getattr(layer, kind) - tensor.size_bytes)})
        elif _is_output(tensor):
            output -= tensor.size_bytes
        else:
            embedding -= tensor.size_bytes
        moved[device] += tensor.size_bytes
    embedding += moved.pop(CPU, 0)
    return replace(estimate, layers=tuple(layers), output_bytes=output, embedding_bytes=embedding), dict(moved)


def with_weights(plan: Plan, moved: Mapping[str, int]) -> Plan:
    """The plan with what was moved to GPUs told as weights: it was planned around as what the process takes there
    anyway, and llama.cpp measures it as weights."""
    shares = [
        replace(share, weights=share.weights + size, overhead=share.overhead - size)
        if (size := moved.get(share.device, 0))
        else share
        for share in plan.shares
    ]
    return replace(plan, shares=tuple(shares))


def _is_output(tensor: TensorInfo) -> bool:
    return tensor.name.startswith("output")
