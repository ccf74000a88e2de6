"""The scanner of JSON objects in pieces of text, and the call read out of one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.tools import MAX_NESTING, Call, ObjectScanner, read_call

KEYS = ("arguments", "parameters")


def read(text: str) -> Call | None:
    scanner = ObjectScanner()
    assert len(text) == scanner.feed(text)
    assert scanner.closed
    return read_call(text, scanner.members, "name", KEYS)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=6), values, max_size=4), st.text(max_size=6), st.sampled_from([None, 1, 2]))
def test_an_object_ends_at_its_brace_and_its_members_are_where_they_stand(document, rest, indent):
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    scanner = ObjectScanner()
    stops = [scanner.feed(character) for character in text]
    assert [1] * len(text) == stops
    assert scanner.closed
    found = {
        json.loads(text[m.key_start : m.key_end]): json.loads(text[m.value_start : m.value_end])
        for m in scanner.members
    }
    assert document == found
    assert len(text) == ObjectScanner().feed(text + rest)
    assert len(text) + 3 == ObjectScanner().feed("xyz" + text + rest, 3)


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("x", 0),
        ("{ x", 2),
        ("{[", 1),
        ("{{", 1),
        ('{"a"]', 4),
        ('{"a": <b>', 6),
        ('{"a": [}', 7),
        ("{:", 1),
        ('{"a": ' + "[" * MAX_NESTING, 6 + MAX_NESTING - 1),
        ('{"other": 1}', 8),
    ],
)
def test_what_json_cannot_have_breaks_an_object_where_it_stands(text, stop):
    scanner = ObjectScanner(frozenset(["a", "name"]))
    assert stop == scanner.feed(text)
    assert (True, False) == (scanner.broken, scanner.closed)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('{"name": "f", "arguments": {"b": 1, "a": 2.50}}', Call("f", '{"b": 1, "a": 2.50}')),
        ('{"parameters":{ "é" : "\\u00e9" } ,"name":"f"}', Call("f", '{ "é" : "\\u00e9" }')),
        ('{"name": "f", "arguments": {"a": 1}, "arguments": {"a": 2}}', Call("f", '{"a": 2}')),
        ('{"name": "f", "ar\\u0067uments": {"a": 1}}', Call("f", '{"a": 1}')),
        ('{"name": "f", "arguments": "{\\"a\\": \\"x\\"}"}', Call("f", '{"a": "x"}')),
        ('{"name": "f", "arguments": " "}', Call("f", "{}")),
        ('{"name": "f", "arguments": {"a": "x\n\ty", "b":\n1}}', Call("f", '{"a": "x\\n\\ty", "b":\n1}')),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", Call("f", '{"a": ' + "9" * 5000 + "}")),
        ('{"name": "f", "arguments": "[1]"}', None),
        ('{"name": "f", "arguments": "no"}', None),
        ('{"name": "f", "arguments": 7}', None),
        ('{"name": "f", "arguments": {"a" 1}}', None),
        ('{"name": ["f"]}', None),
        ('{"arguments": {}}', None),
    ],
)
def test_a_call_is_read_with_its_arguments_as_they_were_written(text, call):
    assert call == read(text)
