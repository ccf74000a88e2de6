"""What is reckoned, measured and really taken, held against each other: for many kinds of models, without weights.

reckoned: placement/estimate, from the header alone     measured: engine/measure, llama.cpp without allocating
taken: the buffers of a loaded model, and the growth of the process
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from measured_bytes import Asked, ask_child
from published_plans import machine
from shape_models import ShapeModel, quantized, write_shapes
from shape_recipes import RECIPES

from localllm.errors import LoadError
from localllm.gguf import read_header
from localllm.placement.budgets import room_of
from localllm.placement.devices import host
from localllm.placement.estimate import estimate
from localllm.placement.layout import EXPERT_PATTERN, Layout, TensorOverride
from localllm.placement.plan import plan
from localllm.placement.shape import ContextShape
from localllm.placement.wishes import Wishes
from localllm.runner.measuring import measure

GUIDE = Path(__file__).resolve().parent.parent.parent / "modelfiles" / "guide" / "guide.gguf"
PLAIN = Layout(use_extra_buffers=False, use_mmap=False)
SHAPES = (
    ContextShape(4096, 8),
    ContextShape(32768, 8),
    ContextShape(16384, 2, batch_tokens=256, is_unified=False),
    ContextShape(8192, 1, outputs=512, k_type="q8_0", v_type="q8_0", keeps_whole_window=True),
    ContextShape(16384, 4, batch_tokens=128, k_type="f32", v_type="f32"),
    ContextShape(4096, 2, flash_attention=False),
    ContextShape(8192, 2, batch_tokens=128, is_unified=False, flash_attention=False),
)
NO_QUANTIZED_CACHE = frozenset(["phi2", "bert"])  # heads of 80 elements are no whole blocks; and no cache at all
Bytes = dict[str, int]


def ask(what: str, questions: Sequence[Asked]) -> list[Bytes]:
    """Bytes by kind of all buffers together."""
    return [
        {kind: sum(getattr(buffer, kind) for buffer in answer.buffers) for kind in ("weights", "context", "compute")}
        | {"grown": answer.grown}
        for answer in ask_child(what, questions)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_shapes(RECIPES, tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def measured(files: dict[str, Path]) -> dict[tuple[str, ContextShape], Bytes]:
    cases = [
        (name, shape)
        for name in RECIPES
        for shape in SHAPES
        if shape.k_type != "q8_0" or name not in NO_QUANTIZED_CACHE
    ]
    answers = ask("measure", [(files[name], PLAIN, shape) for name, shape in cases])
    return dict(zip(cases, answers, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_weights_and_caches_are_reckoned_to_the_byte(name, files, measured):
    reckoned = estimate(read_header(files[name]))
    for shape in SHAPES:
        if (name, shape) in measured:
            found = measured[name, shape]
            assert (reckoned.weight_bytes, reckoned.kv_bytes(shape)) == (found["weights"], found["context"])


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_step_computes_with_is_reckoned_within_15_percent_and_never_below(name, files, measured):
    reckoned = estimate(read_header(files[name]))
    for shape in SHAPES:
        if (name, shape) in measured:
            ratio = reckoned.compute_bytes(shape).whole / measured[name, shape]["compute"]
            assert 1 <= ratio <= 1.15, shape


def test_packed_layouts_add_no_more_than_is_reckoned(files):
    cases = ["llama", "qwen3moe", "bert", "gemma3"]
    shape = SHAPES[0]
    packed = ask("measure", [(files[name], replace(PLAIN, use_extra_buffers=True), shape) for name in cases])
    for name, found in zip(cases, packed, strict=True):
        reckoned = estimate(read_header(files[name]))
        least = reckoned.weight_bytes
        assert least <= found["weights"] <= least + reckoned.packing_bytes, name


def small(name: str) -> ShapeModel:
    """A model that loads in a moment: of the same kind, with a small vocabulary."""
    return replace(RECIPES[name], vocabulary=4096)


def test_a_loaded_model_takes_what_was_measured_to_the_byte_and_the_process_grows_by_that(tmp_path):
    names = ["qwen3", "lfm2", "bert", "phi3", "granitehybrid", "gemma2"]
    paths = write_shapes({name: small(name) for name in names}, tmp_path)
    shape = ContextShape(8192, 4)
    questions = [(paths[name], PLAIN, shape) for name in names]
    before, after = ask("measure", questions), ask("load", questions)
    for name, measured_bytes, taken in zip(names, before, after, strict=True):
        assert measured_bytes | {"grown": taken["grown"]} == taken, name
        # A buffer for computing is room that a step fills: until then the system has not given it.
        expected = taken["weights"] + taken["context"]
        assert abs(taken["grown"] - expected) <= 0.05 * expected, (name, taken)


@pytest.mark.parametrize("matrices", ["Q4_K", "Q8_0"])
def test_a_model_that_the_cpu_packs_lies_in_memory_once_and_takes_what_was_planned(tmp_path, matrices):
    model = replace(small("llama"), types=quantized(matrices, "Q6_K"))
    path = write_shapes({"llama": model}, tmp_path)["llama"]
    reckoned, wishes = estimate(read_header(path)), Wishes(context_tokens=4096)
    there = replace(machine(), host=replace(machine().host, has_amx=host().has_amx))
    made = plan(reckoned, room_of(there, reckoned.vocabulary, wishes), wishes)
    (taken,) = ask("load", [(path, made.layout, made.shape)])
    expected = made.shares[-1].weights + made.shares[-1].context
    assert abs(taken["grown"] - expected) <= 0.05 * expected, (taken, made)


def question(shape: ContextShape = SHAPES[0], layout: Layout = PLAIN, model: Path = GUIDE, **more):
    return asyncio.run(measure(model, layout, shape, dict(os.environ), **more))


def test_the_daemons_side_of_a_measurement_has_bytes_by_device():
    found = question()
    reckoned = estimate(read_header(GUIDE))
    assert found.is_exact
    assert {"CPU"} == {buffer.device for buffer in found.buffers}
    assert (reckoned.weight_bytes, reckoned.kv_bytes(SHAPES[0])) == (found.on("CPU").weights, found.on("CPU").context)
    assert found.total == found.on("CPU").total


def test_without_llama_cpps_own_account_the_log_has_the_figures_about_right():
    exact, read = question(), question(from_log=True)
    assert not read.is_exact
    assert abs(exact.total - read.total) <= 0.01 * exact.total + 2**20


def test_a_measurement_says_what_is_wrong_with_the_file_or_the_layout(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(LoadError, match="the layout cannot be measured: "):
        question(model=broken)
    with pytest.raises(LoadError, match="the engine has no device 'CUDA7'; it has CPU"):
        question(layout=replace(PLAIN, devices=("CUDA7",)))
    with pytest.raises(LoadError, match="quantized V cache"):
        question(replace(SHAPES[0], v_type="q8_0", flash_attention=False))


def test_experts_can_be_told_a_place_of_their_own(files):
    layout = replace(PLAIN, overrides=(TensorOverride(EXPERT_PATTERN.format(r"\d+"), "CPU"),))
    found = question(layout=layout, model=files["qwen3moe"])
    assert estimate(read_header(files["qwen3moe"])).weight_bytes == found.on("CPU").weights


def test_a_file_that_is_only_a_header_and_a_hole_is_measured_like_the_whole(tmp_path):
    model = ShapeModel("llama", RECIPES["llama"].values, 4096, types=quantized("Q8_0", "Q8_0"))
    path = write_shapes({"llama": model}, tmp_path)["llama"]
    assert path.stat().st_blocks * 512 < 2**20 < path.stat().st_size
    assert estimate(read_header(path)).weight_bytes == question(model=path).on("CPU").weights
