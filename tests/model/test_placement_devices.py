"""Layouts over several devices, measured: processes that serve their CPU over ggml's RPC stand in for GPUs.

What lies where must be what is reckoned: which layers a number of GPU layers means, what experts on the CPU leave on a
GPU, and that no device's buffer for computing is larger than was reckoned for what lies on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from measured_bytes import ask_child, stand_in_gpus
from shape_models import write_shapes
from shape_recipes import RECIPES

from localllm.gguf import read_header
from localllm.placement.estimate import Estimate, estimate
from localllm.placement.layout import EXPERT_PATTERN, BufferBytes, Layout, Measured, TensorOverride
from localllm.placement.shape import ContextShape

SHAPE = ContextShape(8192, 4)
ON_CPU = (TensorOverride(EXPERT_PATTERN.format(r"\d+"), "CPU"),)
NAMES = ("llama", "qwen3moe", "gemma3", "deepseek2", "granitehybrid", "phi3")
COPIED_BYTES = 4096  # factors of RoPE that every device has a copy of


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    with stand_in_gpus(2) as ports:
        yield ports


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_shapes({name: RECIPES[name] for name in NAMES}, tmp_path_factory.mktemp("shapes"))


def layouts(count: int) -> dict[str, Layout]:
    plain = Layout(use_extra_buffers=False, use_mmap=False, devices=("RPC0",))
    return {
        "all": replace(plain, gpu_layers=count + 1),
        "all layers but one": replace(plain, gpu_layers=count),
        "half": replace(plain, gpu_layers=count // 2 + 1),
        "output": replace(plain, gpu_layers=1),
        "none": replace(plain, gpu_layers=0),
        "experts on the CPU": replace(plain, gpu_layers=count + 1, overrides=ON_CPU),
        "cache on the CPU": replace(plain, gpu_layers=count + 1, kv_on_gpu=False),
        "two devices": replace(plain, gpu_layers=count + 1, devices=("RPC0", "RPC1"), tensor_split=(3, count - 2)),
    }


@pytest.fixture(scope="module")
def measured(files: dict[str, Path], ports: list[int]) -> dict[tuple[str, str], Measured]:
    cases = [
        (name, case, layout)
        for name in NAMES
        for case, layout in layouts(estimate(read_header(files[name])).layer_count).items()
    ]
    answers = ask_child("measure", [(files[name], layout, SHAPE) for name, _, layout in cases], ports)
    return {
        (name, case): Measured(layout, SHAPE, answer.buffers)
        for (name, case, layout), answer in zip(cases, answers, strict=True)
    }


def reckoned(estimated: Estimate, first: int, end: int, *, experts: bool = True) -> tuple[int, int]:
    """Weights and cache of the layers from `first` up to `end`, the output being one more."""
    layers = estimated.layers[first:end]
    weights = sum(layer.total if experts else layer.without_experts for layer in layers)
    if end > estimated.layer_count:
        weights += estimated.output_bytes
    return weights, sum(estimated.kv_bytes(SHAPE, index) for index in range(first, min(end, estimated.layer_count)))


def lies_as(expected: tuple[int, int], there: BufferBytes) -> bool:
    weights, cache = expected
    return abs(there.weights - weights) <= COPIED_BYTES and there.context == cache


@pytest.mark.parametrize("name", NAMES)
def test_the_last_layers_lie_on_the_gpu_and_the_first_with_the_embedding_in_host_memory(name, files, measured):
    estimated = estimate(read_header(files[name]))
    count = estimated.layer_count
    for case, first in (("all", 0), ("all layers but one", 1), ("half", count - count // 2), ("output", count)):
        there = measured[name, case]
        assert lies_as(reckoned(estimated, first, count + 1), there.on("RPC0")), case
        weights, cache = reckoned(estimated, 0, first)
        assert lies_as((estimated.embedding_bytes + weights, cache), there.on("CPU")), case
    assert lies_as((estimated.weight_bytes, estimated.kv_bytes(SHAPE)), measured[name, "none"].on("CPU"))


def test_experts_on_the_cpu_leave_everything_else_where_it_was(files, measured):
    estimated = estimate(read_header(files["qwen3moe"]))
    there = measured["qwen3moe", "experts on the CPU"]
    assert lies_as(reckoned(estimated, 0, estimated.layer_count + 1, experts=False), there.on("RPC0"))
    experts = sum(layer.experts for layer in estimated.layers)
    assert lies_as((estimated.embedding_bytes + experts, 0), there.on("CPU"))


def test_a_cache_on_the_cpu_leaves_the_weights_on_the_gpu(files, measured):
    estimated = estimate(read_header(files["llama"]))
    there = measured["llama", "cache on the CPU"]
    assert (0, estimated.kv_bytes(SHAPE)) == (there.on("RPC0").context, there.on("CPU").context)


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_two_devices_are_counts_of_layers(name, files, measured):
    estimated = estimate(read_header(files[name]))
    there = measured[name, "two devices"]
    assert lies_as(reckoned(estimated, 0, 3), there.on("RPC0"))
    assert lies_as(reckoned(estimated, 3, estimated.layer_count + 1), there.on("RPC1"))


@pytest.mark.parametrize("name", NAMES)
def test_no_devices_buffer_for_computing_is_larger_than_was_reckoned_for_what_lies_on_it(name, files, measured):
    computing = estimate(read_header(files[name])).compute_bytes(SHAPE)
    for case in ("all", "all layers but one", "half", "output", "experts on the CPU"):
        assert measured[name, case].on("RPC0").compute <= computing.output, case
    assert measured[name, "all"].on("CPU").compute <= computing.input
    for case in ("all layers but one", "half"):
        assert measured[name, case].on("CPU").compute <= max(computing.layers, computing.input), case
    assert measured[name, "none"].on("CPU").compute <= computing.whole
    assert measured[name, "experts on the CPU"].on("CPU").compute <= max(computing.layers, computing.input)
