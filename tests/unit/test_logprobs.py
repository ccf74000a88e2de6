"""Logprobs: from logits to numbers, held back as long as their text, and beside the content that they belong to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.logprobs import LogprobAttacher
from localllm.engine.detokenizer import Detokenizer
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.engine.logprobs import HeldLogprobs, token_logprob
from localllm.engine.sequence import SequenceRequest
from localllm.generation import ContentDelta, Finished, Sampling, ThinkingDelta, TokenLogprob, ToolCallDelta


def letter(token):
    return bytes([97 + token % 26])


def test_a_logprob_is_the_log_of_the_softmax():
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32)) + np.float32(7.0)
    found = token_logprob(logits, 1, 3, letter)
    assert (b"b", [b"a", b"b", b"c"]) == (found.data, [one.data for one in found.top])
    assert [-2, -1, -2, -3] == [round(one.logprob / math.log(2), 4) for one in (found, *found.top)]


def test_the_likeliest_of_a_large_vocabulary_are_the_same_that_sorting_finds():
    logits = np.random.default_rng(3).standard_normal(150_000, dtype=np.float32) * 4
    found = token_logprob(logits, 9, 20, str_bytes)
    assert [str_bytes(token) for token in np.argsort(-logits)[:20]] == [one.data for one in found.top]
    exact = logits.astype(np.float64)
    assert math.isclose(exact[9] - np.log(np.exp(exact).sum()), found.logprob, abs_tol=1e-4)


def str_bytes(token):
    return str(token).encode()


def test_a_token_that_could_not_come_has_the_lowest_number_json_can_hold():
    logits = np.array([0.0, -np.inf], dtype=np.float32)
    assert TokenLogprob(b"b", -9999.0) == token_logprob(logits, 1, 0, letter)


def run(pieces, stop=()):
    """What is sent, step by step, of tokens with these bytes: (text, bytes of the tokens told with it)."""
    detokenizer, held = Detokenizer(stop), HeldLogprobs()
    sent = []
    for data in pieces:
        held.add(TokenLogprob(data, -1.0), detokenizer.characters)
        piece = detokenizer.feed(data)
        sent.append((piece.text, [one.data for one in held.release(piece.text)]))
        if piece.stop is not None:
            return sent
    text = detokenizer.flush().text
    sent.append((text, [one.data for one in (*held.release(text), *held.release_all())]))
    return sent


def test_without_anything_to_hold_back_each_token_goes_with_its_text():
    assert [("Hi", [b"Hi"]), (" you", [b" you"]), ("", [])] == run([b"Hi", b" you"])


def test_the_tokens_of_one_character_go_with_the_character():
    assert [("", []), ("", []), ("€", [b"\xe2", b"\x82", b"\xac"]), ("", [])] == run([b"\xe2", b"\x82", b"\xac"])


def test_half_a_character_at_the_end_is_told_with_its_replacement():
    assert [("a", [b"a"]), ("", []), ("\ufffd", [b"\xe2"])] == run([b"a", b"\xe2"])


def test_tokens_of_a_stop_string_are_not_told():
    assert [("a", [b"a"]), ("", []), ("", [])] == run([b"a", b"EN", b"D b"], stop=("END",))


def test_a_token_that_is_text_and_stop_string_is_told():
    assert [("a", [b"a"]), ("b", [b"bEN"]), ("", [])] == run([b"a", b"bEN", b"D"], stop=("END",))


def test_what_was_held_back_for_nothing_is_told_when_it_is_sent():
    assert [("", []), ("ENx", [b"EN", b"x"]), ("", [])] == run([b"EN", b"x"], stop=("END",))
    assert [("", []), ("EN", [b"EN"])] == run([b"EN"], stop=("END",))


def test_a_token_without_text_goes_with_the_next_text_or_at_the_end():
    assert [("", []), ("a", [b"", b"a"]), ("", []), ("", [b""])] == run([b"", b"a", b""])


@given(st.lists(st.binary(max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2))
def test_no_token_is_told_twice_or_out_of_order_and_none_is_lost_without_a_stop(pieces, stop):
    sent = run(pieces, stop)
    told = [data for _, tokens in sent for data in tokens]
    assert pieces[: len(told)] == told
    was_stopped = len(sent) <= len(pieces)
    assert was_stopped or pieces == told


def generated(prompt, **options):
    """The steps of the engine on the fake model: (text, the bytes of its tokens, the bytes of their likeliest)."""
    clock = itertools.count()
    engine = Engine(FakeBackend(), lambda: float(next(clock)))
    fields = {"sampling": Sampling(temperature=0.0), "seed": 0, "limit_tokens": 1000, **options}
    engine.add(SequenceRequest(id=1, prompt=list(prompt.encode()), **fields))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return [
        (one.text, b"".join(token.data for token in one.logprobs), [token.top[:1] for token in one.logprobs])
        for one in outputs
        if one.prompt_processed is None
    ]


def test_the_engine_tells_each_tokens_logprob_with_its_text_and_none_for_the_end_of_the_turn():
    steps = generated("echo:hello\n", logprobs=2)
    assert [("hello", b"hello")] == [("".join(text for text, _, _ in steps), b"".join(data for _, data, _ in steps))]
    assert all(text.encode() == data for text, data, _ in steps)
    assert b"hello" == b"".join(top[0].data for _, _, tops in steps for top in tops)


def test_the_engine_tells_as_many_logprobs_as_tokens_were_asked_for():
    steps = generated("abc", logprobs=0, max_new_tokens=10)
    assert 10 == sum(len(data) for _, data, _ in steps)
    assert [()] * 10 == [top for _, _, tops in steps for top in tops]


def test_the_engine_tells_no_logprob_behind_a_stop_string():
    steps = generated("echo:one END two\n", logprobs=1, stop=(" END",))
    assert ("one", b"one") == ("".join(text for text, _, _ in steps), b"".join(data for _, data, _ in steps))


def test_the_engine_tells_none_when_none_were_asked_for():
    assert {b""} == {data for _, data, _ in generated("echo:hello\n")}


def logprobs(*texts):
    return tuple(TokenLogprob(text.encode(), -1.0) for text in texts)


def told(steps):
    """(text, texts of its tokens) of each content event of these steps; a step is its events and its tokens' texts."""
    attacher = LogprobAttacher()
    events = []
    for index, (made, texts) in enumerate(steps):
        events += attacher.attach(list(made), logprobs(*texts), is_last=index == len(steps) - 1)
    return [(event.text, [one.text for one in event.logprobs]) for event in events if isinstance(event, ContentDelta)]


def test_content_takes_the_tokens_of_its_text():
    assert [("Hello", ["He", "llo"]), (" you", [" you"])] == told(
        [((), ["He"]), ((ContentDelta("Hello"),), ["llo"]), ((ContentDelta(" you"),), [" you"])]
    )


def test_blanks_that_the_parser_keeps_back_go_with_the_text_that_brings_them():
    assert [("a", ["a"]), (" b", [" ", "b"])] == told(
        [((ContentDelta("a"),), ["a", " "]), ((ContentDelta(" b"),), "b")]
    )


def test_thinking_and_its_markers_are_not_told():
    steps = [
        ((), ["<think>"]),
        ((ThinkingDelta("Hm"),), ["Hm"]),
        ((), ["</think>", "\n\n"]),
        ((ContentDelta("Yes"),), ["Yes"]),
    ]
    assert [("Yes", ["Yes"])] == told(steps)


def test_calls_are_not_told():
    call = ToolCallDelta(0, "call_1", "f", "{}")
    steps = [((ContentDelta("a"),), ["a"]), ((), ["<tool_call>"]), ((call,), ["{", "}"]), ((), ["</tool_call>"])]
    assert [("a", ["a"])] == told(steps)


def test_a_replaced_half_character_keeps_its_token():
    half = TokenLogprob(b"\xe2", -1.0)
    attached = LogprobAttacher().attach([ContentDelta("\ufffd")], (half,), is_last=True)
    assert [ContentDelta("\ufffd", (half,))] == attached


def test_a_token_without_text_comes_at_the_end_of_an_answer():
    assert [("a", ["a"]), ("", ["<mark>"])] == told([((ContentDelta("a"),), ["a"]), ((), ["<mark>"])])


@pytest.mark.parametrize("is_last", [True, False])
def test_without_logprobs_events_stay_as_they_are(is_last):
    events = [ContentDelta("a"), Finished("stop")]
    assert events is LogprobAttacher().attach(events, (), is_last=is_last)
