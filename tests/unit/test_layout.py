"""How KV cells are laid out: as asked for where that is possible, else as the kind of memory and the device favour."""

import numpy as np
import pytest

from localllm.engine.layout import better_layout, changed
from localllm.placement.cell_layout import (
    IDLE_SLOTS,
    IDLE_STATES,
    MOST_SLOTS,
    STREAM_TOKENS_ON_CPU,
    STREAM_TOKENS_ON_GPU,
    WHOLE_WINDOW_TOKENS,
    choose_layout,
)


def chosen(wanted="auto", kind="attention", parallel=4, pool_tokens=8192, trained=32_768, *, is_on_gpu=False):
    choice = choose_layout(wanted, kind, parallel, pool_tokens, trained, is_on_gpu=is_on_gpu)
    return choice.layout, choice.slots, choice.keeps_whole_window


@pytest.mark.parametrize(("is_on_gpu", "least"), [(False, STREAM_TOKENS_ON_CPU), (True, STREAM_TOKENS_ON_GPU)])
def test_requests_have_streams_as_soon_as_each_is_long_enough(is_on_gpu, least):
    assert ("streams", 4, False) == chosen(pool_tokens=4 * least, is_on_gpu=is_on_gpu)
    assert ("unified", 4 + IDLE_SLOTS, False) == chosen(pool_tokens=4 * least - 1, is_on_gpu=is_on_gpu)


def test_a_layout_that_nobody_asked_for_can_change_and_change_back():
    streams = choose_layout("auto", "attention", 4, 8192, 32_768, is_on_gpu=False)
    unified = changed(streams, 4)
    assert ("unified", 4 + IDLE_SLOTS, True) == (unified.layout, unified.slots, unified.can_change)
    again = changed(unified, 4)
    assert ("streams", 4, True) == (again.layout, again.slots, again.can_change)


@pytest.mark.parametrize("wanted", ["streams", "unified"])
def test_a_layout_that_was_asked_for_stays(wanted):
    assert not choose_layout(wanted, "attention", 4, 8192, 32_768, is_on_gpu=False).can_change


def test_layouts_that_are_the_only_possible_ones_stay():
    assert not choose_layout("auto", "window", 4, 8192, 32_768, is_on_gpu=False).can_change
    assert not choose_layout("auto", "recurrent", 4, 8192, 32_768, is_on_gpu=False).can_change
    assert not choose_layout("auto", "attention", 4, 4 * STREAM_TOKENS_ON_CPU - 1, 32_768, is_on_gpu=False).can_change


def test_windows_kept_whole_stay_whole_in_one_pool():
    streams = choose_layout("auto", "window", 4, WHOLE_WINDOW_TOKENS, 32_768, is_on_gpu=False)
    assert (True, True) == (streams.can_change, changed(streams, 4).keeps_whole_window)


def prompts(count, shared, own):
    """So many prompts that begin with the same `shared` tokens and go on with `own` others."""
    return [np.array([1] * shared + [at + 2] * own, dtype=np.int32) for at in range(count)]


@pytest.mark.parametrize("present", ["streams", "unified"])
def test_prompts_that_share_most_of_their_tokens_are_better_in_one_pool(present):
    assert "unified" == better_layout(present, prompts(8, 1400, 20))
    assert "unified" == better_layout(present, prompts(2, 3000, 20))


@pytest.mark.parametrize("present", ["streams", "unified"])
def test_prompts_of_their_own_are_better_in_streams(present):
    assert "streams" == better_layout(present, prompts(8, 0, 700))
    assert "streams" == better_layout(present, prompts(8, 100, 700))


@pytest.mark.parametrize("present", ["streams", "unified"])
@pytest.mark.parametrize(
    "few", [[], prompts(1, 0, 20_000), prompts(8, 20, 20), prompts(8, 100, 10), prompts(4, 300, 300)]
)
def test_what_makes_no_clear_difference_changes_nothing(present, few):
    assert present == better_layout(present, few)


def test_recurrent_states_are_kept_for_fewer_idle_prefixes_on_any_device():
    assert ("unified", 4 + IDLE_STATES, False) == chosen(kind="recurrent")
    assert ("unified", 4 + IDLE_STATES, False) == chosen(kind="recurrent", pool_tokens=10**6, is_on_gpu=True)


def test_a_stream_need_not_be_longer_than_the_models_context():
    assert ("streams", 4, False) == chosen(pool_tokens=4 * 2048, trained=2048, is_on_gpu=True)
    assert ("unified", 4 + IDLE_SLOTS, False) == chosen(pool_tokens=4 * 2048 - 1, trained=2048, is_on_gpu=True)


@pytest.mark.parametrize("is_on_gpu", [False, True])
@pytest.mark.parametrize("kind", ["attention", "recurrent"])
def test_what_was_asked_for_is_chosen(kind, is_on_gpu):
    large = 4 * STREAM_TOKENS_ON_GPU
    assert "streams" == chosen("streams", kind, is_on_gpu=is_on_gpu)[0]
    assert "unified" == chosen("unified", kind, pool_tokens=large, is_on_gpu=is_on_gpu)[0]


def test_there_are_never_more_slots_than_the_library_allows():
    assert ("unified", MOST_SLOTS, False) == chosen("unified", parallel=MOST_SLOTS - 1)


@pytest.mark.parametrize("wanted", ["auto", "unified", "streams"])
def test_a_window_that_forgets_is_never_shared(wanted):
    assert ("streams", 4, False) == chosen(wanted, "window", pool_tokens=WHOLE_WINDOW_TOKENS - 1)


def test_a_window_is_kept_whole_where_the_pool_affords_it_and_may_then_be_shared():
    assert ("streams", 4, True) == chosen(kind="window", pool_tokens=WHOLE_WINDOW_TOKENS)
    assert ("unified", 4 + IDLE_SLOTS, True) == chosen("unified", "window", pool_tokens=WHOLE_WINDOW_TOKENS)
    assert ("streams", 4, True) == chosen("streams", "window", pool_tokens=WHOLE_WINDOW_TOKENS)


def test_a_window_of_a_short_context_is_kept_whole_in_a_small_pool():
    assert ("streams", 4, True) == chosen(kind="window", pool_tokens=4 * 1024, trained=1024)
    assert ("streams", 4, False) == chosen(kind="window", pool_tokens=4 * 1024 - 1, trained=1024)


def test_only_windows_are_kept_whole():
    assert {False} == {chosen(kind=kind, pool_tokens=10**6)[2] for kind in ("attention", "recurrent")}


def test_every_choice_says_why():
    reasons = [
        choose_layout(wanted, kind, 4, 8192, 32_768, is_on_gpu=gpu).reason
        for wanted in ("auto", "unified", "streams")
        for kind in ("attention", "window", "recurrent")
        for gpu in (False, True)
    ]
    assert all(reasons)
