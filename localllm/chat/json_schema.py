"""Parts of a JSON Schema: what a reference stands for, and a part as a schema of its own.

What a schema means is llguidance's business; here only as much as it takes to write values in notations that are not
JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from localllm.errors import BadRequestError

Schema = Mapping[str, object]
_ROOT = "#/$defs/root"
_MOST_REFERENCES = 32  # one to another, before it is taken for a circle
# They say nothing of which values are allowed.
ANNOTATIONS = frozenset(
    "title description default examples deprecated readOnly writeOnly $comment $schema $id $defs definitions".split()
)
_VALUES = frozenset(["enum", "const", "default", "examples"])
_SCHEMAS_BY_NAME = frozenset(["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"])
_SCHEMAS = frozenset(
    "additionalProperties items prefixItems anyOf oneOf allOf not if then else contains propertyNames".split()
)
_CLOSED_WITHIN = frozenset("additionalProperties items prefixItems anyOf oneOf allOf contains".split())
_SAYS_MORE = frozenset(["additionalProperties", "patternProperties", "unevaluatedProperties", "$ref"])
_COMBINING = frozenset("allOf anyOf oneOf not if then else dependentSchemas".split())
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_MOST_EXACT, _MOST_BOUND = 2**53, 2**63 - 2**10
KINDS = ("string", "integer", "number", "boolean", "null", "object", "array")
_KEYWORDS_OF_KIND = {
    "object": frozenset("properties required additionalProperties patternProperties minProperties".split()),
    "array": frozenset("items prefixItems minItems maxItems".split()),
    "string": frozenset("minLength maxLength pattern format".split()),
    "number": frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split()),
}


def resolved(node: object, root: Schema) -> Schema:
    """The schema at a place, its own references followed; True is the empty schema. Raises BadRequestError."""
    for _ in range(_MOST_REFERENCES):
        if node is True:
            return {}
        if not isinstance(node, Mapping):
            raise BadRequestError("a part of it is no schema")
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return node
        if any(key not in ANNOTATIONS and key != "$ref" for key in node):
            raise BadRequestError('"$ref" beside other keywords cannot be kept in this model\'s notation')
        node = _target(reference, root)
    raise BadRequestError("its references go round in a circle")


def unsound(schema: Schema) -> str | None:
    """What a grammar would not keep although it takes it: so many members, whose names may be the same one twice."""
    for part in parts_of(schema):
        least, required = part.get("minProperties", 0), part.get("required", [])
        options = part.get("x-guidance")
        is_lenient = isinstance(options, Mapping) and bool(options.get("lenient"))
        if isinstance(least, int) and isinstance(required, list) and least > len(required) + 1 and not is_lenient:
            return '"minProperties" of more than the required properties and one'
    return None


def parts_of(schema: object) -> Iterator[Schema]:
    """A schema and every schema within it."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for key, value in schema.items():
        if key in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
            for one in value.values():
                yield from parts_of(one)
        elif key in _SCHEMAS:
            for one in value if isinstance(value, list) else [value]:
                yield from parts_of(one)


def closed(schema: Schema) -> Schema:
    """The schema without members that it does not name, where it says nothing of others.

    By the letter of JSON Schema an object may have any others, and a model that may go on does; no program that asks
    for a shape means that, and other servers allow none either. Left alone are schemas that put objects together out
    of several: each of these says only a part.
    """
    return schema if any(map(_is_put_together, parts_of(schema))) else _closed_object(schema)


def _is_put_together(part: Schema) -> bool:
    """Whether several schemas say together what one object is."""
    together, combined = part.get("allOf"), _COMBINING & part.keys()
    has_several = isinstance(together, list) and len(together) > 1
    return has_several or len(combined) > 1 or bool(combined and not {"properties", "required"}.isdisjoint(part))


def _closed_object(schema: Schema) -> Schema:
    made = {key: _closed_value(key, value) for key, value in schema.items()}
    named, required = made.get("properties"), made.get("required", [])
    if not isinstance(named, Mapping) or not isinstance(required, list) or not made.keys().isdisjoint(_SAYS_MORE):
        return made
    return made if any(name not in named for name in required) else {**made, "additionalProperties": False}


def _closed_value(key: str, value: object) -> object:
    if key in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
        return {name: _closed_object(one) if isinstance(one, Mapping) else one for name, one in value.items()}
    if key not in _CLOSED_WITHIN:
        return value
    if isinstance(value, list):
        return [_closed_object(one) if isinstance(one, Mapping) else one for one in value]
    return _closed_object(value) if isinstance(value, Mapping) else value


def bounds_as_floats(schema: Schema) -> Schema:
    """The schema with bounds that a grammar can keep, the next ones inside: floats of less than 64 bits.

    Others it would round to either side, or refuse: many a schema says of an integer that it has 64 bits.
    """
    return {key: _bound_as_float(key, value) for key, value in schema.items()}


def _bound_as_float(key: str, value: object) -> object:
    if key in _LOWER or key in _UPPER:
        if not isinstance(value, (int, float)) or abs(value) <= _MOST_EXACT:
            return value
        bound = max(value, -_MOST_BOUND) if key in _LOWER else min(value, _MOST_BOUND)
        if abs(bound) > _MOST_BOUND:
            return value  # no number is within it and has less than 64 bits
        near = float(bound)
        is_outside = near < bound if key in _LOWER else near > bound
        return int(math.nextafter(near, math.inf if key in _LOWER else -math.inf)) if is_outside else int(near)
    if key in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
        return {name: bounds_as_floats(one) if isinstance(one, Mapping) else one for name, one in value.items()}
    if key not in _SCHEMAS:
        return value
    if isinstance(value, list):
        return [bounds_as_floats(one) if isinstance(one, Mapping) else one for one in value]
    return bounds_as_floats(value) if isinstance(value, Mapping) else value


def _target(reference: str, root: Schema) -> object:
    node: object = root
    if not reference.startswith("#"):
        raise BadRequestError(f'"$ref": "{reference}" leads out of the schema')
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise BadRequestError(f'"$ref": "{reference}" leads nowhere')
    return node


def kinds_of(schema: Schema) -> tuple[str, ...]:
    """The types of values that a resolved schema may allow, from its keywords where it does not say."""
    named = schema.get("type")
    if isinstance(named, str):
        return (named,)
    if isinstance(named, list):
        return tuple(str(one) for one in named)
    implied = [kind for kind, keywords in _KEYWORDS_OF_KIND.items() if not keywords.isdisjoint(schema)]
    return tuple(implied) if implied else KINDS


def standalone(node: object, root: Schema) -> Schema | bool:
    """The same schema where it is no part of `root` any more."""
    if isinstance(node, bool):
        return node
    if not isinstance(node, Mapping):
        raise BadRequestError("a part of it is no schema")
    moved = _moved(node)
    assert isinstance(moved, dict)
    return {**moved, "$defs": {"root": _moved(root)}} if _has_reference(node) else moved


def _moved(node: object) -> object:
    """With references that lead through the definition `root`."""
    if isinstance(node, list):
        return [_moved(one) for one in node]
    if not isinstance(node, Mapping):
        return node
    moved = {key: value if key in _VALUES else _moved(value) for key, value in node.items() if key != "$schema"}
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = _ROOT + reference[1:]
    return moved


def _has_reference(node: object) -> bool:
    if isinstance(node, Mapping):
        return isinstance(node.get("$ref"), str) or any(_has_reference(value) for value in node.values())
    return isinstance(node, list) and any(map(_has_reference, node))
