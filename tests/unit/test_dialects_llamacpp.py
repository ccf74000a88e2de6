"""llama-server's dialect: literal bodies in, literal requests out; literal events in, literal answers out."""

from __future__ import annotations

import json

import pytest

from localllm.dialects.body import Decoded
from localllm.dialects.llamacpp import decode_completion, decode_infill
from localllm.dialects.llamacpp_encode import LlamaCppEncoder, error_body
from localllm.dialects.llamacpp_tokens import (
    decode_detokenize,
    decode_embedding,
    decode_tokenize,
    encode_text,
    encode_tokens,
    pieces_of,
)
from localllm.errors import LocalllmError
from localllm.generation import (
    ContentDelta,
    ContextFile,
    Failed,
    FillIn,
    Finished,
    GenerationRequest,
    OfChoice,
    Options,
    PromptProgress,
    ResponseFormat,
    Timings,
    TokenLogprob,
    Usage,
)

# What llama.vim sends while someone types.
LLAMA_VIM = b"""{
    "id_slot": 0, "input_prefix": "import os\\n", "input_suffix": "\\nprint(x)\\n", "prompt": "x = os", "n_indent": 0,
    "input_extra": [{"text": "def f():\\n", "time": 12345, "filename": "a.py"}, {"text": "y"}],
    "n_predict": 128, "stop": ["\\n\\n"], "top_k": 40, "top_p": 0.9, "stream": false,
    "samplers": ["top_k", "top_p", "infill"], "cache_prompt": true, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000,
    "response_fields": ["content", "timings/prompt_n"]
}"""


def test_a_gap_comes_with_files_limits_of_time_and_the_fields_that_are_wanted():
    assert Decoded(
        GenerationRequest(
            "",
            prompt="import os\nx = os",
            raw=True,
            fill_in=FillIn("\nprint(x)\n", (ContextFile("a.py", "def f():\n"), ContextFile("tmp", "y"))),
            options=Options(num_predict=128, stop=("\n\n",), top_k=40, top_p=0.9),
            context_policy="truncate",
            prefill_seconds_most=0.5,
            decode_seconds_most=1.0,
        ),
        stream=False,
        ignored=("id_slot", "n_indent", "samplers", "cache_prompt"),
        response_fields=("content", "timings/prompt_n"),
    ) == decode_infill(LLAMA_VIM)


def test_a_completion_has_llama_servers_options():
    body = b"""{"prompt": "x", "model": "guide", "stream": true, "n_predict": -1, "n_keep": 5, "typical_p": 0.9,
        "seed": -1, "logit_bias": [[5, false], [6, 1.5]], "n_probs": 3, "json_schema": {"type" : "object"},
        "t_max_predict_ms": 0}"""
    assert Decoded(
        GenerationRequest(
            "guide",
            prompt="x",
            raw=True,
            options=Options(num_predict=-1, num_keep=5, typical_p=0.9, seed=-1, logit_bias=((5, -1e9), (6, 1.5))),
            response_format=ResponseFormat("json_schema", '{"type" : "object"}'),
            logprobs=3,
        ),
        stream=True,
    ) == decode_completion(body)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('"x"', [("x", None)]),
        ("[1, 2]", [(None, (1, 2))]),
        ('["a", [3]]', [("a", None), (None, (3,))]),
        ('["a", "b"]', [("a", None), ("b", None)]),
    ],
)
def test_a_prompt_is_a_text_token_ids_or_several_of_these(prompt, expected):
    decoded = decode_completion(f'{{"prompt": {prompt}}}'.encode())
    requests = decoded.choices or (decoded.request,)
    assert expected == [(one.prompt, one.prompt_tokens) for one in requests]
    assert {} == decoded.mixed_prompts


@pytest.mark.parametrize(
    ("prompt", "prompts", "mixed"),
    [
        ('["a", 5, "b"]', 1, {0: ("a", 5, "b")}),
        ('[5, "a"]', 1, {0: (5, "a")}),
        ('["a", [1, "b", 2], [7]]', 3, {1: (1, "b", 2)}),
    ],
)
def test_a_prompt_may_be_texts_and_token_ids_in_turn(prompt, prompts, mixed):
    decoded = decode_completion(f'{{"prompt": {prompt}}}'.encode())
    assert (prompts, mixed) == (len(decoded.choices or (decoded.request,)), decoded.mixed_prompts)


PROMPT = '"prompt" must be a text, token ids, or an array of 1 to 128 of these'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", PROMPT),
        ('{"prompt": []}', PROMPT),
        ('{"prompt": [true]}', PROMPT),
        ('{"prompt": ["a", [], 5]}', PROMPT),
        ('{"prompt": ["a", ["b", "c"]]}', PROMPT),
        ('{"prompt": ["a", -1]}', PROMPT),
        ('{"prompt": {"prompt_string": "a"}}', PROMPT),
        (
            '{"prompt": "x", "grammar": "root ::= x", "json_schema": {}}',
            "grammar and json_schema exclude each other: send one of them",
        ),
        ('{"prompt": "x", "n_probs": 21}', "n_probs must be between 0 and 20"),
        ('{"prompt": "x", "json_schema": 5}', "json_schema must be an object"),
        ('{"prompt": "x", "logit_bias": [5]}', "logit_bias must hold pairs of a token id and a number or false"),
        ('{"prompt": "x", "logit_bias": [["a", 1]]}', "logit_bias for a text is not supported"),
        ('{"prompt": "x", "top_k": "many"}', 'option "top_k" must be of type integer'),
        ('{"prompt": "x", "n_predict": "many"}', 'option "n_predict" must be of type integer'),
        ('{"prompt": "x", "n_keep": -2}', 'option "n_keep" must be between -1 and 2147483647, not -2'),
    ],
)
def test_a_bad_completion_is_told_what_is_wrong_with_it(body, message):
    with pytest.raises(LocalllmError) as caught:
        decode_completion(body.encode())
    assert (400, message) == (caught.value.status, caught.value.message)


@pytest.mark.parametrize("missing", ["input_prefix", "input_suffix"])
def test_a_gap_needs_both_its_sides(missing):
    body = {"input_prefix": "a", "input_suffix": "b"}
    del body[missing]
    with pytest.raises(LocalllmError, match=f'"{missing}" is required'):
        decode_infill(json.dumps(body).encode())


REQUEST = GenerationRequest("guide", prompt="x", raw=True, options=Options(num_predict=4))
FINISHED = Finished("stop", Usage(5, 2, 3), Timings(prefill_seconds=0.5, decode_seconds=0.25))
LAST = {
    "index": 0,
    "content": "a\nb",
    "tokens": [],
    "id_slot": -1,
    "stop": True,
    "model": "guide",
    "tokens_predicted": 3,
    "tokens_evaluated": 5,
    "tokens_cached": 8,
    "generation_settings": {"n_predict": 4},
    "prompt": "x",
    "has_new_line": True,
    "truncated": False,
    "stop_type": "eos",
    "stopping_word": "",
    "timings": {
        "cache_n": 2,
        "prompt_n": 3,
        "prompt_ms": 500.0,
        "prompt_per_token_ms": 500 / 3,
        "prompt_per_second": 6.0,
        "predicted_n": 3,
        "predicted_ms": 250.0,
        "predicted_per_token_ms": 250 / 3,
        "predicted_per_second": 12.0,
    },
}
EVENTS = (PromptProgress(0, 5), ContentDelta("a\n"), ContentDelta("b"), FINISHED)


def test_a_whole_answer_has_the_text_and_the_timings():
    assert LAST == json.loads(LlamaCppEncoder(Decoded(REQUEST, stream=True)).whole(EVENTS, 0))


def test_a_stream_ends_with_an_object_that_says_stop():
    encoder = LlamaCppEncoder(Decoded(REQUEST, stream=True))
    text = b"".join(encoder.chunk(event, 0) for event in EVENTS)
    *pieces, last = [json.loads(one.removeprefix(b"data: ")) for one in text.split(b"\n\n")[:-1]]
    common = {"index": 0, "tokens": [], "stop": False, "id_slot": -1, "tokens_evaluated": 5}
    assert [
        {**common, "content": "a\n", "tokens_predicted": 1},
        {**common, "content": "b", "tokens_predicted": 2},
    ] == pieces
    assert {**LAST, "content": ""} == last


def cut_to(*fields):
    return Decoded(REQUEST, stream=True, response_fields=fields)


def test_an_answer_is_cut_to_the_fields_that_are_wanted_under_their_paths():
    encoder = LlamaCppEncoder(cut_to("content", "timings/prompt_n", "timings/no", "content/no"))
    assert {"content": "a\nb", "timings/prompt_n": 3} == json.loads(encoder.whole(EVENTS, 0))
    warm_up = LlamaCppEncoder(cut_to(""))
    assert {} == json.loads(warm_up.whole(EVENTS, 0))


@pytest.mark.parametrize(
    ("finished", "expected"),
    [
        (Finished("length"), ("limit", "", False)),
        (Finished("stop", stop_text="\n"), ("word", "\n", False)),
        (Finished("stop", dropped_tokens=3), ("eos", "", True)),
    ],
)
def test_the_reason_of_the_end_and_what_was_cut_are_told(finished, expected):
    last = json.loads(LlamaCppEncoder(Decoded(REQUEST, stream=True)).whole([finished], 0))
    assert expected == (last["stop_type"], last["stopping_word"], last["truncated"])


def test_several_prompts_get_an_array_or_a_stream_of_their_own_ends():
    asked = Decoded(REQUEST, stream=True, choices=(REQUEST, GenerationRequest("guide", prompt_tokens=(7,), raw=True)))
    events = [
        OfChoice(1, ContentDelta("b")),
        OfChoice(1, FINISHED),
        OfChoice(0, ContentDelta("a")),
        OfChoice(0, FINISHED),
        FINISHED,
    ]
    whole = json.loads(LlamaCppEncoder(asked).whole(events, 0))
    assert [(0, "a", "x"), (1, "b", [7])] == [(one["index"], one["content"], one["prompt"]) for one in whole]
    encoder = LlamaCppEncoder(asked)
    text = b"".join(encoder.chunk(event, 0) for event in events)
    pieces = [json.loads(one.removeprefix(b"data: ")) for one in text.split(b"\n\n")[:-1]]
    assert [(1, False), (1, True), (0, False), (0, True)] == [(one["index"], one["stop"]) for one in pieces]


def test_the_tokens_that_are_asked_for_are_those_of_the_answer_alone():
    finished = Finished("stop", Usage(2, 0, 2), context=(7, 8, 9, 10))
    asked = decode_completion(b'{"prompt": "x", "return_tokens": true}')
    assert asked.request.returns_context
    assert [9, 10] == json.loads(LlamaCppEncoder(asked).whole([finished], 0))["tokens"]
    assert not decode_completion(b'{"prompt": "x"}').request.returns_context


def test_each_piece_tells_how_fast_it_goes_for_who_asks():
    encoder = LlamaCppEncoder(decode_completion(b'{"prompt": "x", "timings_per_token": true}'))
    second = 10**9
    events = (PromptProgress(2, 5, 2), ContentDelta("a"), ContentDelta("b"), FINISHED)
    text = b"".join(encoder.chunk(event, (10 + place) * second) for place, event in enumerate(events))
    first, later, last = [json.loads(one.removeprefix(b"data: "))["timings"] for one in text.split(b"\n\n")[:-1]]
    speed = {"predicted_per_token_ms": 0.0, "predicted_per_second": 0.0}
    assert {"predicted_n": 1, "predicted_ms": 0.0, **speed} == first
    speed = {"predicted_per_token_ms": 500.0, "predicted_per_second": 2.0}
    assert {"predicted_n": 2, "predicted_ms": 1000.0, **speed} == later
    assert LAST["timings"] == last


def test_probabilities_come_with_each_piece():
    token = TokenLogprob(b"a", -0.5, (TokenLogprob(b"b", -1.0),))
    piece = LlamaCppEncoder(Decoded(REQUEST, stream=True)).chunk(ContentDelta("a", (token,)), 0)
    top = [{"token": "b", "logprob": -1.0, "bytes": [98]}]
    assert [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top}] == json.loads(
        piece.removeprefix(b"data: ")
    )["completion_probabilities"]


def test_errors_have_llama_servers_shape():
    failed = Failed("queue_full", 503, "busy", "later")
    error = {"code": 503, "message": "busy", "type": "unavailable_error", "hint": "later"}
    assert {"error": error} == json.loads(error_body(failed))
    assert b'data: {"error":' in LlamaCppEncoder(Decoded(REQUEST, stream=True)).chunk(failed, 0)


def test_questions_about_tokens_have_llama_servers_defaults():
    body = decode_tokenize(b'{"content": "hi"}')
    assert ("hi", False, True, False) == (body.content, body.add_special, body.parse_special, body.with_pieces)
    assert ("m", (1, 2)) == decode_detokenize(b'{"model": "m", "tokens": [1, 2]}')
    assert ("", ()) == decode_detokenize(b'{"tokens": []}')
    assert ("a", 5) == pieces_of(decode_tokenize(b'{"content": ["a", 5]}'))
    for nothing in (b"{}", b'{"content": []}', b'{"content": null}'):
        assert () == pieces_of(decode_tokenize(nothing))
    for wrong in (b'{"content": 5}', b'{"content": ["a", [5]]}', b'{"content": ["a", true]}'):
        with pytest.raises(LocalllmError, match="content must be a text, or an array of texts and token ids"):
            decode_tokenize(wrong)
    with pytest.raises(LocalllmError, match='"tokens" must be an array of token ids'):
        decode_detokenize(b'{"tokens": ["a"]}')


def test_tokens_are_told_with_their_text_or_the_bytes_of_what_is_none():
    assert {"tokens": [1, 2]} == json.loads(encode_tokens((1, 2), None))
    expected = [{"id": 1, "piece": "a"}, {"id": 2, "piece": [255]}]
    assert {"tokens": expected} == json.loads(encode_tokens((1, 2), (b"a", b"\xff")))
    assert {"content": "é"} == json.loads(encode_text((b"\xc3", b"\xa9")))


def test_what_is_embedded_is_a_text_token_ids_or_several_of_these():
    assert ("a",) == decode_embedding(b'{"content": "a"}').inputs
    assert ("a", (1, 2)) == decode_embedding(b'{"input": ["a", [1, 2]]}').inputs
    assert not decode_embedding(b'{"content": "a", "embd_normalize": -1}').normalises
    for body in (b"{}", b'{"content": []}', b'{"content": ["a", 5.5]}', b'{"content": "a", "embd_normalize": 1}'):
        with pytest.raises(LocalllmError):
            decode_embedding(body)
