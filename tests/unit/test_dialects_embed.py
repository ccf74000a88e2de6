"""Embeddings in both dialects: literal bodies in, literal requests out; literal vectors in, literal bytes out."""

from __future__ import annotations

import base64
import json
import math
import struct
from array import array

import pytest

from localllm.dialects import ollama_embed, openai_embed
from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import LocalllmError


def vectors(*rows):
    return tuple(array("d", row).tobytes() for row in rows)


def test_an_ollama_body_with_every_field_becomes_a_request():
    body = b"""{"model": "m", "input": ["a", ""], "truncate": false, "dimensions": 3, "keep_alive": -1,
        "options": {"num_ctx": 30, "warp": 1}}"""
    expected = EmbedRequest("m", ("a", ""), dimensions=3, num_ctx=30, keep_alive_seconds=math.inf)
    assert expected == ollama_embed.decode_embed(body)


@pytest.mark.parametrize(
    ("fields", "inputs"),
    [
        ('"input": "a"', ("a",)),
        ('"input": ""', ()),
        ('"input": null', ()),
        ('"dimensions": 0', ()),
        ('"input": []', ()),
    ],
)
def test_ollama_cuts_what_is_too_long_unless_told_not_to(fields, inputs):
    assert EmbedRequest("m", inputs, truncates=True) == ollama_embed.decode_embed(f'{{"name": "m", {fields}}}'.encode())


def test_the_older_route_takes_one_prompt_and_leaves_its_vector_as_it_is():
    expected = EmbedRequest("m", ("a",), truncates=True, normalises=False, keep_alive_seconds=60.0)
    assert expected == ollama_embed.decode_embeddings(b'{"model": "m", "prompt": "a", "keep_alive": "1m"}')
    assert () == ollama_embed.decode_embeddings(b'{"model": "m", "prompt": ""}').inputs


@pytest.mark.parametrize(
    ("value", "inputs"),
    [('"a"', ("a",)), ('["a", "b"]', ("a", "b")), ("[1, 2]", ((1, 2),)), ("[[1], [2, 3]]", ((1,), (2, 3)))],
)
def test_openai_takes_texts_and_token_ids(value, inputs):
    body = f'{{"model": "m", "input": {value}, "dimensions": 2, "user": "ann"}}'.encode()
    assert (EmbedRequest("m", inputs, dimensions=2), False) == openai_embed.decode_embeddings(body)


def test_openai_may_ask_for_base64():
    body = b'{"model": "m", "input": "a", "encoding_format": "base64"}'
    assert (EmbedRequest("m", ("a",)), True) == openai_embed.decode_embeddings(body)


@pytest.mark.parametrize(
    ("decode", "body", "status", "message"),
    [
        (ollama_embed.decode_embed, b"{}", 404, "model '' not found"),
        (ollama_embed.decode_embed, b'{"model": "m", "input": 5}', 400, "invalid input type"),
        (ollama_embed.decode_embed, b'{"model": "m", "input": ["a", 5]}', 400, "invalid input type"),
        (ollama_embed.decode_embed, b'{"model": "m", "dimensions": -1}', 400, "dimensions must not be -1"),
        (
            ollama_embed.decode_embed,
            b'{"model": "m", "input": [' + b'"",' * 16_384 + b'""]}',
            400,
            "input has 16385 texts; 16384 is the most at once",
        ),
        (ollama_embed.decode_embeddings, b'{"prompt": "a"}', 400, "model is required"),
        (openai_embed.decode_embeddings, b'{"input": "a"}', 400, "model is required"),
        *(
            (openai_embed.decode_embeddings, f'{{"model": "m", "input": {value}}}'.encode(), 400, "invalid input")
            for value in ("null", '""', "[]", "[[]]", '["a", ""]', "[-1]", "[true]", "[1, [2]]", '{"a": 1}', "[1.5]")
        ),
        (
            openai_embed.decode_embeddings,
            b'{"model": "m", "input": "a", "encoding_format": "hex"}',
            400,
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
    ],
)
def test_what_cannot_be_embedded_is_refused(decode, body, status, message):
    with pytest.raises(LocalllmError) as caught:
        decode(body)
    assert (status, message) == (caught.value.status, caught.value.message)


def test_ollamas_answer_has_a_vector_for_each_input_and_says_what_was_cut():
    parts = [Embeddings(vectors((0.6, -0.8), (1.0, 0.0)), 7, truncated_inputs=1), Embeddings(vectors((0.0, 1.0)), 2)]
    assert (
        b'{"model":"m","embeddings":[[0.6,-0.8],[1.0,0.0],[0.0,1.0]],"total_duration":1500000000,'
        b'"load_duration":250000000,"prompt_eval_count":9,"truncated_count":1}'
    ) == ollama_embed.encode_embed("m", parts, 1.5, 0.25)
    nothing = b'"total_duration":0,"load_duration":0,"prompt_eval_count":0}'
    assert b'{"model":"m","embeddings":[],' + nothing == ollama_embed.encode_embed("m", [], 0.0, 0.0)


def test_the_older_answer_has_one_vector_or_an_empty_one():
    assert b'{"embedding":[3.0,4.0]}' == ollama_embed.encode_embeddings([Embeddings(vectors((3.0, 4.0)), 1)])
    assert b'{"embedding":[]}' == ollama_embed.encode_embeddings([])


def test_openais_answer_numbers_the_vectors_across_parts():
    parts = [Embeddings(vectors((0.5, 0.25)), 3), Embeddings(vectors((1.0, 0.0)), 1)]
    assert {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.0]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    } == json.loads(openai_embed.encode_embeddings("m", parts, as_base64=False))


def test_base64_holds_little_endian_float32():
    answer = json.loads(openai_embed.encode_embeddings("m", [Embeddings(vectors((0.5, -2.0)), 1)], as_base64=True))
    assert struct.pack("<2f", 0.5, -2.0) == base64.b64decode(answer["data"][0]["embedding"])
