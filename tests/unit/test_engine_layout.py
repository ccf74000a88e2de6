"""The layout of the cells changes when a request outgrows its stream, or when the other is faster: nothing is lost."""

from dataclasses import replace

import pytest
import test_engine
from test_engine import assert_nothing_leaks, expected_text

from localllm.engine.backend import MemoryTraits
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.errors import PromptTooLongError

STREAM_TOKENS = 64


class ChangingBackend(FakeBackend):
    """A change of layout takes some time; nothing else does."""

    now = 0.0
    change_seconds = 0.0

    def change_layout(self):
        super().change_layout()
        self.now += self.change_seconds


def new_engine(pool_tokens=4 * STREAM_TOKENS, **options):
    """Four streams whose layout can change, of 64 cells each."""
    options = {"can_change_layout": True, "mixed_rows_most": 0} | options
    backend = ChangingBackend(pool_tokens, 4, memory=MemoryTraits(layout="streams"), **options)
    return Engine(backend, lambda: backend.now), backend


def request(request_id, prompt, count):
    return test_engine.request(request_id, prompt, max_new_tokens=count)


def run(engine, *requests):
    for one in requests:
        engine.add(one)
    return test_engine.run(engine)


def layout_of(backend):
    return backend.facts.memory.layout


def test_requests_that_fit_stay_in_their_streams():
    engine, backend = new_engine()
    texts = run(engine, request(1, "short", 20), request(2, "x" * 40, 20))[0]
    assert {1: expected_text("short", 20), 2: expected_text("x" * 40, 20)} == texts
    assert "streams" == layout_of(backend)


def test_a_prompt_longer_than_a_stream_is_answered():
    engine, backend = new_engine()
    prompt = "y" * (STREAM_TOKENS + 1)
    assert {1: expected_text(prompt, 5)} == run(engine, request(1, prompt, 5))[0]
    assert "unified" == layout_of(backend)
    assert_nothing_leaks(engine, backend)


def test_an_answer_that_grows_out_of_its_stream_goes_on_and_so_do_the_others():
    engine, backend = new_engine()
    texts, finishes = run(engine, request(1, "grows", 100), request(2, "beside it", 70), request(3, "and", 70))[:2]
    assert {
        1: expected_text("grows", 100),
        2: expected_text("beside it", 70),
        3: expected_text("and", 70),
    } == texts
    assert "unified" == layout_of(backend)
    assert {1} == {finish.stats.preemptions for finish in finishes.values()}
    assert_nothing_leaks(engine, backend)


def test_what_no_pool_holds_is_refused():
    engine, _ = new_engine()
    with pytest.raises(PromptTooLongError):
        engine.add(request(1, "z" * 4 * STREAM_TOKENS, 1))


def test_what_streams_have_by_rounding_up_is_not_promised_to_one_request():
    engine, backend = new_engine()
    backend.facts = replace(backend.facts, unified_tokens=4 * STREAM_TOKENS - 20)
    with pytest.raises(PromptTooLongError):
        engine.add(request(1, "z" * (4 * STREAM_TOKENS - 20), 1))


def test_streams_that_were_asked_for_refuse_what_they_cannot_hold():
    engine, _ = new_engine(can_change_layout=False)
    with pytest.raises(PromptTooLongError):
        engine.add(request(1, "z" * STREAM_TOKENS, 1))


def test_where_there_is_no_memory_for_one_pool_only_the_long_request_fails():
    engine, backend = new_engine()
    backend.change_fails = True
    engine.add(request(1, "a prompt that fits", 20))
    engine.step()
    engine.add(request(2, "w" * (STREAM_TOKENS + 1), 1))
    texts, errors = {1: expected_text("a prompt that fits", 20)[:1]}, {}
    while engine.has_work:
        for output in engine.step():
            texts[output.id] = texts.get(output.id, "") + output.text
            if output.error:
                errors[output.id] = output.error
    assert {2: "no memory for another layout"} == errors
    assert expected_text("a prompt that fits", 20) == texts[1]
    with pytest.raises(PromptTooLongError):  # from now on it is told at once
        engine.add(request(3, "w" * (STREAM_TOKENS + 1), 1))
    assert_nothing_leaks(engine, backend)


def test_an_answer_ends_at_its_streams_end_where_there_is_no_memory_for_one_pool():
    engine, backend = new_engine()
    backend.change_fails = True
    engine.add(request(1, "w" * (STREAM_TOKENS + 1), 1))
    engine.step()
    finishes = run(engine, request(2, "grows", 100))[1]
    assert "length" == finishes[2].reason
    assert STREAM_TOKENS == finishes[2].stats.prompt_tokens + finishes[2].stats.completion_tokens


def test_requests_that_share_much_get_one_pool_and_others_streams_again():
    engine, backend = new_engine(pool_tokens=4 * 4096)
    shared = "b" * 2000
    requests = [request(number, f"{shared}{number}", 5) for number in range(4)]
    expected = {number: expected_text(f"{shared}{number}", 5) for number in range(4)}
    assert expected == run(engine, *requests)[0]
    assert "unified" == layout_of(backend)
    others = [request(number, str(number) * 3000, 5) for number in range(5, 9)]
    assert {number: expected_text(str(number) * 3000, 5) for number in range(5, 9)} == run(engine, *others)[0]
    assert "streams" == layout_of(backend)
    assert_nothing_leaks(engine, backend)


def test_what_was_cached_is_there_after_a_change():
    engine, backend = new_engine(pool_tokens=4 * 4096)
    run(engine, request(1, "c" * 3000, 5))
    shared = [request(number, "d" * 2000 + str(number), 5) for number in range(2, 6)]
    run(engine, *shared)
    assert "unified" == layout_of(backend)
    finishes = run(engine, request(6, "c" * 3000, 5))[1]
    assert 2999 == finishes[6].stats.cached_tokens


def test_what_no_stream_holds_stays_in_host_memory_until_there_is_one_pool_again():
    engine, backend = new_engine(pool_tokens=4 * 4096)
    run(engine, request(1, "f" * 5000, 5))
    assert "unified" == layout_of(backend)
    run(engine, *(request(number, str(number) * 3000, 5) for number in range(2, 6)))
    assert "streams" == layout_of(backend)
    run(engine, request(6, "f" * 3000 + "g", 5))
    finishes = run(engine, request(7, "f" * 5000, 5))[1]
    assert "unified" == layout_of(backend)
    assert 4999 == finishes[7].stats.cached_tokens


def test_the_layout_does_not_change_again_before_the_last_change_has_paid():
    engine, backend = new_engine(pool_tokens=4 * 4096)
    backend.change_seconds = 1.0
    run(engine, *(request(number, "e" * 2000 + str(number), 5) for number in range(4)))
    assert "unified" == layout_of(backend)
    run(engine, *(request(number, str(number) * 3000, 5) for number in range(4, 8)))
    assert "unified" == layout_of(backend)
    backend.now += 20.0
    run(engine, *(request(number, chr(number) * 3000, 5) for number in range(100, 104)))
    assert "streams" == layout_of(backend)


def test_prompts_and_next_tokens_are_computed_apart_where_mixing_slows_them():
    engine, backend = new_engine()
    run(engine, request(1, "first", 3))
    engine.add(request(2, "goes on", 30))
    engine.step()
    decodes = backend.decodes
    engine.add(request(3, "a prompt beside it", 30))
    assert {2, 3} == {output.id for output in engine.step()}
    assert 2 == backend.decodes - decodes
    engine.step()
    assert 3 == backend.decodes - decodes
