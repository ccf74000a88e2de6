"""What a schema leaves open is closed: a model that may add members adds them, and programs mean none."""

from __future__ import annotations

import pytest

from localllm.chat.json_schema import closed

NAMED = {"type": "object", "properties": {"a": {"type": "string"}}}


def test_an_object_that_says_nothing_of_others_has_none_at_any_depth():
    def schema(inner):
        either = {"anyOf": [inner, {"$ref": "#/$defs/x"}]}
        members = {"one": inner, "many": {"type": "array", "items": inner}, "either": either}
        return {"type": "object", "properties": members, "$defs": {"x": inner}}

    shut = {**NAMED, "additionalProperties": False}
    assert {**schema(shut), "additionalProperties": False} == closed(schema(NAMED))


@pytest.mark.parametrize(
    "schema",
    [
        {**NAMED, "additionalProperties": True},
        {**NAMED, "additionalProperties": {"type": "integer"}},
        {**NAMED, "patternProperties": {"^x": {}}},
        {**NAMED, "anyOf": [{"required": ["a"]}]},
        {**NAMED, "anyOf": [{"properties": {"b": {}}}]},
        {**NAMED, "required": ["a", "b"]},
        {"type": "object"},
        {},
        {"enum": [{"properties": {}}]},
        {"allOf": [NAMED, {"properties": {"b": {}}}]},
        {"allOf": [{"$ref": "#/$defs/x"}, NAMED], "$defs": {"x": NAMED}},
    ],
)
def test_one_that_says_something_of_others_or_only_a_part_stays_as_it_is(schema):
    assert schema == closed(schema)


def test_a_reference_alone_in_an_all_of_is_closed_where_it_leads():
    schema = {"properties": {"a": {"allOf": [{"$ref": "#/$defs/x"}]}}, "$defs": {"x": NAMED}}
    assert {**NAMED, "additionalProperties": False} == closed(schema)["$defs"]["x"]
