"""How much memory a model will take, from its header and the size of its files: arithmetic before anything is loaded.

An upper bound, meant for choosing: windows of attention, recurrent states and shared layers, which need less, are
counted as full attention. What a loaded model really takes is told by the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.gguf import ArrayInfo, Header

# The interpreter, its libraries and the engine's own tables; measured as 150 MB for a model of 3 MB.
RUNNER_BYTES = 200 * 10**6
_CELL_BYTES = 2  # of F16
_UNKNOWN_WORK_BYTES = 500 * 10**6


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes: of the files, of the cache that is filled while it answers, and of what a step computes with."""

    weight_bytes: int
    cache_bytes: int
    work_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, with the process around it."""
        return self.weight_bytes + self.cache_bytes + self.work_bytes + RUNNER_BYTES


def footprint(
    header: Header | None, file_bytes: int, *, pool_bytes_limit: int, parallel: int, batch_tokens: int
) -> Footprint:
    """What a model of `file_bytes` takes under a plan; without a header the cache is as large as the plan allows."""
    if header is None:
        return Footprint(file_bytes, pool_bytes_limit, _UNKNOWN_WORK_BYTES)
    whole_cache = kv_bytes_per_token(header) * header.context_length * parallel
    cache = min(whole_cache, pool_bytes_limit) if whole_cache else pool_bytes_limit
    # Logits of every row, and a few vectors of the model's width between layers; 32 bits each.
    work = batch_tokens * (_vocabulary(header) + 8 * header.embedding_length) * 4
    return Footprint(file_bytes, cache, work)


def kv_bytes_per_token(header: Header) -> int:
    """Bytes of one cell of the cache in all layers, in F16; 0 when the header does not say."""
    heads = header.architecture_integer("attention.head_count")
    head_length = header.embedding_length // heads if heads else 0
    key = header.architecture_integer("attention.key_length") or head_length
    value = header.architecture_integer("attention.value_length") or head_length
    if compressed := header.architecture_integer("attention.kv_lora_rank"):
        return header.block_count * (compressed + header.architecture_integer("rope.dimension_count")) * _CELL_BYTES
    return _kv_heads(header, heads) * (key + value) * _CELL_BYTES


def _kv_heads(header: Header, heads: int) -> int:
    """Heads with keys and values, of all layers together; a header may count them layer by layer."""
    said = header.metadata.get(f"{header.architecture}.attention.head_count_kv")
    if isinstance(said, tuple):
        return sum(count for count in said if isinstance(count, int))
    return (said if isinstance(said, int) and said else heads) * header.block_count


def _vocabulary(header: Header) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, tuple) else tokens.length if isinstance(tokens, ArrayInfo) else 0
