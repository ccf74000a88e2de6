"""The seam between the batching engine and whatever computes: llama.cpp, or the fake model of the tests.

A backend holds one model, one pool of KV cells and `slots` numbered sequences in it. It is driven by one thread and
validates what it is given: llama.cpp answers misuse with abort(). It decides nothing; the engine does.

What a model can do with its memory of a sequence differs by kind, and is told by `MemoryTraits`:

    attention   every token has a cell: any tail can be forgotten, any prefix shared
    window      layers that look back a bounded way have let go of old cells: a tail can be forgotten only so far
    recurrent   one state per sequence: nothing can be forgotten but by going back to a saved state (hybrids too)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from localllm.answer_rules import AnswerRules
from localllm.generation import Options, Sampling
from localllm.placement.cell_layout import CellLayout, MemoryKind
from localllm.placement.layout import BufferBytes

DecodeStatus = Literal["done", "no_room", "interrupted"]
State = bytes | memoryview  # saved memory of a sequence; only the backend that made it can read it
NO_BOUND = 2**31 - 1
NOT_FINITE = "the model computed non-finite logits; the file may be damaged"
Constraint = object  # opaque between a backend's new_constraint and its new_sampler


class EngineError(Exception):
    """The backend could not compute; the sequences of the batch are lost, the process may go on."""


class ModelLoadError(Exception):
    """The backend refused the model or its context; the message is its own last error, without paths.

    `refused` is the device that had not the memory for an allocation, and its bytes.
    """

    def __init__(self, message: str, refused: tuple[str, int] | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.refused = refused
        self.hint = hint


@dataclass(frozen=True, slots=True)
class MemoryTraits:
    """What can be done with the memory of a sequence. `window_tokens` is how far back a window looks; all cells behind
    it are kept too if `keeps_whole_window`.

    `layout`: one pool whose cells sequences share, or a stream of `pool_tokens / slots` cells for each slot.
    `can_shift`: the middle of a sequence can be taken out.
    """

    kind: MemoryKind = "attention"
    layout: CellLayout = "unified"
    window_tokens: int = 0
    keeps_whole_window: bool = False
    can_shift: bool = True


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """The tokens around a gap that a model was trained to fill; None where the vocabulary has no such mark."""

    before: int
    after: int
    middle: int
    repository: int | None = None
    file: int | None = None


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What the engine and the runner need to know of a loaded model. Sizes in bytes, lengths in tokens.

    `parallel` sequences run at once; the other `slots` keep idle prefixes. `outputs_per_sequence` rows of one sequence
    that decodes may have logits in one batch, `outputs_most` rows of all. `kv_bytes_per_token` is 0 when it is not
    known. `threads` compute on the CPU.
    `can_change_layout`: `change_layout` is possible, and one pool has `unified_tokens` cells (0: as many). A batch of
    at most `mixed_rows_most` rows may well hold prompts and next tokens both; in a larger one they slow each other.
    `tile_row_cells`: where attention takes rows together in tiles, the cells that a row looks at in the time that its
    weights take; 0 elsewhere.
    """

    vocabulary_size: int
    trained_context_tokens: int
    pool_tokens: int
    batch_tokens: int
    parallel: int
    slots: int
    memory: MemoryTraits = field(default_factory=MemoryTraits)
    layout_reason: str = ""
    can_change_layout: bool = False
    unified_tokens: int = 0
    mixed_rows_most: int = NO_BOUND
    tile_row_cells: float = 0.0
    outputs_per_sequence: int = 1
    outputs_most: int = 1
    kv_bytes_per_token: int = 0
    threads: int = 1
    weight_bytes: int = 0
    kv_bytes: int = 0
    gpu_bytes: int = 0
    buffers: tuple[BufferBytes, ...] = ()
    layers: int = 0
    gpu_layers: int = 0
    chat_template: str | None = None
    tool_template: str | None = None
    bos_text: str = ""
    eos_text: str = ""
    sampling_defaults: Options = field(default_factory=Options)
    infill: InfillTokens | None = None

    @property
    def cuts_apart(self) -> bool:
        """Whether parts of several prompts in one batch cost more than the same rows one after the other: where
        streams are computed in tiles, each is cut where another one ends, and the tiles are not full."""
        return self.memory.layout == "streams" and self.tile_row_cells > 0

    @property
    def sequence_tokens(self) -> int:
        """The most cells that one sequence can have as things are."""
        return self.pool_tokens if self.memory.layout == "unified" else self.pool_tokens // self.slots

    @property
    def sequence_tokens_most(self) -> int:
        """The most cells that one sequence can have, if need be after `change_layout`."""
        if not self.can_change_layout:
            return self.sequence_tokens
        return min(self.unified_tokens or self.pool_tokens, self.pool_tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one decode, at most `batch_tokens`; all arrays have one element per row.

    `tokens`, `positions` and `slots` are int32; `outputs` int8, 1 where logits are wanted.
    Positions of a slot continue where its last decode ended.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    outputs: npt.NDArray[np.int8]


class Sampler(Protocol):
    """Chooses tokens for one sequence; keeps that sequence's random state and penalty window."""

    def sample(self, row: int) -> int:
        """The next token from the logits of `row` of the last batch. Raises EngineError for non-finite logits."""

    def close(self) -> None:
        """Free it; no use after."""


class Backend(Protocol):
    """One loaded model."""

    @property
    def facts(self) -> BackendFacts:
        """Fixed once loaded, but for `change_layout`."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe. `add_special` lets the vocabulary add its BOS and EOS."""

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """The bytes a token stands for; control tokens are empty unless `special`."""

    def is_end_of_generation(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""

    def new_constraint(self, rules: AnswerRules) -> Constraint:
        """The rules of one answer, their grammars compiled; for one thread at a time, which need not be the engine's.

        Raises BadRequestError for a grammar that cannot be kept.
        """

    def prepare_constraints(self) -> None:
        """Build what all constraints share, which is slow the first time: seconds for a large vocabulary."""

    def special_token(self, text: str) -> int | None:
        """The token that is this text and that no text is split into but by reading marks; thread-safe."""

    def new_sampler(
        self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], constraint: Constraint | None
    ) -> Sampler:
        """A sampler whose penalties already know `recent_tokens`, and which keeps to `constraint`."""

    def is_control(self, token: int) -> bool:
        """Whether the token is a mark of the vocabulary's own, such as the beginning of a message."""

    def decode(self, batch: Batch) -> DecodeStatus:
        """Compute the batch; "no_room" leaves everything as it was. Raises EngineError.

        "interrupted": some rows may be in the pool and some not; every slot of the batch must be rewound or forgotten.
        """

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row of the last batch, shape (vocabulary_size,): a view that samplers and decodes change."""

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from the next decode on; 1 to the number it was loaded with."""

    def interrupt(self) -> None:
        """End the decode that runs now, if the device can; thread-safe. The next decode is not affected."""

    def forget(self, slot: int) -> None:
        """Free all cells of a slot."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Give the first `length` cells of `source` to `target`, which is empty. Both can go on independently.

        A memory of kind "attention" copies any length, the others only all that the source holds.
        """

    def rewind(self, slot: int, length: int, checkpoint: State | None = None) -> bool:
        """Forget all but the first `length` cells; False when that is impossible, and nothing changed.

        `checkpoint` is the slot's own `save_checkpoint` at that length; without it only kind "attention" can always.
        """

    def lowest_position(self, slot: int) -> int:
        """The earliest position that all layers of the slot still hold; 0 unless the kind is "window"."""

    def save_checkpoint(self, slot: int) -> State:
        """What `rewind` needs to come back to the present length: the part of the state that cannot be trimmed."""

    def save(self, slot: int) -> State:
        """The whole state of a slot, for host memory."""

    def restore(self, slot: int, state: State) -> bool:
        """Put a whole state into an empty slot; False when the pool has no room for it."""

    def shift(self, slot: int, keep: int, drop: int) -> None:
        """Take the `drop` cells behind the first `keep` out of a slot and close the gap. No cell may be shared."""

    def change_layout(self) -> None:
        """To one pool, or back to streams: `facts` change. What slots hold is lost, what was saved can be restored.

        Raises EngineError when that fails; all slots are as empty then.
        """

    def close(self) -> None:
        """Free the model; no use after."""
