"""llama.cpp as a backend, through its low-level ctypes API, which only the modules engine.llama* import.

llama.cpp answers misuse with abort(), so everything it is given is checked here first, and this module is loaded only
in child processes. It owns the context and the samplers of a model.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt
from llguidance.llamacpp import lltokenizer_from_vocab

from localllm.answer_rules import AnswerRules
from localllm.engine.backend import (
    NO_BOUND,
    BackendFacts,
    Batch,
    Constraint,
    DecodeStatus,
    EngineError,
    MemoryTraits,
    ModelLoadError,
    Sampler,
    State,
)
from localllm.engine.constrained import ConstrainedSampler, HeldAnswer, hold
from localllm.engine.fillers import TILE_ROWS, Filler, fillers, first_positions
from localllm.engine.grammar import Grammars, Vocabulary
from localllm.engine.layout import changed
from localllm.engine.llama_memory import LlamaMemory, memory_kind
from localllm.engine.llama_model import USUAL_LAYOUT, LlamaModel
from localllm.engine.llama_parameters import context_parameters
from localllm.engine.llama_rows import Rows, check, check_slots
from localllm.engine.llama_samplers import Samplers
from localllm.engine.memory import needs_checkpoints
from localllm.generation import Sampling
from localllm.placement.cell_layout import LayoutChoice, WantedLayout, choose_layout
from localllm.placement.layout import Layout
from localllm.placement.shape import OUTPUTS_PER_SEQUENCE, ContextShape, outputs_for

logger = logging.getLogger(__name__)

MINIMUM_POOL_TOKENS = 4096
POOL_STEP_TOKENS = 256  # llama.cpp pads the pool to this
# llama.cpp asks this whether to stop: the length of a string is 0 or not. Being C, it needs no GIL.
_IS_SET = ctypes.cast(ctypes.CDLL(None).strlen, native.ggml_abort_callback)

_MASKS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="masks")  # threads start at the first use


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """How to load. `pool_tokens` 0 takes trained context × sequences within `pool_bytes_limit` bytes of KV.

    `max_sequences` run at once. `layout` "auto" lets the kind of memory and the device decide, unless a plan has:
    `cells` is how the pool is laid out, `weights` where they lie. `adapters` change them, in this order.
    """

    model_path: Path
    max_sequences: int
    batch_tokens: int
    threads: int
    pool_tokens: int = 0
    pool_bytes_limit: int = 0
    layout: WantedLayout = "auto"
    weights: Layout = USUAL_LAYOUT
    cells: LayoutChoice | None = None
    k_type: str = "f16"
    v_type: str = "f16"
    flash_attention: bool = True
    adapters: tuple[Path, ...] = ()


class LlamaBackend:
    """One model in llama.cpp and its pool of KV cells. Raises ModelLoadError when it cannot be loaded."""

    def __init__(self, config: LlamaConfig, on_progress: Callable[[float], None] = lambda fraction: None) -> None:
        self._model = LlamaModel(config.model_path, config.weights, on_progress, config.adapters)
        self._handle, self._vocabulary = self._model.handle, self._model.vocabulary
        self.vocabulary_size = self._model.vocabulary_size
        if not native.llama_model_has_decoder(self._handle) or native.llama_model_has_encoder(self._handle):
            raise ModelLoadError("only decoder models can generate text")
        self._config = config
        # A build without a GPU backend also says that it offloads; weights on a device are what proves it.
        self._gpu_weight_bytes = self._model.log.sizes.gpu_bytes
        self._stop_flag = ctypes.create_string_buffer(2)
        try:
            self._open(self._choose_layout(config))
        except ModelLoadError:
            self._model.close()
            raise
        self._samplers = Samplers(self)

    def _choose_layout(self, config: LlamaConfig) -> LayoutChoice:
        if config.cells is not None:
            return config.cells
        return choose_layout(
            config.layout,
            memory_kind(self._handle),
            config.max_sequences,
            self._pool_tokens(config),
            self._model.trained_context_tokens,
            is_on_gpu=self._gpu_weight_bytes > 0,
        )

    def _open(self, layout: LayoutChoice) -> None:
        """A context in this layout, and all that is of it. Raises ModelLoadError."""
        self._model.listen()
        sizes = self._model.log.sizes
        sizes.kv_bytes, sizes.gpu_bytes = 0, self._gpu_weight_bytes  # what the context takes is added to them
        self._model.log.flash_attention = False
        self.layout = layout
        self.context = self._open_context(self._config)
        self.facts = self._facts(self._config)
        self._memory = LlamaMemory(self.context, self.facts.memory, self.facts.slots)
        if not needs_checkpoints(self.facts.memory):
            # An aborted batch leaves every state of a recurrent model undefined, and a window without its oldest cells.
            native.llama_set_abort_callback(self.context, _IS_SET, ctypes.cast(self._stop_flag, ctypes.c_void_p))
        self._rows = Rows(self.facts.batch_tokens)
        self._output_rows: frozenset[int] = frozenset()
        self._views: dict[int | None, npt.NDArray[np.float32]] = {}

    def _open_context(self, config: LlamaConfig) -> int:
        parameters = context_parameters(self._shape(config), kv_on_gpu=config.weights.kv_on_gpu)
        parameters.n_threads = parameters.n_threads_batch = config.threads
        context = native.llama_init_from_model(self._handle, parameters)
        if not context:
            raise self._model.load_error("llama.cpp could not allocate the context")
        if not native.llama_get_memory(context):  # decoding without one aborts
            native.llama_free(context)
            raise ModelLoadError("only decoder models can generate text")
        try:
            self._model.adapt(context, parameters.n_outputs_max)
        except ModelLoadError:
            native.llama_free(context)
            raise
        return int(context)

    def _shape(self, config: LlamaConfig) -> ContextShape:
        return ContextShape(
            cells=self._pool_tokens(config),
            sequences=self.layout.slots,
            batch_tokens=config.batch_tokens,
            outputs=outputs_for(self.layout.slots),  # the default would reserve a row per token of the batch
            k_type=config.k_type,
            v_type=config.v_type,
            is_unified=self.layout.layout == "unified",
            keeps_whole_window=self.layout.keeps_whole_window,
            flash_attention=config.flash_attention,
        )

    def _pool_tokens(self, config: LlamaConfig) -> int:
        if config.pool_tokens:
            return -(-config.pool_tokens // POOL_STEP_TOKENS) * POOL_STEP_TOKENS
        wanted = self._model.trained_context_tokens * config.max_sequences
        affordable = config.pool_bytes_limit // max(self._model.kv_bytes_per_token, 1)
        tokens = max(MINIMUM_POOL_TOKENS, min(wanted, affordable))
        return -(-tokens // POOL_STEP_TOKENS) * POOL_STEP_TOKENS

    def _facts(self, config: LlamaConfig) -> BackendFacts:
        sizes = self._model.log.sizes
        return BackendFacts(
            vocabulary_size=self.vocabulary_size,
            trained_context_tokens=self._model.trained_context_tokens,
            pool_tokens=native.llama_n_ctx(self.context),
            batch_tokens=native.llama_n_batch(self.context),
            parallel=config.max_sequences,
            slots=self.layout.slots,
            memory=self._traits(),
            layout_reason=self.layout.reason,
            can_change_layout=self.layout.can_change,
            unified_tokens=self._pool_tokens(config),  # streams are rounded up, each for itself
            mixed_rows_most=self._mixed_rows_most(),
            tile_row_cells=self._tile_row_cells(config),
            outputs_per_sequence=OUTPUTS_PER_SEQUENCE,
            outputs_most=outputs_for(self.layout.slots),
            kv_bytes_per_token=self._model.kv_bytes_per_token,
            threads=config.threads,
            weight_bytes=self._model.weight_bytes,
            kv_bytes=sizes.kv_bytes,
            gpu_bytes=sizes.gpu_bytes,
            buffers=self._model.buffers(self.context),
            layers=native.llama_model_n_layer(self._handle),
            gpu_layers=sizes.gpu_layers if self._gpu_weight_bytes else 0,
            chat_template=self._model.chat_template(None),
            tool_template=self._model.chat_template(b"tool_use"),
            bos_text=self._special_text(native.llama_vocab_bos(self._vocabulary)),
            eos_text=self._special_text(native.llama_vocab_eos(self._vocabulary)),
            sampling_defaults=self._model.sampling_defaults(),
            infill=self._model.infill_tokens(),
        )

    def _mixed_rows_most(self) -> int:
        if self._gpu_weight_bytes:
            return NO_BOUND
        # In one pool a few next tokens among 64 rows would cost as much as 64 for each sequence, since all of a tile go
        # through the cells that any of them looks at. In streams they are never computed with a prompt's rows.
        return 0 if self.layout.layout == "streams" else TILE_ROWS - 1

    def _tile_row_cells(self, config: LlamaConfig) -> float:
        goes_by_tiles = self._model.log.flash_attention and config.k_type == config.v_type in ("f16", "f32")
        return self._model.row_cells if goes_by_tiles and not self._gpu_weight_bytes else 0.0

    def _traits(self) -> MemoryTraits:
        return MemoryTraits(
            kind=memory_kind(self._handle),
            layout=self.layout.layout,
            window_tokens=native.llama_model_n_swa(self._handle),
            keeps_whole_window=self.layout.keeps_whole_window,
            can_shift=bool(native.llama_memory_can_shift(native.llama_get_memory(self.context))),
        )

    def _special_text(self, token: int) -> str:
        return self.token_bytes(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe."""
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """The bytes a token stands for; control tokens are empty unless `special`."""
        return self._model.token_bytes(token, special=special)

    def is_end_of_generation(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return bool(native.llama_vocab_is_eog(self._vocabulary, token))

    def is_control(self, token: int) -> bool:
        """Whether the vocabulary marks the token as its own."""
        return bool(native.llama_vocab_is_control(self._vocabulary, token))

    def special_token(self, text: str) -> int | None:
        """The token that is this text, if grammars too take it for a mark and not for text."""
        tokens = self.tokenize(text, add_special=False, parse_special=True)
        is_one = len(tokens) == 1 and self._grammars.vocabulary.tokenizer.is_special_token(tokens[0])
        return tokens[0] if is_one and self.token_bytes(tokens[0], special=True) == text.encode() else None

    def prepare_constraints(self) -> None:
        """The vocabulary's tables take about 2 s of a core for 150k tokens."""
        _ = self._grammars

    def new_constraint(self, rules: AnswerRules) -> HeldAnswer:
        """Compiled rules."""
        return hold(rules, self._grammars)

    @functools.cached_property
    def _grammars(self) -> Grammars:
        ends = [token for token in range(self.vocabulary_size) if self.is_end_of_generation(token)]
        vocabulary = Vocabulary(
            tokenizer=lltokenizer_from_vocab(self._vocabulary, eos_token=ends),
            token_bytes=lambda token: self.token_bytes(token, special=True),
            tokens_of=lambda text: self.tokenize(text, add_special=False, parse_special=True),
            ends=frozenset(ends),
        )
        return Grammars(vocabulary)

    def new_sampler(
        self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], constraint: Constraint | None
    ) -> Sampler:
        """The chain of `sampling`, built once per request, within the constraint if there is one."""
        sampler = self._samplers.new(sampling, seed, recent_tokens, self.facts.trained_context_tokens)
        if not isinstance(constraint, HeldAnswer):
            return sampler
        # Where the model computes on a GPU, a core is free for the next mask meanwhile.
        return ConstrainedSampler(sampler, constraint, self.logits, _MASKS if self._gpu_weight_bytes else None)

    def decode(self, batch: Batch) -> DecodeStatus:
        """Compute the batch. Raises EngineError for what llama.cpp would abort on, and for its own failures."""
        check(batch, self.facts)
        self._output_rows = frozenset(row for row, wanted in enumerate(batch.outputs.tolist()) if wanted)
        self._stop_flag[0] = b"\0"
        code = self._compute(batch)
        match code:
            case 0:
                return "done"
            case 1:
                return "no_room"
            case 2:
                return "interrupted"
        raise EngineError(f"llama.cpp failed to compute the batch (code {code})")

    def _compute(self, batch: Batch) -> int:
        """What llama.cpp answers; with rows among the batch's that let it be computed quicker, if there is room."""
        added = self.fillers(batch)
        code = int(native.llama_decode(self.context, self._rows.fill(batch, added)))
        for slot, length in first_positions(added).items():
            self._memory.rewind(slot, length)
        if code == 1 and added:
            code = int(native.llama_decode(self.context, self._rows.fill(batch)))
        return code

    def fillers(self, batch: Batch) -> list[Filler]:
        """Slots, and the positions of rows in them, that are computed beside those of the batch."""
        return fillers(batch, self.facts, self._memory.length)

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from the next decode on."""
        count = max(1, min(count, self.facts.threads))
        native.llama_set_n_threads(self.context, count, count)

    def interrupt(self) -> None:
        """llama.cpp looks at the flag before each operation on a CPU; a GPU finishes the batch."""
        self._stop_flag[0] = b"x"

    def _check_slots(self, *slots: int) -> None:
        check_slots(slots, self.facts)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row of the last batch, shape (vocabulary_size,): a view that the next decode overwrites."""
        if row not in self._output_rows:
            raise EngineError(f"row {row} has no logits")
        pointer = native.llama_get_logits_ith(self.context, self.place(row))
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        view = self._views.get(address)
        if view is None:  # llama.cpp has a place for each row, and seldom moves
            view = self._views[address] = np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,))
        return view

    def place(self, row: int) -> int:
        """Where a row of the last batch lies in llama.cpp's own."""
        return self._rows.place(row)

    def forget(self, slot: int) -> None:
        """Free all cells of a slot."""
        self._check_slots(slot)
        self._memory.forget(slot)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give the first cells of one slot to another, which is empty."""
        self._check_slots(source, target)
        self._memory.copy(source, target, length)

    def rewind(self, slot: int, length: int, checkpoint: State | None = None) -> bool:
        """Forget all but the first `length` cells, if the memory can."""
        self._check_slots(slot)
        return self._memory.rewind(slot, length, checkpoint)

    def lowest_position(self, slot: int) -> int:
        """The earliest position that all layers still hold."""
        self._check_slots(slot)
        return self._memory.lowest_position(slot)

    def save_checkpoint(self, slot: int) -> State:
        """What `rewind` needs to come back here."""
        self._check_slots(slot)
        return self._memory.save_checkpoint(slot)

    def save(self, slot: int) -> State:
        """The whole state of a slot."""
        self._check_slots(slot)
        return self._memory.save(slot)

    def restore(self, slot: int, state: State) -> bool:
        """A whole state into an empty slot."""
        self._check_slots(slot)
        return self._memory.restore(slot, state)

    def shift(self, slot: int, keep: int, drop: int) -> None:
        """Take cells out of the middle of a slot."""
        self._check_slots(slot)
        if not self.facts.memory.can_shift:
            raise EngineError("the model's memory cannot be shifted")
        self._memory.shift(slot, keep, drop)

    def change_layout(self) -> None:
        """A new context in the place of this one: there may be no room for the memory of both."""
        if not self.layout.can_change:
            raise EngineError("the layout cannot be changed")
        before = self.layout
        native.llama_free(self.context)
        try:
            self._open(changed(before, self._config.max_sequences))
        except ModelLoadError as error:
            self._open(before)
            raise EngineError(f"no memory for another layout of the cells: {error}") from error
        logger.info("%d cells, from now on %s: %s", self.facts.pool_tokens, self.layout.layout, self.layout.reason)

    def close(self) -> None:
        """Free context and model."""
        self._samplers.close()
        native.llama_free(self.context)
        self._model.close()
