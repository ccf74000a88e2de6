"""What would a model take, laid out so? A child process that asks llama.cpp itself, without loading a weight.

    python -m localllm.engine.measure QUESTION        one JSON object as its argument, one line of JSON on stdout

    {"model": path, "layout": {…Layout}, "shape": {…ContextShape}, "from_log": false, "adapters": [path, …]}
    {"ok": true, "buffers": [{device, buffer, weights, context, compute}, …], "is_exact": true}
    {"ok": false, "error": why}                                            and exit 3

llama.cpp reads the header and lays everything out, but allocates neither weights nor caches; only recurrent states are
real, and adapters. Where its account cannot be asked (another C++ library), or with `from_log`, weights are summed from
the header and the rest is read from log lines, which are rounded to a hundredth of a MiB: then the figures are not
exact. Those of adapters never are.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import msgspec

from localllm.engine.backend import ModelLoadError
from localllm.engine.llama_adapters import adapter_buffers, load_adapters
from localllm.engine.llama_breakdown import breakdown
from localllm.engine.llama_log import LogReader
from localllm.engine.llama_parameters import LOAD_NO_MMAP, context_parameters, model_parameters
from localllm.errors import ModelFileError
from localllm.gguf import read_header
from localllm.placement.estimate import estimate
from localllm.placement.layout import BufferBytes, Layout
from localllm.placement.shape import ContextShape

FAILED = 3
_MIB = 2**20
_CACHE = re.compile(r": size = +([\d.]+) MiB \(")
_COMPUTE = re.compile(r"(\S+) compute buffer size = +([\d.]+) MiB")


class Question(msgspec.Struct, frozen=True):
    """What is asked: how would this file lie in memory?"""

    model: str
    layout: Layout
    shape: ContextShape
    from_log: bool = False
    adapters: tuple[str, ...] = ()


class _Listener:
    """Keeps llama.cpp's lines, of which only some are needed, and only when its account cannot be asked."""

    def __init__(self) -> None:
        self.log = LogReader()
        self.lines: list[str] = []
        self.callback = native.llama_log_callback(self._hear)  # kept: ctypes does not
        native.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _hear(self, level: int, text: bytes, _user_data: object) -> None:
        line = text.decode("utf-8", "replace")
        self.log.feed(level, line)
        self.lines.append(line)


def measure(question: Question) -> tuple[tuple[BufferBytes, ...], bool]:
    """The bytes of every buffer type, and whether they are exact. Raises ModelLoadError."""
    listener = _Listener()
    native.llama_backend_init()
    parameters = model_parameters(question.layout)
    parameters.values.no_alloc = True
    parameters.values.load_mode = LOAD_NO_MMAP  # a simulated allocation has nothing to map
    model = native.llama_model_load_from_file(question.model.encode(), parameters.values)
    if not model:
        raise ModelLoadError(listener.log.last_error or "llama.cpp could not read the file")
    load_adapters(model, [Path(path) for path in question.adapters], listener.log)
    context = native.llama_init_from_model(
        model, context_parameters(question.shape, kv_on_gpu=question.layout.kv_on_gpu)
    )
    if not context:
        raise ModelLoadError(listener.log.last_error or "llama.cpp could not lay out the context")
    found = None if question.from_log else breakdown(context)
    if found is not None:
        return (*found, *adapter_buffers(listener.log)), not question.adapters
    return (*_from_log(question, listener.lines), *adapter_buffers(listener.log)), False


def _from_log(question: Question, lines: list[str]) -> tuple[BufferBytes, ...]:
    """One row for the host's memory and one per device that computes; a cache is told as a whole, without its place."""
    weights = estimate(read_header(Path(question.model))).weight_bytes
    caches = sum(round(float(match[1]) * _MIB) for line in lines if (match := _CACHE.search(line)))
    computing = {match[1]: round(float(match[2]) * _MIB) for line in lines if (match := _COMPUTE.search(line))}
    rows = [BufferBytes("CPU" if "CPU" in name else name, name, 0, 0, size) for name, size in computing.items()]
    home = "CPU" if not rows or question.layout.gpu_layers == 0 else rows[0].device
    return (*rows, BufferBytes(home, home, weights, caches, 0))


def main(arguments: list[str]) -> int:
    """Answer the question; the exit status is 0, 3, or the signal that killed the process."""
    answer: dict[str, Any]
    try:
        question = msgspec.json.decode(arguments[0], type=Question)
        buffers, is_exact = measure(question)
    except (ModelLoadError, ModelFileError, msgspec.MsgspecError) as error:
        answer = {"ok": False, "error": str(error)}
    else:
        answer = {"ok": True, "buffers": [asdict(row) for row in buffers], "is_exact": is_exact}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0 if answer["ok"] else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
