"""llama.cpp's own account of a context's memory: bytes of weights, cache and computing, by buffer type.

The account is a C++ function that returns a std::map. It is called by its mangled name, and the map is walked as
libstdc++ lays it out (libc++ and MSVC do otherwise: then there is no account, and log lines have to do).

    map     8: header of the tree   16: root   40: number of entries            48 bytes
    node   16: left   24: right   32: buffer type   40: weights   48: context   56: computing
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator

from localllm.engine import llama_backends
from localllm.engine.llama_backends import library
from localllm.placement.layout import BufferBytes

_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"
_MOST_ENTRIES = 256  # a tree that says it has more is not one


class _Map(ctypes.Structure):
    """std::map of libstdc++: returned through memory, for which any structure of its size stands."""

    _fields_ = (("words", ctypes.c_size_t * 6),)


class _Node(ctypes.Structure):
    """_Rb_tree_node of libstdc++ with a buffer type as its key and llama_memory_breakdown_data as its value."""

    _fields_ = (
        ("color", ctypes.c_size_t),
        ("parent", ctypes.c_size_t),
        ("left", ctypes.c_size_t),
        ("right", ctypes.c_size_t),
        ("buffer_type", ctypes.c_size_t),
        ("weights", ctypes.c_size_t),
        ("context", ctypes.c_size_t),
        ("compute", ctypes.c_size_t),
    )


def breakdown(context: int) -> tuple[BufferBytes, ...] | None:
    """What the buffers of a llama_context take; None where it cannot be asked."""
    function = getattr(library, _SYMBOL, None) if sys.platform == "linux" else None
    if function is None:
        return None
    function.restype, function.argtypes = _Map, [ctypes.c_void_p]
    # The map is never freed: some 70 bytes per buffer type, once per question.
    found = function(context)
    root, count = found.words[2], found.words[5]
    if count > _MOST_ENTRIES:
        return None
    nodes = list(_walk(root, count))
    if len(nodes) != count:
        return None
    return tuple(_row(node) for node in nodes)


def _walk(address: int, most: int) -> Iterator[_Node]:
    waiting = [address]
    while waiting and most >= 0:
        if not (address := waiting.pop()):
            continue
        node = _Node.from_address(address)
        waiting += [node.left, node.right]
        most -= 1
        yield node


def _row(node: _Node) -> BufferBytes:
    return BufferBytes(
        device=llama_backends.buffer_device(node.buffer_type),
        buffer=llama_backends.buffer_name(node.buffer_type),
        weights=node.weights,
        context=node.context,
        compute=node.compute,
    )
