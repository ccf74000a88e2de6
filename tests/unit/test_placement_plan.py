"""Plans: the published cases, what was said, what cannot be, and what holds for every machine."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_plans import GIB, GOLDEN, machine, table
from real_shapes import SHAPES

from localllm.errors import DoesNotFitError, ImpossibleWishError
from localllm.placement.alternatives import alternatives_to
from localllm.placement.budgets import room_of, with_moved
from localllm.placement.devices import Device, Machine
from localllm.placement.estimate import estimate
from localllm.placement.layout import TensorOverride
from localllm.placement.overrides import overridden
from localllm.placement.plan import plan
from localllm.placement.wishes import ALL_EXPERTS, Wishes
from localllm.sizes import Reserve

ESTIMATES = {
    (name, quant): estimate(SHAPES[name].header(quant))
    for name, quant in (
        ("llama3-8b", "Q4_K_M"),
        ("llama3-70b", "Q4_K_M"),
        ("qwen3-30b-a3b", "Q4_K_M"),
        ("gpt-oss-20b", "MXFP4"),
        ("gpt-oss-120b", "MXFP4"),
    )
}
SMALL, LARGE, MIXTURE = (
    ESTIMATES[key] for key in (("llama3-8b", "Q4_K_M"), ("llama3-70b", "Q4_K_M"), ("qwen3-30b-a3b", "Q4_K_M"))
)


def planned(estimated, there: Machine, **wishes):
    said = Wishes(**wishes)
    return plan(estimated, room_of(there, estimated.vocabulary, said), said)


def test_the_plans_of_the_published_cases_are_those_that_were_reviewed():
    assert GOLDEN.read_text(encoding="utf-8") == "\n".join(table())


def test_a_number_of_layers_that_was_said_holds():
    said = planned(SMALL, machine(24), gpu_layers=20)
    assert (20, "layers", "") == (said.layout.gpu_layers, said.tier, said.fallback)
    assert "20 of 33 layers on CUDA0, the others on the CPU: as asked for" == said.reason
    assert ("cpu", "all 33 layers on the CPU: as asked for", "") == (
        (none := planned(SMALL, machine(24), gpu_layers=0)).tier,
        none.reason,
        none.fallback,
    )
    assert 33 == planned(SMALL, machine(24), gpu_layers=999).layout.gpu_layers


def test_a_number_of_layers_that_does_not_fit_is_refused_with_the_number_that_does():
    with pytest.raises(DoesNotFitError) as caught:
        planned(LARGE, machine(24), gpu_layers=81)
    assert "CUDA0 would hold" in caught.value.message
    assert caught.value.missing_bytes > 15 * GIB
    assert caught.value.hint is not None
    assert "num_gpu 43;" in caught.value.hint
    fewer = planned(LARGE, machine(24), gpu_layers=43)
    assert (43, (f"a pool of {fewer.shape.cells:,} cells: more does not fit",)) == (
        fewer.layout.gpu_layers,
        fewer.notes,
    )


def test_without_a_gpu_what_was_said_of_gpus_has_no_effect_and_that_is_told():
    said = planned(SMALL, machine(), gpu_layers=33, main_gpu=1, tensor_split=(1.0, 1.0))
    assert ("cpu", 0) == (said.tier, said.layout.gpu_layers)
    assert (
        "num_gpu 33 has no effect: no GPU is used here",
        "main_gpu 1 has no effect: no GPU is used here",
        "tensor_split has no effect: no GPU is used here",
    ) == said.notes


def test_a_context_that_was_said_is_what_one_request_can_have_or_it_is_refused_with_one_that_fits():
    assert planned(SMALL, machine(8), context_tokens=8192).shape.cells >= 8192
    long = replace(SMALL, context_length=131_072)
    assert planned(long, machine(24), context_tokens=65_536).shape.cells >= 65_536
    with pytest.raises(DoesNotFitError) as caught:
        planned(long, machine(16, host_gib=16), context_tokens=131_072, gpu_layers=33)
    assert caught.value.hint is not None
    offered = re.search(r"a context of ([\d,]+) tokens", caught.value.hint)
    assert offered is not None
    tokens = int(offered[1].replace(",", ""))
    assert 65_536 < tokens < 131_072
    assert tokens == planned(long, machine(16), context_tokens=tokens, gpu_layers=33).shape.cells
    assert "keys and values as q8_0" in caught.value.hint


def test_a_stream_for_each_request_holds_the_context_that_was_said():
    said = planned(SMALL, machine(24), context_tokens=4096, kv_layout="streams", parallel=4)
    assert (False, 4) == (said.shape.is_unified, said.shape.sequences)
    assert said.shape.stream_cells >= 4096


def test_shares_and_the_main_gpu_hold():
    said = planned(SMALL, machine(24, 24), tensor_split=(3.0, 1.0))
    assert (("CUDA0", "CUDA1"), (25.0, 8.0)) == (said.layout.devices, said.layout.tensor_split)
    assert ("CUDA1",) == planned(SMALL, machine(24, 24), main_gpu=1).layout.devices
    assert ("CUDA1",) == planned(SMALL, machine(24, 24), tensor_split=(0.0, 1.0)).layout.devices


def test_one_gpu_is_used_where_no_other_may_be():
    said = planned(LARGE, machine(24, 24), is_single_gpu=True)
    assert (1, "layers") == (len(said.layout.devices), said.tier)


def test_experts_stay_in_host_memory_as_was_said():
    said = planned(MIXTURE, machine(24), cpu_experts=ALL_EXPERTS)
    assert ("experts", 48, 49) == (said.tier, len(said.layout.overrides), said.layout.gpu_layers)
    assert (TensorOverride(r"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU"), "") == (
        said.layout.overrides[0],
        said.fallback,
    )
    assert 5 == len(planned(MIXTURE, machine(24), cpu_experts=5).layout.overrides)
    assert "gpu" == planned(SMALL, machine(24), cpu_experts=ALL_EXPERTS).tier


def test_attention_leaves_a_gpu_only_when_all_experts_have():
    some, all_ = planned(MIXTURE, machine(8)), planned(MIXTURE, tiny_gpu(2))
    assert ("experts", "layers") == (some.tier, all_.tier)
    assert len(some.layout.overrides) < 48 == len(all_.layout.overrides)


def tiny_gpu(gib: float) -> Machine:
    there = machine(8)
    card = replace(there.gpus[0], total_bytes=int(gib * GIB), free_bytes=int(gib * GIB))
    return replace(there, devices=(card, there.cpu))


def test_keys_and_values_are_kept_in_fewer_bits_only_where_that_is_allowed_and_keeps_more_on_a_gpu():
    long = replace(SMALL, context_length=65_536)
    usual = planned(long, machine(12), context_tokens=65_536)
    small = planned(long, machine(12), context_tokens=65_536, may_quantize_cache=True)
    assert ("layers", "f16") == (usual.tier, usual.shape.k_type)
    assert ("gpu", "q8_0", "q8_0") == (small.tier, small.shape.k_type, small.shape.v_type)
    assert ("keys and values as q8_0: that keeps more of the model on a GPU",) == small.notes
    assert "f16" == planned(SMALL, machine(24), may_quantize_cache=True).shape.k_type


@pytest.mark.parametrize(
    ("cards", "wishes", "says"),
    [
        ((24,), {"main_gpu": 1}, "main_gpu 1: there is one GPU, counted from 0 (CUDA0)"),
        ((24,), {"tensor_split": (1.0, 1.0)}, "tensor_split has 2 shares for one GPU (CUDA0)"),
        ((24, 24), {"tensor_split": (1.0, 1.0), "is_single_gpu": True}, "split_mode none forbids that"),
        ((), {"flash_attention": "off", "v_type": "q8_0"}, "values as q8_0 need flash attention"),
        ((), {"overrides": (TensorOverride("output", "CUDA7"),)}, "the devices are CPU"),
    ],
)
def test_a_wish_that_nothing_fulfils_is_refused_with_what_there_is(cards, wishes, says):
    with pytest.raises(ImpossibleWishError) as caught:
        planned(SMALL, machine(*cards), **wishes)
    assert says in caught.value.message


def test_a_latent_that_is_keys_and_values_has_one_type():
    memories = tuple(replace(one, caches=(replace(one.caches[0], value_elements=0),)) for one in SMALL.memories)
    latent = replace(SMALL, memories=memories)
    with pytest.raises(ImpossibleWishError) as caught:
        planned(latent, machine(24), k_type="q8_0")
    assert "keys as q8_0 and values as f16: this model keeps one latent for both" in caught.value.message
    assert "q8_0" == planned(latent, machine(24), k_type="q8_0", v_type="q8_0").shape.v_type
    assert "q8_0" == planned(SMALL, machine(24), k_type="q8_0").shape.k_type


def test_tensors_that_were_told_where_to_lie_count_there():
    header = SHAPES["llama3-8b"].header("Q4_K_M")
    moved = (TensorOverride(r"blk\.[01]\.ffn_", "CPU"), TensorOverride("^output", "CUDA1"))
    changed, beside = overridden(SMALL, header, moved)
    ffn = sum(tensor.size_bytes for tensor in header.tensors if re.match(r"blk\.[01]\.ffn_", tensor.name))
    assert SMALL.embedding_bytes + ffn == changed.embedding_bytes
    assert (0, {"CUDA1": SMALL.output_bytes}) == (changed.output_bytes, beside)
    wishes = Wishes(overrides=moved)
    room = with_moved(room_of(machine(24, 24), SMALL.vocabulary, wishes), beside)
    made = plan(changed, room, wishes)
    assert made.layout.overrides == moved
    assert made.shares[-1].weights == changed.embedding_bytes
    assert (("CUDA0", "CUDA1"), (33.0, 0.0)) == (made.layout.devices, made.layout.tensor_split)
    assert SMALL.output_bytes == made.bytes_by_device()["CUDA1"]


def test_a_reserve_stays_free_but_of_a_host_that_is_nearly_full_a_quarter():
    there = machine(24)
    full = replace(there.cpu, free_bytes=GIB)
    wishes = Wishes(reserve=Reserve(0.1, GIB))
    budgets = room_of(replace(there, devices=(there.gpus[0], full)), 0, wishes).budgets
    assert {"CUDA0": there.gpus[0].free_bytes - int(2.4 * GIB) - GIB, "CPU": 3 * GIB // 4} == budgets
    empty = replace(there.gpus[0], free_bytes=GIB)
    assert 0 == room_of(replace(there, devices=(empty, there.cpu)), 0, wishes).budgets["CUDA0"]


def test_a_model_that_nothing_holds_is_refused_with_the_bytes_that_are_missing_and_what_would_fit():
    with pytest.raises(DoesNotFitError) as caught:
        planned(LARGE, machine(host_gib=32))
    budget = room_of(machine(host_gib=32), 0, Wishes()).budgets["CPU"]
    needed = LARGE.weight_bytes + budget
    assert 0 < caught.value.missing_bytes < needed
    assert caught.value.hint is not None
    assert re.match(r"what would fit: I?Q2_\w+ instead of 4.8 bits per weight \(2\d GB\); ", caught.value.hint)
    assert caught.value.hint.endswith("(use_mmap true)")


def test_weights_may_be_read_from_the_disk_where_use_mmap_was_asked_for():
    said = planned(LARGE, machine(host_gib=32), use_mmap=True)
    assert "cpu" == said.tier
    assert (
        "a pool of 6,400 cells: in host memory it takes 2.1 GB at most",
        "weights that do not fit in host memory are read from the disk again and again, as use_mmap asks",
    ) == said.notes


def test_weights_that_may_stay_on_the_disk_are_not_missing():
    full = machine(24, host_gib=32)
    full = replace(full, devices=(replace(full.gpus[0], free_bytes=GIB), full.cpu))
    with pytest.raises(DoesNotFitError) as caught:
        planned(LARGE, full, use_mmap=True, gpu_layers=4)
    assert caught.value.missing_bytes < 5 * GIB
    assert "CPU" not in caught.value.message


def test_where_no_layer_fits_on_gpus_but_the_host_holds_all_that_is_said():
    full = machine(24, 8)
    full = replace(full, devices=(*(replace(gpu, free_bytes=0) for gpu in full.gpus), full.cpu))
    with pytest.raises(DoesNotFitError) as caught:
        planned(SMALL, full, gpu_layers=33)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("what would fit: num_gpu 0")
    assert "cpu" == planned(SMALL, full, gpu_layers=0).tier


def on_integrated(there: Machine) -> Machine:
    return replace(there, devices=tuple(replace(one, is_integrated=one.kind == "gpu") for one in there.devices))


@pytest.mark.parametrize("wishes", [{}, {"shares_machine": False}])
def test_a_pool_on_an_integrated_gpu_grows_as_on_another_within_what_the_host_has(wishes):
    there = machine(24, host_gib=192)
    apart, integrated = (planned(SMALL, one, **wishes) for one in (there, on_integrated(there)))
    assert apart.shape == integrated.shape
    assert apart.shape.cells > 8192
    tight = machine(24, host_gib=16)
    bound = planned(SMALL, on_integrated(tight), **wishes)
    assert ("gpu", True) == (bound.tier, bound.shape.cells < apart.shape.cells)
    assert sum(share.total for share in bound.shares) <= bound.shares[-1].budget


def test_of_equal_gpus_one_with_memory_of_its_own_is_taken():
    there = machine(24, 24)
    first = replace(there.gpus[0], is_integrated=True)
    assert ("CUDA1",) == planned(SMALL, replace(there, devices=(first, there.gpus[1], there.cpu))).layout.devices


def test_of_equal_gpus_the_one_with_most_room_is_taken():
    there = machine(24, 24, 24)
    for most in (0, 1, 2):
        free = [8 * GIB] * 3
        free[most] = 20 * GIB
        gpus = [replace(gpu, free_bytes=size) for gpu, size in zip(there.gpus, free, strict=True)]
        for wishes in ({}, {"is_single_gpu": True}):
            made = planned(SMALL, replace(there, devices=(*gpus, there.cpu)), **wishes)
            assert (f"CUDA{most}",) == made.layout.devices


def test_what_else_could_be_done_leaves_out_the_quantisation_that_the_model_has():
    room = room_of(machine(24), SMALL.vocabulary, Wishes())
    heavier = replace(SMALL, output_bytes=SMALL.output_bytes * 3)  # more bits in the mean than its name tells
    assert ["Q4_K_M", "Q6_K"] == [one.label for one in alternatives_to(heavier, room, Wishes())[:2]]
    assert ["Q3_K_M", "Q6_K"] == [one.label for one in alternatives_to(heavier, room, Wishes(), own="Q4_K_M")[:2]]


def test_a_file_whose_weights_the_cpu_keeps_in_a_layout_of_its_own_is_read_and_not_mapped_as_well():
    assert not planned(SMALL, machine()).layout.use_mmap
    assert planned(SMALL, machine(), use_mmap=True).layout.use_mmap
    assert planned(SMALL, machine(), use_extra_buffers=False).layout.use_mmap
    assert planned(SMALL, machine(24)).layout.use_mmap
    eight_bits, with_amx = estimate(SHAPES["llama3-8b"].header("Q8_0")), replace(machine().host, has_amx=True)
    assert planned(eight_bits, machine()).layout.use_mmap
    assert not planned(eight_bits, replace(machine(), host=with_amx)).layout.use_mmap


def test_a_machine_without_a_gpu_keeps_its_pool_small_and_uses_its_cores():
    said = planned(SMALL, machine())
    assert (2 * GIB, 16, 0) == (said.shares[-1].context, said.threads, said.layout.gpu_layers)
    assert (8, False) == (said.shape.sequences, said.shape.is_unified)


def test_matrices_that_a_gpu_reads_from_host_memory_keep_their_usual_layout():
    assert not planned(MIXTURE, machine(8)).layout.use_extra_buffers
    assert planned(MIXTURE, machine()).layout.use_extra_buffers


CARDS = st.lists(st.sampled_from([6, 8, 12, 16, 24, 48, 80]), max_size=4)
BANDWIDTHS = st.sampled_from([None, 200e9, 500e9, 1000e9])
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "parallel": st.integers(1, 16),
        "context_tokens": st.sampled_from([2048, 8192, 32_768]),
        "cpu_experts": st.sampled_from([0, 4, ALL_EXPERTS]),
        "may_quantize_cache": st.booleans(),
        "is_single_gpu": st.booleans(),
        "reserve": st.sampled_from([Reserve(), Reserve(0.0, 0), Reserve(0.2, GIB)]),
    },
)


@st.composite
def machines(draw) -> Machine:
    cards = draw(CARDS)
    there = machine(host_gib=draw(st.sampled_from([96, 192])))
    gpus = [
        Device("gpu", f"CUDA{at}", total_bytes=gib * GIB, free_bytes=int(gib * GIB * draw(st.floats(0.2, 1.0))),
               bandwidth_bytes_per_second=draw(BANDWIDTHS), flops=50e12, link_bytes_per_second=12e9, backend="CUDA")
        for at, gib in enumerate(cards)
    ]  # fmt: skip
    return replace(there, devices=(*gpus, there.cpu))


def outcome(estimated, there: Machine, wishes: dict):
    try:
        return planned(estimated, there, **wishes)
    except DoesNotFitError:
        return None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(ESTIMATES.values())), machines(), WISHES)
def test_no_plan_takes_more_than_a_device_has_and_all_of_the_model_lies_somewhere(estimated, there, wishes):
    made = outcome(estimated, there, wishes)
    if made is None:
        return
    free = {device.name: device.free_bytes for device in there.devices}
    for share in made.shares:
        assert share.total <= share.budget <= free[share.device]
    beside = estimated.packing_bytes if made.layout.gpu_layers == 0 else estimated.tied_output_bytes
    assert estimated.weight_bytes + beside == sum(share.weights for share in made.shares)
    assert made.layers == sum(share.layers for share in made.shares)
    assert made.shape.cells >= 4096
    assert made == outcome(estimated, there, wishes)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(ESTIMATES.values())), machines(), WISHES, st.integers(0, 4), st.integers(1, 40))
def test_more_memory_never_gives_a_slower_plan(estimated, there, wishes, which, more):
    device = there.devices[which % len(there.devices)]
    larger = replace(device, total_bytes=device.total_bytes + more * GIB, free_bytes=device.free_bytes + more * GIB)
    grown = replace(there, devices=tuple(larger if one is device else one for one in there.devices))
    before, after = outcome(estimated, there, wishes), outcome(estimated, grown, wishes)
    if before is not None:
        assert after is not None
        assert before.speed.decode <= after.speed.decode * 1.0001
