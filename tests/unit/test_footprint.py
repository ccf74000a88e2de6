"""How much memory a model will take, from headers as models have them."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from localllm.footprint import RUNNER_BYTES, footprint, kv_bytes_per_token
from localllm.gguf import ArrayInfo, Header

PLAN = {"pool_bytes_limit": 2 * 10**9, "parallel": 8, "batch_tokens": 512}
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


@pytest.mark.parametrize(
    ("changes", "bytes_per_token"),
    [
        ({}, 28 * 8 * 256 * 2),
        ({"llama.attention.key_length": 0, "llama.attention.value_length": 0}, 28 * 8 * 256 * 2),
        ({"llama.attention.head_count_kv": 0}, 28 * 24 * 256 * 2),
        ({"llama.attention.head_count_kv": (8,) * 14 + (0,) * 14}, 14 * 8 * 256 * 2),
        ({"llama.attention.kv_lora_rank": 512, "llama.rope.dimension_count": 64}, 28 * 576 * 2),
        ({"llama.attention.head_count": 0, "llama.attention.head_count_kv": 0}, 0),
    ],
)
def test_a_cell_holds_keys_and_values_of_all_layers(changes, bytes_per_token):
    assert bytes_per_token == kv_bytes_per_token(header(LLAMA_3_2_3B | changes))


def test_a_model_takes_its_weights_the_cache_the_plan_allows_and_room_to_compute():
    took = footprint(header(LLAMA_3_2_3B), 2 * 10**9, **PLAN)
    assert (2 * 10**9, 2 * 10**9) == (took.weight_bytes, took.cache_bytes)
    assert 512 * (128256 + 8 * 3072) * 4 == took.work_bytes
    assert took.weight_bytes + took.cache_bytes + took.work_bytes + RUNNER_BYTES == took.total_bytes


def test_a_short_context_takes_no_more_cache_than_it_can_fill():
    assert 8 * 2048 * 114688 == footprint(header(LLAMA_3_2_3B | {"llama.context_length": 2048}), 1, **PLAN).cache_bytes


def test_without_a_header_the_cache_is_as_large_as_the_plan_allows():
    assert (5, 2 * 10**9) == (footprint(None, 5, **PLAN).weight_bytes, footprint(None, 5, **PLAN).cache_bytes)
