"""Answers of a model that says anything are held to JSON Schemas: every one of them validates."""

from __future__ import annotations

import json

import pytest
from json_schemas import KEYWORDS, SCHEMAS
from jsonschema import Draft202012Validator
from random_answers import answers

from localllm.errors import BadRequestError
from localllm.generation import GenerationRequest, Message, ResponseFormat

# One of each kind; the others are slow.
SAMPLE = """any value|four types|one of some values|a pattern and a length|a date and a time|an integer about zero
a number of halves|a pair and more|optional members|patterns and a map|one of by a constant|all of and any of|a tree
tool edit_many|tool click|tool extract_invoice|tool comment_tree""".replace("\n", "|").split("|")


def check(name: str, seeds: range) -> None:
    schema = SCHEMAS[name]
    wanted = ResponseFormat("json_schema", json.dumps(schema, ensure_ascii=False))
    request = GenerationRequest("m", prompt="x", raw=True, response_format=wanted)
    for seed in seeds:
        said, _ = answers(request, seed=seed)
        assert "stop" == said.reason, said.raw[-200:]
        Draft202012Validator(schema).validate(json.loads(said.content))


@pytest.mark.parametrize("name", SAMPLE)
def test_an_answer_validates_against_the_schema_it_is_held_to(name):
    check(name, range(3))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - set(SAMPLE)))
def test_every_answer_validates_against_the_schema_it_is_held_to(name):
    check(name, range(10))


def test_there_are_as_many_schemas_as_promised():
    assert 150 <= len(SCHEMAS)
    assert 90 <= len(KEYWORDS)
    assert set(SAMPLE) <= set(SCHEMAS)


@pytest.mark.parametrize(
    ("schema", "allowed"),
    [
        ({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 7}, range(2**53 + 1, 2**53 + 8)),
        ({"type": "integer", "minimum": -(2**63), "maximum": -(2**63) + 2**12}, range(-(2**63), -(2**63) + 2**12 + 1)),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, range(-(2**63), 2**63)),
        ({"anyOf": [{"type": "integer", "maximum": 2**64 - 1, "minimum": 2**63 - 2**12}]}, range(2**63 - 2**12, 2**64)),
        ({"type": "integer", "exclusiveMaximum": 2**60 + 1, "minimum": 2**60 - 300}, range(2**60 - 300, 2**60 + 1)),
    ],
)
def test_bounds_that_no_float_holds_are_kept(schema, allowed):
    wanted = ResponseFormat("json_schema", json.dumps(schema))
    request = GenerationRequest("m", (Message("user", "Q?"),), response_format=wanted)
    for seed in range(12):
        for said in answers(request, seed=seed):
            assert json.loads(said.content) in allowed


def test_a_number_may_have_bounds_that_no_grammar_has():
    wanted = ResponseFormat("json_schema", json.dumps({"type": "number", "minimum": -1.7e308, "maximum": 1.7e308}))
    for said in answers(GenerationRequest("m", (Message("user", "Q?"),), response_format=wanted)):
        assert -1.7e308 <= json.loads(said.content) <= 1.7e308


def test_a_schema_may_be_true_and_one_that_allows_nothing_is_refused():
    def request(schema: bool) -> GenerationRequest:
        wanted = ResponseFormat("json_schema", json.dumps(schema))
        return GenerationRequest("m", (Message("user", "Q?"),), response_format=wanted)

    for seed in range(4):
        for said in answers(request(True), seed=seed):
            json.loads(said.content)
    with pytest.raises(BadRequestError, match="Unsatisfiable"):
        answers(request(False))
