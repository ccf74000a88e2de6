"""Sampling parameters to a chain of samplers: llama.cpp's order, and nothing that would change nothing."""

import pytest

from localllm.engine.sampling import Step, chain, history_window, is_greedy, uses_dry, uses_penalties
from localllm.generation import Options, Sampling, sampling_from


def test_the_defaults_are_ollamas():
    expected = (Step("top_k", (40,)), Step("top_p", (0.9, 1)), Step("temperature", (0.8,)), Step("draw", (7,)))
    assert expected == chain(Sampling(), 7, 4096)


def test_every_parameter_stands_in_llama_cpps_order():
    sampling = Sampling(
        temperature=1.0, top_k=5, top_p=0.5, min_p=0.1, typical_p=0.7, repeat_penalty=1.1, repeat_last_n=-1,
        presence_penalty=0.2, frequency_penalty=0.3, logit_bias=((1, 2.0),), dry_multiplier=0.8, dry_penalty_last_n=-1,
        top_n_sigma=1.5, xtc_probability=0.5, mirostat_tau=3.0,
    )  # fmt: skip
    expected = (
        Step("logit_bias"),
        Step("penalties", (4096, 1.1, 0.3, 0.2)),
        Step("dry", (0.8, 1.75, 2, 4096)),
        Step("top_n_sigma", (1.5,)),
        Step("top_k", (5,)),
        Step("typical", (0.7, 1)),
        Step("top_p", (0.5, 1)),
        Step("min_p", (0.1, 1)),
        Step("xtc", (0.5, 0.1, 1, 9)),
        Step("temperature", (1.0,)),
        Step("draw", (9,)),
    )
    assert expected == chain(sampling, 9, 4096)


@pytest.mark.parametrize(("version", "kind"), [(1, "mirostat"), (2, "mirostat_v2")])
def test_mirostat_stands_in_place_of_the_filters(version, kind):
    sampling = Sampling(mirostat=version, mirostat_eta=0.2, top_n_sigma=1.0, xtc_probability=1.0, presence_penalty=0.5)
    expected = (Step("penalties", (64, 1.0, 0.0, 0.5)), Step("temperature", (0.8,)), Step(kind, (7, 5.0, 0.2)))
    assert expected == chain(sampling, 7, 4096)


def test_xtc_that_could_drop_nothing_is_left_out():
    assert chain(Sampling(), 7, 4096) == chain(Sampling(xtc_probability=1.0, xtc_threshold=0.6), 7, 4096)


def test_temperature_zero_takes_the_likeliest_after_the_penalties():
    sampling = Sampling(temperature=0.0, repeat_penalty=1.3, mirostat=2, xtc_probability=1.0)
    assert (Step("penalties", (64, 1.3, 0.0, 0.0)), Step("greedy")) == chain(sampling, 1, 4096)


def test_the_likeliest_needs_no_chain():
    assert is_greedy(Sampling(temperature=0.0))
    assert is_greedy(Sampling(top_k=1))
    assert is_greedy(Sampling(temperature=0.0, presence_penalty=0.5))
    assert not is_greedy(Sampling())
    assert not is_greedy(Sampling(temperature=0.0, dry_multiplier=0.8))
    assert not is_greedy(Sampling(top_k=1, mirostat=2))


def test_penalties_over_no_tokens_are_none():
    assert not uses_penalties(Sampling(repeat_penalty=1.3, repeat_last_n=0))


def test_a_repeat_penalty_of_zero_is_none_and_none_is_so_small_that_logits_become_infinite():
    penalties = [sampling_from(Options(repeat_penalty=said)).repeat_penalty for said in (0.0, 1e-30, 1.2, None)]
    assert [1.0, 0.01, 1.2, 1.0] == penalties


def test_dry_over_no_tokens_is_off():
    assert uses_dry(Sampling(dry_multiplier=0.8))
    assert not uses_dry(Sampling(dry_multiplier=0.8, dry_penalty_last_n=0))


def test_the_past_is_as_long_as_the_longest_penalty_looks_back():
    assert 0 == history_window(Sampling(), 4096)
    assert 64 == history_window(Sampling(repeat_penalty=1.1, dry_penalty_last_n=500), 4096)
    assert 500 == history_window(Sampling(repeat_penalty=1.1, dry_multiplier=0.8, dry_penalty_last_n=500), 4096)
    assert 4096 == history_window(Sampling(dry_multiplier=0.8, dry_penalty_last_n=-1), 4096)
