"""The logprobs of a prompt's tokens: every token once and in order, whatever else runs and however it is computed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engine import assert_nothing_leaks, expected_text, request
from test_engine_room import MEMORIES, TimedBackend, new_engine

from localllm.engine.backend import NOT_FINITE
from localllm.engine.fake import FakeBackend, next_token
from localllm.engine.logprobs import token_logprob
from localllm.engine.policy import EnginePolicy

PROMPT = "the model is asked how likely it finds each of these"


def run(engine):
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def told(outputs, request_id=1):
    """The tokens of the prompt whose logprobs were told: (byte, logprob, the likeliest in its place)."""
    return [
        (one.data, one.logprob, [other.data for other in one.top])
        for output in outputs
        if output.id == request_id
        for one in output.prompt_logprobs
    ]


def expected(prompt, top=1):
    """What the fake model finds of each token: its own next one stands out, and the one after that behind it."""
    tokens = list(prompt.encode())
    scores = [(bytes(tokens[:1]), None, [])]
    for place in range(1, len(tokens)):
        logits = np.zeros(FakeBackend().facts.vocabulary_size, dtype=np.float32)
        token = next_token(tokens[:place])
        logits[[token, (token + 1) % len(logits)]] = 8.0, 4.0
        one = token_logprob(logits, tokens[place], top, lambda token: FakeBackend().token_bytes(token, special=True))
        scores.append((one.data, one.logprob, [other.data for other in one.top]))
    return scores


def text_of(outputs, request_id=1):
    return "".join(output.text for output in outputs if output.id == request_id)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("batch_tokens", [16, 512])
def test_every_token_of_a_prompt_is_scored_once_and_in_order(memory, batch_tokens):
    engine, backend = new_engine(memory=MEMORIES[memory], batch_tokens=batch_tokens, max_sequences=4)
    engine.add(request(1, PROMPT, max_new_tokens=6, prompt_logprobs=1))
    outputs = run(engine)
    assert expected(PROMPT) == told(outputs)
    assert expected_text(PROMPT, 6) == text_of(outputs)
    assert_nothing_leaks(engine, backend)


@pytest.mark.parametrize("prompt", ["a", "ab"])
@pytest.mark.parametrize("count", [0, 1])
def test_the_shortest_prompts_are_scored_too_also_for_no_token_at_all(prompt, count):
    engine, _ = new_engine()
    engine.add(request(1, prompt, max_new_tokens=count, prompt_logprobs=0))
    outputs = run(engine)
    assert expected(prompt, 0) == told(outputs)
    assert expected_text(prompt, count) == text_of(outputs)


def test_nobody_who_did_not_ask_is_told_any():
    engine, _ = new_engine()
    engine.add(request(1, PROMPT, max_new_tokens=3))
    assert [] == told(run(engine))


def test_a_prompt_that_lies_there_already_is_computed_again_to_be_scored():
    engine, backend = new_engine(policy=EnginePolicy())
    engine.add(request(1, PROMPT, max_new_tokens=3))
    run(engine)
    engine.add(request(2, PROMPT, max_new_tokens=3, prompt_logprobs=1))
    outputs = run(engine)
    assert expected(PROMPT) == told(outputs, 2)
    assert 0 == next(output.finish.stats.cached_tokens for output in outputs if output.finish)
    engine.add(request(3, PROMPT + " now", max_new_tokens=3))
    again = run(engine)
    assert len(PROMPT) <= next(output.finish.stats.cached_tokens for output in again if output.finish)
    assert_nothing_leaks(engine, backend)


def test_who_is_scored_does_not_wait_for_another_that_computes_the_same():
    engine, _ = new_engine(batch_tokens=16, policy=EnginePolicy())
    engine.add(request(1, PROMPT * 3, max_new_tokens=3))
    engine.step()
    engine.add(request(2, PROMPT * 3, max_new_tokens=3, prompt_logprobs=1))
    outputs = run(engine)
    assert expected(PROMPT * 3) == told(outputs, 2)
    assert expected_text(PROMPT * 3, 3) == text_of(outputs, 2)


def test_one_that_gives_way_goes_on_where_its_scores_ended():
    engine, backend = new_engine(pool_tokens=240, max_sequences=2, batch_tokens=16)
    prompts = {1: PROMPT * 2, 2: PROMPT[::-1] * 2}
    engine.add(request(1, prompts[1], max_new_tokens=40, limit_tokens=240))
    outputs = engine.step()
    engine.add(request(2, prompts[2], max_new_tokens=30, limit_tokens=240, prompt_logprobs=1))
    outputs += run(engine)
    assert engine.stats().preemptions
    assert expected(prompts[2]) == told(outputs, 2)
    assert expected_text(prompts[2], 30) == text_of(outputs, 2)
    assert_nothing_leaks(engine, backend)


@pytest.mark.parametrize("row_seconds", [0.0, 0.001])  # computing again is cheaper; saving is
def test_scores_go_on_after_the_state_was_saved_or_computed_again(row_seconds):
    engine, backend = new_engine(batch_tokens=16, max_sequences=1, policy=EnginePolicy(speculates=False))
    backend.row_seconds = row_seconds
    prompt = PROMPT * 8
    engine.add(request(1, prompt, max_new_tokens=3, prompt_logprobs=1, priority=2))
    outputs = []
    for urgent in (2, 3):
        for _ in range(9):
            outputs += engine.step()
        engine.add(request(urgent, f"urgent {urgent}", max_new_tokens=2))
    outputs += run(engine)
    assert 2 == engine.stats().preemptions
    assert expected(prompt) == told(outputs)
    assert expected_text(prompt, 3) == text_of(outputs)
    assert (row_seconds > 0) == bool(backend.restores)


@given(
    st.lists(st.tuples(st.text("ab", min_size=1, max_size=60), st.booleans()), min_size=1, max_size=6),
    st.integers(9, 40),
    st.integers(2, 4),
)
def test_many_at_once_are_each_scored_as_alone(requests, batch_tokens, parallel):
    engine, backend = new_engine(
        batch_tokens=batch_tokens, max_sequences=parallel, pool_tokens=200, policy=EnginePolicy()
    )
    for index, (prompt, is_scored) in enumerate(requests):
        engine.add(request(index, prompt, max_new_tokens=3, prompt_logprobs=1 if is_scored else None))
    outputs = run(engine)
    for index, (prompt, is_scored) in enumerate(requests):
        assert (expected(prompt) if is_scored else []) == told(outputs, index)
        assert expected_text(prompt, 3) == text_of(outputs, index)
    assert_nothing_leaks(engine, backend)


class Broken(TimedBackend):
    """A model whose logits are no numbers."""

    def logits(self, row):
        return np.full(self.facts.vocabulary_size, math.nan, dtype=np.float32)


def test_logits_that_are_no_numbers_end_the_request_with_the_reason():
    engine, backend = new_engine(Broken)
    engine.add(request(1, PROMPT, max_new_tokens=3, prompt_logprobs=1))
    assert [NOT_FINITE] == [output.error for output in run(engine)]
    assert_nothing_leaks(engine, backend)
