"""A model file in llama.cpp: its weights, its vocabulary, and llama.cpp's log. Not its context: that is for its users.

Loaded only in child processes, since llama.cpp answers misuse with abort().
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import llama_cpp.llama_cpp as native

from localllm.engine.backend import InfillTokens, ModelLoadError
from localllm.engine.llama_adapters import adapter_buffers, load_adapters, set_adapters
from localllm.engine.llama_breakdown import breakdown
from localllm.engine.llama_log import LogReader
from localllm.engine.llama_parameters import model_parameters
from localllm.errors import InvalidOptionError
from localllm.generation import Options, merge_options, parse_options
from localllm.placement.layout import BufferBytes, Layout

_CACHE_BYTES_PER_VALUE = 2  # f16, keys and values alike
# Products per second with weights, against those of a row with the cells of its sequence; measured 7.3 with AVX-512.
_WEIGHTS_ARE_FASTER = 7.0
USUAL_LAYOUT = Layout()
# general.sampling.* of a GGUF, by the option each one sets
_SAMPLING_KEYS = {
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "temperature": "general.sampling.temp",
    "repeat_last_n": "general.sampling.penalty_last_n",
    "repeat_penalty": "general.sampling.penalty_repeat",
    "xtc_probability": "general.sampling.xtc_probability",
    "xtc_threshold": "general.sampling.xtc_threshold",
    "mirostat": "general.sampling.mirostat",
    "mirostat_tau": "general.sampling.mirostat_tau",
    "mirostat_eta": "general.sampling.mirostat_eta",
}


class LlamaModel:
    """One loaded file, and its adapters. `handle` is the llama_model, `vocabulary` its llama_vocab.

    Raises ModelLoadError.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout = USUAL_LAYOUT,
        on_progress: Callable[[float], None] = lambda fraction: None,
        adapters: Sequence[Path] = (),
    ) -> None:
        self.log = LogReader()
        self._log_callback = native.llama_log_callback(self._on_log)  # kept: ctypes does not
        self.listen()
        native.llama_backend_init()

        def report(fraction: float, _user_data: object) -> bool:
            on_progress(fraction)
            return True

        parameters = model_parameters(layout)
        parameters.values.progress_callback = callback = native.llama_progress_callback(report)
        handle = native.llama_model_load_from_file(str(path).encode(), parameters.values)
        del callback
        if not handle:
            raise self.load_error("llama.cpp could not load the file")
        self.handle = int(handle)
        self.vocabulary = native.llama_model_get_vocab(self.handle)
        self.vocabulary_size: int = native.llama_vocab_n_tokens(self.vocabulary)
        self._bytes_cache: dict[tuple[int, bool], bytes] = {}
        try:
            self._adapters = load_adapters(self.handle, adapters, self.log)
        except ModelLoadError:
            self.close()
            raise

    def listen(self) -> None:
        """Take what llama.cpp says from now on as said of this model: it has one log for all."""
        native.llama_log_set(self._log_callback, ctypes.c_void_p(0))

    def _on_log(self, level: int, text: bytes, _user_data: object) -> None:
        self.log.feed(level, text.decode("utf-8", "replace"))

    def load_error(self, otherwise: str) -> ModelLoadError:
        """What went wrong last, by llama.cpp's log; with the allocation that failed, if one did."""
        return ModelLoadError(self.log.last_error or otherwise, self.log.refused)

    def adapt(self, context: int, outputs: int) -> None:
        """Let a new context of this model, of so many outputs, compute with the adapters. Raises ModelLoadError."""
        set_adapters(context, self._adapters, self.log, outputs)

    @property
    def weight_bytes(self) -> int:
        """Of the model and its adapters."""
        return int(native.llama_model_size(self.handle)) + sum(self.log.sizes.adapter_bytes.values())

    def buffers(self, context: int) -> tuple[BufferBytes, ...]:
        """What a context, the model and its adapters take; empty where it cannot be asked."""
        found = breakdown(context)
        return (*found, *adapter_buffers(self.log)) if found else ()

    def metadata(self, key: str) -> str:
        """A value of the file's header as text; empty when it is not there."""
        size = native.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        native.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def sampling_defaults(self) -> Options:
        """The file's own sampling; values it cannot mean are ignored, since a file is not a user to be told."""
        said = [_option(name, self.metadata(key)) for name, key in _SAMPLING_KEYS.items()]
        return merge_options(*said)

    @property
    def trained_context_tokens(self) -> int:
        """What it was trained on at once."""
        return int(native.llama_model_n_ctx_train(self.handle))

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one cell over all layers; an upper bound where only some layers keep keys and values."""
        heads = native.llama_model_n_head(self.handle) or 1
        head_size = native.llama_model_n_embd(self.handle) // heads
        architecture = self.metadata("general.architecture")
        key = int(self.metadata(f"{architecture}.attention.key_length") or head_size)
        value = int(self.metadata(f"{architecture}.attention.value_length") or head_size)
        layers, kv_heads = native.llama_model_n_layer(self.handle), native.llama_model_n_head_kv(self.handle)
        return int(layers * kv_heads * (key + value) * _CACHE_BYTES_PER_VALUE)

    @property
    def row_cells(self) -> float:
        """The weights take a row of a large batch as long, on a CPU, as looking at so many cells of its sequence."""
        heads, kv_heads = native.llama_model_n_head(self.handle), native.llama_model_n_head_kv(self.handle)
        per_cell = self.kv_bytes_per_token / _CACHE_BYTES_PER_VALUE * heads / max(kv_heads, 1)
        embeddings = self.vocabulary_size * native.llama_model_n_embd(self.handle)  # a row takes one line of them
        weights = native.llama_model_n_params(self.handle) - embeddings
        return float(weights / per_cell / _WEIGHTS_ARE_FASTER) if per_cell else 0.0

    def chat_template(self, name: bytes | None) -> str | None:
        """The file's chat template of that name, or its default one."""
        template = native.llama_model_chat_template(self.handle, name)
        return template.decode("utf-8", "replace") if template else None

    def infill_tokens(self) -> InfillTokens | None:
        """The marks around a gap, as the file names them or llama.cpp knows them by their text."""
        marks = (native.llama_vocab_fim_pre, native.llama_vocab_fim_suf, native.llama_vocab_fim_mid)
        before, after, middle = (int(mark(self.vocabulary)) for mark in marks)
        if min(before, after, middle) < 0:
            return None
        repository, file = (
            int(mark(self.vocabulary)) for mark in (native.llama_vocab_fim_rep, native.llama_vocab_fim_sep)
        )
        return InfillTokens(before, after, middle, repository if repository >= 0 else None, file if file >= 0 else None)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe."""
        data = text.encode("utf-8", "replace")
        size = len(data) + 8  # a token is at least a byte; room for BOS, EOS and a space prefix
        buffer = (native.llama_token * size)()
        count = native.llama_tokenize(self.vocabulary, data, len(data), buffer, size, add_special, parse_special)
        if count < 0:
            buffer = (native.llama_token * -count)()
            count = native.llama_tokenize(self.vocabulary, data, len(data), buffer, -count, add_special, parse_special)
        return list(buffer[:count])

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """The bytes a token stands for; control tokens are empty unless `special`."""
        cached = self._bytes_cache.get((token, special))
        if cached is None:
            cached = self._bytes_cache[(token, special)] = self._piece(token, special)
        return cached

    def _piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        size = native.llama_token_to_piece(self.vocabulary, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = native.llama_token_to_piece(self.vocabulary, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]

    def close(self) -> None:
        """Free it, and with it its adapters; no use after."""
        native.llama_model_free(self.handle)


def _option(name: str, text: str) -> Options:
    try:
        return parse_options({name: float(text)})[0]
    except (ValueError, InvalidOptionError):
        return Options()
