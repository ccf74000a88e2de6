"""Guessing in the engine, on the fake model: guesses save decodes, change no text and keep to every bound.

"echo:" makes the fake model repeat its prompt, so that nearly every guess is right; other text repeats too seldom.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import assert_nothing_leaks, expected_text, request, run

from localllm.engine.backend import MemoryTraits
from localllm.engine.draft_model import DraftModel
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.engine.policy import EnginePolicy

ANSWER = "to be repeated, word by word, and at some length"
PROMPT = f"echo:{ANSWER}\n"


class RecordingBackend(FakeBackend):
    """Remembers the rows of each decode and the highest position."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.rows = []
        self.highest_position = 0

    def decode(self, batch):
        self.rows.append(len(batch.tokens))
        self.highest_position = max(self.highest_position, int(batch.positions.max()))
        return super().decode(batch)


def new_engine(speculates=True, draft_model=None, **backend_options):
    backend = RecordingBackend(**backend_options)
    return Engine(backend, lambda: 0.0, EnginePolicy(speculates=speculates), draft_model=draft_model), backend


def new_draft_model(pool_tokens=4096):
    """It says what the fake model says with seed 0, which is that of requests that have no other."""
    backend = FakeBackend(pool_tokens, max_sequences=1)
    return DraftModel(backend, backend.facts.vocabulary_size, lambda: 0.0)


def test_a_draft_model_guesses_what_never_stood_before():
    plain, plain_backend = new_engine()
    plain.add(request(1, "endless", max_new_tokens=60))
    engine, backend = new_engine(draft_model=new_draft_model())
    engine.add(request(1, "endless", max_new_tokens=60))
    assert run(plain)[0] == run(engine)[0] == {1: expected_text("endless", 60)}
    assert (60, 0) == (plain_backend.decodes, plain.stats().drafted_tokens)
    assert 60 - engine.stats().accepted_tokens == backend.decodes
    assert backend.decodes < 20
    assert_nothing_leaks(engine, backend)


def test_a_draft_model_is_not_asked_for_sequences_in_company():
    engine, backend = new_engine(draft_model=new_draft_model())
    for number in (1, 2):
        engine.add(request(number, f"endless {number}", max_new_tokens=30))
    run(engine)
    assert (0, 30) == (engine.stats().drafted_tokens, backend.decodes)


def test_a_draft_model_goes_on_when_the_company_has_left():
    engine, _ = new_engine(draft_model=new_draft_model())
    engine.add(request(1, "endless", max_new_tokens=100))
    engine.add(request(2, "endless too", max_new_tokens=5))
    texts, finishes = run(engine)
    assert {1: expected_text("endless", 100), 2: expected_text("endless too", 5)} == texts
    assert (0, True) == (finishes[2].stats.drafted_tokens, finishes[1].stats.accepted_tokens > 60)


def test_a_draft_model_with_less_context_helps_as_far_as_that_goes():
    engine, _ = new_engine(draft_model=new_draft_model(pool_tokens=40))
    engine.add(request(1, "endless", max_new_tokens=100))
    texts, finishes = run(engine)
    assert {1: expected_text("endless", 100)} == texts
    assert 20 < finishes[1].stats.accepted_tokens < 40


def test_text_that_repeats_is_guessed_and_takes_fewer_decodes():
    engine, backend = new_engine()
    engine.add(request(1, PROMPT))
    texts, finishes = run(engine)
    stats = finishes[1].stats
    assert ({1: ANSWER}, "stop", len(ANSWER) + 1) == (texts, finishes[1].reason, stats.completion_tokens)
    assert 0.7 * len(ANSWER) < stats.accepted_tokens <= stats.drafted_tokens
    assert len(ANSWER) + 1 - stats.accepted_tokens == backend.decodes
    assert (stats.drafted_tokens, stats.accepted_tokens) == (
        engine.stats().drafted_tokens,
        engine.stats().accepted_tokens,
    )
    assert_nothing_leaks(engine, backend)


def test_every_decode_keeps_to_the_rows_that_one_sequence_may_have():
    engine, backend = new_engine()
    engine.add(request(1, PROMPT))
    run(engine)
    assert backend.facts.outputs_per_sequence == max(backend.rows[1:])


def test_nothing_is_guessed_where_that_is_not_wanted():
    engine, backend = new_engine(speculates=False)
    engine.add(request(1, PROMPT))
    assert {1: ANSWER} == run(engine)[0]
    assert (0, len(ANSWER) + 1) == (engine.stats().drafted_tokens, backend.decodes)


def test_a_wrong_guess_costs_its_own_row_and_nothing_else():
    engine, backend = new_engine()
    answer = "one two three, one two four, one two five, one two three, one two six"
    engine.add(request(1, f"echo:{answer}\n"))
    texts, finishes = run(engine)
    stats = finishes[1].stats
    assert {1: answer} == texts
    assert stats.accepted_tokens + 3 < stats.drafted_tokens
    wrong = stats.drafted_tokens - stats.accepted_tokens
    assert stats.prompt_tokens + stats.completion_tokens - 1 + wrong == backend.computed_rows


@settings(deadline=None)
@given(
    text=st.text("ab", max_size=30),
    is_echo=st.booleans(),
    limit=st.integers(1, 60),
    most=st.none() | st.integers(1, 40),
    stop=st.text("ab", max_size=3),
    draft_tokens=st.sampled_from([5, 20, 4096]),
)
def test_guesses_change_nothing_but_the_number_of_decodes(text, is_echo, limit, most, stop, draft_tokens):
    prompt = f"echo:{text}\n" if is_echo else f"x{text}"
    ends = []
    for speculates, draft_model in ((True, None), (True, new_draft_model(draft_tokens)), (False, None)):
        engine, backend = new_engine(speculates, draft_model)
        stops = (stop,) if stop else ()
        engine.add(request(1, prompt, limit_tokens=len(prompt) + limit, max_new_tokens=most, stop=stops))
        texts, finishes = run(engine)
        held = {backend.text(slot) for slot in range(backend.facts.slots)}
        ends.append((texts, finishes[1].reason, finishes[1].stats.completion_tokens))
        assert backend.highest_position < len(prompt) + limit
        assert held <= {b"", (prompt + expected_text(prompt, 60)).encode()[: max(map(len, held))]}
    assert ends[2] == ends[1] == ends[0]


@pytest.mark.parametrize("most", range(1, 20))
def test_no_more_tokens_than_asked_for_are_generated_or_computed(most):
    engine, backend = new_engine()
    engine.add(request(1, PROMPT, max_new_tokens=most))
    texts, finishes = run(engine)
    assert ({1: ANSWER[:most]}, most) == (texts, finishes[1].stats.completion_tokens)
    assert backend.highest_position <= len(PROMPT) + most - 2


@pytest.mark.parametrize("room", range(1, 20))
@pytest.mark.parametrize("bound", ["limit", "pool"])
def test_the_limit_and_the_pool_are_kept_to(bound, room):
    most = len(PROMPT) + room
    engine, backend = new_engine(pool_tokens=most if bound == "pool" else 4096)
    engine.add(request(1, PROMPT, limit_tokens=most if bound == "limit" else 4096))
    texts, finishes = run(engine)
    assert ({1: ANSWER[:room]}, "length") == (texts, finishes[1].reason)
    assert backend.highest_position < len(PROMPT) + room


def test_a_stop_string_within_a_draft_ends_the_text_and_leaves_a_right_prefix():
    engine, backend = new_engine()
    engine.add(request(1, PROMPT, stop=(ANSWER[20:23],)))
    assert {1: ANSWER[:20]} == run(engine)[0]
    assert 0 < engine.stats().accepted_tokens
    assert (PROMPT + ANSWER).startswith(backend.text(0).decode())
    engine.add(request(2, PROMPT + ANSWER[:30]))
    assert {2: ANSWER[30:]} == run(engine)[0]


def test_two_running_sequences_are_not_slowed_by_guesses():
    engine, backend = new_engine()
    engine.add(request(1, PROMPT))
    engine.add(request(2, "endless", max_new_tokens=len(ANSWER) + 10))
    texts, _ = run(engine)
    assert {1: ANSWER, 2: expected_text("endless", len(ANSWER) + 10)} == texts
    assert 0 == engine.stats().drafted_tokens
    assert len(ANSWER) + 10 == backend.decodes


def test_guessing_begins_when_the_other_sequence_has_ended_and_stops_for_a_new_one():
    engine, _ = new_engine()
    engine.add(request(1, PROMPT))
    engine.add(request(2, "short", max_new_tokens=5))
    for _ in range(6):
        engine.step()
    assert 0 == engine.stats().drafted_tokens
    engine.step()
    drafted = engine.stats().drafted_tokens
    assert 0 < drafted
    engine.add(request(3, "another", max_new_tokens=5))
    engine.step()
    assert drafted == engine.stats().drafted_tokens


def test_nothing_is_guessed_while_somebody_waits():
    engine, _ = new_engine(max_sequences=1)
    engine.add(request(1, PROMPT))
    engine.step()
    engine.add(request(2, "waiting", max_new_tokens=1))
    texts, _ = run(engine)
    assert ANSWER[1:] == texts[1]
    assert 0 == engine.stats().drafted_tokens


def test_nothing_is_guessed_where_a_guess_could_not_be_taken_back():
    engine, _ = new_engine(memory=MemoryTraits(kind="recurrent"))
    engine.add(request(1, PROMPT))
    assert {1: ANSWER} == run(engine)[0]
    assert 0 == engine.stats().drafted_tokens


def test_a_window_takes_wrong_guesses_back():
    engine, backend = new_engine(memory=MemoryTraits(kind="window", window_tokens=16))
    answer = "one two three, one two four, one two five, one two three, one two six"
    engine.add(request(1, f"echo:{answer}\n"))
    texts, finishes = run(engine)
    stats = finishes[1].stats
    assert {1: answer} == texts
    assert 0 < stats.accepted_tokens < stats.drafted_tokens
    wrong = stats.drafted_tokens - stats.accepted_tokens
    assert stats.prompt_tokens + stats.completion_tokens - 1 + wrong == backend.computed_rows


class ForgetfulBackend(RecordingBackend):
    """A window that holds what it looks back and no token more, so that nothing can be taken back."""

    def lowest_position(self, slot):
        return max(0, len(self.cells[slot]) - self.facts.memory.window_tokens)


def test_a_window_that_cannot_take_a_wrong_guess_back_computes_again():
    backend = ForgetfulBackend(memory=MemoryTraits(kind="window", window_tokens=16))
    engine = Engine(backend, lambda: 0.0, EnginePolicy())
    answer = "one two three, one two four, one two five, one two three, one two six"
    engine.add(request(1, f"echo:{answer}\n"))
    texts, finishes = run(engine)
    assert {1: answer} == texts
    stats = finishes[1].stats
    wrong = stats.drafted_tokens - stats.accepted_tokens
    assert 0 < wrong
    assert stats.prompt_tokens + stats.completion_tokens - 1 + wrong < backend.computed_rows
    assert_nothing_leaks(engine, backend)
