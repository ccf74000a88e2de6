"""Which earlier content a prompt uses, which it waits for, and which goes first: decisions over token arrays."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.backend import MemoryTraits
from localllm.engine.prefix_cache import (
    LEAST_SHARED_TOKENS,
    SHARE_WORTH,
    SHARES_COUNTED,
    Pending,
    Resident,
    eviction_order,
    find_pending,
    find_source,
    subsumed,
)
from localllm.engine.tokens import TokenArray

ATTENTION = MemoryTraits()
RECURRENT = MemoryTraits(kind="recurrent")
slots = itertools.count()


def tokens(text):
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)


def resident(text, **options):
    """An idle slot that holds `text`, unless the options say otherwise."""
    defaults = {"computed": len(text), "prompt_length": len(text), "is_active": False, "request_id": 1}
    return Resident(next(slots), TokenArray(tokens(text)), **{**defaults, **options})


def found(prompt, *residents, traits=ATTENTION):
    source = find_source(tokens(prompt), residents, traits)
    return source.resident, source.length


def test_nothing_is_found_in_an_empty_pool_or_one_of_strangers():
    assert (None, 0) == found("hello")
    assert (None, 0) == found("hello", resident("world"))


def test_the_longest_prefix_is_found_whether_it_runs_or_not():
    short, long = resident("hello"), resident("hello world", is_active=True)
    assert (long, 8) == found("hello wolf", short, long)
    assert (long, 8) == found("hello wolf", long, short)


def test_the_last_token_is_always_computed_anew():
    same = resident("hello")
    assert (same, 4) == found("hello", same)
    assert (None, 0) == found("h", resident("hello"))


def test_only_computed_tokens_can_be_taken_over():
    half = resident("hello world", computed=5, is_active=True)
    assert (half, 5) == found("hello world", half)


def test_a_shifted_slot_is_no_prefix():
    assert (None, 0) == found("hello world", resident("hello", is_shifted=True))


def test_of_equal_ones_an_idle_one_that_ends_there_is_preferred():
    running, longer, whole = resident("hello", is_active=True), resident("hello, you"), resident("hello")
    for order in itertools.permutations([running, longer, whole]):
        assert (whole, 5) == found("hello world", *order)


def test_a_longer_prefix_is_preferred_to_a_whole_one():
    longer, whole = resident("hello world and more", is_active=True), resident("hello")
    for order in itertools.permutations([longer, whole]):
        assert (longer, 8) == found("hello wolf", *order)


def test_the_longest_usable_prefix_is_found_where_the_longest_match_is_not_usable():
    match, usable = resident("hello world", checkpoints={2: b"state"}), resident("hello")
    for order in itertools.permutations([match, usable]):
        source = find_source(tokens("hello wolf"), order, RECURRENT)
        assert (usable, 5, None) == (source.resident, source.length, source.usable.checkpoint)
        assert (match, 8) == (source.nearest, source.matched)


def test_a_checkpoint_comes_with_what_it_is_the_way_back_to():
    source = find_source(tokens("hello wolf"), [resident("hello world", checkpoints={2: b"a", 6: b"b"})], RECURRENT)
    assert (6, b"b") == (source.length, source.usable.checkpoint)


texts = st.text("ab", max_size=8)


@given(st.text("ab", min_size=1, max_size=8), st.lists(st.tuples(texts, st.integers(0, 8), st.booleans()), max_size=6))
def test_no_resident_has_a_longer_prefix_than_the_one_found(prompt, contents):
    residents = [
        resident(text, computed=min(computed, len(text)), is_active=active) for text, computed, active in contents
    ]

    def agree(one):
        text = bytes(one.computed_tokens.tolist()).decode()
        return max(size for size in range(len(prompt)) if prompt[:size] == text[:size] and size <= len(text))

    source = find_source(tokens(prompt), residents, ATTENTION)
    longest = max(map(agree, residents), default=0)
    assert (longest, longest) == (source.length, source.matched)
    if longest:
        assert longest == agree(source.resident)


LONG = "a prefix that is longer than the least that is worth waiting for, and then something else"
LEAST = LONG[:LEAST_SHARED_TOKENS]


def holder(text=LONG, computed=0, **options):
    return resident(text, computed=computed, is_active=True, **{"request_id": 7, **options})


def waits(prompt, *residents, have=0):
    pending = find_pending(tokens(prompt), residents, have)
    return pending and (pending.resident, pending.request_id, pending.length)


def test_a_prefix_that_is_being_computed_is_worth_waiting_for():
    one = holder()
    assert (one, 7, len(LONG)) == waits(LONG + " at the end", one)


def test_fewer_tokens_than_the_least_are_computed_at_once():
    one = holder()
    assert (one, 7, LEAST_SHARED_TOKENS) == waits(LEAST + "#?", one)
    assert waits(LEAST[:-1] + "#?", one) is None


def test_the_last_token_is_not_waited_for():
    assert waits(LEAST, holder()) is None


def test_what_is_there_already_counts_against_waiting():
    one = holder(computed=3)
    assert (one, 7, len(LONG)) == waits(LONG + "!", one, have=len(LONG) - LEAST_SHARED_TOKENS)
    assert waits(LONG + "!", one, have=len(LONG) - LEAST_SHARED_TOKENS + 1) is None


def test_a_prefix_that_is_computed_already_is_not_waited_for():
    assert waits(LONG[:40] + "#", holder(computed=40)) is None
    assert waits(LONG + "#", holder(computed=len(LONG))) is None


def test_only_a_prompt_is_waited_for_and_never_an_answer_or_an_idle_or_a_shifted_slot():
    assert waits(LONG + "!", holder(prompt_length=LEAST_SHARED_TOKENS - 1)) is None
    assert waits(LONG + "!", holder(is_shifted=True)) is None
    assert waits(LONG + "!", resident(LONG, computed=3)) is None


def test_the_longest_prefix_is_waited_for():
    short, long = holder(LONG[:40]), holder(LONG[:60])
    for order in itertools.permutations([short, long]):
        assert (long, 7, 60) == waits(LONG, *order)


def test_waiting_is_over_when_the_prefix_is_computed():
    one = holder()
    pending = Pending(one, 7, 40)
    assert not pending.is_ready
    one.computed = 39
    assert not pending.is_ready
    one.computed = 40
    assert pending.is_ready


@pytest.mark.parametrize("change", [{"is_active": False}, {"request_id": 8}], ids=["ended", "replaced"])
def test_waiting_is_over_when_the_holder_has(change):
    one = holder()
    pending = Pending(one, 7, 40)
    for name, value in change.items():
        setattr(one, name, value)
    assert pending.is_ready


def test_the_least_recently_used_goes_first_and_the_running_never():
    new, old, running = resident("a", last_used=9), resident("b", last_used=3), resident("c", is_active=True)
    assert [old, new] == eviction_order([new, running, old])


def test_one_that_several_used_stays_as_long_as_if_it_had_been_used_later():
    shared = resident("a", last_used=1, shares=2)
    before, after = (resident("b", last_used=1 + 2 * SHARE_WORTH + more) for more in (-1, 1))
    assert [before, shared, after] == eviction_order([after, shared, before])


def test_no_number_of_uses_keeps_a_prefix_for_ever():
    shared = resident("a", last_used=1, shares=1000)
    fresh = resident("b", last_used=2 + SHARE_WORTH * SHARES_COUNTED)
    assert [shared, fresh] == eviction_order([fresh, shared])


def test_an_idle_beginning_is_of_no_use_beside_the_whole():
    whole, beginning, same = resident("hello world"), resident("hello"), resident("hello world")
    others = [resident("hello you"), resident("hello world!"), resident("hello", is_active=True)]
    assert [beginning, same] == subsumed(whole, [whole, beginning, *others, same])


def test_only_what_is_computed_makes_another_one_useless():
    half = resident("hello world", computed=7)
    beginning, longer = resident("hello"), resident("hello wor")
    assert [beginning] == subsumed(half, [half, beginning, longer])
    assert [] == subsumed(resident("hello world", is_shifted=True), [beginning])
