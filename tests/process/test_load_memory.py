"""Loads that are short of memory, with the real fleet and planner: once more with what was missing, then told.

The machine has one GPU, and the child that should load says what it lacks.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from published_plans import GIB, machine
from real_shapes import SHAPES
from stand_in_fleet import WorkingEngine, stand_in_model
from stand_in_runner import stand_in_command

from localllm.config import load_settings
from localllm.errors import DoesNotFitError, ImpossibleWishError, LoadError
from localllm.generation import Options
from localllm.gguf import Header
from localllm.load_options import LoadOptions
from localllm.placement.budgets import room_of
from localllm.placement.confirm import confirmed
from localllm.placement.devices import DeviceProcess, Machine
from localllm.placement.estimate import estimate
from localllm.placement.layout import BufferBytes, Layout, Measured
from localllm.placement.learned import Learned
from localllm.placement.plan import Plan, plan
from localllm.placement.shape import ContextShape
from localllm.placement.wishes import Wishes
from localllm.runner.protocol import Loaded
from localllm.scheduler.fleet import RunnerFleet, measured_bytes
from localllm.scheduler.planner import Planner
from localllm.store.model import Model

HEADER = SHAPES["llama3-8b"].header("Q4_K_M")
CARD = machine(24)
ESTIMATE = estimate(HEADER)


async def read_header(model: Model) -> Header:
    return HEADER


def planner(folder: Path, there: Machine = CARD, learned: Learned | None = None) -> Planner:
    async def look_at_machine() -> Machine:
        return there

    return Planner(load_settings({"LOCALLLM_HOME": str(folder)}), look_at_machine, read_header, learned or Learned())


class Account:
    """llama.cpp's figures: `more` bytes of computing on the GPU than was reckoned; or it cannot tell."""

    def __init__(self, more: int | None = None) -> None:
        self.more = more
        self.asked: list[Layout] = []

    async def __call__(self, model: Path, layout: Layout, shape: ContextShape, environment, *, adapters) -> Measured:
        self.asked.append(layout)
        if self.more is None:
            raise LoadError("the layout cannot be measured: no account")
        wishes = Wishes()
        made = plan(ESTIMATE, room_of(CARD, ESTIMATE.vocabulary, wishes), wishes)
        weights = made.shares[0].weights
        context = ESTIMATE.kv_bytes(shape)
        return Measured(layout, shape, (BufferBytes("CUDA0", "CUDA0", weights, context, self.more),))


def load(
    folder: Path,
    behaviour: str,
    planned: list[dict[str, int]],
    account: Account | None = None,
    budget: dict[str, int] | None = None,
) -> Plan:
    """The plan by which a model was loaded; what was planned on the way is noted."""

    async def start() -> Plan:
        fleet = RunnerFleet(
            load_settings({"LOCALLLM_HOME": str(folder)}),
            os.environ,
            WorkingEngine(),
            planner(folder),
            command_for=lambda model: stand_in_command(behaviour),
            measure=account or Account(),
        )
        runner = await fleet.start(stand_in_model(behaviour), budget, planned.append, lambda fraction: None)
        await runner.handle.discard()
        return runner.plan

    return asyncio.run(start())


def test_a_load_that_is_short_of_memory_is_planned_once_more_with_what_was_missing(tmp_path):
    planned: list[dict[str, int]] = []
    made = load(tmp_path, "narrow", planned)
    first, second = planned
    assert first["CUDA0"] - second["CUDA0"] >= 3 * GIB
    assert ("gpu", second) == (made.tier, made.bytes_by_device())
    assert made.shape.cells <= 30_000


def test_a_load_that_is_short_of_memory_twice_fails_with_the_figures_and_is_not_tried_again(tmp_path):
    planned: list[dict[str, int]] = []
    with pytest.raises(LoadError) as caught:
        load(tmp_path, "full", planned)
    assert 2 == len(planned)
    assert "CUDA0 has not the memory for the model: 4.3 GB could not be allocated with 1.1 GB free" in str(caught.value)
    assert "end other programs" in str(caught.value.hint)


def test_a_load_that_fails_for_another_reason_is_not_planned_again(tmp_path):
    planned: list[dict[str, int]] = []
    with pytest.raises(LoadError, match="exit code 1"):
        load(tmp_path, "exits_loading", planned)
    assert 1 == len(planned)


def test_what_the_driver_says_a_load_took_of_a_gpu_counts_and_is_remembered(tmp_path):
    learned = Learned()

    async def start() -> dict[str, int]:
        async def look_at_machine() -> Machine:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            processes = tuple(DeviceProcess(int(child), "runner", 20 * GIB) for child in children)
            return replace(CARD, devices=(replace(CARD.gpus[0], processes=processes), CARD.cpu))

        fleet = RunnerFleet(
            load_settings({"LOCALLLM_HOME": str(tmp_path)}),
            os.environ,
            WorkingEngine(),
            Planner(load_settings({}), look_at_machine, read_header, learned),
            command_for=lambda model: stand_in_command("answers"),
            measure=Account(),
        )
        runner = await fleet.start(stand_in_model("answers"), None, lambda taken: None, lambda fraction: None)
        await runner.handle.discard()
        return dict(runner.taken)

    assert 20 * GIB == asyncio.run(start())["CUDA0"]
    assert learned.overheads()["CUDA0"] > 5 * GIB


def test_tensors_that_were_told_to_lie_on_a_gpu_are_not_learnt_as_what_was_missing(tmp_path):
    there, learned = machine(24, 24), Learned()
    planner_ = planner(tmp_path, there, learned)
    moved = replace(stand_in_model("moved"), load=LoadOptions(override_tensor=("^output=CUDA1",)))
    made = asyncio.run(planner_.plan(moved, None, use_extra_buffers=True))
    share = next(share for share in made.shares if share.device == "CUDA1")
    assert (ESTIMATE.output_bytes, 0) == (share.weights, share.overhead)
    measured = Measured(made.layout, made.shape, (BufferBytes("CUDA1", "CUDA1", ESTIMATE.output_bytes, 0, 0),))
    assert share == confirmed(made, measured).shares[1]
    planner_.learn(moved, made, {"CUDA1": share.total + 1000})
    assert 1000 == learned.overheads()["CUDA1"]


@pytest.mark.parametrize(("resident", "taken"), [(11, 7), (6, 6), (8, 6)])
def test_pages_of_a_mapped_file_whose_tensors_lie_elsewhere_are_not_what_a_model_takes(resident, taken):
    wishes = Wishes(use_mmap=True)
    made = plan(ESTIMATE, room_of(machine(), ESTIMATE.vocabulary, wishes), wishes)
    made = replace(made, shares=(replace(made.shares[-1], weights=5 * GIB),))
    buffers = (BufferBytes("CPU", "CPU_REPACK", 4 * GIB, 0, 0), BufferBytes("CPU", "CPU", 5 * GIB, GIB, 0))
    loaded = Loaded(8192, 8192, 8, 0, 0, 0, 33, 0, 1.0, buffers=buffers, resident_bytes=resident * GIB)
    assert {"CPU": taken * GIB} == measured_bytes(loaded, made)
    read = replace(made, layout=replace(made.layout, use_mmap=False))
    assert {"CPU": resident * GIB} == measured_bytes(loaded, read)


def test_llama_cpps_own_figures_are_asked_before_a_gpu_is_used_and_are_what_counts(tmp_path):
    account = Account(more=700 * 2**20)
    planned: list[dict[str, int]] = []
    made = load(tmp_path, "answers", planned, account)
    assert 700 * 2**20 == made.shares[0].compute
    assert (1, planned[0]["CUDA0"]) == (len(account.asked), made.shares[0].total)


def test_a_plan_that_llama_cpp_finds_too_large_is_made_again_before_anything_loads(tmp_path):
    account = Account(more=3 * GIB)
    planned: list[dict[str, int]] = []
    budget = {"CUDA0": 9 * GIB, "CPU": 30 * GIB}
    made = load(tmp_path, "answers", planned, account, budget)
    assert (2, 1) == (len(account.asked), len(planned))
    own_way = asyncio.run(planner(tmp_path).plan(stand_in_model("answers"), budget, use_extra_buffers=True))
    assert made.shares[0].context < own_way.shares[0].context


def survey(folder: Path, there: Machine = CARD, held: dict[str, int] | None = None, **options):
    model = replace(stand_in_model("answers"), options=Options(**options))
    return asyncio.run(planner(folder, there).survey(model, held or {}))


def test_a_survey_counts_what_loaded_models_hold_as_room_and_two_gpus_alike_as_two_choices(tmp_path):
    there = machine(24, 24)
    full = replace(there.gpus[0], free_bytes=2 * GIB)
    found = survey(tmp_path, replace(there, devices=(full, *there.devices[1:])), {"CUDA0": 20 * GIB})
    assert found.capacity["CUDA0"] > 20 * GIB
    # The one with most room comes first.
    assert [{"CUDA1", "CPU"}, {"CUDA0", "CPU"}] == [set(choice) for choice in found.demand.choices]
    assert 1 == len(survey(tmp_path, replace(there, devices=(full, *there.devices[1:]))).demand.choices)
    assert 4 < found.demand.reload_seconds < 6


def test_a_survey_of_a_described_machine_takes_its_figures_as_they_are(tmp_path):
    described = replace(machine(24), is_replaced=True)
    assert survey(tmp_path, described).capacity == survey(tmp_path, described, {"CUDA0": 20 * GIB}).capacity


def test_memory_that_others_took_after_the_survey_is_not_planned_with(tmp_path):
    ample = {"CUDA0": 23 * GIB, "CPU": 50 * GIB}
    taken = replace(CARD, devices=(replace(CARD.gpus[0], free_bytes=8 * GIB), CARD.cpu))
    made = asyncio.run(planner(tmp_path, taken).plan(stand_in_model("answers"), ample, use_extra_buffers=True))
    assert made.bytes_by_device()["CUDA0"] < 8 * GIB
    assert ("gpu", 5 * GIB < made.bytes_by_device()["CUDA0"]) == (made.tier, True)


@pytest.mark.parametrize(
    ("options", "error"), [({"num_gpu": 33, "num_ctx": 8192}, DoesNotFitError), ({"main_gpu": 3}, ImpossibleWishError)]
)
def test_what_cannot_be_is_refused_before_anybody_makes_room(tmp_path, options, error):
    small = machine(8)
    tiny = replace(small.gpus[0], total_bytes=2 * GIB, free_bytes=2 * GIB)
    with pytest.raises(error):
        survey(tmp_path, replace(small, devices=(tiny, small.cpu)), **options)


def test_what_loads_took_beyond_their_plans_is_kept_and_counted_on(tmp_path):
    file = tmp_path / "state" / "placement.json"
    learned = Learned(file)
    for extra in (100, 300, 200):
        learned.note("CUDA0", 1000, 1000 + extra)
    learned.note("CPU", 1000, 900)
    assert {"CUDA0": 300, "CPU": 0} == Learned(file).overheads()
    for _ in range(8):
        learned.note("CUDA0", 1000, 1050)
    assert 50 == Learned(file).overheads()["CUDA0"]


@pytest.mark.parametrize("content", ["", "[]", '{"CUDA0": "much"}', '{"CUDA0": [1e99]}', f'{{"CUDA0": [{2**60}]}}'])
def test_a_damaged_memory_of_earlier_loads_is_no_obstacle(tmp_path, content):
    file = tmp_path / "placement.json"
    file.write_text(content)
    assert 0 == Learned(file).overheads().get("CUDA0", 0)
