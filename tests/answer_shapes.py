"""Hold an answer's JSON against the shape that the document of the API promises, in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect


def fields_beside(text: bytes | str, shape: Any) -> list[str]:
    """The fields of an answer that its shape does not have. Raises msgspec.ValidationError for what it must have."""
    msgspec.json.decode(text, type=shape)
    return sorted(
        {name for name, is_known in _fields(msgspec.json.decode(text), inspect.type_info(shape)) if not is_known}
    )


def fields_in(text: bytes | str, shape: Any) -> set[str]:
    """The fields of the shape that an answer has, each as "Struct.field"."""
    return {name for name, is_known in _fields(msgspec.json.decode(text), inspect.type_info(shape)) if is_known}


def _fields(value: Any, kind: inspect.Type) -> Iterator[tuple[str, bool]]:
    match kind:
        case inspect.UnionType(types=types):
            for one in types:
                yield from _fields(value, one)
        case inspect.ListType(item_type=item) if isinstance(value, list):
            for one in value:
                yield from _fields(one, item)
        case inspect.StructType(cls=cls, fields=fields) if isinstance(value, dict):
            known = {field.encode_name: field for field in fields}
            for name, inner in value.items():
                yield f"{cls.__name__}.{name}", name in known
                if name in known:
                    yield from _fields(inner, known[name].type)
