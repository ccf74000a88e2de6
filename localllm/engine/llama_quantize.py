"""The process that writes weights anew: one QuantizeRequest in on stdin, QuantizeEvents out, a line of JSON each.

    python -m localllm.engine.llama_quantize

llama.cpp reports no progress; its log names each tensor as its turn comes. The end of stdin ends this process and
removes what it has written.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import llama_cpp.llama_cpp as native

from localllm.creating import Quantized, QuantizeEvent, QuantizeRequest, TensorStarted
from localllm.engine.llama_backends import start
from localllm.engine.llama_log import LogReader
from localllm.errand import read_request, tell
from localllm.generation import Failed

_TENSOR = re.compile(r"\[ *\d+/ *\d+\] +(\S+)")


def quantize(request: QuantizeRequest) -> QuantizeEvent:
    """Write the target. The last event: Quantized, or Failed with llama.cpp's reason."""
    log = LogReader()

    def hear(level: int, line: str) -> None:
        log.feed(level, line)
        if match := _TENSOR.match(line):
            tell(TensorStarted(match[1]))

    start(hear)
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = request.file_type
    parameters.nthread = _threads()
    status = native.llama_model_quantize(request.source.encode(), request.target.encode(), ctypes.byref(parameters))
    if status:
        reason = log.last_error or f"llama_model_quantize returned {status}"
        return Failed("quantize_failed", 500, f"llama.cpp could not quantize the model: {reason}", _hint(request))
    return Quantized()


def _hint(request: QuantizeRequest) -> str | None:
    status = os.statvfs(Path(request.target).parent) if hasattr(os, "statvfs") else None
    is_full = status is not None and status.f_bavail * status.f_frsize < 2**20
    return "the disk is full: make room and try again" if is_full else None


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Serve one request."""
    tell(quantize(read_request(QuantizeRequest, lambda request: Path(request.target).unlink(missing_ok=True))))


if __name__ == "__main__":
    main()
