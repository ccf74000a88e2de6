"""Where a model's parts shall lie, in llama.cpp's terms, and what llama.cpp says they take there.

A Layout is what a plan decides and a runner loads; `engine/measure` answers it with a Measured, in bytes per device.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.placement.shape import ContextShape

ALL_LAYERS = -1
# Which tensors are those of experts, as llama.cpp matches them; {} is a layer's number, or \\d+ for all.
EXPERT_PATTERN = r"blk\.{}\.ffn_(up|down|gate|gate_up)_(ch|)exps"


@dataclass(frozen=True, slots=True)
class TensorOverride:
    """Tensors whose name matches the regular expression lie on this device, "CPU" or a GPU's name."""

    pattern: str
    device: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How to place one model. `devices` are the names of the GPUs to use, in order (empty: all of them), `tensor_split`
    their shares of the layers; `gpu_layers` counts the output as one more layer."""

    gpu_layers: int = ALL_LAYERS
    devices: tuple[str, ...] = ()
    tensor_split: tuple[float, ...] = ()
    overrides: tuple[TensorOverride, ...] = ()
    main_gpu: int = 0
    kv_on_gpu: bool = True
    use_mmap: bool = True
    use_extra_buffers: bool = True
    load_mtp: bool = False


@dataclass(frozen=True, slots=True)
class BufferBytes:
    """What lies in one type of buffer: `buffer` is llama.cpp's name ("CUDA0", "CPU", "CPU_REPACK"), `device` whose
    memory it is."""

    device: str
    buffer: str
    weights: int
    context: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.context + self.compute


@dataclass(frozen=True, slots=True)
class Measured:
    """llama.cpp's own figures for one layout and shape. `is_exact`: byte for byte; else read from rounded log lines."""

    layout: Layout
    shape: ContextShape
    buffers: tuple[BufferBytes, ...]
    is_exact: bool = True

    def on(self, device: str) -> BufferBytes:
        """All buffers of one device together."""
        mine = [buffer for buffer in self.buffers if buffer.device == device]
        return BufferBytes(
            device,
            device,
            sum(buffer.weights for buffer in mine),
            sum(buffer.context for buffer in mine),
            sum(buffer.compute for buffer in mine),
        )

    @property
    def total(self) -> int:
        return sum(buffer.total for buffer in self.buffers)
