"""OpenAI's older completions: literal bodies in, literal requests out; literal events in, literal answers out."""

from __future__ import annotations

import json

import pytest

from localllm.dialects.body import Decoded
from localllm.dialects.openai_completion import decode_completion
from localllm.dialects.openai_completion_encode import CompletionEncoder, Shape
from localllm.errors import LocalllmError
from localllm.generation import (
    ContentDelta,
    Failed,
    FillIn,
    Finished,
    GenerationRequest,
    OfChoice,
    Options,
    PromptProgress,
    TokenLogprob,
    Usage,
)

NOW_NS = 1_767_323_045_000_000_006


def decode(fields: str) -> Decoded:
    return decode_completion(f'{{"model": "m", {fields}}}'.encode())


def test_a_body_with_every_field_becomes_a_request():
    body = b"""{"model": "guide", "prompt": "once", "suffix": "end", "stream": true, "max_tokens": 5, "echo": true,
        "stream_options": {"include_usage": true}, "temperature": 0.5, "seed": 3, "stop": ["END"],
        "logit_bias": {"5": 1}, "min_p": 0.1, "options": {"top_k": 1}, "keep_alive": 60, "user": "ann", "n": 1,
        "store": true}"""
    request = GenerationRequest(
        model="guide",
        prompt="once",
        raw=True,
        fill_in=FillIn("end"),
        options=Options(
            num_predict=5, temperature=0.5, seed=3, stop=("END",), logit_bias=((5, 1.0),), min_p=0.1, top_k=1
        ),
        keep_alive_seconds=60.0,
        client="ann",
    )
    assert Decoded(
        request, stream=True, include_usage=True, choices=(request,), echoes=True, ignored=("store",)
    ) == decode_completion(body)


def test_a_prompt_goes_to_the_model_as_it_is_for_16_tokens_as_openai_has_it():
    request = GenerationRequest("m", prompt="x", raw=True, options=Options(num_predict=16))
    assert request == decode('"prompt": "x"').request
    assert 3 == decode('"prompt": "x", "options": {"num_predict": 3}').request.options.num_predict


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('["a", "b"]', [("a", None), ("b", None)]),
        ("[1, 2]", [(None, (1, 2))]),
        ("[[1, 2], [3]]", [(None, (1, 2)), (None, (3,))]),
        ('["a", [3]]', [("a", None), (None, (3,))]),
    ],
)
def test_a_prompt_may_be_texts_or_token_ids(prompt, expected):
    assert expected == [(one.prompt, one.prompt_tokens) for one in decode(f'"prompt": {prompt}').choices]


def test_each_prompt_gets_its_answers_and_of_more_candidates_their_logprobs_are_needed():
    decoded = decode('"prompt": ["a", "b"], "n": 1, "best_of": 2, "seed": 7')
    assert [("a", 7), ("a", 8), ("b", 7), ("b", 8)] == [(one.prompt, one.options.seed) for one in decoded.choices]
    assert (2, 1, False) == (decoded.candidates_per_prompt, decoded.answers_per_prompt, decoded.shows_logprobs)
    assert {0} == {one.logprobs for one in decoded.choices}


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ('"n": 1', "prompt", "prompt is required"),
        ('"prompt": []', "prompt", "prompt is empty"),
        ('"prompt": 5', "prompt", "prompt must be a text, an array of texts, or token ids"),
        ('"prompt": [1, "a"]', "prompt", "prompt must be a text, an array of texts, or token ids"),
        ('"prompt": [true]', "prompt", "prompt must be a text, an array of texts, or token ids"),
        ('"prompt": "x", "n": 2, "best_of": 1', "best_of", "best_of is 1, but must be at least n, which is 2"),
        (
            '"prompt": "x", "best_of": 2, "stream": true',
            "best_of",
            "best_of cannot be streamed: the best is known at the end only",
        ),
        (
            '"prompt": ["a", "b"], "n": 65',
            "n",
            "n is 65 for each of 2 prompts, but 1 to 128 answers are possible",
        ),
        ('"prompt": "x", "logprobs": 21', "logprobs", "logprobs must be between 0 and 20"),
        (
            '"prompt": "x", "suffix": "y", "logprobs": 1, "echo": true',
            None,
            "echo with logprobs and suffix is not supported: the model's prompt is another text then",
        ),
        ('"prompt": [1], "suffix": "x"', "suffix", "suffix needs a prompt that is text, not token ids"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields, field, message):
    with pytest.raises(LocalllmError) as caught:
        decode(fields)
    assert (400, message) == (caught.value.status, caught.value.message)
    assert field == getattr(caught.value, "field", None)


def encoder(**shape) -> CompletionEncoder:
    return CompletionEncoder("cmpl-1", "guide", NOW_NS, Shape(**shape))


def chunks(*events, **shape):
    one = encoder(**shape)
    lines = b"".join(one.chunk(event, NOW_NS) for event in events).split(b"\n\n")
    assert [b"data: [DONE]", b""] == lines[-2:]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines[:-2]]


HEAD = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1_767_323_045,
    "model": "guide",
    "system_fingerprint": "fp_localllm",
}


def choice(index, text, reason=None, logprobs=None):
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def test_a_stream_ends_with_the_reason_the_usage_if_asked_for_and_done():
    events = (PromptProgress(2, 2), ContentDelta("a"), Finished("length", Usage(2, 1, 1)))
    assert [
        {**HEAD, "choices": [choice(0, "a")]},
        {**HEAD, "choices": [choice(0, "", "length")]},
        {
            **HEAD,
            "choices": [],
            "usage": {
                "prompt_tokens": 2,
                "completion_tokens": 1,
                "total_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
        },
    ] == chunks(*events, include_usage=True)
    assert 2 == len(chunks(*events))


def test_a_stream_that_fails_says_so_and_is_done():
    (first, error) = chunks(ContentDelta("a"), Failed("runner_crashed", 500, "it died"))
    assert [choice(0, "a")] == first["choices"]
    assert "it died" == error["error"]["message"]


def test_several_choices_stream_side_by_side():
    events = (
        OfChoice(1, ContentDelta("b")),
        OfChoice(0, ContentDelta("a")),
        OfChoice(1, Finished("stop")),
        OfChoice(0, Finished("length")),
        Finished("stop"),
    )
    expected = [choice(1, "b"), choice(0, "a"), choice(1, "", "stop"), choice(0, "", "length")]
    assert expected == [chunk["choices"][0] for chunk in chunks(*events)]


def test_the_likeliest_candidates_of_each_prompt_are_told_without_logprobs_nobody_asked_for():
    def candidate(index, text, logprob):
        delta = ContentDelta(text, (TokenLogprob(text.encode(), logprob),))
        return [OfChoice(index, delta), OfChoice(index, Finished("stop"))]

    events = [
        *candidate(0, "bad", -2.0),
        *candidate(1, "good", -0.5),
        *candidate(2, "fine", -1.0),
        *candidate(3, "poor", -3.0),
        Finished("stop", Usage(4, 0, 4)),
    ]
    whole = json.loads(encoder(candidates=2, answers=1).whole(events, NOW_NS))
    assert [choice(0, "good", "stop"), choice(1, "fine", "stop")] == whole["choices"]
    assert 8 == whole["usage"]["total_tokens"]


def test_logprobs_are_parallel_arrays_with_the_places_of_the_tokens():
    tokens = (
        TokenLogprob(b"a", -0.5, (TokenLogprob(b"a", -0.5), TokenLogprob(b"\xff", -2.0))),
        TokenLogprob(b"\xc3", -1.0),
        TokenLogprob(b"\xa9", -0.25),
    )
    first = ContentDelta("a", tokens[:1])
    second = ContentDelta("é", tokens[1:])
    third = ContentDelta("!", (TokenLogprob(b"!", -0.125),))
    whole = json.loads(encoder(shows_logprobs=True).whole([first, second, third, Finished("stop")], NOW_NS))
    assert {
        "tokens": ["a", "bytes:\\xc3", "bytes:\\xa9", "!"],
        "token_logprobs": [-0.5, -1.0, -0.25, -0.125],
        "top_logprobs": [{"a": -0.5, "bytes:\\xff": -2.0}, {}, {}, {}],
        "text_offset": [0, 1, 1, 2],
    } == whole["choices"][0]["logprobs"]
    streamed = chunks(first, second, third, Finished("stop"), shows_logprobs=True)
    assert [[0], [1, 1], [2]] == [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in streamed[:3]]


def test_an_echoed_prompt_has_its_logprobs_before_those_of_the_answer():
    answer = decode('"prompt": "x", "echo": true, "logprobs": 2')
    assert (2, 2) == (answer.request.logprobs, answer.request.prompt_logprobs)
    assert decode('"prompt": "x", "echo": true').request.prompt_logprobs is None
    likeliest = (TokenLogprob(b"a", -0.25),)
    events = (
        ContentDelta("é!"),
        PromptProgress(0, 3),
        PromptProgress(2, 3, 0, (TokenLogprob(b"\xc3", None), TokenLogprob(b"\xa9", -0.5, likeliest))),
        PromptProgress(3, 3, 0, (TokenLogprob(b"!", -1.0),)),
        ContentDelta("?", (TokenLogprob(b"?", -2.0),)),
        Finished("length"),
    )
    whole = json.loads(encoder(shows_logprobs=True).whole(events, NOW_NS))["choices"][0]
    assert "é!?" == whole["text"]
    assert {
        "tokens": ["bytes:\\xc3", "bytes:\\xa9", "!", "?"],
        "token_logprobs": [None, -0.5, -1.0, -2.0],
        "top_logprobs": [None, {"a": -0.25}, {}, {}],
        "text_offset": [0, 0, 1, 2],
    } == whole["logprobs"]
    streamed = [chunk["choices"][0] for chunk in chunks(*events, shows_logprobs=True)]
    assert ["é!", "", "", "?", ""] == [one["text"] for one in streamed]
    assert [[0, 0], [1], [2]] == [one["logprobs"]["text_offset"] for one in streamed[1:4]]


def test_the_logprobs_of_a_prompt_do_not_choose_among_its_candidates():
    def candidate(index, text, logprob):
        prompt = PromptProgress(2, 2, 0, (TokenLogprob(b"p", None), TokenLogprob(b"q", -9.0)))
        delta = ContentDelta(text, (TokenLogprob(text.encode(), logprob),))
        return [OfChoice(index, event) for event in (prompt, delta, Finished("stop"))]

    longer = ContentDelta("er", (TokenLogprob(b"er", -2.5),))
    events = [*candidate(0, "short", -2.0), OfChoice(1, longer), *candidate(1, "long", -2.5), Finished("stop")]
    whole = json.loads(encoder(candidates=2, answers=1, shows_logprobs=True).whole(events, NOW_NS))
    assert ["short"] == [one["text"] for one in whole["choices"]]
