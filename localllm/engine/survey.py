"""What devices does the engine see, and how fast are they? A child process that asks ggml, and computes a little.

    python -m localllm.engine.survey [--speeds THREADS [--plain]]       one line of JSON on stdout

    {"devices": [{"kind", "name", "description", "id", "backend", "is_integrated", "total_bytes", "free_bytes",
                  "bandwidth_bytes_per_second", "flops", "link_bytes_per_second"}, …]}

A device's bandwidth is that of multiplying a large matrix by one column, its rate that of many columns, its link that
of copying to it: the products that answering and reading a prompt consist of. Without `--speeds` they are null, and so
are those of a CPU that is needed elsewhere meanwhile: a figure from a busy machine would be remembered for ever.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import llama_cpp.llama_cpp as native

from localllm.engine import llama_backends
from localllm.engine.llama_backends import CPU, GPU, INTEGRATED_GPU, GgmlDevice, library

_Q4_K = 12  # ggml_type of ggml.h: what most models are
_F32 = 0
_BLOCK_ELEMENTS, _BLOCK_BYTES = 256, 144
_COLUMNS = 4096
_PROMPT_ROWS = 512
_MATRICES = {CPU: 12, GPU: 96}  # of 9.4 MB: more than most caches hold
_SECONDS = 0.15
_LEAST_RUNS = 2
_LEAST_SHARE = 0.6  # of the CPU time that it wanted while it measured; preparing takes one thread
_NICENESS = 10
_MIB = 2**20


class _ContextParameters(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of one device; None where there is nothing to measure, or it cannot be trusted."""

    bandwidth: float | None = None
    flops: float | None = None
    link: float | None = None


def _bind() -> None:
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_init", pointer, [_ContextParameters]),
        ("ggml_free", None, [pointer]),
        ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, number, number]),
        ("ggml_mul_mat", pointer, [pointer, pointer, pointer]),
        ("ggml_new_graph", pointer, [pointer]),
        ("ggml_build_forward_expand", None, [pointer, pointer]),
        ("ggml_backend_dev_init", pointer, [pointer, ctypes.c_char_p]),
        ("ggml_backend_alloc_ctx_tensors_from_buft", pointer, [pointer, pointer]),
        ("ggml_backend_alloc_ctx_tensors", pointer, [pointer, pointer]),
        ("ggml_backend_buffer_free", None, [pointer]),
        ("ggml_backend_graph_compute", ctypes.c_int, [pointer, pointer]),
        ("ggml_backend_synchronize", None, [pointer]),
        ("ggml_backend_tensor_set", None, [pointer, pointer, size, size]),
        ("ggml_backend_free", None, [pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def measure(device: GgmlDevice, threads: int, *, plain: bool = False) -> Speeds:
    """How fast a device multiplies and is copied to; `plain` leaves out a layout of its own, which may not work."""
    _bind()
    backend = library.ggml_backend_dev_init(device.handle, None)
    _use_threads(device, backend, threads)
    is_cpu = device.kind == CPU
    matrices = _MATRICES[CPU if is_cpu else GPU]
    began, worked = time.perf_counter(), time.process_time()
    reading = _time_products(device, backend, matrices, 1, plain=plain)
    computing = _time_products(device, backend, 2, _PROMPT_ROWS, plain=plain)
    share = (time.process_time() - worked) / max((time.perf_counter() - began) * threads, 1e-9)
    link = None if is_cpu else _time_copies(device)
    library.ggml_backend_free(backend)
    if is_cpu and share < _LEAST_SHARE:
        return Speeds()
    size = _COLUMNS * _COLUMNS // _BLOCK_ELEMENTS * _BLOCK_BYTES
    return Speeds(matrices * size / reading, 2 * 2 * _COLUMNS * _COLUMNS * _PROMPT_ROWS / computing, link)


def _use_threads(device: GgmlDevice, backend: int, threads: int) -> None:
    registry = library.ggml_backend_dev_backend_reg(device.handle)
    address = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
    if address:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(address)(backend, threads)


def _time_products(device: GgmlDevice, backend: int, matrices: int, columns: int, *, plain: bool) -> float:
    """Seconds of multiplying each of so many matrices by so many columns."""
    weights, work = (library.ggml_init(_ContextParameters(4 * _MIB, None, no_alloc=True)) for _ in range(2))
    tensors = [library.ggml_new_tensor_2d(weights, _Q4_K, _COLUMNS, _COLUMNS) for _ in range(matrices)]
    given = library.ggml_new_tensor_2d(work, _F32, _COLUMNS, columns)
    graph = library.ggml_new_graph(work)
    products = [library.ggml_mul_mat(work, tensor, given) for tensor in tensors]
    for product in products:
        library.ggml_build_forward_expand(graph, product)
    held = _place_weights(device, weights, plain=plain)
    working = library.ggml_backend_alloc_ctx_tensors(work, backend)
    # Every block of zeros with a scale of one: no subnormal numbers, which some CPUs compute slowly.
    block = (b"\x00\x3c\x00\x00" + bytes(_BLOCK_BYTES - 4)) * (_COLUMNS * _COLUMNS // _BLOCK_ELEMENTS)
    for tensor in tensors:
        library.ggml_backend_tensor_set(tensor, block, 0, len(block))
    library.ggml_backend_tensor_set(given, bytes(4 * _COLUMNS * columns), 0, 4 * _COLUMNS * columns)

    def run() -> None:
        library.ggml_backend_graph_compute(backend, graph)
        library.ggml_backend_synchronize(backend)

    seconds = _time(run)
    for buffer in (held, working):
        library.ggml_backend_buffer_free(buffer)
    for context in (weights, work):
        library.ggml_free(context)
    return seconds


def _place_weights(device: GgmlDevice, weights: int, *, plain: bool) -> int:
    """Put the matrices where llama.cpp would: in the device's own layout, if it has one."""
    own = [] if plain else llama_backends.extra_buffer_types(device.handle)
    for buffer_type in (*own, llama_backends.buffer_type(device.name)):
        if buffer_type is None:
            continue
        # The first layout takes Q4_K wherever there is one; tensors that have a place cannot be given another.
        if buffer := library.ggml_backend_alloc_ctx_tensors_from_buft(weights, buffer_type):
            return int(buffer)
    raise MemoryError(f"{device.name} has no room for a few matrices")


def _time_copies(device: GgmlDevice) -> float | None:
    """Bytes per second from host memory to the device."""
    context = library.ggml_init(_ContextParameters(_MIB, None, no_alloc=True))
    tensor = library.ggml_new_tensor_2d(context, _F32, 4096, 4096)
    buffer = library.ggml_backend_alloc_ctx_tensors_from_buft(context, llama_backends.buffer_type(device.name))
    data = bytes(4 * 4096 * 4096)
    seconds = _time(lambda: library.ggml_backend_tensor_set(tensor, data, 0, len(data)))
    library.ggml_backend_buffer_free(buffer)
    library.ggml_free(context)
    return len(data) / seconds


def _time(run: Callable[[], object]) -> float:
    """The shortest of several runs, after one that warms up."""
    run()
    best, began, runs = float("inf"), time.perf_counter(), 0
    while runs < _LEAST_RUNS or time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


def main(arguments: list[str]) -> int:
    """Print the devices; the exit status is 0, or the signal that killed the process."""
    parser = argparse.ArgumentParser(prog="python -m localllm.engine.survey")
    parser.add_argument("--speeds", type=int, default=0, metavar="THREADS")
    parser.add_argument("--plain", action="store_true")
    chosen = parser.parse_args(arguments)
    if chosen.speeds and hasattr(os, "nice"):
        os.nice(_NICENESS)  # an answer that is being given goes first; the figures are then not kept
    native.llama_backend_init()
    rows = []
    for device in llama_backends.devices():
        if device.kind not in (CPU, GPU, INTEGRATED_GPU):
            continue
        speeds = measure(device, chosen.speeds, plain=chosen.plain) if chosen.speeds else None
        rows.append(
            {
                "kind": "cpu" if device.kind == CPU else "gpu",
                "name": device.name,
                "description": device.description,
                "id": device.id,
                "backend": device.backend,
                "is_integrated": device.kind == INTEGRATED_GPU,
                "total_bytes": device.total_bytes,
                "free_bytes": device.free_bytes,
                "bandwidth_bytes_per_second": speeds and speeds.bandwidth,
                "flops": speeds and speeds.flops,
                "link_bytes_per_second": speeds and speeds.link,
            }
        )
    sys.stdout.write(json.dumps({"devices": rows}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
