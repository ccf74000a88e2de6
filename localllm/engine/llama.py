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
    ModelLoadError,
    Sampler,
)
from localllm.engine.grammar import ConstrainedSampler, new_matcher
from localllm.engine.llama_log import LogReader
from localllm.engine.llama_samplers import new_sampler
from localllm.errors import InvalidOptionError
from localllm.generation import Options, ResponseFormat, Sampling, merge_options, parse_options

MINIMUM_POOL_TOKENS = 4096
POOL_STEP_TOKENS = 256  # llama.cpp pads the pool to this
_CACHE_BYTES_PER_VALUE = 2  # f16, keys and values alike
_LOAD_NO_MMAP, _LOAD_AUTO = 0, -1

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
    """How to load. `pool_tokens` 0 takes trained context × sequences within `pool_bytes_limit` bytes of KV."""

    model_path: Path
    max_sequences: int
    batch_tokens: int
    threads: int
    gpu_layers: int = -1
    pool_tokens: int = 0
    pool_bytes_limit: int = 0
    use_extra_buffers: bool = True
    use_mmap: bool = True


class LlamaBackend:
    """One model in llama.cpp with a unified pool of KV cells. Raises ModelLoadError when it cannot be loaded."""

    def __init__(self, config: LlamaConfig, on_progress: Callable[[float], None] = lambda fraction: None) -> None:
        self._log = LogReader()
        self._log_callback = native.llama_log_callback(self._on_log)  # kept: ctypes does not
        native.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        native.llama_backend_init()
        self._model = self._load_model(config, on_progress)
        self._vocab = native.llama_model_get_vocab(self._model)
        self.vocabulary_size = native.llama_vocab_n_tokens(self._vocab)
        self.context = self._open_context(config)
        self._memory = native.llama_get_memory(self.context)
        self.facts = self._facts(config)
        self._rows = _Rows(self.facts.batch_tokens)
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

    def _open_context(self, config: LlamaConfig) -> int:
        parameters = native.llama_context_default_params()
        parameters.n_ctx = self._pool_tokens(config)
        parameters.n_batch = parameters.n_ubatch = min(config.batch_tokens, parameters.n_ctx)
        parameters.n_seq_max = config.max_sequences
        # One row of logits per sequence and step; the default would reserve a row per token of the batch.
        parameters.n_outputs_max = config.max_sequences
        parameters.n_threads = parameters.n_threads_batch = config.threads
        parameters.kv_unified = True
        parameters.swa_full = False
        context = native.llama_init_from_model(self._model, parameters)
        if not context:
            native.llama_model_free(self._model)
            raise ModelLoadError(self._log.last_error or "llama.cpp could not allocate the context")
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
            max_sequences=config.max_sequences,
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
        code = native.llama_decode(self.context, self._rows.fill(batch))
        if code == 0:
            return "done"
        if code == 1:
            return "no_room"
        raise EngineError(f"llama.cpp failed to compute the batch (code {code})")

    def _check(self, batch: Batch) -> None:
        size = len(batch.tokens)
        if not 0 < size <= self.facts.batch_tokens:
            raise EngineError(f"a batch of {size} rows; 1 to {self.facts.batch_tokens} can be computed")
        if batch.tokens.min() < 0 or batch.tokens.max() >= self.vocabulary_size:
            raise EngineError(f"a token id outside 0..{self.vocabulary_size - 1}")
        if batch.slots.min() < 0 or batch.slots.max() >= self.facts.max_sequences:
            raise EngineError(f"a sequence slot outside 0..{self.facts.max_sequences - 1}")
        if int(batch.outputs.sum()) > self.facts.max_sequences:
            raise EngineError("more rows of logits than sequences")

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The logits of a row of the last batch, shape (vocabulary_size,): a view that the next decode overwrites."""
        if row not in self._output_rows:
            raise EngineError(f"row {row} has no logits")
        pointer = native.llama_get_logits_ith(self.context, row)
        view: npt.NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(self.vocabulary_size,))
        return view

    def forget(self, slot: int) -> None:
        """Free all cells of a slot; a whole sequence can be removed from every kind of memory."""
        if not 0 <= slot < self.facts.max_sequences:
            raise EngineError(f"a sequence slot outside 0..{self.facts.max_sequences - 1}")
        native.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def close(self) -> None:
        """Free context and model."""
        native.llama_free(self.context)
        native.llama_model_free(self._model)


class _Rows:
    """The arrays behind llama_batch, made once: filling them costs a tenth of writing ctypes elements."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._slots = np.zeros(capacity, dtype=np.int32)
        self._outputs = np.zeros(capacity, dtype=np.int8)
        self._counts = np.ones(capacity, dtype=np.int32)
        # Row i's list of sequences is the one-element array at &slots[i].
        offsets = np.arange(capacity, dtype=np.uintp) * self._slots.itemsize
        self._slot_pointers = self._slots.ctypes.data + offsets

    def fill(self, batch: Batch) -> native.llama_batch:
        """A llama_batch over these arrays, valid until the next call."""
        size = len(batch.tokens)
        self._tokens[:size] = batch.tokens
        self._positions[:size] = batch.positions
        self._slots[:size] = batch.slots
        self._outputs[:size] = batch.outputs
        return native.llama_batch(
            n_tokens=size,
            token=_pointer(self._tokens, native.llama_token),
            embd=None,
            pos=_pointer(self._positions, native.llama_pos),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=ctypes.cast(self._slot_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(native.llama_seq_id))),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )


def _pointer(array: npt.NDArray[np.generic], kind: type) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def _option(name: str, text: str) -> Options:
    try:
        return parse_options({name: float(text)})[0]
    except (ValueError, InvalidOptionError):
        return Options()
