"""Which quantisation is taken for a machine, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from published_plans import machine
from real_shapes import SHAPES

from localllm.errors import DoesNotFitError, ImpossibleWishError
from localllm.placement.budgets import room_of
from localllm.placement.estimate import estimate
from localllm.placement.quant import Quant, largest_quant
from localllm.placement.wishes import Wishes

BITS = {"Q2_K": 2.95, "Q3_K_M": 3.95, "IQ4_XS": 4.3, "Q4_K_M": 4.85, "Q5_K_M": 5.7, "Q6_K": 6.6, "Q8_0": 8.5, "F16": 16}
ESTIMATES = {name: estimate(SHAPES[name].header("Q4_K_M")) for name in ("llama3-8b", "llama3-70b", "qwen3-30b-a3b")}


def quant(name: str, label: str) -> Quant:
    return Quant(label, int(ESTIMATES[name].weight_bytes * BITS[label] / BITS["Q4_K_M"]))


def chosen(name: str, *cards: int, host_gib: int = 64, **wishes) -> tuple[str, str]:
    said, estimated = Wishes(**wishes), replace(ESTIMATES[name], context_length=32_768)
    others = [quant(name, label) for label in BITS if label != "Q4_K_M"]
    room = room_of(machine(*cards, host_gib=host_gib), estimated.vocabulary, said)
    taken, why = largest_quant(estimated, quant(name, "Q4_K_M"), others, room, said)
    return taken.label, why


@pytest.mark.parametrize(
    ("name", "cards", "label", "how"),
    [
        ("llama3-8b", (8,), "Q6_K", "the largest that lies whole on CUDA0"),
        ("llama3-8b", (12,), "Q8_0", "the largest that lies whole on CUDA0"),
        ("llama3-8b", (24,), "F16", "the largest that lies whole on CUDA0"),
        ("llama3-70b", (24, 24), "Q4_K_M", "the largest that lies whole on CUDA0 and CUDA1"),
        ("llama3-70b", (80,), "Q8_0", "the largest that lies whole on CUDA0"),
        ("llama3-70b", (24,), "Q4_K_M", "of which some layers lie on CUDA0"),
        ("qwen3-30b-a3b", (16,), "Q4_K_M", "of which only experts are not on CUDA0"),
        ("qwen3-30b-a3b", (24,), "Q5_K_M", "the largest that lies whole on CUDA0"),
    ],
)
def test_on_gpus_the_largest_is_taken_that_runs_well_there(name, cards, label, how):
    taken, why = chosen(name, *cards)
    assert (label, True) == (taken, f", {how}: it needs about " in why), why


@pytest.mark.parametrize(("host_gib", "label"), [(32, "F16"), (16, "Q8_0"), (12, "Q6_K"), (9, "Q2_K")])
def test_without_a_gpu_the_largest_that_fits_into_main_memory_is_taken(host_gib, label):
    taken, why = chosen("llama3-8b", host_gib=host_gib)
    assert (label, True) == (taken, ", the largest that fits: it needs about " in why), why


def test_why_it_was_taken_is_said_with_the_figures_and_what_else_there_is():
    _, why = chosen("llama3-8b", 8)
    assert why.startswith("taking Q6_K (6.7 GB), the largest that lies whole on CUDA0: it needs about ")
    assert " of CUDA0, of which " in why
    assert "; too large: F16 (16 GB) would have layers in host memory, Q8_0" in why
    assert why.endswith("; smaller: Q5_K_M (5.8 GB), Q4_K_M (4.9 GB), IQ4_XS (4.4 GB), Q3_K_M (4 GB) and 1 more")


def test_of_many_that_are_too_large_the_nearest_are_named():
    _, why = chosen("llama3-8b", host_gib=9)
    assert "; too large: Q5_K_M (5.8 GB) lacks " in why
    assert "Q3_K_M (4 GB) lacks " in why
    assert why.endswith(" and 3 more")


def test_a_gpu_that_does_not_hold_one_layer_is_as_good_as_none():
    taken, why = chosen("llama3-8b", 1)
    assert ("F16", True) == (taken, ", the largest that fits: it needs about " in why), why
    taken, why = chosen("llama3-8b", 1, host_gib=12)
    assert "Q6_K" == taken
    assert "host memory" not in why


def test_a_context_that_is_wanted_counts():
    assert "Q8_0" == chosen("llama3-8b", 12)[0]
    assert "Q6_K" == chosen("llama3-8b", 12, context_tokens=32_768)[0]


def test_a_gpu_that_is_not_wanted_does_not_count():
    assert "F16" == chosen("llama3-8b", 8, gpu_layers=0)[0]


def test_when_nothing_fits_the_smallest_is_named_with_what_it_lacks():
    with pytest.raises(DoesNotFitError) as caught:
        chosen("llama3-70b", host_gib=16)
    assert caught.value.message.startswith("no quant of it fits: Q2_K (26 GB) lacks ")
    assert "that may be used" in caught.value.message
    assert "a smaller model" in (caught.value.hint or "")


def test_a_wish_that_cannot_be_is_refused_and_no_quant_is_taken_for_it():
    with pytest.raises(ImpossibleWishError):
        chosen("llama3-8b", 8, main_gpu=3)
