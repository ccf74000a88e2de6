"""A child process that measures layouts without loading, or loads models in earnest and looks at what they take.

    python tests/model/measure_child.py measure|load [PORT …] < [{"model", "layout", "shape"}, …]
    python tests/model/measure_child.py serve PORT

`measure` answers with all buffers, as engine/measure has them. `load` loads each file without mapping it, opens the
context, and answers with the real buffers and with what the process grew by. Each PORT is of a process that serves the
CPU as if it were a GPU (`serve`, ggml's RPC): so that layouts over several devices can be measured without one.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as native
import msgspec
import psutil

from localllm.engine.llama_backends import CPU, library
from localllm.engine.llama_breakdown import breakdown
from localllm.engine.llama_parameters import context_parameters, model_parameters
from localllm.engine.measure import Question, measure
from localllm.placement.layout import BufferBytes

_POINTER = ctypes.c_void_p


def rows(buffers: tuple[BufferBytes, ...]) -> dict[str, Any]:
    return {"buffers": [asdict(buffer) for buffer in buffers]}


def load(question: Question) -> dict[str, Any]:
    process = psutil.Process()
    before = process.memory_info().rss
    parameters = model_parameters(question.layout)
    model = native.llama_model_load_from_file(question.model.encode(), parameters.values)
    context = native.llama_init_from_model(model, context_parameters(question.shape))
    grown = process.memory_info().rss - before
    buffers = breakdown(context)
    assert buffers is not None
    native.llama_free(context)
    native.llama_model_free(model)
    gc.collect()
    return rows(buffers) | {"grown": grown}


def serve(port: str) -> None:
    """Give this CPU to whoever asks at the port, until the process is ended."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    remote = ctypes.CDLL(str(next(file for file in folder.iterdir() if "ggml-rpc" in file.name)))
    start = remote.ggml_backend_rpc_start_server
    start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    devices = (ctypes.c_void_p * 1)(library.ggml_backend_dev_by_type(CPU))
    start(f"127.0.0.1:{port}".encode(), None, 1, 1, devices)


def add_devices(ports: list[str]) -> None:
    """RPC0, RPC1, …: one for each port."""
    library.ggml_backend_reg_by_name.restype, library.ggml_backend_reg_by_name.argtypes = _POINTER, [ctypes.c_char_p]
    library.ggml_backend_register.argtypes = [_POINTER]
    registry = library.ggml_backend_reg_by_name(b"RPC")
    address = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_rpc_add_server")
    add = ctypes.CFUNCTYPE(_POINTER, ctypes.c_char_p)(address)
    for port in ports:
        library.ggml_backend_register(add(f"127.0.0.1:{port}".encode()))


def main() -> None:
    silent = native.llama_log_callback(lambda level, text, data: None)
    native.llama_log_set(silent, None)
    native.llama_backend_init()
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    if len(sys.argv) > 2:
        add_devices(sys.argv[2:])
    questions = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Question])
    if sys.argv[1] == "measure":
        answers = [rows(measure(question)[0]) for question in questions]
    else:
        answers = [load(question) for question in questions]
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
