"""Answers of a model that says anything are held to JSON Schemas: every one of them validates."""

from __future__ import annotations

import json

import pytest
from json_schemas import KEYWORDS, SCHEMAS
from jsonschema import Draft202012Validator
from random_answers import answers

from localllm.generation import GenerationRequest, ResponseFormat

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
