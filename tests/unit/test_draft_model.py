"""A draft model on the fake backend: what it guesses, what it computes again, and how it catches up."""

import numpy as np
import pytest

from localllm.engine.backend import MemoryTraits
from localllm.engine.draft_model import FADES, FIRST_ROWS, MOST_PLAIN_TOKENS, DraftModel
from localllm.engine.fake import END_TOKEN, FakeBackend, next_token

ENDLESS = b"a text of its own"
ECHO = b"echo:0123456789\n"


def new_model(pool_tokens=4096, batch_tokens=512, memory=None, **options):
    backend = FakeBackend(pool_tokens, 1, batch_tokens, memory=memory)
    options = {"vocabulary_size": END_TOKEN + 1, "clock": lambda: 0.0, **options}
    return DraftModel(backend, **options), backend


def ask(model, text, most=3, plain_seconds=0.0):
    guesses = model.guess(np.frombuffer(text, dtype=np.uint8).astype(np.int32), most, plain_seconds)
    return None if guesses is None else guesses.tolist()


def said(text, count):
    tokens = list(text)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(text) :]


def ask_until_ready(model, text, most=3):
    for step in range(1000):
        guesses = ask(model, text, most)
        if guesses is not None:
            return guesses, step
    raise AssertionError("it never catches up")


def test_it_guesses_what_it_would_say():
    model, _ = new_model()
    assert said(ENDLESS[:10], 3) == ask_until_ready(model, ENDLESS[:10])[0]


def test_guesses_end_with_the_turn():
    model, _ = new_model()
    guesses, _ = ask_until_ready(model, ECHO + b"012345678", most=8)
    assert [ord("9"), END_TOKEN] == guesses


def test_only_what_is_new_is_computed():
    model, backend = new_model()
    guesses, _ = ask_until_ready(model, ENDLESS[:10])
    rows = backend.computed_rows
    assert 12 == rows  # the text, and two of the guesses
    ask(model, ENDLESS[:10] + bytes(guesses))  # all were right: the last of them is not there yet
    assert rows + 3 == backend.computed_rows


def test_wrong_guesses_are_forgotten():
    model, backend = new_model()
    ask_until_ready(model, ENDLESS[:10])
    rows, other = backend.computed_rows, ENDLESS[:10] + b"#"
    assert said(other, 3) == ask(model, other)
    assert rows + 3 == backend.computed_rows


def test_another_sequence_keeps_what_both_begin_with():
    model, backend = new_model()
    ask_until_ready(model, b"0123456789 first", most=1)
    rows = backend.computed_rows
    assert said(b"0123456789 other", 1) == ask(model, b"0123456789 other", most=1)
    assert rows + 5 == backend.computed_rows


def test_the_same_text_again_computes_its_last_token_only():
    model, backend = new_model()
    guesses, _ = ask_until_ready(model, ENDLESS[:10], most=1)
    rows = backend.computed_rows
    assert guesses == ask(model, ENDLESS[:10], most=1)
    assert rows + 1 == backend.computed_rows


def test_a_long_text_is_caught_up_with_in_parts_without_guesses():
    model, _ = new_model()
    text = bytes(range(65, 91)) * 12
    guesses, steps = ask_until_ready(model, text)
    assert said(text, 3) == guesses
    assert steps == (len(text) - 1) // FIRST_ROWS


def test_a_part_takes_about_as_long_as_a_plain_token():
    now = [0.0]
    model, backend = new_model(clock=lambda: now[0])
    decode = backend.decode

    def timed(batch):
        now[0] += len(batch.tokens) / 128
        return decode(batch)

    backend.decode = timed
    text = b"." * 2000
    rows = []
    for _ in range(4):
        before = backend.computed_rows
        assert ask(model, text, plain_seconds=100 / 128) is None
        rows.append(backend.computed_rows - before)
    assert [FIRST_ROWS, 100, 100, 100] == rows


def test_no_part_is_larger_than_a_batch():
    model, backend = new_model(batch_tokens=8)
    assert ask(model, b"." * 100) is None
    assert 8 == backend.computed_rows


def test_it_guesses_nothing_behind_the_end_of_its_context():
    model, _ = new_model(pool_tokens=20)
    assert 2 == len(ask_until_ready(model, b"." * 18, most=8)[0])
    assert ask(model, b"." * 20, most=8) is None
    assert ask(model, b"." * 30, most=8) is None


@pytest.mark.parametrize("kind", ["window", "recurrent"])
def test_a_memory_that_takes_nothing_back_is_computed_anew(kind):
    model, _ = new_model(memory=MemoryTraits(kind=kind, window_tokens=4))
    ask_until_ready(model, ENDLESS[:15], most=8)
    other = ENDLESS[:5] + b"?"
    assert said(other, 2) == ask_until_ready(model, other, most=2)[0]


def test_a_token_that_the_larger_model_has_not_is_no_guess():
    model, _ = new_model(vocabulary_size=ord("a"))
    assert [ord("9")] == ask_until_ready(model, b"echo:9a\n"[:8], most=8)[0]


def test_one_that_is_not_sure_has_computed_and_guesses_nothing():
    model, backend = new_model(least_probability=1.1)
    assert [] == ask_until_ready(model, ENDLESS[:10])[0]
    assert 10 == backend.computed_rows


def test_a_token_that_it_does_not_have_silences_it_for_that_text_alone():
    model, backend = new_model(vocabulary_size=2**16)
    vocabulary = backend.facts.vocabulary_size
    for unknown in (vocabulary, 2**16 - 1):
        text = np.array([*ENDLESS[:5], unknown, *ENDLESS[5:10]], dtype=np.int32)
        assert [None] * 3 == [model.guess(text, 3, 0.0) for _ in range(3)]
    assert said(ENDLESS[:10], 3) == ask_until_ready(model, ENDLESS[:10])[0]


def test_a_text_that_would_take_too_long_is_left_alone_until_what_was_measured_has_faded():
    now = [0.0]
    model, backend = new_model(clock=lambda: now[0])
    decode = backend.decode
    row_seconds = [1 / 16]

    def timed(batch):
        now[0] += len(batch.tokens) * row_seconds[0]
        return decode(batch)

    backend.decode = timed
    text, plain_seconds = b"." * 1000, 1.0  # 62 s at first, and 32 are allowed
    assert ask(model, text, plain_seconds=plain_seconds) is None
    row_seconds[0] = 1 / 64
    rows = [backend.computed_rows]
    for _ in range(200):
        ask(model, text, plain_seconds=plain_seconds)
        rows.append(backend.computed_rows)
    assert FIRST_ROWS == rows[0]
    waited = rows.count(FIRST_ROWS)
    assert (1000 - FIRST_ROWS) / 16 * FADES ** (waited - 2) > MOST_PLAIN_TOKENS
    assert rows[-1] >= 1000
