"""A process that takes memory of a device until only so much is free, and gives it back when its stdin is closed.

python -m gpu.ballast DEVICE BYTES_TO_LEAVE        prints what is left, then waits
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp.llama_cpp as native

from localllm.engine import llama_backends
from localllm.engine.llama_backends import library

_PIECE_BYTES = 256 * 2**20


def main() -> int:
    """Take, tell, wait."""
    name, leave = sys.argv[1], int(sys.argv[2])
    native.llama_backend_init()
    library.ggml_backend_buft_alloc_buffer.restype = ctypes.c_void_p
    library.ggml_backend_buft_alloc_buffer.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    buffer_type = llama_backends.buffer_type(name)
    held = []
    while (free := _free(name)) > leave:
        piece = library.ggml_backend_buft_alloc_buffer(buffer_type, min(_PIECE_BYTES, free - leave))
        if not piece:
            break
        held.append(piece)
        if free - leave < _PIECE_BYTES:
            break
    print(_free(name), flush=True)
    sys.stdin.read()
    return 0


def _free(name: str) -> int:
    return next(device.free_bytes for device in llama_backends.devices() if device.name == name)


if __name__ == "__main__":
    sys.exit(main())
