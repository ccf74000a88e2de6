"""JSON Schemas of msgspec's types, each struct once and referred to by a name that says whose it is.

Not msgspec's own: that refuses a field whose default is raw JSON, and knows no words for fields that a struct leaves to
the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import inspect

ANSWERS = ("localllm.dialects.answers", "localllm.dialects.answers_v1")
NULL = {"type": "null"}


class Schemas:
    """The schemas that are referred to. `fields` describe, by name, what a struct leaves open."""

    def __init__(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        self.known: dict[str, Any] = {}
        self._fields = fields

    def of(self, kind: Any, required: Iterable[str] = ()) -> dict[str, Any]:
        """A reference to, or the schema of, `kind`; `required` are fields it must have though it could be read without.

        What is read at two routes is one schema, whatever each asks for.
        """
        schema = self._schema(inspect.type_info(kind))
        missing = sorted(required)
        return {"allOf": [schema], "required": missing} if missing else schema

    def _schema(self, kind: inspect.Type) -> dict[str, Any]:
        match kind:
            case inspect.StructType():
                return self._reference(kind)
            case inspect.UnionType(types=types):
                return _any_of([self._schema(one) for one in types])
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return {"type": "array", "items": self._schema(item)}
            case inspect.DictType(value_type=value):
                return {"type": "object", "additionalProperties": self._schema(value)}
            case inspect.LiteralType(values=values):
                return {"enum": sorted(values)}
        return dict(_PLAIN[type(kind)])

    def _reference(self, kind: inspect.StructType) -> dict[str, Any]:
        name = _name(kind.cls)
        if name not in self.known:
            self.known[name] = {}  # a struct may hold itself
            self.known[name] = self._object(kind)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, kind: inspect.StructType) -> dict[str, Any]:
        properties = {field.encode_name: self._field(field) for field in kind.fields}
        needed = [field.encode_name for field in kind.fields if field.required]
        about = "" if kind.cls.__doc__ is None else " ".join(kind.cls.__doc__.split()).strip()
        described = {"description": about} if about and not about.startswith(f"{kind.cls.__name__}(") else {}
        return {"type": "object", **described, "properties": properties, **({"required": needed} if needed else {})}

    def _field(self, field: inspect.Field) -> dict[str, Any]:
        schema = self._schema(field.type)
        known = self._fields.get(field.encode_name)
        is_open = schema in ({}, {"type": "object", "additionalProperties": {}}, _any_of([_OBJECT, NULL]))
        if known is None or not is_open:
            return schema
        return _any_of([known, NULL])


_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": {}}
_PLAIN: Mapping[type[inspect.Type], Mapping[str, Any]] = {
    inspect.AnyType: {},
    inspect.RawType: {},
    inspect.NoneType: NULL,
    inspect.BoolType: {"type": "boolean"},
    inspect.IntType: {"type": "integer"},
    inspect.FloatType: {"type": "number"},
    inspect.StrType: {"type": "string"},
}


def _any_of(schemas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    parts: list[Mapping[str, Any]] = []
    for schema in schemas:
        parts += schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
    return dict(parts[0]) if len(parts) == 1 else {"anyOf": parts}


def _name(kind: type) -> str:
    """Two modules may call their bodies the same; answers have names of their own."""
    name = kind.__name__.lstrip("_")
    if kind.__module__ in ANSWERS:
        return name
    return "".join(part.capitalize() for part in kind.__module__.rpartition(".")[2].split("_")) + name
