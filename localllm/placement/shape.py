"""The shape of a context: what decides how many bytes a model's memory and its computing take, and nothing else.

Plain numbers that the planner chooses, the estimate reckons with, the measurement is made of and the runner loads. No
default depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.gguf_types import TENSOR_TYPES

KV_TYPES = ("f16", "q8_0", "bf16", "f32", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
CELL_STEP = 256  # llama.cpp pads a context, and each stream of it, to this
OUTPUTS_PER_SEQUENCE = 9  # rows of logits: for the next token, and for as many guesses as speculation makes
_TYPES = {name.lower(): (elements, size) for name, elements, size in TENSOR_TYPES.values()}


def outputs_for(slots: int) -> int:
    """The rows of logits that one decode may have to give: one for each slot, or the guesses of one."""
    return max(slots, OUTPUTS_PER_SEQUENCE)


@dataclass(frozen=True, slots=True)
class ContextShape:
    """How a context is opened. `cells` of all streams together; `sequences` are slots, `outputs` rows of logits at
    once. `keeps_whole_window` is llama.cpp's swa_full, `rollback_states` its n_rs_seq.
    """

    cells: int
    sequences: int
    batch_tokens: int = 512
    outputs: int = OUTPUTS_PER_SEQUENCE
    k_type: str = "f16"
    v_type: str = "f16"
    is_unified: bool = True
    keeps_whole_window: bool = False
    rollback_states: int = 0
    flash_attention: bool = True

    @property
    def streams(self) -> int:
        """How many caches of their own there are."""
        return 1 if self.is_unified else self.sequences

    @property
    def stream_cells(self) -> int:
        """Cells of one stream, as llama.cpp rounds them."""
        return _padded(self.cells if self.is_unified else _padded(self.cells) // max(self.sequences, 1))


def row_bytes(type_name: str, elements: int) -> int:
    """Bytes of a row of so many elements, whole blocks. `type_name` is any type of GGUF's, in lower case."""
    block_elements, block_bytes = _TYPES[type_name]
    return -(-elements // block_elements) * block_bytes


def _padded(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP
