"""Prompt lookup: what a draft is, against a naive search, and when drafts are tried."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.speculation import (
    LONGEST_MATCH,
    PAUSE_STEPS,
    PLAIN_EVERY,
    SEARCHED_TOKENS,
    SHORTEST_MATCH,
    TRIES,
    VAIN_TOKENS,
    WON_TOKENS,
    Lengths,
    PromptLookup,
    Speculation,
    Speculations,
    Trial,
    draft,
)

REPEATING = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9] * 3, dtype=np.int32)
PLAIN_SECONDS = 1.0


def naive_draft(tokens, most):
    for length in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
        end = tokens[len(tokens) - length :]
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == end:
                return tokens[start + length : start + length + most]
    return []


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 10))
def test_a_draft_is_what_followed_the_latest_occurrence_of_the_longest_end(tokens, most):
    assert naive_draft(tokens, most) == draft(np.array(tokens, dtype=np.int32), most).tolist()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], [8, 1, 2]),  # the latest
        ([1, 2, 3, 4, 5, 9, 2, 3, 4, 6, 1, 2, 3, 4], [5, 9, 2]),  # the longest before the latest
        ([1, 2, 5, 1, 2], []),  # two tokens are too short
        ([4, 4, 4, 4], [4]),  # it may overlap the end itself
    ],
)
def test_the_longest_match_wins_and_of_equals_the_latest(tokens, expected):
    assert expected == draft(np.array(tokens, dtype=np.int32), 3).tolist()


def test_a_long_text_is_searched_only_so_far_back():
    between = list(range(10, SEARCHED_TOKENS + 4))
    assert [10, 11] == draft(np.array([1, 2, 3, *between, 1, 2, 3], dtype=np.int32), 2).tolist()
    assert [] == draft(np.array([1, 2, 3, *between, 9, 1, 2, 3], dtype=np.int32), 2).tolist()


def test_a_draft_stays_as_it_is_when_the_text_changes():
    tokens = REPEATING.copy()
    drafted = draft(tokens, 3)
    tokens[:] = 0
    assert [1, 2, 3] == drafted.tolist()


def new_lookup(longest_draft=8):
    return Speculation([Trial(PromptLookup(), longest_draft)], lambda: 0.0)


def step(lookup, accepted_of, draft_seconds=PLAIN_SECONDS, most=100):
    """One step with a draft where one is proposed; returns how many tokens it had."""
    drafted = len(lookup.propose(REPEATING, most))
    lookup.observe(drafted, accepted_of(drafted), draft_seconds if drafted else PLAIN_SECONDS)
    return drafted


def all_of(drafted):
    return drafted


def none_of(drafted):
    return 0


def test_nothing_is_drafted_before_a_plain_step_was_measured():
    lookup = new_lookup()
    assert 0 == len(lookup.propose(REPEATING, 8))
    lookup.observe(0, 0, PLAIN_SECONDS)
    assert [1, 2, 3] == lookup.propose(REPEATING, 8).tolist()


def test_a_draft_keeps_to_what_there_is_room_for():
    lookup = new_lookup(longest_draft=8)
    lookup.observe(0, 0, PLAIN_SECONDS)
    assert [2, 0, 0] == [len(lookup.propose(REPEATING, most)) for most in (2, 0, -1)]
    short = new_lookup(longest_draft=2)
    short.observe(0, 0, PLAIN_SECONDS)
    assert [2, 2, 2] == [step(short, all_of) for _ in range(3)]


def test_drafts_grow_while_all_of_them_are_right_up_to_the_longest():
    lookup = new_lookup(longest_draft=7)
    assert [0, 3, 4, 5, 6, 7, 7] == [step(lookup, all_of) for _ in range(7)]


def test_drafts_shrink_while_some_of_them_are_wrong_down_to_one():
    lookup = new_lookup(longest_draft=7)
    assert [0, 3, 2, 1, 1, 1] == [step(lookup, none_of, draft_seconds=0.1) for _ in range(6)]


def test_drafts_that_pay_are_never_paused_but_for_a_plain_step_that_shows_what_they_are_held_against():
    lookup = new_lookup()
    drafted = [bool(step(lookup, all_of, draft_seconds=2 * PLAIN_SECONDS)) for _ in range(200)]
    assert drafted == [at % (1 + PLAIN_EVERY) > 0 for at in range(200)]


def test_drafts_that_paid_are_paused_once_plain_steps_are_as_fast():
    lookup = new_lookup()
    plain_seconds = PLAIN_SECONDS
    drafted = []
    for at in range(20 * PLAIN_EVERY):
        plain_seconds = PLAIN_SECONDS if at < 3 * PLAIN_EVERY else 0.1 * PLAIN_SECONDS
        count = len(lookup.propose(REPEATING, 8))
        lookup.observe(count, count, 2 * PLAIN_SECONDS if count else plain_seconds)
        drafted.append(bool(count))
    assert all(any(drafted[at : at + 2]) for at in range(3 * PLAIN_EVERY))
    runs = [len(list(group)) for is_draft, group in itertools.groupby(drafted) if not is_draft]
    assert PAUSE_STEPS <= max(runs)


def test_drafts_that_take_longer_than_they_save_are_paused_after_some_tries():
    lookup = new_lookup()
    drafted = [step(lookup, all_of, draft_seconds=100 * PLAIN_SECONDS) for _ in range(TRIES + 20)]
    assert list(range(1, TRIES + 1)) == [at for at, count in enumerate(drafted) if count]


def test_drafts_that_are_always_wrong_are_tried_again_after_pauses_that_double():
    lookup = new_lookup()
    drafted = [bool(step(lookup, none_of)) for _ in range(1 + 3 * TRIES + 3 * PAUSE_STEPS + 50)]
    runs = [(is_draft, len(list(group))) for is_draft, group in itertools.groupby(drafted)]
    expected = [(False, 1), (True, TRIES), (False, PAUSE_STEPS), (True, TRIES), (False, 2 * PAUSE_STEPS)]
    assert [*expected, (True, TRIES), (False, 50)] == runs


def test_a_verdict_after_a_pause_forgets_what_was_before_it():
    lookup = new_lookup()
    for _ in range(1 + TRIES + PAUSE_STEPS):
        step(lookup, all_of, draft_seconds=100 * PLAIN_SECONDS)
    assert 0 not in [step(lookup, all_of, draft_seconds=PLAIN_SECONDS) for _ in range(2 * TRIES)]


def test_the_same_speed_is_not_worth_a_draft():
    lookup = new_lookup()
    drafted = [bool(step(lookup, none_of, draft_seconds=PLAIN_SECONDS * 0.97)) for _ in range(TRIES + 10)]
    assert TRIES == sum(drafted)


class Says:
    """A source that always guesses the same, and remembers when it was asked."""

    def __init__(self, *tokens):
        self.tokens = np.array(tokens, dtype=np.int32)
        self.asked = []

    def guess(self, tokens, most, plain_seconds):
        self.asked.append((most, plain_seconds))
        return self.tokens[:most]


def test_a_source_is_asked_when_the_one_before_it_has_no_guess():
    first, second = Says(), Says(4, 5, 6, 7)
    both = Speculation([Trial(first), Trial(second)], lambda: 0.0)
    both.observe(0, 0, PLAIN_SECONDS)
    assert [4, 5, 6] == both.propose(REPEATING, 8).tolist()
    both.observe(3, 3, PLAIN_SECONDS)
    assert [4, 5, 6, 7] == both.propose(REPEATING, 8).tolist()
    first.tokens = np.array([9, 9], dtype=np.int32)
    both.observe(4, 0, PLAIN_SECONDS)
    assert [9, 9] == both.propose(REPEATING, 8).tolist()
    assert [(3, PLAIN_SECONDS), (4, PLAIN_SECONDS)] == second.asked


def test_one_source_that_does_not_pay_leaves_the_other_as_it_is():
    first, second = Says(1, 2, 3), Says(4, 5, 6)
    both = Speculation([Trial(first), Trial(second)], lambda: 0.0)
    both.observe(0, 0, PLAIN_SECONDS)
    used = []
    for _ in range(2 * TRIES):
        guesses = both.propose(REPEATING, 8)
        used.append(int(guesses[0]))
        is_first = guesses[0] == 1
        both.observe(len(guesses), 0 if is_first else len(guesses), PLAIN_SECONDS)
    assert [1] * TRIES + [4] * TRIES == used


def test_a_source_must_be_faster_than_the_one_behind_it_would_be():
    first, second = Says(), Says(4, 5, 6)
    both = Speculation([Trial(first), Trial(second)], lambda: 0.0)
    both.observe(0, 0, PLAIN_SECONDS)
    for _ in range(TRIES):  # a third of a second for a token
        both.observe(len(both.propose(REPEATING, 3)), 2, PLAIN_SECONDS)
    first.tokens = np.array([1, 2, 3], dtype=np.int32)
    used = []
    for _ in range(TRIES + 1):  # half a second: faster than plain steps only
        guesses = both.propose(REPEATING, 3)
        used.append(int(guesses[0]))
        both.observe(len(guesses), 1 if guesses[0] == 1 else 2, PLAIN_SECONDS)
    assert [1] * TRIES + [4] == used


def test_the_time_of_guessing_counts():
    times = iter(range(0, 1000, 50))  # 50 s for each guess
    slow = Speculation([Trial(Says(1, 2, 3))], lambda: next(times))
    drafted = [bool(step(slow, all_of)) for _ in range(1 + TRIES + 10)]
    assert [False] + [True] * TRIES + [False] * 10 == drafted


class Unsure:
    """A source that guesses three tokens where `is_sure` says so, and nothing otherwise."""

    def __init__(self, is_sure=lambda: False, is_ready=lambda: True):
        self.is_sure, self.is_ready = is_sure, is_ready
        self.asked = 0

    def guess(self, tokens, most, plain_seconds):
        self.asked += 1
        if not self.is_ready():
            return None
        return np.array([1, 2, 3] if self.is_sure() else [], dtype=np.int32)[:most]


def asked_in(steps, model, seconds_of_asking, accepted=3):
    """Whether the source was asked, step by step; a draft and its check take a plain step's time and that of asking."""
    times = itertools.accumulate(itertools.cycle((0.0, seconds_of_asking)))
    one = Speculation([Trial(model)], lambda: next(times))
    was_asked = []
    for _ in range(steps):
        before = model.asked
        count = len(one.propose(REPEATING, 3))
        one.observe(count, min(count, accepted), PLAIN_SECONDS)
        was_asked.append(model.asked > before)
    return was_asked


def test_a_source_that_is_never_sure_is_left_alone_after_some_asking_for_pauses_that_double():
    asked = asked_in(1500, Unsure(), seconds_of_asking=0.5)
    runs = [(was_asked, len(list(group))) for was_asked, group in itertools.groupby(asked)]
    asking = (True, int(VAIN_TOKENS / 0.5) + 1)
    pauses = [(False, PAUSE_STEPS), (False, 2 * PAUSE_STEPS), (False, 4 * PAUSE_STEPS)]
    assert [(False, 1), *itertools.chain(*((asking, pause) for pause in pauses))] == runs[:7]


def test_a_source_that_is_seldom_sure_is_asked_on_where_it_wins_more_than_it_loses():
    chance = random.Random(3)
    asked = asked_in(2000, Unsure(lambda: chance.random() < 0.3), seconds_of_asking=0.2)
    assert sum(asked) > 0.95 * len(asked) * PLAIN_EVERY / (PLAIN_EVERY + 1)


def test_a_source_that_is_seldom_sure_is_left_alone_where_it_loses_more_than_it_wins():
    chance = random.Random(3)
    asked = asked_in(2000, Unsure(lambda: chance.random() < 0.1), seconds_of_asking=0.6)
    assert sum(asked) < 0.1 * len(asked)


def test_a_source_that_was_good_for_long_and_is_sure_of_nothing_any_more_is_left_alone_too():
    times = itertools.count()
    asked = asked_in(640, Unsure(lambda: next(times) < 500), seconds_of_asking=0.5)
    assert all(any(asked[at : at + 2]) for at in range(500))
    assert sum(asked) <= 500 + (VAIN_TOKENS + WON_TOKENS) / 0.5 + 1


def test_getting_ready_is_no_asking_in_vain():
    model = Unsure(is_ready=lambda: False)
    assert [False] + [True] * 99 == asked_in(100, model, seconds_of_asking=0.5)


def test_asking_in_vain_counts_where_a_source_is_held_against_the_one_behind_it():
    first, second = Says(), Unsure(is_sure=itertools.cycle((False, False, False, True)).__next__)
    times = itertools.accumulate(itertools.cycle((0.0, 0.1)))
    both = Speculation([Trial(first), Trial(second)], lambda: next(times))
    first.guess = lambda tokens, most, plain_seconds: None
    both.observe(0, 0, PLAIN_SECONDS)
    for _ in range(8):
        count = len(both.propose(REPEATING, 3))
        both.observe(count, count, PLAIN_SECONDS)
    used = []
    first.guess = lambda tokens, most, plain_seconds: np.array([9], dtype=np.int32)
    for _ in range(2 * TRIES):  # half a second a token: the one behind takes a quarter where it is sure, and seldom is
        guesses = both.propose(REPEATING, 3)
        used.append(guesses.tolist())
        both.observe(1, 1, PLAIN_SECONDS)
    assert [[9]] * 2 * TRIES == used


def test_a_draft_model_that_does_not_pay_is_not_tried_again_for_the_next_request_at_once():
    model = Says(1, 2, 3)
    speculations = Speculations(model, 8, lambda: 0.0)
    first = speculations.of(1)
    assert first is speculations.of(1)
    unique = np.arange(50, dtype=np.int32)
    for _ in range(1 + TRIES):
        count = len(first.propose(unique, 8))
        first.observe(count, 0, PLAIN_SECONDS)
    speculations.forget(1)
    second = speculations.of(2)
    second.observe(0, 0, PLAIN_SECONDS)
    assert [0] * PAUSE_STEPS == [len(second.propose(unique, 8)) for _ in range(PAUSE_STEPS)]
    assert [1] == second.propose(unique, 8).tolist()


def settle(seconds_of, right, longest=8, steps=200):
    """The lengths of the last drafts, where one takes what `seconds_of` says and every `right`-th guess is wrong."""
    lengths, used, guesses = Lengths(longest), [], 0
    for _ in range(steps):
        length = lengths.best
        accepted = 0
        while accepted < length and (guesses := guesses + 1) % right:
            accepted += 1
        lengths.observe(length, accepted, seconds_of(length))
        used.append(length)
    return used[-steps // 2 :]


def average(values):
    return sum(values) / len(values)


def test_where_a_few_rows_cost_as_much_as_one_drafts_are_long():
    assert average(settle(lambda length: 1.0 + 0.02 * length, right=1000)) > 7


def test_where_each_row_costs_the_same_drafts_that_are_often_wrong_are_short():
    assert average(settle(lambda length: 1.0 + length, right=2)) < 2


def test_a_length_at_which_the_device_takes_a_step_more_is_kept_below():
    # As where four rows are computed at the price of two, and the fifth costs as much again.
    assert average(settle(lambda length: 1.0 if length < 4 else 3.0, right=10)) < 3.6


def test_no_draft_is_longer_than_there_is_room_for_logits():
    assert 2 == max(settle(lambda length: 1.0, right=1000, longest=2))


def test_times_of_lengths_that_are_not_used_are_measured_anew():
    lengths = Lengths(8)
    for length in (3, 4, 5):
        lengths.observe(length, length, 1.0 if length < 5 else 9.0)
    assert 4 == lengths.best
    lengths.forget_times()
    lengths.observe(4, 4, 1.0)
    assert 5 == lengths.best
