"""A model file in llama.cpp: its weights, its vocabulary, and llama.cpp's log. Not its context: that is for its users.

Loaded only in child processes, since llama.cpp answers misuse with abort().
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as native

from localllm.engine.backend import ModelLoadError
from localllm.engine.llama_log import LogReader

_LOAD_NO_MMAP, _LOAD_AUTO = 0, -1


class LlamaModel:
    """One loaded file. `handle` is the llama_model, `vocabulary` its llama_vocab. Raises ModelLoadError."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        use_mmap: bool = True,
        use_extra_buffers: bool = True,
        on_progress: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        self.log = LogReader()
        self._log_callback = native.llama_log_callback(self._on_log)  # kept: ctypes does not
        native.llama_log_set(self._log_callback, ctypes.c_void_p(0))
        native.llama_backend_init()

        def report(fraction: float, _user_data: object) -> bool:
            on_progress(fraction)
            return True

        parameters = native.llama_model_default_params()
        parameters.n_gpu_layers = gpu_layers
        parameters.use_extra_bufts = use_extra_buffers
        parameters.load_mode = _LOAD_AUTO if use_mmap else _LOAD_NO_MMAP
        parameters.progress_callback = callback = native.llama_progress_callback(report)
        handle = native.llama_model_load_from_file(str(path).encode(), parameters)
        del callback
        if not handle:
            raise ModelLoadError(self.log.last_error or "llama.cpp could not load the file")
        self.handle = int(handle)
        self.vocabulary = native.llama_model_get_vocab(self.handle)
        self.vocabulary_size: int = native.llama_vocab_n_tokens(self.vocabulary)

    def _on_log(self, level: int, text: bytes, _user_data: object) -> None:
        self.log.feed(level, text.decode("utf-8", "replace"))

    def metadata(self, key: str) -> str:
        """A value of the file's header as text; empty when it is not there."""
        size = native.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        native.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

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

    def close(self) -> None:
        """Free it; no use after."""
        native.llama_model_free(self.handle)
