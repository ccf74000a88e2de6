"""How much memory a quantisation will take, by the header of one and the size of its file."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from localllm.footprint import RUNNER_BYTES, footprint
from localllm.gguf import ArrayInfo, Header

PLAN = {"pool_bytes_limit": 2 * 10**9, "parallel": 8, "batch_tokens": 512}
BYTES_PER_TOKEN = 28 * 8 * 256 * 2
LLAMA_3_2_3B = {
    "general.architecture": "llama",
    "llama.block_count": 28,
    "llama.context_length": 131072,
    "llama.embedding_length": 3072,
    "llama.attention.head_count": 24,
    "llama.attention.head_count_kv": 8,
    "llama.attention.key_length": 128,
    "llama.attention.value_length": 128,
    "tokenizer.ggml.tokens": ArrayInfo("string", 128256),
}


def header(metadata: dict) -> Header:
    return Header(3, MappingProxyType(metadata), (), 10**9, 0)


def test_a_model_takes_its_weights_the_cache_the_plan_allows_and_room_to_compute():
    took = footprint(header(LLAMA_3_2_3B), 2 * 10**9, **PLAN)
    assert 2 * 10**9 == took.weight_bytes
    assert 2 * 10**9 - 256 * BYTES_PER_TOKEN < took.cache_bytes <= 2 * 10**9
    assert took.work_bytes > 512 * took.cache_bytes / BYTES_PER_TOKEN * 2  # every row over every cell
    assert took.weight_bytes + took.cache_bytes + took.work_bytes + RUNNER_BYTES == took.total_bytes


def test_a_short_context_takes_no_more_cache_than_it_can_fill():
    short = header(LLAMA_3_2_3B | {"llama.context_length": 2048})
    assert 8 * 2048 * BYTES_PER_TOKEN == footprint(short, 1, **PLAN).cache_bytes


def test_the_least_context_is_counted_even_where_the_plan_allows_less():
    assert 4096 * BYTES_PER_TOKEN == footprint(header(LLAMA_3_2_3B), 1, **(PLAN | {"pool_bytes_limit": 0})).cache_bytes


def test_layers_that_keep_nothing_take_no_cache():
    half = LLAMA_3_2_3B | {"llama.attention.head_count_kv": (8,) * 14 + (0,) * 14, "llama.context_length": 2048}
    assert 8 * 2048 * BYTES_PER_TOKEN // 2 == footprint(header(half), 1, **PLAN).cache_bytes


@pytest.mark.parametrize("read", [None, header({}), header(LLAMA_3_2_3B | {"llama.block_count": 10**9})])
def test_without_a_usable_header_the_cache_is_as_large_as_the_plan_allows(read):
    took = footprint(read, 5, **PLAN)
    assert (5, 2 * 10**9) == (took.weight_bytes, took.cache_bytes)
