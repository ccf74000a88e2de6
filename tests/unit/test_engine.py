"""The batching engine on the fake model: every mix-up of sequences, slots or cells would show in the text."""

import itertools

import pytest

from localllm.engine.engine import Engine
from localllm.engine.fake import END_TOKEN, FakeBackend, next_token
from localllm.engine.sequence import SequenceRequest
from localllm.errors import PromptTooLongError
from localllm.generation import Sampling

GREEDY = Sampling(temperature=0.0)


def new_engine(**backend_options):
    backend = FakeBackend(**backend_options)
    clock = itertools.count()
    return Engine(backend, lambda: float(next(clock))), backend


def request(request_id, prompt, **options):
    defaults = {"sampling": GREEDY, "seed": 0, "limit_tokens": 10_000}
    return SequenceRequest(id=request_id, prompt=list(prompt.encode()), **{**defaults, **options})


def expected_text(prompt, count):
    tokens = list(prompt.encode())
    while len(tokens) < len(prompt.encode()) + count and (token := next_token(tokens)) != END_TOKEN:
        tokens.append(token)
    return bytes(tokens[len(prompt.encode()) :]).decode()


def run(engine):
    texts, finishes = {}, {}
    while engine.has_work:
        for output in engine.step():
            texts[output.id] = texts.get(output.id, "") + output.text
            if output.finish:
                finishes[output.id] = output.finish
    return texts, finishes


def assert_nothing_leaks(engine, backend):
    """Once the idle prefixes are forgotten, nothing is left."""
    engine.forget_prefixes()
    assert (0, 0, 0) == (engine.stats().used_cells, backend.used_cells, engine.stats().idle_prefixes)


def test_a_sequence_ends_with_stop_when_the_model_ends_its_turn():
    engine, _ = new_engine()
    engine.add(request(1, "echo:hello\n"))
    texts, finishes = run(engine)
    assert {1: "hello"} == texts
    assert "stop" == finishes[1].reason


def test_a_sequence_ends_with_length_at_its_token_limit():
    engine, _ = new_engine()
    engine.add(request(1, "abc", max_new_tokens=5))
    texts, finishes = run(engine)
    assert {1: expected_text("abc", 5)} == texts
    assert ("length", 3, 5) == (
        finishes[1].reason,
        finishes[1].stats.prompt_tokens,
        finishes[1].stats.completion_tokens,
    )


def test_a_sequence_ends_with_length_when_prompt_and_answer_fill_its_context():
    engine, _ = new_engine()
    engine.add(request(1, "abcd", limit_tokens=10))
    texts, finishes = run(engine)
    assert 6 == len(texts[1])
    assert "length" == finishes[1].reason


def test_the_stop_string_that_ended_a_sequence_is_told():
    engine, _ = new_engine()
    engine.add(request(1, "echo:hello\n", stop=("x", "ll")))
    engine.add(request(2, "echo:hello\n"))
    texts, finishes = run(engine)
    assert {1: "he", 2: "hello"} == texts
    assert ("ll", None) == (finishes[1].stop_text, finishes[2].stop_text)


class LinesBackend(FakeBackend):
    """The fake model with lines: its "g" ends one."""

    def token_bytes(self, token, *, special):
        return super().token_bytes(token, special=special).replace(b"g", b"\n")


def test_an_answer_that_is_out_of_time_ends_when_it_has_a_whole_line():
    engine = Engine(LinesBackend(), itertools.count().__next__)
    engine.add(request(1, "abc", max_new_tokens=50, decode_seconds_most=0))
    engine.add(request(2, "abc", max_new_tokens=50, decode_seconds_most=10_000))
    texts, finishes = run(engine)
    assert expected_text("abc", 50).partition("g")[0] + "\n" == texts[1]
    assert expected_text("abc", 50).replace("g", "\n") == texts[2]
    assert ("length", "length") == (finishes[1].reason, finishes[2].reason)


def test_a_prompt_that_is_out_of_time_is_given_up_and_what_was_computed_of_it_serves_the_next():
    engine, backend = new_engine(batch_tokens=8)
    engine.add(request(1, "abcdefgh" * 4, prefill_seconds_most=0.0))
    texts, finishes = run(engine)
    assert ("", "length", 0) == (texts[1], finishes[1].reason, finishes[1].stats.completion_tokens)
    assert backend.computed_rows == 8
    engine.add(request(2, "abcdefgh" * 4, max_new_tokens=1, prefill_seconds_most=1000.0))
    _, finishes = run(engine)
    assert (8, 1) == (finishes[2].stats.cached_tokens, finishes[2].stats.completion_tokens)


def test_no_token_is_generated_when_none_was_asked_for():
    engine, backend = new_engine()
    engine.add(request(1, "abc", max_new_tokens=0))
    texts, finishes = run(engine)
    assert {1: ""} == texts
    assert ("length", 0) == (finishes[1].reason, finishes[1].stats.completion_tokens)
    assert 3 == backend.used_cells  # the prompt stays as an idle prefix


def test_a_full_batch_gives_each_sequence_the_text_it_gets_alone():
    prompts = {number: f"prompt {number} " * (number + 1) for number in range(20)}
    engine, _ = new_engine(max_sequences=8, batch_tokens=32)
    for number, prompt in prompts.items():
        engine.add(request(number, prompt, max_new_tokens=10 + number))
    texts, _ = run(engine)
    assert {number: expected_text(prompt, 10 + number) for number, prompt in prompts.items()} == texts


def test_several_sequences_decode_in_one_batch():
    engine, backend = new_engine()
    for number in range(8):
        engine.add(request(number, f"p{number}", max_new_tokens=10))
    run(engine)
    assert 10 == backend.decodes


def test_a_long_prompt_is_computed_in_chunks_while_others_go_on_decoding():
    engine, _ = new_engine(batch_tokens=16)
    engine.add(request(1, "short", max_new_tokens=50))
    engine.step()
    engine.add(request(2, "x" * 100, max_new_tokens=1))
    progress = []
    while not (outputs := {output.id: output for output in engine.step()}).get(2) or not outputs[2].finish:
        assert 1 == len(outputs[1].text)
        progress.append(outputs[2].prompt_processed)
    assert [15, 30, 45, 60, 75, 90] == progress


def test_a_prompt_that_cannot_fit_is_refused_with_both_counts():
    engine, _ = new_engine(pool_tokens=64)
    with pytest.raises(PromptTooLongError) as refused:
        engine.add(request(1, "x" * 64))
    assert (64, 64) == (refused.value.prompt_tokens, refused.value.context_tokens)
    assert not engine.has_work


@pytest.mark.parametrize(("tokens", "said"), [(64, "64 tokens >= 64 maximum"), (65, "65 tokens > 64 maximum")])
def test_what_is_said_of_a_prompt_that_cannot_fit_is_true(tokens, said):
    engine, _ = new_engine(pool_tokens=64)
    with pytest.raises(PromptTooLongError, match=f"the prompt is too long: {said} context length"):
        engine.add(request(1, "x" * tokens))


def test_a_full_pool_slows_sequences_down_but_loses_none_and_changes_no_text():
    prompts = {number: f"pressure {number} " for number in range(6)}
    engine, backend = new_engine(pool_tokens=128, max_sequences=6)
    for number, prompt in prompts.items():
        engine.add(request(number, prompt, max_new_tokens=60))
    texts, finishes = run(engine)
    assert {number: expected_text(prompt, 60) for number, prompt in prompts.items()} == texts
    assert {60} == {finish.stats.completion_tokens for finish in finishes.values()}
    assert any(finish.stats.preemptions for finish in finishes.values())
    assert_nothing_leaks(engine, backend)


def test_a_backend_with_less_room_than_it_said_costs_time_but_no_request():
    engine, backend = new_engine(pool_tokens=128, max_sequences=4)
    backend.unknown_cells = 40
    prompts = {number: f"tight {number} " for number in range(3)}
    for number, prompt in prompts.items():
        engine.add(request(number, prompt, max_new_tokens=40))
    texts, _ = run(engine)
    assert {number: expected_text(prompt, 40) for number, prompt in prompts.items()} == texts


def test_cancelling_frees_the_cells_at_once_and_the_others_go_on():
    engine, backend = new_engine()
    engine.add(request(1, "first", max_new_tokens=20))
    engine.add(request(2, "second", max_new_tokens=20))
    engine.step()
    assert engine.cancel(1)
    engine.forget_prefixes()
    assert len("second") == backend.used_cells
    texts, _ = run(engine)
    assert expected_text("second", 20)[1:] == texts[2]
    assert not engine.cancel(1)


def test_cancelling_in_the_middle_of_a_prefill_frees_its_cells():
    engine, backend = new_engine(batch_tokens=16)
    engine.add(request(1, "x" * 100))
    engine.step()
    assert 16 == backend.used_cells
    engine.cancel(1)
    assert not engine.has_work
    assert_nothing_leaks(engine, backend)


def test_a_stop_string_ends_the_sequence_and_is_not_sent():
    engine, _ = new_engine()
    text = expected_text("abc", 40)
    engine.add(request(1, "abc", stop=(text[10:13],)))
    texts, finishes = run(engine)
    assert {1: text[:10]} == texts
    assert "stop" == finishes[1].reason


def test_a_failed_decode_fails_the_sequences_of_its_batch_and_no_later_one():
    engine, backend = new_engine()
    engine.add(SequenceRequest(id=1, prompt=[999], sampling=GREEDY, seed=0, limit_tokens=100))
    (output,) = engine.step()
    assert (1, "token 999 at 0 of slot 0, which holds 0") == (output.id, output.error)
    engine.add(request(2, "echo:still here\n"))
    assert {2: "still here"} == run(engine)[0]
    assert_nothing_leaks(engine, backend)
