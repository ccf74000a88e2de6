"""ggml's devices and buffer types, through ctypes: the C functions that the bindings leave out.

Every symbol resolves through the library that the bindings have open. Pointers are plain integers here; names are how
the rest of the program knows a device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as native

CPU, GPU, INTEGRATED_GPU, ACCELERATOR, META = range(5)  # ggml_backend_dev_type
_LONGEST_LIST = 64

library: Any = native._lib
_callbacks: list[Any] = []  # kept: ctypes does not


def start(hear: Callable[[int, str], None]) -> None:
    """Set llama.cpp up in a process that does one thing: `hear` gets the level and text of what it logs."""
    callback = native.llama_log_callback(lambda level, text, _: hear(level, text.decode("utf-8", "replace")))
    _callbacks.append(callback)
    native.llama_log_set(callback, ctypes.c_void_p(0))
    native.llama_backend_init()


class _Capabilities(ctypes.Structure):
    """ggml_backend_dev_caps of ggml-backend.h; more fields than are known here would follow."""

    _fields_ = (("flags", ctypes.c_bool * 32),)


class _Properties(ctypes.Structure):
    """ggml_backend_dev_props of ggml-backend.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("free_bytes", ctypes.c_size_t),
        ("total_bytes", ctypes.c_size_t),
        ("kind", ctypes.c_int),
        ("id", ctypes.c_char_p),
        ("capabilities", _Capabilities),
    )


@dataclass(frozen=True, slots=True)
class GgmlDevice:
    """A device as ggml states it. `handle` is a ggml_backend_dev_t."""

    handle: int
    kind: int
    name: str
    description: str
    id: str
    free_bytes: int
    total_bytes: int
    backend: str


def _bind() -> None:
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    for name, result, arguments in (
        ("ggml_backend_dev_count", size, []),
        ("ggml_backend_dev_get", pointer, [size]),
        ("ggml_backend_dev_by_name", pointer, [text]),
        ("ggml_backend_dev_by_type", pointer, [ctypes.c_int]),
        ("ggml_backend_dev_get_props", None, [pointer, ctypes.POINTER(_Properties)]),
        ("ggml_backend_dev_backend_reg", pointer, [pointer]),
        ("ggml_backend_dev_buffer_type", pointer, [pointer]),
        ("ggml_backend_dev_name", text, [pointer]),
        ("ggml_backend_dev_type", ctypes.c_int, [pointer]),
        ("ggml_backend_reg_name", text, [pointer]),
        ("ggml_backend_reg_get_proc_address", pointer, [pointer, text]),
        ("ggml_backend_buft_name", text, [pointer]),
        ("ggml_backend_buft_is_host", ctypes.c_bool, [pointer]),
        ("ggml_backend_buft_get_device", pointer, [pointer]),
        ("ggml_backend_cpu_buffer_type", pointer, []),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


_bind()


def devices() -> list[GgmlDevice]:
    """Every device of the build, in ggml's order."""
    return [_device(library.ggml_backend_dev_get(index)) for index in range(library.ggml_backend_dev_count())]


def _device(handle: int) -> GgmlDevice:
    stated = _Properties()
    library.ggml_backend_dev_get_props(handle, ctypes.byref(stated))
    return GgmlDevice(
        handle=handle,
        kind=stated.kind,
        name=_text(stated.name),
        description=_text(stated.description),
        id=_text(stated.id),
        free_bytes=stated.free_bytes,
        total_bytes=stated.total_bytes,
        backend=_text(library.ggml_backend_reg_name(library.ggml_backend_dev_backend_reg(handle))),
    )


def buffer_type(device: str) -> int | None:
    """The default buffer type of a device by its name; None when the build has no such device."""
    if device == "CPU":
        return int(library.ggml_backend_cpu_buffer_type())
    handle = library.ggml_backend_dev_by_name(device.encode())
    return int(library.ggml_backend_dev_buffer_type(handle)) if handle else None


def extra_buffer_types(device: int) -> list[int]:
    """The layouts of weights (AMX, repacked) that a device has beside its default one."""
    registry = library.ggml_backend_dev_backend_reg(device)
    address = library.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    ask = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
    found = ask(device)
    types = []
    for index in range(_LONGEST_LIST if found else 0):
        if not found[index]:
            break
        types.append(int(found[index]))
    return types


def buffer_name(buffer: int) -> str:
    """llama.cpp's name of a buffer type."""
    return _text(library.ggml_backend_buft_name(buffer))


def buffer_device(buffer: int) -> str:
    """The name of the device whose memory buffers of this type take: pinned host memory is the CPU's."""
    device = library.ggml_backend_buft_get_device(buffer)
    if not device or library.ggml_backend_buft_is_host(buffer):
        return "CPU"
    return "CPU" if library.ggml_backend_dev_type(device) == CPU else _text(library.ggml_backend_dev_name(device))


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value else ""
