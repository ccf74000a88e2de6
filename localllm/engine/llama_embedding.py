"""Embedding models in llama.cpp: rows in, one pooled vector per input out. No text is generated here.

Three kinds, which llama.cpp treats differently, and wrongly or with abort() where its rules are not kept:

    encoder          no memory at all; a batch must fit one ubatch, and positions end at the trained context
    decoder, LAST    the last token's vector: a long input may be computed in pieces
    decoder, others  all rows of an input must lie in one ubatch, or only its last piece is pooled

Every row of an embedding context is an output, for which llama.cpp keeps a row of logits that nobody reads, and for
decoders computes it too: that bounds how many rows a batch has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as native
import numpy as np

from localllm.engine.backend import Batch, EngineError, ModelLoadError
from localllm.engine.embedding import EmbedderFacts, Input, Vector, filled
from localllm.engine.llama_model import USUAL_LAYOUT, LlamaModel
from localllm.engine.llama_rows import Rows
from localllm.placement.layout import Layout

_NONE, _MEAN, _LAST, _RANK = 0, 1, 3, 4  # llama_pooling_type
INPUT_TOKENS_MOST = 8192
SEQUENCES = 64
BATCH_ROWS_MOST = 2048
BATCH_ROWS_LEAST = 64
# Logits that nobody reads: of one batch, and of an input that cannot be computed in pieces.
LOGITS_BYTES = 256 * 2**20
LOGITS_BYTES_OF_LONG_INPUT = 2 * 2**30
_POOL_STEP_TOKENS = 256  # llama.cpp pads the context to this


@dataclass(frozen=True, slots=True)
class LlamaEmbedderConfig:
    """How to load. `kv_bytes_limit` bounds the memory of keys and values, and so the input length, of decoders."""

    model_path: Path
    threads: int
    kv_bytes_limit: int = 2**31
    weights: Layout = USUAL_LAYOUT
    adapters: tuple[Path, ...] = ()


class LlamaEmbedder:
    """One embedding model or reranker. Raises ModelLoadError when the file is neither, or cannot be loaded."""

    def __init__(self, config: LlamaEmbedderConfig, on_progress: Callable[[float], None] = lambda _: None) -> None:
        self._model = LlamaModel(config.model_path, config.weights, on_progress, config.adapters)
        if native.llama_model_has_encoder(self._model.handle):
            raise ModelLoadError("models with an encoder and a decoder cannot embed")
        self._shape = _shape(self._model, config.kv_bytes_limit)
        self._context = self._open_context(config.threads)
        self._memory = native.llama_get_memory(self._context)
        self.facts = self._facts()
        self._rows = Rows(self._shape.ubatch_rows)

    def _open_context(self, threads: int) -> int:
        shape = self._shape
        parameters = native.llama_context_default_params()
        parameters.embeddings = True
        parameters.pooling_type = shape.pooling
        parameters.n_ctx = -(-max(shape.input_tokens, shape.ubatch_rows) // _POOL_STEP_TOKENS) * _POOL_STEP_TOKENS
        parameters.n_batch = parameters.n_ubatch = parameters.n_outputs_max = shape.ubatch_rows
        parameters.n_seq_max = shape.sequences
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        context = native.llama_init_from_model(self._model.handle, parameters)
        if not context:
            error = self._model.load_error("llama.cpp could not allocate the context")
            self._model.close()
            raise error
        try:
            self._model.adapt(context, shape.ubatch_rows)
        except ModelLoadError:
            native.llama_free(context)
            self._model.close()
            raise
        return int(context)

    def _facts(self) -> EmbedderFacts:
        handle, sizes, shape = self._model.handle, self._model.log.sizes, self._shape
        is_reranker = shape.pooling == _RANK
        dimensions = native.llama_model_n_cls_out(handle) if is_reranker else native.llama_model_n_embd_out(handle)
        return EmbedderFacts(
            dimensions=dimensions,
            input_tokens=shape.input_tokens,
            batch_rows=shape.batch_rows,
            sequences=shape.sequences,
            trained_context_tokens=self._model.trained_context_tokens,
            vocabulary_size=self._model.vocabulary_size,
            is_reranker=is_reranker,
            weight_bytes=self._model.weight_bytes,
            kv_bytes=sizes.kv_bytes,
            gpu_bytes=sizes.gpu_bytes,
            layers=native.llama_model_n_layer(handle),
            gpu_layers=sizes.gpu_layers if sizes.gpu_bytes else 0,
            buffers=self._model.buffers(self._context),
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; thread-safe."""
        return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)

    def tokenize_pair(self, query: str, document: str) -> list[int]:
        """By the model's template for pairs, or with the marks that its vocabulary has for them; thread-safe."""
        template = native.llama_model_chat_template(self._model.handle, b"rerank")
        if template:
            text = filled(template.decode("utf-8", "replace"), query, document)
            return self.tokenize(text, add_special=False, parse_special=True)
        vocabulary = self._model.vocabulary
        first, second = (self.tokenize(text, add_special=True, parse_special=False) for text in (query, document))
        if native.llama_vocab_get_add_bos(vocabulary) and second[:1] == [native.llama_vocab_bos(vocabulary)]:
            del second[0]
        has_both = native.llama_vocab_get_add_eos(vocabulary) and native.llama_vocab_get_add_sep(vocabulary)
        return [*first, *([native.llama_vocab_sep(vocabulary)] if has_both else ()), *second]

    def embed_batch(self, inputs: Sequence[Input]) -> Vector:
        """The pooled vectors, shape (len(inputs), dimensions). Raises EngineError."""
        self._check(inputs)
        try:
            for batch in _batches(inputs, self._shape.ubatch_rows):
                if code := native.llama_decode(self._context, self._rows.fill(batch)):
                    raise EngineError(f"llama.cpp failed to compute the batch (code {code})")
            return np.stack([self._pooled(slot) for slot in range(len(inputs))])
        finally:
            if self._memory:  # the next batch begins at position 0 again
                native.llama_memory_clear(self._memory, False)

    def _pooled(self, slot: int) -> Vector:
        pointer = native.llama_get_embeddings_seq(self._context, slot)
        if not pointer:
            raise EngineError("llama.cpp has no embedding for an input")
        view: Vector = np.ctypeslib.as_array(pointer, shape=(self.facts.dimensions,))
        return view.copy()

    def _check(self, inputs: Sequence[Input]) -> None:
        lengths = [len(tokens) for tokens in inputs]
        rows = sum(lengths)
        if not 0 < len(inputs) <= self._shape.sequences:
            raise EngineError(f"{len(inputs)} inputs in a batch; 1 to {self._shape.sequences} can be computed")
        if not all(lengths) or max(lengths) > self._shape.input_tokens:
            raise EngineError(f"an input that is empty or longer than {self._shape.input_tokens} tokens")
        if rows > self._shape.ubatch_rows and len(inputs) > 1:
            raise EngineError(f"a batch of {rows} rows; {self._shape.ubatch_rows} can be computed")
        if any(tokens.min() < 0 or tokens.max() >= self._model.vocabulary_size for tokens in inputs):
            raise EngineError(f"a token id outside 0..{self._model.vocabulary_size - 1}")

    def close(self) -> None:
        """Free context and model."""
        native.llama_free(self._context)
        self._model.close()


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a context is made for. One call computes at most `ubatch_rows`; several inputs fill `batch_rows` of them."""

    pooling: int
    input_tokens: int
    ubatch_rows: int
    batch_rows: int
    sequences: int


def _shape(model: LlamaModel, kv_bytes_limit: int) -> _Shape:
    architecture = model.metadata("general.architecture")
    is_causal = model.metadata(f"{architecture}.attention.causal") != "false"
    pooling = int(model.metadata(f"{architecture}.pooling_type") or _NONE)
    if pooling == _NONE:
        pooling = _LAST if is_causal else _MEAN
    can_split = is_causal and pooling == _LAST
    logits_row_bytes = 4 * model.vocabulary_size * (2 if is_causal else 1)  # computed and copied, or only kept
    rows = max(BATCH_ROWS_LEAST, min(BATCH_ROWS_MOST, LOGITS_BYTES // logits_row_bytes))
    longest = min(
        model.trained_context_tokens,
        INPUT_TOKENS_MOST,
        kv_bytes_limit // max(model.kv_bytes_per_token, 1),
    )
    if not can_split:
        longest = min(longest, max(rows, LOGITS_BYTES_OF_LONG_INPUT // logits_row_bytes))
    longest = max(longest, 1)
    batch_rows = min(rows, longest)
    # llama.cpp aborts when there are more sequences than outputs, and for some encoders when the rows do not divide.
    sequences = min(SEQUENCES, batch_rows)
    ubatch_rows = batch_rows if can_split else -(-longest // sequences) * sequences
    return _Shape(pooling, longest, ubatch_rows, batch_rows, sequences)


def _batches(inputs: Sequence[Input], rows_most: int) -> Iterator[Batch]:
    """All inputs in one batch; a single one that is too long for that in pieces."""
    tokens = np.concatenate(inputs)
    positions = np.concatenate([np.arange(len(one), dtype=np.int32) for one in inputs])
    slots = np.repeat(np.arange(len(inputs), dtype=np.int32), [len(one) for one in inputs])
    for start in range(0, len(tokens), rows_most):
        piece = slice(start, start + rows_most)
        outputs = np.ones(len(tokens[piece]), dtype=np.int8)
        yield Batch(tokens[piece], positions[piece], slots[piece], outputs)
