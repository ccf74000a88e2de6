"""What a model takes, reckoned from its header alone: bytes per layer, of the memory of a context, of computing.

Pure: no weights are read and nothing is loaded. engine/measure asks llama.cpp itself for one layout; the tests hold
this against it. `weights.py` sorts the tensors, `cache.py` knows what each layer remembers, `compute.py` what a step
needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from localllm.gguf import Header
from localllm.gguf_adapters import is_adapter_tensor
from localllm.placement.adapters import NO_ADAPTERS, AdapterBytes, adapter_bytes
from localllm.placement.cache import LayerMemory, memory_bytes, memory_of
from localllm.placement.compute import ComputeBytes, Widths, compute_bytes, vocabulary_of, widths_of
from localllm.placement.shape import ContextShape
from localllm.placement.weights import LayerBytes, weights_of


@dataclass(frozen=True, slots=True)
class Estimate:
    """One model. `layers` and `memories` have an entry for each layer that llama.cpp counts, those for guessing tokens
    ahead (MTP) last; these are not loaded unless asked for. Bytes everywhere."""

    architecture: str
    layers: tuple[LayerBytes, ...]
    memories: tuple[LayerMemory, ...]
    embedding_bytes: int
    output_bytes: int
    tied_output_bytes: int
    output_parameters: int
    projector_bytes: int
    vocabulary: int
    embedding_length: int
    context_length: int
    experts: int
    experts_used: int
    widths: Widths
    output_packing: int = 0
    output_packed: int = 0
    output_packed_with_amx: int = 0
    adapters: AdapterBytes = NO_ADAPTERS

    @property
    def layer_count(self) -> int:
        """What llama.cpp counts for gpu_layers; the output is one more."""
        return len(self.layers)

    @property
    def weight_bytes(self) -> int:
        """In host memory alone, without MTP and projector; a tied output counts once."""
        layers = sum(layer.total for layer in self.layers if not layer.is_mtp)
        return self.embedding_bytes + layers + self.output_bytes - self.tied_output_bytes

    @property
    def packing_bytes(self) -> int:
        """The most that packed layouts (`Layout.use_extra_buffers`) can add in host memory: AMX's sums beside the
        blocks, and a tied output of its own, since an embedding cannot be packed."""
        layers = sum(layer.packing for layer in self.layers if not layer.is_mtp)
        return layers + self.output_packing + self.tied_output_bytes

    def packed_bytes(self, *, has_amx: bool) -> int:
        """Of matrices that a CPU keeps in a layout of its own, where it may."""
        layers = [layer for layer in self.layers if not layer.is_mtp]
        if has_amx:
            return sum(layer.packed_with_amx for layer in layers) + self.output_packed_with_amx
        return sum(layer.packed for layer in layers) + self.output_packed

    @property
    def mtp_bytes(self) -> int:
        """Of the layers that guess tokens ahead, and load only when asked for."""
        return sum(layer.total for layer in self.layers if layer.is_mtp)

    @property
    def expert_share(self) -> float:
        """The part of the experts' parameters that one token uses."""
        return self.experts_used / self.experts if self.experts else 0.0

    def kv_bytes(self, shape: ContextShape, layer: int | None = None) -> int:
        """What a context of this shape remembers in one layer, or in all: keys, values, recurrent states."""
        chosen = self.memories if layer is None else (self.memories[layer],)
        return sum(memory_bytes(memory, shape) for memory in chosen)

    def compute_bytes(self, shape: ContextShape) -> ComputeBytes:
        """What a step of this shape computes with, for a device by what lies on it."""
        return self.adapters.computing(compute_bytes(self.widths, shape), shape)

    def adapter_compute_bytes(self, shape: ContextShape) -> int:
        """How much of a step's buffers is the adapters'."""
        return self.compute_bytes(shape).whole - compute_bytes(self.widths, shape).whole


def estimate(header: Header, projector: Header | None = None) -> Estimate:
    """Reckon `header`, that of one whole model, with the tensors of its adapters if it has any.

    Raises ModelFileError for counts that no model can have.
    """
    weights = weights_of(header)
    adapting = [tensor for tensor in header.tensors if is_adapter_tensor(tensor.name)]
    if adapting:
        header = replace(header, tensors=tuple(one for one in header.tensors if not is_adapter_tensor(one.name)))
    memories = memory_of(header)
    widths = widths_of(header, memories)
    return Estimate(
        architecture=header.architecture,
        layers=weights.layers,
        memories=memories,
        embedding_bytes=weights.embedding_bytes,
        output_bytes=weights.output_bytes,
        tied_output_bytes=weights.tied_output_bytes,
        output_parameters=weights.output_parameters,
        projector_bytes=sum(tensor.size_bytes for tensor in projector.tensors) if projector else 0,
        vocabulary=vocabulary_of(header),
        embedding_length=header.embedding_length,
        context_length=header.context_length,
        experts=header.architecture_integer("expert_count"),
        experts_used=widths.experts_used,
        widths=widths,
        output_packing=weights.output_packing,
        output_packed=weights.output_packed,
        output_packed_with_amx=weights.output_packed_with_amx,
        adapters=adapter_bytes(adapting, widths.experts_used),
    )
