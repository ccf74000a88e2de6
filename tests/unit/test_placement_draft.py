"""A draft model's place: beside its model where there is room, never at the price of a slower one, and always told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_plans import GIB, machine
from real_shapes import SHAPES, Shape

from localllm.errors import DoesNotFitError, ImpossibleWishError
from localllm.placement.arrange import CPU
from localllm.placement.budgets import room_of
from localllm.placement.confirm import confirmed
from localllm.placement.demand import demands
from localllm.placement.draft import place_draft, with_draft
from localllm.placement.estimate import estimate
from localllm.placement.layout import BufferBytes, Measured
from localllm.placement.plan import plan
from localllm.placement.wishes import Wishes

SMALL = estimate(SHAPES["llama3-8b"].header("Q4_K_M"))
LARGE = estimate(SHAPES["llama3-70b"].header("Q4_K_M"))
DRAFT = estimate(Shape("Llama 1B", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072).header("Q4_K_M"))


def planned(estimated, there, draft=DRAFT, learned=None, **wishes):
    said = Wishes(**wishes)
    room = room_of(there, estimated.vocabulary, said, learned=learned or {})
    placed, left = place_draft(estimated, draft, room, said)
    return with_draft(plan(estimated, left, said), placed)


def alone(estimated, there, **wishes):
    said = Wishes(**wishes)
    return plan(estimated, room_of(there, estimated.vocabulary, said), said)


def on(made, device):
    return next(share for share in made.shares if share.device == device)


def test_it_lies_on_the_gpu_beside_its_model_where_both_fit():
    made, without = planned(SMALL, machine(24)), alone(SMALL, machine(24))
    assert made.draft is not None
    assert ("gpu", "CUDA0", 17, ("CUDA0",)) == (
        made.tier,
        made.draft.device,
        made.draft.layout.gpu_layers,
        made.draft.layout.devices,
    )
    assert on(made, "CUDA0").weights == on(without, "CUDA0").weights + made.draft.on("CUDA0").weights
    assert on(made, CPU).weights == on(without, CPU).weights + made.draft.on(CPU).weights
    assert made.draft.on("CUDA0").weights + made.draft.on(CPU).weights >= DRAFT.weight_bytes
    assert on(made, "CUDA0").overhead == on(without, "CUDA0").overhead
    assert on(made, "CUDA0").total <= on(made, "CUDA0").budget
    assert made.shape.cells < without.shape.cells
    (note,) = [note for note in made.notes if "draft" in note]
    assert note.startswith("the draft model on CUDA0, ")
    assert note.endswith(": it guesses in contexts of up to 8,192 tokens")


def test_it_may_cost_a_few_layers_on_a_gpu_where_it_is_worth_more_than_they_are():
    made, without = planned(LARGE, machine(24)), alone(LARGE, machine(24))
    assert made.draft is not None
    assert ("layers", "layers", "CUDA0") == (made.tier, without.tier, made.draft.device)
    assert 0 < without.layout.gpu_layers - made.layout.gpu_layers <= 3


def test_it_lies_on_the_host_where_no_gpu_holds_all_of_it():
    made = planned(LARGE, machine(1))
    assert made.draft is not None
    assert (CPU, 0, ()) == (made.draft.device, made.draft.layout.gpu_layers, made.draft.layout.devices)


def test_without_a_gpu_it_lies_on_the_host():
    made, without = planned(SMALL, machine()), alone(SMALL, machine())
    assert made.draft is not None
    assert (CPU, made.threads) == (made.draft.device, made.draft.threads)
    assert made.total_bytes - without.total_bytes <= sum(share.total for share in made.draft.shares)
    assert made.draft.on(CPU).weights >= DRAFT.weight_bytes
    assert made.draft.on("CUDA0").total == 0


def test_no_layers_on_gpus_is_meant_for_the_draft_model_too():
    made = planned(SMALL, machine(24), gpu_layers=0)
    assert made.draft is not None
    assert ("cpu", CPU) == (made.tier, made.draft.device)


def test_a_gpu_that_nothing_else_is_on_leaves_the_model_its_pool():
    made = planned(SMALL, machine(8, 8))
    assert made.shape == alone(SMALL, machine(8, 8)).shape
    assert made.draft is not None
    assert ("gpu", "CUDA1") == (made.tier, made.draft.device)
    assert ["CUDA0", "CUDA1", CPU] == [share.device for share in made.shares]
    assert on(made, "CUDA1").budget >= on(made, "CUDA1").total > 0


def integrated(there, name):
    devices = tuple(replace(one, is_integrated=one.name == name) for one in there.devices)
    return replace(there, devices=devices)


def test_what_lies_on_an_integrated_gpu_is_taken_of_the_host_though_the_model_is_elsewhere():
    there = integrated(machine(24, 24, host_gib=64), "CUDA1")
    places = set()
    for quarters in range(4, 40):
        tight = replace(there, devices=(*there.gpus, replace(there.cpu, free_bytes=quarters * GIB // 4)))
        try:
            made = planned(SMALL, tight)
        except DoesNotFitError:
            continue
        host = on(made, CPU)
        assert host.total + sum(share.total for share in made.shares if share.device == "CUDA1") <= host.budget
        places.add(made.draft and made.draft.device)
    assert places >= {"CUDA0", "CUDA1"}


@pytest.mark.parametrize(
    "wishes", [{"is_single_gpu": True, "main_gpu": 0}, {"tensor_split": (1.0,)}, {"tensor_split": (1.0, 0.0)}]
)
def test_a_gpu_that_was_left_out_is_left_out_for_it_too(wishes):
    assert "CUDA1" not in [share.device for share in planned(SMALL, machine(8, 24), **wishes).shares]
    free = planned(SMALL, machine(8, 24), is_single_gpu=True, main_gpu=1)
    assert free.draft is not None
    assert "CUDA1" == free.draft.device


def test_room_is_made_for_it_on_a_gpu_that_its_model_does_not_use():
    said, there = Wishes(), machine(8, 8)
    room = room_of(there, SMALL.vocabulary, said, learned={"CUDA1": 5})
    placed, left = place_draft(SMALL, DRAFT, room, said)
    assert placed is not None
    assert "CUDA1" == placed.device
    choices = demands(SMALL, left, said)
    assert all(choice["CUDA1"] >= placed.on("CUDA1").total for choice in choices)
    assert {"CUDA0", "CUDA1", CPU} == set(choices[0])
    assert placed.on("CUDA1").total == choices[0]["CUDA1"]


def test_where_there_is_no_room_for_it_the_model_runs_without_and_that_is_told():
    tight = machine(host_gib=11)
    made, without = planned(SMALL, tight), alone(SMALL, tight)
    assert made.draft is None
    assert (*without.notes, "the draft model is not used: there is no room for it beside the model") == made.notes
    assert without == replace(made, notes=without.notes)


def test_a_model_that_does_not_fit_by_itself_is_told_as_ever():
    with pytest.raises(DoesNotFitError):
        planned(LARGE, machine(host_gib=16))
    with pytest.raises(ImpossibleWishError):
        planned(SMALL, machine(24), main_gpu=3)


@pytest.mark.parametrize(("asked", "cells"), [(None, 8192), (4096, 4096), (65_536, 65_536)])
def test_its_context_is_as_long_as_a_request_should_be_able_to_have(asked, cells):
    long = replace(SMALL, context_length=131_072)
    made = planned(long, machine(48), context_tokens=asked)
    assert made.draft is not None
    assert (cells, 1) == (made.draft.shape.cells, made.draft.shape.sequences)
    short = planned(long, machine(48), draft=replace(DRAFT, context_length=2000), context_tokens=asked)
    assert short.draft is not None
    assert 1792 == short.draft.shape.cells


def test_what_loads_took_beyond_the_plan_is_left_for_it_once():
    made = planned(SMALL, machine(24), learned={"CUDA0": GIB})
    assert GIB == on(made, "CUDA0").overhead


def test_llama_cpps_own_figures_of_the_model_do_not_hide_the_draft_model():
    made = planned(SMALL, machine(24))
    assert made.draft is not None
    measured = Measured(made.layout, made.shape, (BufferBytes("CUDA0", "CUDA0", 5, 6, 7),))
    own, share = made.draft.on("CUDA0"), on(confirmed(made, measured), "CUDA0")
    assert (5 + own.weights, 6 + own.context, 7 + own.compute) == (share.weights, share.context, share.compute)


@settings(deadline=None, max_examples=60)
@given(
    gpus=st.lists(st.sampled_from([1, 8, 12, 24, 48]), max_size=3),
    host_gib=st.integers(8, 128),
    estimated=st.sampled_from([SMALL, LARGE]),
    asked=st.sampled_from([{}, {"gpu_layers": 10}, {"parallel": 1}, {"context_tokens": 8192}]),
)
def test_on_every_machine_both_keep_to_the_budgets_and_a_model_that_fits_alone_still_runs(
    gpus, host_gib, estimated, asked
):
    there = machine(*gpus, host_gib=host_gib)
    try:
        without = alone(estimated, there, **asked)
    except DoesNotFitError:
        with pytest.raises(DoesNotFitError):
            planned(estimated, there, **asked)
        return
    made = planned(estimated, there, **asked)
    assert all(share.total <= share.budget for share in made.shares)
    assert all(share.overhead >= 0 for share in made.shares)
    assert made.shares[-1].device == CPU
    assert len({share.device for share in made.shares}) == len(made.shares)
    if made.draft is None:
        assert without.shares == made.shares
    else:
        there_is = {share.device: share for share in made.shares}
        assert all(there_is[own.device].total >= own.weights + own.context for own in made.draft.shares)
