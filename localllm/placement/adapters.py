"""What a model's adapters take besides their weights, which weights.py sorts to the layers they change. Pure.

res = W · x        [out, rows]           a step makes the second beside the first, and adds it:
add = B · (A · x)  [rank, rows] and [out, rows], of an expert's for each expert that a token uses
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from localllm.gguf import TensorInfo
from localllm.gguf_adapters import ENDINGS
from localllm.placement.compute import ComputeBytes
from localllm.placement.shape import ContextShape

_FLOAT = 4
_MARGIN = 1.1  # for where they are put between others


@dataclass(frozen=True, slots=True)
class AdapterBytes:
    """`weights` of all adapters. Elements of one row that a step has besides the model's own: in a layer, in the
    output, where tokens become vectors."""

    weights: int = 0
    layer_elements: int = 0
    output_elements: int = 0
    input_elements: int = 0

    def computing(self, own: ComputeBytes, shape: ContextShape) -> ComputeBytes:
        """The model's own buffers with what the adapters need in a context of this shape."""
        if not self.weights:
            return own
        rows = min(shape.batch_tokens, max(shape.cells, 1))
        outputs = min(rows, max(shape.outputs, shape.sequences))
        at_input = round(_FLOAT * rows * self.input_elements * _MARGIN)
        in_layers = max(at_input, round(_FLOAT * rows * self.layer_elements * _MARGIN))
        at_output = max(in_layers, round(_FLOAT * outputs * self.output_elements * _MARGIN))
        return replace(
            own,
            whole=own.whole + at_output,
            layers=own.layers + in_layers,
            output=own.output + at_output,
            input=own.input + at_input,
        )


NO_ADAPTERS = AdapterBytes()


def adapter_bytes(tensors: Sequence[TensorInfo], experts_used: int) -> AdapterBytes:
    """What the adapters with these tensors take."""
    made = AdapterBytes(weights=sum(tensor.size_bytes for tensor in tensors))
    for tensor in tensors:
        if not tensor.name.endswith(ENDINGS[1]):
            continue
        rank, out = (*tensor.shape, 1, 1)[:2]
        elements = (rank + out) * (experts_used if len(tensor.shape) > 2 else 1)
        place = {"output": "output_elements", "token_embd": "input_elements"}.get(tensor.name.partition(".")[0])
        place = place or "layer_elements"
        made = replace(made, **{place: max(getattr(made, place), elements)})
    return made
