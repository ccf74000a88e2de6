"""A batch as llama.cpp wants it: arrays made once, filled for every decode, with fillers among the rows."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from localllm.engine.backend import BackendFacts, Batch, EngineError
from localllm.engine.fillers import Filler


class Rows:
    """llama_batch and its arrays, made once: filling them costs a tenth of writing ctypes elements."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._slots = np.zeros(capacity, dtype=np.int32)
        self._outputs = np.zeros(capacity, dtype=np.int8)
        self._counts = np.ones(capacity, dtype=np.int32)
        # Row i's list of sequences is the one-element array at &slots[i].
        offsets = np.arange(capacity, dtype=np.uintp) * self._slots.itemsize
        self._slot_pointers = self._slots.ctypes.data + offsets
        self._places: npt.NDArray[np.intp] | None = None
        self._batch = native.llama_batch(
            token=_pointer(self._tokens, native.llama_token),
            embd=None,
            pos=_pointer(self._positions, native.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=ctypes.cast(self._slot_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(native.llama_seq_id))),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )

    def place(self, row: int) -> int:
        """Where a row of the batch lies among llama.cpp's, which have others between them."""
        return row if self._places is None else int(self._places[row])

    def fill(self, batch: Batch, added: Sequence[Filler] = ()) -> native.llama_batch:
        """A llama_batch over these arrays, valid until the next call, with a row for each (slot, position) of `added`
        behind the batch's of that slot; the slots of both rise then."""
        self._places = None
        if added:
            batch, self._places = _with_rows(batch, added)
        size = len(batch.tokens)
        self._tokens[:size] = batch.tokens
        self._positions[:size] = batch.positions
        self._slots[:size] = batch.slots
        self._outputs[:size] = batch.outputs
        self._batch.n_tokens = size
        return self._batch


def check(batch: Batch, facts: BackendFacts) -> None:
    """Raises EngineError for a batch that llama.cpp would abort on."""
    # Lists: of few rows Python finds the least and the largest sooner than numpy.
    tokens, slots = batch.tokens.tolist(), batch.slots.tolist()
    if not 0 < len(tokens) <= facts.batch_tokens:
        raise EngineError(f"a batch of {len(tokens)} rows; 1 to {facts.batch_tokens} can be computed")
    if min(tokens) < 0 or max(tokens) >= facts.vocabulary_size:
        raise EngineError(f"a token id outside 0..{facts.vocabulary_size - 1}")
    check_slots(slots, facts)
    if sum(batch.outputs.tolist()) > facts.outputs_most:
        raise EngineError("more rows of logits than the context has room for")


def check_slots(slots: Sequence[int], facts: BackendFacts) -> None:
    """Raises EngineError for a slot that the context does not have."""
    if min(slots) < 0 or max(slots) >= facts.slots:
        raise EngineError(f"a sequence slot outside 0..{facts.slots - 1}")


def _with_rows(batch: Batch, added: Sequence[Filler]) -> tuple[Batch, npt.NDArray[np.intp]]:
    """The batch with rows that are for nothing, and where its own are then."""
    slots = np.array([slot for slot, _ in added], dtype=np.int32)
    before = np.searchsorted(batch.slots, slots, side="right")
    widened = Batch(
        tokens=np.insert(batch.tokens, before, 0),  # any token
        positions=np.insert(batch.positions, before, [position for _, position in added]),
        slots=np.insert(batch.slots, before, slots),
        outputs=np.insert(batch.outputs, before, 0),
    )
    return widened, np.delete(np.arange(len(widened.tokens)), before + np.arange(len(added)))


def _pointer(array: npt.NDArray[np.generic], kind: type) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
