"""Streams become one pool when a request needs more than one of them holds: nothing is lost, and nobody notices."""

import pytest
import test_engine
from test_engine import assert_nothing_leaks, expected_text

from localllm.engine.backend import MemoryTraits
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.errors import PromptTooLongError

STREAM_TOKENS = 64


def new_engine(**options):
    """Four streams of 64 cells that can be merged."""
    options = {"can_merge": True, "mixed_rows_most": 0} | options
    backend = FakeBackend(4 * STREAM_TOKENS, 4, memory=MemoryTraits(layout="streams"), **options)
    return Engine(backend, lambda: 0.0), backend


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


def test_streams_that_were_asked_for_refuse_what_they_cannot_hold():
    engine, _ = new_engine(can_merge=False)
    with pytest.raises(PromptTooLongError):
        engine.add(request(1, "z" * STREAM_TOKENS, 1))


def test_where_there_is_no_memory_for_one_pool_only_the_long_request_fails():
    engine, backend = new_engine()
    backend.merging_fails = True
    engine.add(request(1, "a prompt that fits", 20))
    engine.step()
    engine.add(request(2, "w" * (STREAM_TOKENS + 1), 1))
    texts, errors = {1: expected_text("a prompt that fits", 20)[:1]}, {}
    while engine.has_work:
        for output in engine.step():
            texts[output.id] = texts.get(output.id, "") + output.text
            if output.error:
                errors[output.id] = output.error
    assert {2: "no memory for one pool"} == errors
    assert expected_text("a prompt that fits", 20) == texts[1]
    with pytest.raises(PromptTooLongError):  # from now on it is told at once
        engine.add(request(3, "w" * (STREAM_TOKENS + 1), 1))
    assert_nothing_leaks(engine, backend)


def test_an_answer_ends_at_its_streams_end_where_there_is_no_memory_for_one_pool():
    engine, backend = new_engine()
    backend.merging_fails = True
    engine.add(request(1, "w" * (STREAM_TOKENS + 1), 1))
    engine.step()
    finishes = run(engine, request(2, "grows", 100))[1]
    assert "length" == finishes[2].reason
    assert STREAM_TOKENS == finishes[2].stats.prompt_tokens + finishes[2].stats.completion_tokens


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
