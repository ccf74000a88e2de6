"""Prefixes in the engine, on the fake model: what is there already is not computed again, and nothing else is used.

Rows that the backend computed are counted: they are what a prefix saves.
"""

import pytest
from test_engine import expected_text, request, run

from localllm.engine.backend import MemoryTraits
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.engine.policy import EnginePolicy
from localllm.generation import CacheMiss

PREFIX = "a beginning that is longer than what is worth waiting for: "
RECURRENT = MemoryTraits(kind="recurrent", can_shift=False)
STREAMS = MemoryTraits(layout="streams")


def new_engine(policy=None, backend_type=FakeBackend, **backend_options):
    backend = backend_type(**backend_options)
    return Engine(backend, lambda: 0.0, policy), backend


def ask(engine, *prompts, first_id=1, **options):
    """Add all prompts at once, each for one token; returns what each cost."""
    for number, prompt in enumerate(prompts, start=first_id):
        engine.add(request(number, prompt, **{"max_new_tokens": 1, **options}))
    texts, finishes = run(engine)
    wanted = options.get("max_new_tokens", 1)
    expected = {number: expected_text(prompt, wanted) for number, prompt in enumerate(prompts, start=first_id)}
    assert expected == texts
    return [finishes[number].stats for number in expected]


def rows_of(backend, action):
    before = backend.computed_rows
    action()
    return backend.computed_rows - before


def contents(backend):
    return {backend.text(slot).decode() for slot in range(backend.facts.slots)} - {""}


def test_a_second_equal_prompt_computes_one_token():
    engine, backend = new_engine()
    ask(engine, PREFIX)
    assert 1 == rows_of(backend, lambda: ask(engine, PREFIX))


@pytest.mark.parametrize("batch_tokens", [16, 512])
@pytest.mark.parametrize("memory", [MemoryTraits(), STREAMS, RECURRENT], ids=["attention", "streams", "recurrent"])
def test_many_requests_with_one_cold_prefix_compute_it_once(memory, batch_tokens):
    engine, backend = new_engine(batch_tokens=batch_tokens, memory=memory)
    tails = [f"{number} tail" for number in range(6)]
    ask(engine, *[PREFIX + tail for tail in tails])
    assert len(PREFIX) + len("".join(tails)) == backend.computed_rows
    assert 5 * len(PREFIX) == engine.stats().cached_tokens


def test_a_running_request_gives_its_prefix_to_a_later_one():
    engine, backend = new_engine()
    engine.add(request(1, PREFIX, max_new_tokens=20))
    engine.step()
    engine.add(request(2, PREFIX + "and more", max_new_tokens=1))
    assert len("and more") + 1 == rows_of(backend, engine.step)


def test_a_part_of_one_idle_prefix_serves_several_and_stays_for_its_own():
    engine, backend = new_engine()
    ask(engine, PREFIX)
    costs = ask(engine, *[PREFIX[:50] + f"{number} other" for number in range(3)], first_id=2)
    assert [50, 50, 50] == [cost.cached_tokens for cost in costs]
    assert 1 == rows_of(backend, lambda: ask(engine, PREFIX))


def test_a_shared_prefix_takes_its_cells_once():
    engine, backend = new_engine()
    ask(engine, *[PREFIX + tail for tail in "xyz"])
    assert len(PREFIX) + 3 == backend.used_cells == engine.stats().used_cells


def test_streams_copy_a_prefix():
    engine, backend = new_engine(memory=STREAMS)
    ask(engine, *[PREFIX + tail for tail in "xyz"])
    assert 3 * (len(PREFIX) + 1) == backend.used_cells == engine.stats().used_cells
    assert len(PREFIX) + 3 == backend.computed_rows


def test_each_turn_of_a_chat_computes_only_what_is_new():
    engine, backend = new_engine(EnginePolicy(speculates=False))  # wrong guesses are rows too
    history, answer_tokens, rows, new_tokens = "", 7, [], []
    for turn in range(5):
        question = f"<user>question {turn}\n<assistant>"
        history += question
        before = backend.computed_rows
        ask(engine, history, max_new_tokens=answer_tokens)
        rows.append(backend.computed_rows - before)
        new_tokens.append(len(question) + (turn > 0))  # the last token of an answer was never computed
        history += expected_text(history, answer_tokens)
    assert [new + answer_tokens - 1 for new in new_tokens] == rows
    assert 1 == engine.stats().idle_prefixes  # each turn is the beginning of the next


def test_the_least_recently_used_prefix_goes_first_when_room_is_needed():
    engine, backend = new_engine(pool_tokens=100)
    first, second, third, fourth = (letter * 30 for letter in "abcd")
    for prompt in (first, second, third, first, fourth):
        ask(engine, prompt)
    assert {first, third, fourth} == contents(backend)


def test_a_prefix_that_several_used_stays_longer():
    engine, backend = new_engine(pool_tokens=115)
    shared, user, second, third, fourth = "a" * 40, "a" * 32 + "!" * 10, "b" * 25, "c" * 25, "d" * 30
    for prompt in (shared, user, second, third, fourth):
        ask(engine, prompt)
    assert {shared, third, fourth} == contents(backend)


def test_the_least_useful_slot_is_reused_when_none_is_free():
    engine, backend = new_engine(max_sequences=2, slots=3)
    for prompt in ("first", "second", "third", "first", "fourth"):
        ask(engine, prompt)
    assert {"first", "third", "fourth"} == contents(backend)


def test_what_was_used_again_is_forgotten_in_its_turn():
    engine, backend = new_engine(max_sequences=1, slots=3)
    for prompt in ("first", "second", "first again", "third", "last", "new"):
        ask(engine, prompt)
    assert {"third", "last", "new"} == contents(backend)


def test_a_beginning_that_all_prompts_have_keeps_nothing():
    engine, backend = new_engine(max_sequences=1, slots=3)
    for prompt in ("^old", "^second", "^third", "^new"):
        ask(engine, prompt)
    assert {"^second", "^third", "^new"} == contents(backend)


def test_a_beginning_that_all_prompts_have_keeps_no_cells_either():
    engine, backend = new_engine(pool_tokens=30)
    prompts = ["^" + letter * 9 for letter in "abcd"]
    for prompt in prompts:
        ask(engine, prompt)
    assert set(prompts[1:]) == contents(backend)


def test_each_use_of_a_part_keeps_a_prefix_from_then_on():
    engine, backend = new_engine(max_sequences=1, slots=4)
    prompts = [PREFIX + "one", PREFIX + "two", *"bcdefgh", PREFIX + "three", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ0"]
    for prompt in prompts:
        ask(engine, prompt)
    assert {prompts[0], *prompts[-3:]} == contents(backend)


def test_a_prefix_that_made_another_one_useless_is_kept_for_the_uses_of_both():
    engine, backend = new_engine(max_sequences=2, slots=3)
    longer = PREFIX + expected_text(PREFIX, 2) + " and more"
    engine.add(request(1, PREFIX, max_new_tokens=3))
    engine.step()
    engine.add(request(2, longer, max_new_tokens=5))
    run(engine)
    for prompt in "bcde":
        ask(engine, prompt)
    assert {(longer + expected_text(longer, 4)), "d", "e"} == contents(backend)


def test_the_room_for_a_prompt_is_not_taken_from_the_prefix_it_needs():
    engine, _ = new_engine(pool_tokens=100)
    costs = ask(engine, "a" * 40) + ask(engine, "b" * 40) + ask(engine, "a" * 32 + "!" * 30)
    assert [0, 0, 32] == [cost.cached_tokens for cost in costs]


def test_the_slot_for_a_prompt_is_not_taken_from_the_prefix_it_needs():
    engine, backend = new_engine(max_sequences=1, slots=2)
    for prompt in (PREFIX + "one", PREFIX + "two", PREFIX.upper() + "one"):  # the first is worth more
        ask(engine, prompt)
    (cost,) = ask(engine, PREFIX.upper() + "two")
    held = {PREFIX.upper() + "one", PREFIX.upper() + "two"}
    assert (len(PREFIX), held) == (cost.cached_tokens, contents(backend))


def test_a_request_that_waits_for_a_prefix_goes_on_when_its_holder_is_cancelled():
    engine, backend = new_engine(batch_tokens=16)
    engine.add(request(1, PREFIX + "first"))
    engine.add(request(2, PREFIX + "second", max_new_tokens=3))
    engine.step()
    assert (1, 1) == (engine.stats().running, engine.stats().waiting)
    engine.cancel(1)
    texts, finishes = run(engine)
    assert {2: expected_text(PREFIX + "second", 3)} == texts
    assert 16 == finishes[2].stats.cached_tokens
    assert len(PREFIX + "second") + 2 == backend.computed_rows


def test_a_prefix_that_somebody_urgent_waits_for_is_computed_first():
    engine, _ = new_engine(batch_tokens=16)
    engine.add(request(1, PREFIX + "slow", priority=2, max_new_tokens=1))
    engine.add(request(2, "0" * 200, priority=1, max_new_tokens=1))
    engine.step()
    engine.add(request(3, PREFIX + "fast", priority=0, max_new_tokens=1))
    finished = []
    while engine.has_work:
        finished += [output.id for output in engine.step() if output.finish]
    assert 2 == finished[-1]


def test_a_miss_says_where_the_prompts_parted_and_from_whom():
    engine, _ = new_engine()
    ask(engine, "something else", "hello world", first_id=7)
    (cost,) = ask(engine, "hello there", first_id=9)
    assert CacheMiss(6, shared_text=" ", cached_text="w", prompt_text="t", request_id=8) == cost.cache_miss


def test_a_miss_of_recurrent_memory_tells_the_match_that_could_not_be_used():
    engine, _ = new_engine(memory=RECURRENT)
    ask(engine, "hello world")
    (cost,) = ask(engine, "hello there", first_id=2)
    assert (0, 6) == (cost.cached_tokens, cost.cache_miss.position)


@pytest.mark.parametrize("prompt", ["hello world", "hello world!", "hello", "unlike"])
def test_a_prompt_that_parted_from_nobody_has_no_miss(prompt):
    engine, _ = new_engine()
    (first,) = ask(engine, "hello world")
    (cost,) = ask(engine, prompt, first_id=2)
    assert (None, None) == (first.cache_miss, cost.cache_miss)


def test_what_was_taken_over_computed_and_generated_is_counted():
    engine, _ = new_engine()
    ask(engine, "hello world", max_new_tokens=5)
    (cost,) = ask(engine, "hello there", first_id=2, max_new_tokens=3)
    assert (11, 6, 3) == (cost.prompt_tokens, cost.cached_tokens, cost.completion_tokens)
    stats = engine.stats()
    assert (16, 6, 8, 2) == (stats.prompt_tokens, stats.cached_tokens, stats.completion_tokens, stats.idle_prefixes)


def test_nothing_is_kept_where_prefixes_are_not_wanted():
    engine, backend = new_engine(EnginePolicy(keeps_prefixes=False))
    ask(engine, PREFIX)
    assert (0, 0) == (backend.used_cells, engine.stats().idle_prefixes)
    assert len(PREFIX) == rows_of(backend, lambda: ask(engine, PREFIX))


def test_nobody_waits_for_a_prefix_where_prefixes_are_not_wanted():
    engine, _ = new_engine(EnginePolicy(keeps_prefixes=False), batch_tokens=16)
    for number in (1, 2):
        engine.add(request(number, PREFIX + str(number), max_new_tokens=1))
    engine.step()
    assert 2 == engine.stats().running


CHAT = "0123456789" * 6
STARTS = (20, 40)


@pytest.mark.parametrize(
    ("parts_at", "cached"), [(10, 0), (19, 0), (20, 20), (39, 20), (40, 40), (58, 40), (59, 59), (60, 59)]
)
def test_recurrent_memory_is_reused_where_a_message_begins_and_nowhere_else(parts_at, cached):
    engine, backend = new_engine(memory=RECURRENT)
    ask(engine, CHAT, message_starts=STARTS)
    other = CHAT[:parts_at] + "?" * (60 - parts_at)
    (cost,) = ask(engine, other, first_id=2)
    assert (cached, 2 * 60 - cached) == (cost.cached_tokens, backend.computed_rows)


def test_recurrent_memory_goes_on_where_the_whole_slot_is_wanted():
    engine, _ = new_engine(memory=RECURRENT)
    (first,) = ask(engine, "hello", max_new_tokens=4)
    (cost,) = ask(engine, "hello" + expected_text("hello", 4) + " and?", first_id=2)
    assert (0, 8) == (first.cached_tokens, cost.cached_tokens)


def test_recurrent_memory_learns_where_prompts_part():
    engine, _ = new_engine(memory=RECURRENT)
    prompts = [CHAT[:30] + letter * 30 for letter in "xyz"]
    cached = [ask(engine, prompt, first_id=number)[0].cached_tokens for number, prompt in enumerate(prompts)]
    assert [0, 0, 30] == cached


class StubbornBackend(FakeBackend):
    """Says that any tail can be forgotten, and refuses."""

    def rewind(self, slot, length, checkpoint=None):
        return length == len(self.cells[slot])


def test_a_backend_that_refuses_to_go_back_costs_time_but_no_request():
    engine, backend = new_engine(backend_type=StubbornBackend, max_sequences=1)
    ask(engine, "hello world")
    assert len("hello there") == rows_of(backend, lambda: ask(engine, "hello there", first_id=2))
