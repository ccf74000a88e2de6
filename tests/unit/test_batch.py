"""The batch planner: decode rows first, prompts in the rest of the budget in the order of service, nobody starves."""

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.batch import (
    ENOUGH_ROWS,
    SECONDS_PER_CLASS,
    BatchPlan,
    Claim,
    Load,
    Share,
    may_admit,
    plan_batch,
    service_order,
)

DECODING = Load(to_compute=1, cells=10)


def plan(active, batch_tokens=16, late_tokens=None, free_cells=1000):
    return plan_batch(active, batch_tokens, batch_tokens if late_tokens is None else late_tokens, free_cells)


def counts(planned):
    return {share.index: share.count for share in planned.shares}


def test_decode_rows_come_before_an_older_prefill():
    assert BatchPlan((), (Share(1, 1), Share(2, 1), Share(0, 14))) == plan([Load(100, 0), DECODING, DECODING])


def test_short_prompts_of_several_requests_join_one_batch():
    assert {0: 5, 1: 6, 2: 5} == counts(plan([Load(5, 0), Load(6, 0), Load(7, 0)]))


def test_the_newest_gives_its_cells_when_the_decode_rows_do_not_fit():
    assert BatchPlan((2,), (Share(0, 1), Share(1, 1))) == plan([DECODING, DECODING, DECODING], free_cells=2)


def test_the_lowest_class_gives_its_cells_before_a_newer_one_of_a_better_class():
    batch = Load(to_compute=1, cells=10, claim=Claim(priority=2))
    assert (1,) == plan([DECODING, batch, DECODING], free_cells=2).preempt


def test_a_prefill_takes_what_the_pool_has_left():
    assert {0: 1, 1: 10} == counts(plan([DECODING, Load(100, 50)], batch_tokens=64, free_cells=11))


def test_a_prompt_is_cut_where_its_state_is_to_be_saved():
    assert {0: 7} == counts(plan([Load(100, 0, most=7)]))


def test_late_prompts_share_the_smaller_budget_and_others_do_not():
    late = Load(100, 0, is_late=True)
    assert {0: 1, 1: 4} == counts(plan([DECODING, late], late_tokens=4))
    assert {0: 1, 1: 4, 2: 11} == counts(plan([DECODING, late, Load(100, 0)], late_tokens=4))


def test_a_late_prompt_gets_the_whole_step_when_nobody_streams():
    assert {0: 16} == counts(plan([Load(100, 0, is_late=True)], late_tokens=0))


def test_a_better_class_is_served_before_a_shorter_prompt_of_a_lower_one():
    assert [1, 0] == service_order([Claim(priority=1), Claim(priority=0)], [10, 1000])


def test_the_client_that_was_given_less_is_served_first():
    assert [1, 0] == service_order([Claim(client_tokens=5000), Claim(client_tokens=0)], [10, 1000])


def test_the_shortest_rest_is_served_first_until_a_longer_one_has_waited_long_enough():
    assert [1, 0] == service_order([Claim(), Claim()], [1000, 10])
    assert [0, 1] == service_order([Claim(waited_seconds=6), Claim()], [1000, 10])


def test_waiting_lifts_a_request_over_a_better_class():
    claims = [Claim(priority=2, waited_seconds=3 * SECONDS_PER_CLASS), Claim(priority=0)]
    assert [0, 1] == service_order(claims, [1000, 10])


def test_nothing_is_admitted_that_would_cause_a_preemption_at_once():
    assert may_admit([], needed_cells=100, free_cells=100)
    assert may_admit([DECODING], needed_cells=10, free_cells=13)
    assert not may_admit([DECODING], needed_cells=10, free_cells=12)


claims = st.builds(Claim, st.integers(0, 2), st.floats(0, 1e6), st.floats(0, 1e4))
loads = st.lists(
    st.builds(Load, st.integers(1, 50), st.integers(0, 50), claims, st.integers(0, 9), st.booleans()),
    min_size=1,
    max_size=12,
)


@given(loads, st.integers(12, 64), st.integers(0, 64), st.integers(0, 100))
def test_a_plan_keeps_to_its_budgets_and_the_pool(active, batch_tokens, late_tokens, free_cells):
    planned = plan(active, batch_tokens, late_tokens, free_cells)
    kept = [index for index in range(len(active)) if index not in planned.preempt]
    freed = sum(active[index].cells for index in planned.preempt)
    total = sum(share.count for share in planned.shares)
    assert total <= min(batch_tokens, free_cells + freed)
    assert all(1 <= share.count <= active[share.index].to_compute for share in planned.shares)
    assert all(share.count <= (active[share.index].most or share.count) for share in planned.shares)
    assert len({share.index for share in planned.shares}) == len(planned.shares)
    assert set(kept) >= {share.index for share in planned.shares}
    assert total > 0 or free_cells + freed == 0
    streams = [index for index in kept if active[index].to_compute == 1]
    late = sum(share.count for share in planned.shares if active[share.index].is_late and share.index not in streams)
    assert late <= late_tokens or not streams


@given(loads, st.integers(12, 64), st.integers(0, 100))
def test_every_stream_that_keeps_its_cells_gets_its_token_in_every_step(active, batch_tokens, free_cells):
    planned = plan(active, batch_tokens, batch_tokens, free_cells)
    streams = {i for i, load in enumerate(active) if load.to_compute == 1} - set(planned.preempt)
    if planned.shares:
        assert streams <= set(counts(planned))


@given(loads, st.integers(12, 256))
def test_the_prompt_that_waited_longest_gets_all_it_can_when_it_is_its_turn(active, batch_tokens):
    prompts = [index for index, load in enumerate(active) if load.to_compute > 1]
    streams = len(active) - len(prompts)
    if prompts and streams < batch_tokens:
        longest = max(prompts, key=lambda index: (active[index].claim.waited_seconds, -index))
        wanted = min(active[longest].to_compute, active[longest].most or 50, batch_tokens - streams)
        planned = plan_batch(active, batch_tokens, batch_tokens, 1000, oldest_first=True)
        assert wanted == counts(planned)[longest]


def test_prompts_of_like_length_are_computed_one_after_another():
    assert [0, 1, 2] == service_order([Claim()] * 3, [700, 690, 1000])
    assert {0: 64} == counts(plan([Load(700, 0), Load(690, 0)], batch_tokens=64))
    assert {0: 64} == counts(plan([Load(636, 64), Load(690, 0)], batch_tokens=64))


def apart(*to_compute):
    planned = plan_batch([Load(count, 0) for count in to_compute], 512, 512, 10_000, cuts_apart=True)
    return counts(planned)


def test_where_cuts_cost_a_prompt_that_does_not_fit_in_has_steps_of_its_own():
    assert {0: 188} == apart(188, 700)
    assert {0: 512} == apart(700, 700)
    assert {0: 188, 1: 324} == counts(plan([Load(188, 0), Load(700, 0)], batch_tokens=512))


def test_prompts_that_fit_in_whole_share_a_step_also_there():
    assert dict.fromkeys(range(8), 60) == apart(*8 * [60])
    assert {0: 188, 1: 300} == apart(188, 300)


def test_a_step_with_hardly_any_rows_is_filled_up_also_there():
    assert {0: ENOUGH_ROWS - 1, 1: 512 - ENOUGH_ROWS + 1} == apart(ENOUGH_ROWS - 1, 700)
    assert {0: ENOUGH_ROWS} == apart(ENOUGH_ROWS, 700)


@given(loads, st.integers(12, 256))
def test_also_there_every_step_does_something(active, batch_tokens):
    planned = plan_batch(active, batch_tokens, batch_tokens, 1000, cuts_apart=True)
    assert planned.shares or not active
