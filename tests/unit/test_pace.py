"""The pace: how many prompt tokens a step may compute beside running streams, learnt from durations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.pace import LEAST_TOKENS, MEASURE_EVERY, PAUSE_SECONDS, PAUSE_TOKENS, UNMEASURED_TOKENS, Pace


def measured(decode_seconds, prompt_token_seconds, batch_tokens=512, stretch=2.0):
    pace = Pace(batch_tokens, stretch)
    pace.observe(1, 0, decode_seconds)
    pace.observe(0, 100, 100 * prompt_token_seconds)
    return pace


def test_nothing_measured_allows_a_moderate_number():
    assert UNMEASURED_TOKENS == Pace(512).budget()
    assert 32 == Pace(32).budget()


def test_one_of_the_two_costs_alone_does_not_tell():
    only_decode, only_prompt = Pace(512), Pace(512)
    only_decode.observe(4, 0, 0.1)
    only_prompt.observe(0, 100, 0.1)
    assert [UNMEASURED_TOKENS] * 2 == [only_decode.budget(), only_prompt.budget()]


@pytest.mark.parametrize(("stretch", "tokens"), [(1.5, 50), (2.0, 100), (3.0, 200)])
def test_prompt_tokens_may_take_what_the_stretch_leaves(stretch, tokens):
    assert tokens == pytest.approx(measured(0.1, 0.001, stretch=stretch).budget(), abs=1)


def test_a_fast_device_gets_whole_batches():
    assert 512 == measured(0.1, 0.1 / 512).budget()


def test_a_prompt_always_moves_on():
    assert [LEAST_TOKENS] * 2 == [measured(0.1, 1.0).budget(), measured(0.1, 0.001, stretch=1.0).budget()]


def test_a_prompt_token_costs_what_a_mixed_step_takes_longer_than_decoding_alone():
    pace = Pace(512)
    pace.observe(4, 0, 0.1)
    pace.observe(4, 100, 0.3)
    assert 0.002 == pytest.approx(pace.prompt_token_seconds)
    assert 50 == pytest.approx(pace.budget(), abs=1)


def test_a_moderate_prompt_gets_larger_parts():
    pace = measured(0.01, 0.001)
    assert [10, 10, 30, PAUSE_TOKENS, PAUSE_TOKENS] == [
        pytest.approx(pace.budget(tokens), abs=1) for tokens in (0, 1, 30, PAUSE_TOKENS, 500)
    ]


def test_its_parts_are_no_longer_than_a_bearable_pause():
    token_seconds = PAUSE_SECONDS / 32
    assert 32 == pytest.approx(measured(10 * token_seconds, token_seconds).budget(500), abs=1)


def test_a_moderate_prompt_takes_nothing_from_a_larger_budget():
    assert 100 == pytest.approx(measured(0.1, 0.001).budget(5), abs=1)


def test_too_few_prompt_tokens_measure_nothing():
    pace = Pace(512)
    pace.observe(0, LEAST_TOKENS - 1, 1.0)
    assert pace.prompt_token_seconds is None
    pace.observe(0, LEAST_TOKENS, 1.0)
    assert 1.0 / LEAST_TOKENS == pace.prompt_token_seconds


def test_a_mixed_step_faster_than_decoding_alone_costs_nothing():
    pace = Pace(512)
    pace.observe(4, 0, 0.5)
    pace.observe(4, 100, 0.4)
    assert 0.0 == pace.prompt_token_seconds
    assert 512 == pace.budget()


def test_the_newest_measurement_counts_a_quarter():
    pace = measured(0.1, 0.001)
    pace.observe(0, 100, 100 * 0.005)
    assert 0.002 == pytest.approx(pace.prompt_token_seconds)


def test_one_slow_step_is_forgotten_in_time():
    pace = measured(0.1, 0.001)
    pace.observe(1, 0, 10.0)
    for _ in range(40):
        pace.observe(1, 0, 0.1)
    assert 100 == pytest.approx(pace.budget(), abs=2)


def test_every_so_often_a_step_decodes_alone_to_be_measured():
    pace = measured(0.1, 0.001)
    budgets = []
    for _ in range(2 * MEASURE_EVERY + 2):
        budgets.append(pace.budget())
        pace.observe(1, budgets[-1], 0.1 + 0.001 * budgets[-1])
    assert [MEASURE_EVERY, 2 * MEASURE_EVERY + 1] == [step for step, budget in enumerate(budgets) if budget == 0]


def test_steps_of_prompts_alone_do_not_ask_for_a_measurement():
    pace = measured(0.1, 0.001)
    for _ in range(2 * MEASURE_EVERY):
        pace.observe(0, 100, 0.1)
    assert 0 < pace.budget()


steps = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 512), st.floats(0, 100)), max_size=80)


@given(steps, st.integers(LEAST_TOKENS, 512), st.floats(1, 10), st.integers(1, 1000))
def test_the_budget_is_nothing_or_between_the_least_and_the_batch(durations, batch_tokens, stretch, tokens):
    pace = Pace(batch_tokens, stretch)
    for decode_rows, prompt_rows, seconds in durations:
        pace.observe(decode_rows, prompt_rows, seconds)
        assert pace.budget(tokens) == 0 or LEAST_TOKENS <= pace.budget(tokens) <= batch_tokens
