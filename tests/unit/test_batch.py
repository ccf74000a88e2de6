"""The batch planner: decode rows first, prefills in the rest of the budget, the newest gives way."""

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.batch import BatchPlan, Load, Share, may_admit, plan_batch

DECODING = Load(to_compute=1, cells=10)


def test_decode_rows_come_before_an_older_prefill():
    plan = plan_batch([Load(100, 0), DECODING, DECODING], budget_tokens=16, free_cells=1000)
    assert BatchPlan((), (Share(1, 1), Share(2, 1), Share(0, 14))) == plan


def test_short_prompts_of_several_requests_join_one_batch():
    plan = plan_batch([Load(5, 0), Load(6, 0), Load(7, 0)], budget_tokens=16, free_cells=1000)
    assert BatchPlan((), (Share(0, 5), Share(1, 6), Share(2, 5))) == plan


def test_the_newest_gives_its_cells_when_the_decode_rows_do_not_fit():
    plan = plan_batch([DECODING, DECODING, DECODING], budget_tokens=16, free_cells=2)
    assert BatchPlan((2,), (Share(0, 1), Share(1, 1))) == plan


def test_a_prefill_takes_what_the_pool_has_left():
    plan = plan_batch([DECODING, Load(100, 50)], budget_tokens=64, free_cells=11)
    assert BatchPlan((), (Share(0, 1), Share(1, 10))) == plan


def test_nothing_is_admitted_that_would_cause_a_preemption_at_once():
    assert may_admit([], needed_tokens=100, free_cells=100)
    assert may_admit([DECODING], needed_tokens=10, free_cells=13)
    assert not may_admit([DECODING], needed_tokens=10, free_cells=12)


loads = st.lists(st.builds(Load, st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=12)


@given(loads, st.integers(12, 64), st.integers(0, 100))
def test_a_plan_keeps_to_budget_and_pool_and_always_lets_the_oldest_go_on(active, budget, free_cells):
    plan = plan_batch(active, budget, free_cells)
    kept = [index for index in range(len(active)) if index not in plan.preempt]
    freed = sum(active[index].cells for index in plan.preempt)
    planned = sum(share.count for share in plan.shares)
    assert planned <= min(budget, free_cells + freed)
    assert all(1 <= share.count <= active[share.index].to_compute for share in plan.shares)
    assert len({share.index for share in plan.shares}) == len(plan.shares)
    assert set(kept) >= {share.index for share in plan.shares}
    assert plan.preempt == tuple(range(len(active) - 1, len(active) - 1 - len(plan.preempt), -1))
    assert planned > 0 or free_cells + freed == 0
