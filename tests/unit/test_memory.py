"""What each kind of memory lets a prompt take over, and where the way back is saved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.backend import MemoryTraits
from localllm.engine.memory import (
    CHECKPOINT_DISTANCE_TOKENS,
    CHECKPOINTS_PER_PROMPT,
    Usable,
    checkpoint_lengths,
    copies_whole,
    needs_checkpoints,
    usable,
)

ATTENTION = MemoryTraits(kind="attention")
WINDOW = MemoryTraits(kind="window", window_tokens=8)
WHOLE_WINDOW = MemoryTraits(kind="window", window_tokens=8, keeps_whole_window=True)
RECURRENT = MemoryTraits(kind="recurrent")
CHECKPOINTS = {20: b"at 20", 40: b"at 40"}


def test_attention_can_use_any_prefix():
    assert [Usable(0), Usable(7), Usable(50)] == [usable(at, 50, {}, 0, ATTENTION) for at in (0, 7, 50)]


@pytest.mark.parametrize("traits", [ATTENTION, WINDOW, RECURRENT], ids=lambda traits: traits.kind)
def test_every_memory_can_use_all_that_a_slot_holds(traits):
    assert Usable(50) == usable(50, 50, CHECKPOINTS, 42, traits)


@pytest.mark.parametrize(("matched", "length"), [(49, 0), (48, 0), (50, 50)])
def test_recurrent_memory_can_use_everything_or_nothing(matched, length):
    assert Usable(length) == usable(matched, 50, {}, 0, RECURRENT)


@pytest.mark.parametrize("traits", [WINDOW, RECURRENT], ids=lambda traits: traits.kind)
@pytest.mark.parametrize(("matched", "expected"), [(19, 0), (20, 20), (39, 20), (40, 40), (49, 40)])
def test_a_memory_that_cannot_trim_goes_back_to_the_last_checkpoint_within_the_match(traits, matched, expected):
    assert Usable(expected, CHECKPOINTS.get(expected)) == usable(matched, 50, CHECKPOINTS, 48, traits)


@pytest.mark.parametrize(("matched", "expected"), [(17, 0), (18, 18), (49, 49)])
def test_a_window_can_be_trimmed_while_all_it_looks_back_at_is_there(matched, expected):
    assert Usable(expected) == usable(matched, 50, {}, 10, WINDOW)


def test_a_window_that_has_lost_nothing_can_be_trimmed_anywhere():
    assert [Usable(1), Usable(7)] == [usable(at, 50, {}, 0, WINDOW) for at in (1, 7)]


def test_only_attention_copies_a_part():
    assert [False, True, True] == [copies_whole(traits) for traits in (ATTENTION, WINDOW, RECURRENT)]


def test_checkpoints_are_needed_where_the_memory_forgets():
    needing = [needs_checkpoints(traits) for traits in (ATTENTION, WHOLE_WINDOW, WINDOW, RECURRENT)]
    assert [False, False, True, True] == needing


def test_checkpoints_are_the_first_and_the_last_message_starts():
    assert frozenset({100, 500, 600}) == checkpoint_lengths([100, 200, 300, 400, 500, 600], 700)


def test_a_prompt_without_messages_is_saved_before_its_last_token():
    assert frozenset({99}) == checkpoint_lengths([], 100)
    assert frozenset({50, 99}) == checkpoint_lengths([50], 100)


def test_nothing_is_saved_nearer_to_the_start_than_a_checkpoint_is_worth():
    assert frozenset() == checkpoint_lengths([0, 5, 15], 16)
    assert frozenset({16}) == checkpoint_lengths([0, 5, 15, 16], 17)


def test_checkpoints_may_be_just_as_far_apart_as_they_must():
    assert frozenset({16, 32}) == checkpoint_lengths([16, 32], 48)
    assert frozenset({31}) == checkpoint_lengths([16, 31], 47)


message_starts = st.lists(st.integers(0, 400), unique=True, max_size=20).map(sorted)


@given(message_starts, st.integers(1, 401))
def test_checkpoints_are_few_apart_and_within_the_prompt(starts, prompt_length):
    chosen = sorted(checkpoint_lengths(starts, prompt_length))
    distances = [after - before for before, after in zip([0, *chosen], chosen, strict=False)]
    assert [] == [distance for distance in distances if distance < CHECKPOINT_DISTANCE_TOKENS]
    assert len(chosen) <= CHECKPOINTS_PER_PROMPT
    assert set(chosen) <= {*starts, prompt_length - 1}
    assert [] == [length for length in chosen if length >= prompt_length]


@given(message_starts, st.integers(1, 401))
def test_the_last_message_start_that_is_far_enough_is_always_saved(starts, prompt_length):
    candidates = [start for start in starts if CHECKPOINT_DISTANCE_TOKENS <= start < prompt_length]
    assert set(candidates[-1:]) <= checkpoint_lengths(starts, prompt_length)
