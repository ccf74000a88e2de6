"""A Layout and a ContextShape as llama.cpp's parameters: one place, so that what is measured is what is loaded."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import llama_cpp.llama_cpp as native

from localllm.engine import llama_backends
from localllm.engine.backend import ModelLoadError
from localllm.gguf_types import TENSOR_TYPES
from localllm.placement.layout import Layout, TensorOverride
from localllm.placement.shape import ContextShape

_ANOTHER_MACHINE = "LOCALLLM_DEVICES must name devices of this machine; `localllm plan --device-file` plans for others"
LOAD_NO_MMAP, LOAD_AUTO = 0, -1
_FLASH_ATTENTION_OFF, _FLASH_ATTENTION_AUTO = 0, -1
_TYPE_NUMBERS = {name.lower(): number for number, (name, _, _) in TENSOR_TYPES.items()}


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override of llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@dataclass(slots=True)
class ModelParameters:
    """`values` is a llama_model_params; what it points to lives as long as this."""

    values: Any
    kept: list[object] = field(default_factory=list)


def model_parameters(layout: Layout) -> ModelParameters:
    """The parameters that load a model so. Raises ModelLoadError for a device that this build does not have."""
    parameters = ModelParameters(native.llama_model_default_params())
    values = parameters.values
    values.n_gpu_layers = layout.gpu_layers
    values.main_gpu = layout.main_gpu
    values.use_extra_bufts = layout.use_extra_buffers
    values.load_mtp = layout.load_mtp
    values.load_mode = LOAD_AUTO if layout.use_mmap else LOAD_NO_MMAP
    if layout.devices or layout.gpu_layers == 0:
        # Without a layer there no GPU gets a context of its own, which would take some hundred megabytes of it.
        handles = [_handle(name) for name in layout.devices] if layout.gpu_layers else []
        _point(parameters, "devices", (ctypes.c_void_p * (len(handles) + 1))(*handles, None))
    if layout.tensor_split:
        # llama.cpp reads as many as it may have devices, whatever it has.
        room = max(native.llama_max_devices(), len(layout.tensor_split))
        shares = (ctypes.c_float * room)(*layout.tensor_split)
        values.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        parameters.kept.append(shares)
    if layout.overrides:
        _point(parameters, "tensor_buft_overrides", _overrides(layout.overrides))
    return parameters


def _overrides(wanted: tuple[TensorOverride, ...]) -> object:
    rows = [_Override(override.pattern.encode(), _buffer_type(override.device)) for override in wanted]
    return (_Override * (len(rows) + 1))(*rows, _Override(None, None))


def _point(parameters: ModelParameters, name: str, array: object) -> None:
    setattr(parameters.values, name, ctypes.cast(array, ctypes.c_void_p))  # type: ignore[arg-type]  # any array is cast
    parameters.kept.append(array)


def _handle(device: str) -> int:
    for known in llama_backends.devices():
        if known.name == device:
            return known.handle
    names = ", ".join(known.name for known in llama_backends.devices())
    raise ModelLoadError(f"the engine has no device {device!r}; it has {names}", hint=_ANOTHER_MACHINE)


def _buffer_type(device: str) -> int:
    found = llama_backends.buffer_type(device)
    if found is None:
        _handle(device)  # says what there is
        raise ModelLoadError(f"the device {device!r} has no memory of its own")
    return found


def context_parameters(shape: ContextShape, *, kv_on_gpu: bool = True) -> Any:
    """The llama_context_params of a context of this shape; threads and callbacks are left to whoever opens it."""
    values = native.llama_context_default_params()
    values.n_ctx = shape.cells
    values.n_batch = values.n_ubatch = min(shape.batch_tokens, shape.cells)
    values.n_seq_max = shape.sequences
    values.n_rs_seq = shape.rollback_states
    values.n_outputs_max = max(shape.outputs, shape.sequences)
    values.kv_unified = shape.is_unified
    values.swa_full = shape.keeps_whole_window
    values.offload_kqv = kv_on_gpu
    values.type_k, values.type_v = _TYPE_NUMBERS[shape.k_type], _TYPE_NUMBERS[shape.v_type]
    values.flash_attn_type = _FLASH_ATTENTION_AUTO if shape.flash_attention else _FLASH_ATTENTION_OFF
    return values
