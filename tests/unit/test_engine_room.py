"""What the engine does when something ends: a context by shifting, a decode by an interrupt, the pool by preemption.

The text is always that of a run with room for everything, but where a shift changes what the model sees.
"""

import pytest
from test_engine import assert_nothing_leaks, expected_text, request, run

from localllm.engine.backend import MemoryTraits
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend, next_token
from localllm.engine.policy import EnginePolicy

PROMPT = "keep this, and lose the rest"
MEMORIES = {
    "attention": MemoryTraits(),
    "streams": MemoryTraits(layout="streams"),
    "window": MemoryTraits(kind="window", window_tokens=8),
    "recurrent": MemoryTraits(kind="recurrent"),
}


class TimedBackend(FakeBackend):
    """A row takes a millisecond; saved and restored states are counted."""

    now = 0.0
    row_seconds = 0.001
    saves = 0
    restores = 0

    def decode(self, batch):
        self.now += self.row_seconds * len(batch.tokens)
        return super().decode(batch)

    def save(self, slot):
        self.saves += 1
        return super().save(slot).ljust(self.facts.kv_bytes_per_token * len(self.cells[slot]))

    def restore(self, slot, state):
        is_restored = super().restore(slot, state)
        self.restores += is_restored
        return is_restored


def new_engine(backend_type=TimedBackend, policy=None, **backend_options):
    backend = backend_type(**backend_options)
    return Engine(backend, lambda: backend.now, policy or EnginePolicy(speculates=False, shelf_bytes_most=0)), backend


def shifted_text(prompt, count, limit, keep):
    """What the model says when the older half of what follows `keep` tokens goes at each limit; and how many went."""
    tokens, said, dropped = list(prompt.encode()), [], 0
    for _ in range(count):
        said.append(next_token(tokens))
        tokens.append(said[-1])
        if len(tokens) >= limit and len(said) < count:
            drop = (len(tokens) - 1 - keep) // 2
            del tokens[keep : keep + drop]
            dropped += drop
    return bytes(said).decode(), dropped


MEMORIES = {
    "unified": MemoryTraits(),
    "streams": MemoryTraits(layout="streams"),
    "cannot shift": MemoryTraits(can_shift=False),
    "window": MemoryTraits(kind="window", window_tokens=8, can_shift=False),
    "recurrent": MemoryTraits(kind="recurrent", can_shift=False),
}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("keep", [0, 9, len(PROMPT) - 1])
def test_a_full_context_loses_the_older_half_of_what_is_not_kept(memory, keep):
    engine, backend = new_engine(memory=MEMORIES[memory])
    limit = len(PROMPT) + 12
    engine.add(request(1, PROMPT, limit_tokens=limit, max_new_tokens=60, shifts=True, keep_tokens=keep))
    texts, finishes = run(engine)
    text, dropped = shifted_text(PROMPT, 60, limit, keep)
    assert {1: text} == texts
    assert (60, dropped, "length") == (
        finishes[1].stats.completion_tokens,
        finishes[1].stats.dropped_tokens,
        finishes[1].reason,
    )
    assert_nothing_leaks(engine, backend)


def test_what_is_to_be_kept_is_kept_and_the_context_is_never_longer_than_its_limit():
    engine, backend = new_engine()
    engine.add(request(1, PROMPT, limit_tokens=40, max_new_tokens=100, shifts=True, keep_tokens=9))
    while engine.has_work:
        engine.step()
        assert backend.used_cells < 40
        assert backend.text(0)[:9] in (b"", b"keep this")


def test_more_than_the_prompt_cannot_be_kept():
    engine, _ = new_engine()
    engine.add(request(1, PROMPT, limit_tokens=40, max_new_tokens=40, shifts=True, keep_tokens=1000))
    text, _ = shifted_text(PROMPT, 40, 40, len(PROMPT) - 1)
    assert {1: text} == run(engine)[0]


def test_a_context_that_is_not_to_be_shifted_ends_with_length():
    engine, _ = new_engine()
    engine.add(request(1, PROMPT, limit_tokens=40, max_new_tokens=60))
    texts, finishes = run(engine)
    assert {1: expected_text(PROMPT, 40 - len(PROMPT))} == texts
    assert ("length", 0) == (finishes[1].reason, finishes[1].stats.dropped_tokens)


def test_a_shift_leaves_the_cells_that_others_share_where_they_are():
    engine, backend = new_engine()
    shared = "a prefix that two requests have in common, and that both of them run on"
    engine.add(request(1, shared + " 1", max_new_tokens=60))
    engine.step()
    limit = len(shared) + 12
    engine.add(request(2, shared + " 2", limit_tokens=limit, max_new_tokens=60, shifts=True, keep_tokens=5))
    engine.step()
    assert len(shared + " " + "1" + "2") + 1 == backend.used_cells  # the prefix once, and one token of the answer
    texts, _ = run(engine)
    assert expected_text(shared + " 1", 60)[2:] == texts[1]
    assert shifted_text(shared + " 2", 60, limit, 5)[0][1:] == texts[2]


def test_a_shift_of_what_is_kept_alone_needs_no_cells_of_its_own():
    engine, backend = new_engine()
    engine.add(request(1, PROMPT + " 1", max_new_tokens=60))
    engine.step()
    options = {"limit_tokens": len(PROMPT) + 20, "max_new_tokens": 60, "shifts": True, "keep_tokens": len(PROMPT) + 1}
    engine.add(request(2, PROMPT + " 2", **options))
    texts, _ = run(engine)
    assert shifted_text(PROMPT + " 2", 60, len(PROMPT) + 20, len(PROMPT) + 1)[0] == texts[2]
    assert 0 == backend.saves


def test_a_shared_context_without_room_for_cells_of_its_own_is_computed_again():
    engine, backend = new_engine(pool_tokens=70)
    limit = len(PROMPT) + 8
    engine.add(request(1, PROMPT + " 1", max_new_tokens=20))
    engine.step()
    engine.add(request(2, PROMPT + " 2", limit_tokens=limit, max_new_tokens=60, shifts=True))
    texts, finishes = run(engine)
    text, dropped = shifted_text(PROMPT + " 2", 60, limit, 0)
    assert expected_text(PROMPT + " 1", 20)[1:] == texts[1]
    assert (text, 60, dropped) == (
        texts[2],
        finishes[2].stats.completion_tokens,
        finishes[2].stats.dropped_tokens,
    )
    assert_nothing_leaks(engine, backend)


def test_an_idle_prefix_gives_its_room_for_the_cells_that_a_shift_needs():
    engine, _ = new_engine(pool_tokens=120)
    engine.add(request(0, "z" * 60, max_new_tokens=1))
    run(engine)
    engine.add(request(1, PROMPT + " 1", max_new_tokens=15))
    engine.step()
    engine.add(request(2, PROMPT + " 2", limit_tokens=len(PROMPT) + 12, max_new_tokens=30, shifts=True))
    texts, _ = run(engine)
    assert shifted_text(PROMPT + " 2", 30, len(PROMPT) + 12, 0)[0] == texts[2]


def test_a_shifted_context_is_no_prefix_of_a_later_prompt():
    engine, _ = new_engine()
    engine.add(request(1, PROMPT, limit_tokens=40, max_new_tokens=60, shifts=True, keep_tokens=9))
    run(engine)
    assert 0 == engine.stats().idle_prefixes


def test_a_shifted_context_is_no_prefix_after_its_state_was_saved_and_restored():
    engine, backend = new_engine(pool_tokens=300)
    engine.add(request(1, "1" * 100, max_new_tokens=195))
    engine.step()
    kept = "kept part "
    engine.add(request(2, kept + "2" * 90, limit_tokens=150, max_new_tokens=100, shifts=True, keep_tokens=len(kept)))
    texts, finishes = run(engine)
    assert shifted_text(kept + "2" * 90, 100, 150, len(kept))[0] == texts[2]
    assert (True, True) == (backend.restores > 0, finishes[2].stats.dropped_tokens > 0)
    engine.add(request(3, kept + "and something else", max_new_tokens=1))
    assert 0 == run(engine)[1][3].stats.cached_tokens


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_decode_that_was_broken_off_loses_nothing(memory):
    engine, backend = new_engine(batch_tokens=16, memory=MEMORIES[memory])
    prompts = {number: f"{number} is interrupted again and again" for number in range(3)}
    for number, prompt in prompts.items():
        engine.add(request(number, prompt, max_new_tokens=20))
    texts = dict.fromkeys(prompts, "")
    for step in range(400):
        if step % 5 == 3:
            backend.interrupt()
            assert [] == engine.step()
        for output in engine.step():
            texts[output.id] += output.text
        assert engine.stats().used_cells == backend.used_cells
    assert {number: expected_text(prompt, 20) for number, prompt in prompts.items()} == texts
    assert_nothing_leaks(engine, backend)


class InterruptedBackend(TimedBackend):
    """Calls `during` in the middle of each decode, as another thread would."""

    def during(self):
        """Nothing yet."""

    def decode(self, batch):
        self.during()
        return super().decode(batch)


@pytest.mark.parametrize(("long_id", "computed"), [(1, [0, 56, 66]), (2, [66])])
def test_an_interrupt_breaks_off_the_decode_that_is_mostly_for_that_request(long_id, computed):
    engine, backend = new_engine(InterruptedBackend)
    engine.add(request(long_id, "x" * 56, max_new_tokens=1))
    engine.add(request(3 - long_id, "y" * 10, max_new_tokens=1))
    calls = iter([1])
    backend.during = lambda: [engine.interrupt(number) for number in calls]
    seen = []
    while engine.has_work:
        outputs = engine.step()
        seen.append((len(outputs), backend.computed_rows))
    expected = [(0, 0), (2, 66)] if long_id == 1 else [(2, 66)]
    assert expected == seen


def test_an_interrupt_between_decodes_or_for_a_stranger_breaks_off_nothing():
    engine, backend = new_engine(InterruptedBackend)
    engine.add(request(1, PROMPT, max_new_tokens=3))
    backend.during = lambda: engine.interrupt(99)
    for _ in range(3):
        engine.interrupt(1)
        assert 1 == len(engine.step())


def press(policy, row_seconds=0.001, count=2, size=100):
    """Requests that do not fit into the pool together; returns the backend and how many rows were computed twice."""
    engine, backend = new_engine(policy=policy, pool_tokens=3 * size)
    backend.row_seconds = row_seconds
    prompts = {number: str(number) * (size - number) for number in range(count)}
    for number, prompt in prompts.items():
        engine.add(request(number, prompt, max_new_tokens=size))
    texts, _ = run(engine)
    assert {number: expected_text(prompt, size) for number, prompt in prompts.items()} == texts
    assert 1 <= engine.stats().preemptions
    assert_nothing_leaks(engine, backend)
    return backend, backend.computed_rows - sum(len(prompt) + size - 1 for prompt in prompts.values())


def test_the_state_of_a_preempted_sequence_is_saved_and_nothing_computed_twice():
    backend, twice = press(EnginePolicy(speculates=False, shelf_bytes_most=0))
    assert (1, 1, 0) == (backend.saves, backend.restores, twice)


def test_without_host_memory_a_preempted_sequence_is_computed_again():
    backend, twice = press(EnginePolicy(speculates=False, shelf_bytes_most=0, saved_bytes_most=0))
    assert (0, 0) == (backend.saves, backend.restores)
    assert 100 <= twice


def test_a_state_that_is_computed_faster_than_it_is_copied_is_not_saved():
    backend, twice = press(EnginePolicy(speculates=False, shelf_bytes_most=0), row_seconds=1e-6)
    assert (0, True) == (backend.saves, twice >= 100)


def test_a_state_larger_than_the_host_memory_for_it_is_not_saved():
    backend, _ = press(EnginePolicy(speculates=False, shelf_bytes_most=0, saved_bytes_most=120 * 1024))
    assert 0 == backend.saves


def test_states_are_saved_only_while_all_of_them_fit_into_the_host_memory_for_them():
    assert 0 == press(EnginePolicy(speculates=False, shelf_bytes_most=0), count=3)[1]
    assert 100 <= press(EnginePolicy(speculates=False, shelf_bytes_most=0, saved_bytes_most=220 * 1024), count=3)[1]


def test_a_short_state_is_not_saved():
    backend, _ = press(EnginePolicy(speculates=False, shelf_bytes_most=0), size=40)
    assert 0 == backend.saves


def test_the_host_memory_of_a_restored_state_is_free_for_the_next():
    engine, backend = new_engine(
        policy=EnginePolicy(speculates=False, shelf_bytes_most=0, saved_bytes_most=220 * 1024), pool_tokens=300
    )
    for first in (1, 3, 5):
        for number in (first, first + 1):
            engine.add(request(number, str(number) * 100, max_new_tokens=100))
        run(engine)
    assert (3, 3) == (backend.saves, backend.restores)


def test_the_host_memory_of_a_cancelled_request_is_free_for_the_next():
    engine, backend = new_engine(
        policy=EnginePolicy(speculates=False, shelf_bytes_most=0, saved_bytes_most=220 * 1024), pool_tokens=300
    )
    for first in (1, 3, 5):
        for number in (first, first + 1):
            engine.add(request(number, str(number) * 100, max_new_tokens=100))
        engine.step()
        while not engine.stats().waiting:
            engine.step()
        engine.cancel(first + 1)
        run(engine)
    assert 3 == backend.saves
