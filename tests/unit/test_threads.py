"""The number of threads: all of them on a quiet machine, fewer while others take the cores, all again afterwards."""

from localllm.engine.threads import COMPARED_STEPS, ThreadTuner


def run(tuner: ThreadTuner, steps: int, seconds_by_threads: dict[int, float], forced_off: int) -> list[int]:
    """The thread counts of so many steps on a machine where a step takes that long."""
    used = []
    for _ in range(steps):
        used.append(tuner.threads)
        tuner.observe(4, COMPANY, seconds_by_threads[tuner.threads], forced_off)
    return used


COMPANY = (1, 2, 3, 4)
QUIET = {1: 0.08, 2: 0.04, 4: 0.02}
BUSY = {1: 0.09, 2: 0.2, 4: 0.5}


def test_on_a_quiet_machine_all_threads_are_used_and_nothing_is_tried() -> None:
    assert {4} == set(run(ThreadTuner(4), 500, QUIET, forced_off=0))


def test_while_others_take_the_cores_it_comes_down_to_what_is_fastest() -> None:
    tuner = ThreadTuner(4)
    run(tuner, 40, BUSY, forced_off=5)
    assert 1 == tuner.threads


def test_when_the_machine_is_quiet_again_all_threads_come_back() -> None:
    tuner = ThreadTuner(4)
    run(tuner, 40, BUSY, forced_off=5)
    run(tuner, 400, QUIET, forced_off=0)
    assert 4 == tuner.threads


def test_interruptions_that_do_not_slow_it_down_cost_one_trial_in_a_long_while() -> None:
    used = run(ThreadTuner(2), 2000, {1: 0.08, 2: 0.04}, forced_off=3)
    assert 2 == used[-1]
    assert used.count(1) == 3


def test_what_did_not_pay_is_tried_again_when_steps_become_slower() -> None:
    tuner = ThreadTuner(4)
    run(tuner, 100, QUIET, forced_off=3)
    assert 4 == tuner.threads
    run(tuner, 40, BUSY, forced_off=3)
    assert 1 == tuner.threads


def test_steps_with_other_rows_are_not_compared() -> None:
    tuner = ThreadTuner(2)
    for step in range(COMPARED_STEPS * 4):
        tuner.observe(1 + step % 2, COMPANY, 0.5, forced_off=9)
    assert 2 == tuner.threads


SHORT, LONG = {1: 0.022, 2: 0.015}, {1: 0.053, 2: 0.028}


def threads_after_short_long_and_short(companies: tuple[int, int, int]) -> int:
    """A short conversation, the end of a long one beside another, and a short one again."""
    tuner = ThreadTuner(2)
    first, second, third = companies
    plan = [(1, first, SHORT, 60), (2, second, LONG, 5), (1, second, LONG, 2), (1, third, SHORT, 20)]
    for rows, company, seconds_by_threads, steps in plan:
        for _ in range(steps):
            tuner.observe(rows, (company,), seconds_by_threads[tuner.threads], forced_off=2)
    return tuner.threads


def test_a_short_conversation_is_not_compared_with_the_end_of_a_long_one() -> None:
    assert 2 == threads_after_short_long_and_short((1, 2, 3))


def test_one_conversation_that_becomes_quicker_with_fewer_threads_keeps_them() -> None:
    assert 1 == threads_after_short_long_and_short((1, 1, 1))  # nothing tells that it is another


def test_one_thread_stays_one() -> None:
    assert {1} == set(run(ThreadTuner(1), 100, {1: 0.1}, forced_off=9))


def test_a_trial_that_is_hopeless_ends_with_its_first_step() -> None:
    tuner = ThreadTuner(2)
    run(tuner, 40, {1: 0.05, 2: 1.0}, forced_off=5)
    assert 1 == tuner.threads
    used = run(tuner, 1000, {1: 0.05, 2: 1.0}, forced_off=0)
    assert 1 <= used.count(2) <= 6
