"""Sampling parameters to a chain of samplers: llama.cpp's order, and nothing that would change nothing."""

from localllm.engine.sampling import Step, chain, is_plain_greedy, uses_penalties
from localllm.generation import Sampling


def test_the_defaults_are_ollamas():
    expected = (Step("top_k", (40,)), Step("top_p", (0.9, 1)), Step("temperature", (0.8,)), Step("draw", (7,)))
    assert expected == chain(Sampling(), 7, 4096)


def test_every_parameter_stands_in_llama_cpps_order():
    sampling = Sampling(
        temperature=1.0, top_k=5, top_p=0.5, min_p=0.1, typical_p=0.7, repeat_penalty=1.1, repeat_last_n=-1,
        presence_penalty=0.2, frequency_penalty=0.3, logit_bias=((1, 2.0),),
    )  # fmt: skip
    expected = (
        Step("logit_bias"),
        Step("penalties", (4096, 1.1, 0.3, 0.2)),
        Step("top_k", (5,)),
        Step("typical", (0.7, 1)),
        Step("top_p", (0.5, 1)),
        Step("min_p", (0.1, 1)),
        Step("temperature", (1.0,)),
        Step("draw", (9,)),
    )
    assert expected == chain(sampling, 9, 4096)


def test_temperature_zero_takes_the_likeliest_after_the_penalties():
    sampling = Sampling(temperature=0.0, repeat_penalty=1.3)
    assert (Step("penalties", (64, 1.3, 0.0, 0.0)), Step("greedy")) == chain(sampling, 1, 4096)


def test_plain_greedy_needs_no_chain():
    assert is_plain_greedy(Sampling(temperature=0.0))
    assert is_plain_greedy(Sampling(top_k=1))
    assert not is_plain_greedy(Sampling(temperature=0.0, presence_penalty=0.5))
    assert not is_plain_greedy(Sampling())


def test_penalties_over_no_tokens_are_none():
    assert not uses_penalties(Sampling(repeat_penalty=1.3, repeat_last_n=0))
