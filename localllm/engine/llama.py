"""llama.cpp as a backend: the only importer of llama_cpp, through its low-level ctypes API.

llama.cpp answers misuse with abort(), so everything it is given is checked here first, and this module is loaded only
in child processes. It owns the model, the context and the samplers, and the log callback, whose lines go to stderr and
whose sizes (buffers, offloaded layers) are read for the runner's report.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer
from llguidance.llamacpp import lltokenizer_from_vocab

from localllm.engine.backend import (
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
from localllm.engine.grammar import ConstrainedSampler, new_matcher
from localllm.engine.layout import LayoutChoice, WantedLayout, choose_layout
from localllm.engine.llama_log import LogReader
from localllm.engine.llama_memory import LlamaMemory, memory_kind
from localllm.engine.llama_rows import Rows
from localllm.engine.llama_samplers import new_sampler
from localllm.engine.memory import needs_checkpoints
from localllm.errors import InvalidOptionError
from localllm.generation import Options, ResponseFormat, Sampling, merge_options, parse_options

MINIMUM_POOL_TOKENS = 4096
OUTPUTS_PER_SEQUENCE = 9  # the next token and as many guesses as speculation makes
POOL_STEP_TOKENS = 256  # llama.cpp pads the pool to this
_CACHE_BYTES_PER_VALUE = 2  # f16, keys and values alike
_LOAD_NO_MMAP, _LOAD_AUTO = 0, -1
# llama.cpp asks this whether to stop: the length of a string is 0 or not. Being C, it needs no GIL.
_IS_SET = ctypes.cast(ctypes.CDLL(None).strlen, native.ggml_abort_callback)

# general.sampling.* of a GGUF, by the option each one sets
_SAMPLING_KEYS = {
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "temperature": "general.sampling.temp",
    "repeat_last_n": "general.sampling.penalty_last_n",
    "repeat_penalty": "general.sampling.penalty_repeat",
}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """How to load. `pool_tokens` 0 takes trained context × sequences within `pool_bytes_limit` bytes of KV.

    `max_sequences` run at once. `layout` "auto" lets the kind of memory and the device decide.
    """

    model_path: Path
    max_sequences: int
    batch_tokens: int
    threads: int
    gpu_layers: int = -1
    pool_tokens: int = 0
    pool_bytes_limit: int = 0
    use_extra_buffers: bool = True
    use_mmap: bool = True
    layout: WantedLayout = "auto"


class LlamaBackend:
    """One model in llama.cpp and its pool of KV cells. Raises ModelLoadError when it cannot be loaded."""

    def __init__(self, config: LlamaConfig, on_progress: Callable[[float], None] = lambda fraction: None) -> None:
        self._log = LogReader()
        self._log_callback = native.llama_log_callback(self._on_log)  # kept: ctypes does not
        native.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        native.llama_backend_init()
        self._model = self._load_model(config, on_progress)
        self._vocab = native.llama_model_get_vocab(self._model)
        self.vocabulary_size = native.llama_vocab_n_tokens(self._vocab)
        self.layout = self._choose_layout(config)
        self.context = self._open_context(config)
        self.facts = self._facts(config)
        self._memory = LlamaMemory(self.context, self.facts.memory)
        self._stop_flag = ctypes.create_string_buffer(2)
        if not needs_checkpoints(self.facts.memory):
            # An aborted batch leaves every state of a recurrent model undefined, and a window without its oldest cells.
            native.llama_set_abort_callback(self.context, _IS_SET, ctypes.cast(self._stop_flag, ctypes.c_void_p))
        self._rows = Rows(self.facts.batch_tokens)
        self._output_rows: frozenset[int] = frozenset()
        self._grammar_tokenizer: LLTokenizer | None = None
        self._bytes_cache: dict[tuple[int, bool], bytes] = {}

    def _on_log(self, level: int, text: bytes, _user_data: object) -> None:
        self._log.feed(level, text.decode("utf-8", "replace"))

    def _load_model(self, config: LlamaConfig, on_progress: Callable[[float], None]) -> int:
        def report(fraction: float, _user_data: object) -> bool:
            on_progress(fraction)
            return True

        parameters = native.llama_model_default_params()
        parameters.n_gpu_layers = config.gpu_layers
        parameters.use_extra_bufts = config.use_extra_buffers
        parameters.load_mode = _LOAD_AUTO if config.use_mmap else _LOAD_NO_MMAP
        parameters.progress_callback = callback = native.llama_progress_callback(report)
        model = native.llama_model_load_from_file(str(config.model_path).encode(), parameters)
        del callback
        if not model:
            raise ModelLoadError(self._log.last_error or "llama.cpp could not load the file")
        if not native.llama_model_has_decoder(model) or native.llama_model_has_encoder(model):
            raise ModelLoadError("only decoder models can generate text")
        return int(model)

    def _choose_layout(self, config: LlamaConfig) -> LayoutChoice:
        return choose_layout(
            config.layout,
            memory_kind(self._model),
            config.max_sequences,
            self._pool_tokens(config),
            native.llama_model_n_ctx_train(self._model),
            is_on_gpu=config.gpu_layers != 0 and bool(native.llama_supports_gpu_offload()),
        )

    def _open_context(self, config: LlamaConfig) -> int:
        parameters = native.llama_context_default_params()
        parameters.n_ctx = self._pool_tokens(config)
        parameters.n_batch = parameters.n_ubatch = min(config.batch_tokens, parameters.n_ctx)
        parameters.n_seq_max = self.layout.slots
        # A row of logits per sequence, or guesses of one; the default would reserve a row per token of the batch.
        parameters.n_outputs_max = max(self.layout.slots, OUTPUTS_PER_SEQUENCE)
        parameters.n_threads = parameters.n_threads_batch = config.threads
        parameters.kv_unified = self.layout.layout == "unified"
        parameters.swa_full = self.layout.keeps_whole_window
        context = native.llama_init_from_model(self._model, parameters)
        if not context:
            native.llama_model_free(self._model)
            raise ModelLoadError(self._log.last_error or "llama.cpp could not allocate the context")
        if not native.llama_get_memory(context):  # decoding without one aborts
            raise ModelLoadError("only decoder models can generate text")
        return int(context)

    def _pool_tokens(self, config: LlamaConfig) -> int:
        if config.pool_tokens:
            return -(-config.pool_tokens // POOL_STEP_TOKENS) * POOL_STEP_TOKENS
        wanted = int(native.llama_model_n_ctx_train(self._model)) * config.max_sequences
        affordable = config.pool_bytes_limit // max(self._kv_bytes_per_token(), 1)
        tokens = max(MINIMUM_POOL_TOKENS, min(wanted, affordable))
        return -(-tokens // POOL_STEP_TOKENS) * POOL_STEP_TOKENS

    def _kv_bytes_per_token(self) -> int:
        """Bytes of one cell over all layers; an upper bound where only some layers keep keys and values."""
        heads = native.llama_model_n_head(self._model) or 1
        head_size = native.llama_model_n_embd(self._model) // heads
        architecture = self._metadata("general.architecture")
        key = int(self._metadata(f"{architecture}.attention.key_length") or head_size)
        value = int(self._metadata(f"{architecture}.attention.value_length") or head_size)
        kv_heads = native.llama_model_n_head_kv(self._model)
        layers = native.llama_model_n_layer(self._model)
        return int(layers * kv_heads * (key + value) * _CACHE_BYTES_PER_VALUE)

    def _metadata(self, key: str) -> str:
        size = native.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        native.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def _facts(self, config: LlamaConfig) -> BackendFacts:
        template = native.llama_model_chat_template(self._model, None)
        sizes = self._log.sizes
        return BackendFacts(
            vocabulary_size=self.vocabulary_size,
            trained_context_tokens=native.llama_model_n_ctx_train(self._model),
            pool_tokens=native.llama_n_ctx(self.context),
            batch_tokens=native.llama_n_batch(self.context),
            parallel=config.max_sequences,
            slots=self.layout.slots,
            memory=self._traits(),
            layout_reason=self.layout.reason,
            outputs_per_sequence=OUTPUTS_PER_SEQUENCE,
            kv_bytes_per_token=self._kv_bytes_per_token(),
            weight_bytes=native.llama_model_size(self._model),
            kv_bytes=sizes.kv_bytes,
            gpu_bytes=sizes.gpu_bytes,
            layers=native.llama_model_n_layer(self._model),
            # A build without a GPU backend also says that it offloads; bytes on a device are what proves it.
            gpu_layers=sizes.gpu_layers if sizes.gpu_bytes else 0,
            chat_template=template.decode("utf-8", "replace") if template else None,
            bos_text=self._special_text(native.llama_vocab_bos(self._vocab)),
            eos_text=self._special_text(native.llama_vocab_eos(self._vocab)),
            sampling_defaults=self._sampling_defaults(),
        )

    def _traits(self) -> MemoryTraits:
        return MemoryTraits(
            kind=memory_kind(self._model),
            layout=self.layout.layout,
            window_tokens=native.llama_model_n_swa(self._model),
            keeps_whole_window=self.layout.keeps_whole_window,
            can_shift=bool(native.llama_memory_can_shift(native.llama_get_memory(self.context))),
        )

    def _sampling_defaults(self) -> Options:
        """The file's own sampling; values it cannot mean are ignored, since a file is not a user to be told."""
        said = [_option(name, self._metadata(key)) for name, key in _SAMPLING_KEYS.items()]
        return merge_options(*said)

    def _special_text(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8  # a token is at least a byte; room for BOS, EOS and a space prefix
        buffer = (native.llama_token * size)()
        count = native.llama_tokenize(self._vocab, data, len(data), buffer, size, add_special, parse_special)
        if count < 0:
            buffer = (native.llama_token * -count)()
            count = native.llama_tokenize(self._vocab, data, len(data), buffer, -count, add_special, parse_special)
        return list(buffer[:count])

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """The bytes a token stands for; control tokens are empty unless `special`."""
        cached = self._bytes_cache.get((token, special))
        if cached is None:
            cached = self._bytes_cache[(token, special)] = self._piece(token, special=special)
        return cached

    def _piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = native.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = native.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]

    def is_end_of_generation(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return bool(native.llama_vocab_is_eog(self._vocab, token))

    def is_control(self, token: int) -> bool:
        """Whether the vocabulary marks the token as its own."""
        return bool(native.llama_vocab_is_control(self._vocab, token))

    def new_constraint(self, response_format: ResponseFormat) -> LLMatcher:
        """A matcher for one answer; the vocabulary's tables are built at the first one (about 1 s for 150k tokens)."""
        if self._grammar_tokenizer is None:
            ends = [token for token in range(self.vocabulary_size) if self.is_end_of_generation(token)]
            self._grammar_tokenizer = lltokenizer_from_vocab(self._vocab, eos_token=ends)
        return new_matcher(self._grammar_tokenizer, response_format)

    def new_sampler(
        self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], constraint: Constraint | None
    ) -> Sampler:
        """The chain of `sampling`, built once per request, within the constraint if there is one."""
        sampler = new_sampler(self, sampling, seed, recent_tokens, self.facts.trained_context_tokens)
        return ConstrainedSampler(sampler, constraint, self.logits) if isinstance(constraint, LLMatcher) else sampler

    def decode(self, batch: Batch) -> DecodeStatus:
        """Compute the batch. Raises EngineError for what llama.cpp would abort on, and for its own failures."""
        self._check(batch)
        self._output_rows = frozenset(np.flatnonzero(batch.outputs).tolist())
        self._stop_flag[0] = b"\0"
        code = native.llama_decode(self.context, self._rows.fill(batch))
        match code:
            case 0:
                return "done"
            case 1:
                return "no_room"
            case 2:
                return "interrupted"
        raise EngineError(f"llama.cpp failed to compute the batch (code {code})")

    def interrupt(self) -> None:
        """llama.cpp looks at the flag before each operation on a CPU; a GPU finishes the batch."""
        self._stop_flag[0] = b"x"

    def _check(self, batch: Batch) -> None:
        size = len(batch.tokens)
        if not 0 < size <= self.facts.batch_tokens:
            raise EngineError(f"a batch of {size} rows; 1 to {self.facts.batch_tokens} can be computed")
        if batch.tokens.min() < 0 or batch.tokens.max() >= self.vocabulary_size:
            raise EngineError(f"a token id outside 0..{self.vocabulary_size - 1}")
        self._check_slots(int(batch.slots.min()), int(batch.slots.max()))
        if int(batch.outputs.sum()) > max(self.facts.slots, OUTPUTS_PER_SEQUENCE):
            raise EngineError("more rows of logits than the context has room for")

    def _check_slots(self, *slots: int) -> None:
        if min(slots) < 0 or max(slots) >= self.facts.slots:
            raise EngineError(f"a sequence slot outside 0..{self.facts.slots - 1}")

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row of the last batch, shape (vocabulary_size,): a view that the next decode overwrites."""
        if row not in self._output_rows:
            raise EngineError(f"row {row} has no logits")
        pointer = native.llama_get_logits_ith(self.context, row)
        view: npt.NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,))
        return view

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

    def close(self) -> None:
        """Free context and model."""
        native.llama_free(self.context)
        native.llama_model_free(self._model)


def _option(name: str, text: str) -> Options:
    try:
        return parse_options({name: float(text)})[0]
    except (ValueError, InvalidOptionError):
        return Options()
