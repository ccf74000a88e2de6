"""A model's weights, layer by layer and by what they do: sorted from the tensor table, nothing is read of the data.

What is sorted is what llama.cpp places: a layer's tensors go to the layer's device, the embedding always stays in host
memory, output norm and output matrix go where the last layer is. A tied output matrix is the embedding again: one copy
in host memory, a second one on a device. An adapter's tensors lie beside those they change; no CPU packs them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from localllm.errors import ModelFileError
from localllm.gguf import Header, TensorInfo
from localllm.gguf_adapters import is_adapter_tensor
from localllm.gguf_numbers import MAX_LAYERS
from localllm.gguf_rules import MAPPED_ALIGNMENT
from localllm.placement.cache import ENCODERS

TensorClass = Literal["attention", "recurrent", "dense_ffn", "experts", "shared_experts", "other"]

_LAYER = re.compile(r"(?:(?:enc|dec)\.)?blk\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"ffn_(gate|up|down|gate_up)_(ch)?exps\b.*|ffn_(gate|up|down)\.\d+\b.*")
_SHARED = re.compile(r"ffn_(gate|up|down)_shexp\b.*")
_NORMS = re.compile(r".*norm.*|.*_scale\b.*|.*res_score.*")
_ATTENTION = re.compile(r"(cross_)?attn_.*|vis_attn_.*|indexer.*")
_RECURRENT = re.compile(r"ssm_.*|shortconv.*|time_mix_.*|channel_mix_.*|kda_.*|ple_.*")
_DENSE = re.compile(r"ffn_.*|vis_(gate|up|down)\b.*")
# AMX keeps sums beside a row's blocks: bytes more for each block of the type. Experts are never packed so.
_PACKED_MORE = {"Q8_0": (32, 4), "Q4_K": (256, 4), "Q5_K": (256, 4), "IQ4_XS": (256, 2)}
# Of these every CPU that we know keeps a copy with rows interleaved, in whatever it packs; of others only some do.
_PACKED_EVERYWHERE = frozenset(["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"])
_PACKED_ROWS = 8
_PACKED_BY_AMX = frozenset(["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "F16"])
_AMX_ROWS = 32
_INPUT = re.compile(r"(token_embd|position_embd|token_types|per_layer_token_embd)\.\w+(\.lora_[ab])?")
# Where the first layer is, though they bear no number.
_WITH_THE_FIRST = re.compile(
    r"(per_layer_model_proj|per_layer_proj_norm|rope_freqs|rope_factors_\w+|token_embd_norm)\.\w+"
)


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Bytes of one layer's weights by class. `active_parameters` are multiplied for every token, whichever experts
    are chosen; `expert_parameters` are those of all experts, of which a token uses a share."""

    attention: int = 0
    recurrent: int = 0
    dense_ffn: int = 0
    experts: int = 0
    shared_experts: int = 0
    other: int = 0
    active_parameters: int = 0
    expert_parameters: int = 0
    largest_expert_tensor: int = 0
    is_mtp: bool = False
    packing: int = 0  # bytes that a CPU's packed layout of the matrices takes more, where it has one
    packed: int = 0  # bytes of matrices that nearly every CPU packs
    packed_with_amx: int = 0  # and of those that one with AMX packs

    @property
    def total(self) -> int:
        return self.without_experts + self.experts

    @property
    def without_experts(self) -> int:
        """What stays on the layer's device when its experts are kept in host memory."""
        return self.attention + self.recurrent + self.dense_ffn + self.shared_experts + self.other


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a model. `tied_output_bytes` is the part of `output_bytes` that a model of one device shares with
    its embedding."""

    layers: tuple[LayerBytes, ...]
    embedding_bytes: int
    output_bytes: int
    tied_output_bytes: int
    output_parameters: int
    output_packing: int
    output_packed: int
    output_packed_with_amx: int


def class_of(name: str) -> TensorClass:
    """What a tensor of a layer is for; `name` is without "blk.N."."""
    if _EXPERTS.fullmatch(name):
        return "experts"
    if _SHARED.fullmatch(name):
        return "shared_experts"
    if _NORMS.fullmatch(name):
        return "other"
    if _ATTENTION.fullmatch(name):
        return "attention"
    if _RECURRENT.fullmatch(name):
        return "recurrent"
    return "dense_ffn" if _DENSE.fullmatch(name) else "other"


def weights_of(header: Header) -> Weights:
    """Sort the tensors of `header`. Raises ModelFileError for a number of layers that llama.cpp cannot have."""
    layer_count = header.block_count
    if not 0 < layer_count <= MAX_LAYERS:
        raise ModelFileError(
            f"{header.architecture or 'a model'} with {layer_count} layers; 1 to {MAX_LAYERS} are possible",
            hint="the file is damaged or is no language model",
        )
    by_layer: dict[int, list[TensorInfo]] = defaultdict(list)
    others: list[TensorInfo] = []
    for tensor in header.tensors:
        if found := _LAYER.fullmatch(tensor.name):
            by_layer[int(found[1])].append(tensor)
        elif _WITH_THE_FIRST.fullmatch(tensor.name):
            by_layer[0].append(tensor)
        else:
            others.append(tensor)  # several adapters have tensors of one name
    trunk = layer_count - min(header.architecture_integer("nextn_predict_layers"), layer_count)
    embedding = sum(_placed_bytes(tensor) for tensor in others if _INPUT.fullmatch(tensor.name))
    outputs = [tensor for tensor in others if not _INPUT.fullmatch(tensor.name)]
    named = {tensor.name: tensor for tensor in others}
    has_output = "output.weight" in named or header.architecture in ENCODERS  # these put out vectors, not words
    tied = [] if has_output else [named[name] for name in ("token_embd.weight",) if name in named]
    return Weights(
        layers=tuple(_layer(by_layer.get(index, []), is_mtp=index >= trunk) for index in range(layer_count)),
        embedding_bytes=embedding,
        output_bytes=sum(_placed_bytes(tensor) for tensor in (*outputs, *tied)),
        tied_output_bytes=sum(_placed_bytes(tensor) for tensor in tied),
        output_parameters=sum(tensor.elements for tensor in (*outputs, *tied)),
        output_packing=sum(_packing(tensor) for tensor in (*outputs, *tied)),
        output_packed=sum(_packed(tensor) for tensor in (*outputs, *tied)),
        output_packed_with_amx=sum(_packed(tensor, has_amx=True) for tensor in (*outputs, *tied)),
    )


def _layer(tensors: list[TensorInfo], *, is_mtp: bool) -> LayerBytes:
    sizes: dict[TensorClass, int] = defaultdict(int)
    parameters: dict[bool, int] = defaultdict(int)
    largest = 0
    for tensor in tensors:
        found = _LAYER.fullmatch(tensor.name)
        kind = class_of(found[2] if found else tensor.name)
        sizes[kind] += _placed_bytes(tensor)
        parameters[kind == "experts"] += tensor.elements
        if kind == "experts":
            largest = max(largest, tensor.size_bytes)
    return LayerBytes(
        **sizes,
        active_parameters=parameters[False],
        expert_parameters=parameters[True],
        largest_expert_tensor=largest,
        is_mtp=is_mtp,
        packing=sum(_packing(tensor) for tensor in tensors),
        packed=sum(_packed(tensor) for tensor in tensors),
        packed_with_amx=sum(_packed(tensor, has_amx=True) for tensor in tensors),
    )


def _placed_bytes(tensor: TensorInfo) -> int:
    """Bytes in a buffer, where every tensor begins at a multiple of the alignment."""
    return -(-tensor.size_bytes // MAPPED_ALIGNMENT) * MAPPED_ALIGNMENT


def _packing(tensor: TensorInfo) -> int:
    """Experts, of three dimensions, are left as they are."""
    elements, more = _PACKED_MORE.get(tensor.type_name, (1, 0))
    is_packed = len(tensor.shape) == 2 and not is_adapter_tensor(tensor.name)
    return tensor.elements // elements * more if is_packed else 0


def _packed(tensor: TensorInfo, *, has_amx: bool = False) -> int:
    """Its bytes, if a CPU packs it. AMX leaves experts, of three dimensions, to what every CPU does."""
    if len(tensor.shape) < 2 or is_adapter_tensor(tensor.name):
        return 0
    rows = tensor.shape[1]
    if tensor.type_name in _PACKED_EVERYWHERE and rows % _PACKED_ROWS == 0:
        return tensor.size_bytes
    by_amx = has_amx and tensor.type_name in _PACKED_BY_AMX and rows % _AMX_ROWS == 0 and len(tensor.shape) == 2
    return tensor.size_bytes if by_amx else 0
