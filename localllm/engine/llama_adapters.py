"""LoRA adapters in llama.cpp: loaded with a model, set in each of its contexts, and proven to be in its computation.

    python -m localllm.engine.llama_adapters       one AdapterCheck in on stdin, one CheckEvent out, a line of JSON each

The files were checked before (gguf_adapters.py). llama.cpp leaves out in silence what an architecture does not multiply
the usual way; its graph tells. An adapter that was set makes the graph larger, which is reserved here, while a failure
is an error still: in the first decode it would end the process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from localllm.creating import AdapterCheck, Checked, CheckEvent
from localllm.engine.backend import ModelLoadError
from localllm.engine.llama_backends import library, start
from localllm.engine.llama_log import LogReader
from localllm.engine.llama_parameters import LOAD_NO_MMAP, context_parameters, model_parameters
from localllm.errand import read_request, tell
from localllm.errors import ModelFileError
from localllm.generation import Failed
from localllm.gguf import read_header
from localllm.gguf_adapters import ENDINGS, is_adapter_tensor
from localllm.placement.layout import BufferBytes, Layout
from localllm.placement.shape import ContextShape

_RESERVE = "_Z19llama_graph_reserveP13llama_contextjjj"
_CHECKED_CELLS = 256
_CHECKED_ROWS = 16
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Adapter:
    """One that is loaded: llama.cpp's handle, which the model frees, and the names of the tensors in its file."""

    name: str
    handle: Any
    tensors: tuple[str, ...]


def load_adapters(model: int, paths: Sequence[Path], log: LogReader) -> tuple[Adapter, ...]:
    """The adapters of a llama_model; before any context of it. Raises ModelLoadError."""
    return tuple(_load(model, path, log) for path in paths)


def _load(model: int, path: Path, log: LogReader) -> Adapter:
    try:
        tensors = tuple(tensor.name for tensor in read_header(path).tensors if is_adapter_tensor(tensor.name))
    except ModelFileError as error:
        raise ModelLoadError(f"the adapter {path.name} cannot be read: {error.message}") from error
    handle = native.llama_adapter_lora_init(model, str(path).encode())
    if not handle:  # a null pointer, which is not None
        raise ModelLoadError(f"the adapter {path.name} cannot be loaded: {log.last_error}", log.refused)
    return Adapter(path.name, handle, tensors)


def set_adapters(context: int, adapters: Sequence[Adapter], log: LogReader, outputs: int) -> None:
    """Let a new context compute with these adapters, with `outputs` of its rows at most, or all for an embedding.

    Raises ModelLoadError when it cannot, or not with all of them.
    """
    if not adapters:
        return
    handles = (native.llama_adapter_lora_p_ctypes * len(adapters))(*(one.handle for one in adapters))
    scales = (ctypes.c_float * len(adapters))(*(1.0 for _ in adapters))
    if native.llama_set_adapters_lora(context, handles, len(adapters), scales):
        raise ModelLoadError(log.last_error or "llama.cpp could not set the adapters")
    graph = _reserved(context, outputs, log)
    if graph is not None:
        for adapter in adapters:
            _refuse_unused(adapter, graph)


def _reserved(context: int, outputs: int, log: LogReader) -> int | None:
    """The graph of the largest step, with its buffers; None where it cannot be asked for."""
    reserve = getattr(library, _RESERVE, None)
    if reserve is None:
        return None
    reserve.restype, reserve.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *(ctypes.c_uint32,) * 3]
    rows = native.llama_n_ubatch(context)
    graph = reserve(context, rows, native.llama_n_seq_max(context), min(rows, outputs))
    if not graph:
        raise ModelLoadError("no memory to compute with the adapters", log.refused)
    return int(graph)


def _refuse_unused(adapter: Adapter, graph: int) -> None:
    find = library.ggml_graph_get_tensor
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    unused = [name for name in adapter.tensors if name.endswith(ENDINGS[0]) and not find(graph, name.encode())]
    if unused:
        names = ", ".join(name.removesuffix(ENDINGS[0]) for name in unused[:_SHOWN])
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        raise ModelLoadError(
            f"{adapter.name} changes {names}{more}, which this architecture computes without adapters",
            hint="train it without them, or merge it into the model with llama.cpp's llama-export-lora",
        )


def adapter_buffers(log: LogReader) -> tuple[BufferBytes, ...]:
    """What adapters take, as llama.cpp's log told, to a hundredth of a MiB."""
    sizes = log.sizes.adapter_bytes
    return tuple(BufferBytes(device, f"{device} adapters", size, 0, 0) for device, size in sizes.items())


def check(request: AdapterCheck) -> CheckEvent:
    """Whether llama.cpp applies the adapters to the model, whose weights are not read."""
    log = LogReader()
    start(log.feed)
    try:
        _check(request, log)
    except ModelLoadError as error:
        return Failed("bad_adapter", 400, str(error), error.hint)
    return Checked()


def _check(request: AdapterCheck, log: LogReader) -> None:
    layout = Layout(gpu_layers=0)
    parameters = model_parameters(layout)
    parameters.values.no_alloc, parameters.values.load_mode = True, LOAD_NO_MMAP
    model = native.llama_model_load_from_file(request.model.encode(), parameters.values)
    if not model:
        raise ModelLoadError(log.last_error or "llama.cpp could not read the model")
    adapters = load_adapters(model, [Path(path) for path in request.adapters], log)
    shape = ContextShape(_CHECKED_CELLS, 1, batch_tokens=_CHECKED_ROWS, outputs=_CHECKED_ROWS)
    context = native.llama_init_from_model(model, context_parameters(shape))
    if not context:
        raise ModelLoadError(log.last_error or "llama.cpp could not lay out the context")
    set_adapters(context, adapters, log, _CHECKED_ROWS)


def main() -> None:
    """Serve one request."""
    tell(check(read_request(AdapterCheck)))
    os._exit(0)  # what llama.cpp holds goes with the process


if __name__ == "__main__":
    main()
