"""The memory of a llama.cpp context: copying, cutting, saving and shifting sequences, without what it gets wrong.

llama.cpp lets pass what it cannot do, and then computes other tokens: a windowed sequence cut where its window is gone,
a state touched between a copy across streams and the next decode, which is when that copy happens. Whatever is refused
or avoided here was measured to go wrong. Slots and lengths are checked by the backend that owns this.
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp.llama_cpp as native
import numpy as np

from localllm.engine.backend import EngineError, MemoryTraits, State
from localllm.placement.cell_layout import MemoryKind

_HEAD = 12  # bytes before the first stream's number of cells
_ROOM = 4 * 256  # the numbers of cells of as many streams as llama.cpp allows (LLAMA_MAX_SEQ)
_PARTIAL_ONLY = 1  # only the part of a state that cannot be trimmed (llama.h: LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)


def memory_kind(model: int) -> MemoryKind:
    """The kind of memory a loaded model has, from the model itself."""
    if native.llama_model_is_recurrent(model) or native.llama_model_is_hybrid(model):
        return "recurrent"
    return "window" if native.llama_model_n_swa(model) > 0 else "attention"


class LlamaMemory:
    """The memory of one context; see the module."""

    def __init__(self, context: int, traits: MemoryTraits, slots: int) -> None:
        self._context = context
        self._memory = native.llama_get_memory(context)
        self._traits = traits
        self._streams = slots if traits.layout == "streams" else 1

    def forget(self, slot: int) -> None:
        """Empty a slot; every kind of memory can."""
        native.llama_memory_seq_rm(self._memory, slot, 0, -1)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` cells; for other kinds than "attention" all that the source holds."""
        if self._traits.layout == "unified":
            end = length if self._traits.kind == "attention" else -1
            native.llama_memory_seq_cp(self._memory, source, target, 0, end)
            return
        # Not seq_cp: across streams it moves the whole stream, and only at the next decode.
        if not self.restore(target, self.save(source)) or not self.rewind(target, length, None):
            raise EngineError("a stream has no room for a copy of another")

    def rewind(self, slot: int, length: int, checkpoint: State | None = None) -> bool:
        """Keep the first `length` cells; False when the memory has let go of what it would need."""
        if checkpoint is not None:
            return self._set_state(slot, checkpoint, _PARTIAL_ONLY) and self._cut(slot, length)
        if length == 0 or self.length(slot) <= length:
            return self._cut(slot, length)
        if self._traits.kind == "window" and self.lowest_position(slot) > max(0, length - self._traits.window_tokens):
            return False
        return self._cut(slot, length)

    def lowest_position(self, slot: int) -> int:
        """The earliest position that the windowed layers still hold."""
        if self._traits.kind != "window":
            return 0
        return max(0, int(native.llama_memory_seq_pos_min(self._memory, slot)))

    def save_checkpoint(self, slot: int) -> State:
        """The part of the slot's state that cannot be trimmed."""
        return self._get_state(slot, _PARTIAL_ONLY)

    def save(self, slot: int) -> State:
        """The whole state of a slot; that of kind "attention" can be restored in either layout.

        llama.cpp writes a mark, the slot and the number of streams, then for each stream the number of its cells, 32
        bits each, and the cells; all but the slot's own stream are empty. What is kept is that one, behind the head,
        and room for the numbers of others.
        """
        state = self._get_state(slot, 0, _ROOM)
        if self._traits.kind != "attention":
            return state[: len(state) - _ROOM]
        before = slot if self._streams > 1 else 0
        numbers = np.frombuffer(state[: _HEAD + 4 * before], dtype=np.uint32)
        if numbers[2] != self._streams or numbers[3:].any():
            raise EngineError("llama.cpp saves sequences in a form that is not known")
        kept = state[4 * before : len(state) - 4 * (self._streams - before - 1)]
        kept[:_HEAD] = numbers[:3].tobytes()
        return kept

    def restore(self, slot: int, state: State) -> bool:
        """A whole state into an empty slot; False when there is no room, and the slot is empty."""
        if self._traits.kind == "attention":
            state = self._of_these_streams(state)
        if self._set_state(slot, state, 0):
            return True
        self.forget(slot)
        return False

    def _of_these_streams(self, state: State) -> State:
        """The state as if it came from the first of as many streams as there are now; written into it."""
        view = memoryview(state)
        end = len(view) - _ROOM + 4 * (self._streams - 1)
        view[_HEAD - 4 : _HEAD] = self._streams.to_bytes(4, sys.byteorder)
        view[len(view) - _ROOM : end] = bytes(4 * (self._streams - 1))
        return view[:end]

    def shift(self, slot: int, keep: int, drop: int) -> None:
        """Take [keep, keep + drop) out and close the gap."""
        length = self.length(slot)
        native.llama_memory_seq_rm(self._memory, slot, keep, keep + drop)
        native.llama_memory_seq_add(self._memory, slot, keep + drop, length, -drop)

    def length(self, slot: int) -> int:
        """How many positions a slot holds."""
        return int(native.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def _cut(self, slot: int, length: int) -> bool:
        return bool(native.llama_memory_seq_rm(self._memory, slot, length, -1))

    def _get_state(self, slot: int, flags: int, room: int = 0) -> memoryview:
        """What llama.cpp saves, and `room` bytes behind it."""
        size = native.llama_state_seq_get_size_ext(self._context, slot, flags)
        state = np.empty(size + room, dtype=np.uint8)
        written = native.llama_state_seq_get_data_ext(self._context, _bytes_of(state), size, slot, flags)
        if written != size:
            raise EngineError(f"llama.cpp saved {written} of {size} bytes of a sequence")
        return state.data

    def _set_state(self, slot: int, state: State, flags: int) -> bool:
        data = np.frombuffer(state, dtype=np.uint8)
        return bool(native.llama_state_seq_set_data_ext(self._context, _bytes_of(data), len(data), slot, flags))


def _bytes_of(array: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
