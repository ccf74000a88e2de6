"""Go's values in Python's: what is true, how it prints, compares and becomes JSON.

    nil            None              number     int, float        map        dict with text keys
    bool, string   bool, str         slice      list, tuple       struct     Record

The rules are those of Go's text/template, fmt ("%v") and encoding/json, which escapes "<", ">" and "&".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

NO_VALUE = "<no value>"
_HTML = re.compile("[<>&\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Record:
    """A struct: only its `fields` can be asked for. `document` is its JSON; with `prints_document` it prints so too."""

    fields: Mapping[str, Any]
    document: Any = None
    prints_document: bool = False


class Document(dict[str, Any]):
    """A map that prints as JSON, as the arguments of a tool call do."""


class Documents(list[Any]):
    """A slice that prints as JSON, as the tools do."""


class TypeNames(list[str]):
    """The types of a JSON schema: a single one prints, and is JSON, as itself."""


class ValueProblemError(Exception):
    """What was asked of a value is not possible; the evaluator adds the line."""


def is_true(value: object) -> bool:
    """Whether `if` takes the branch: not for nil, false, 0 and anything empty; always for a struct."""
    if isinstance(value, Record):
        return True
    if isinstance(value, float) and math.isnan(value):
        return True
    return bool(value)


def printed(value: object) -> str:
    """What `{{ value }}` prints."""
    return NO_VALUE if value is None else _printed(value)


def _printed(value: object) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, TypeNames) and len(value) == 1:
        return value[0]
    if isinstance(value, (Document, Documents)) or (isinstance(value, Record) and value.prints_document):
        return to_json(value)
    if isinstance(value, Record):
        return "{" + " ".join(map(_printed, value.fields.values())) + "}"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_printed(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(_printed, value)) + "]"
    return str(value)


def float_text(value: float) -> str:
    """fmt's %v: the shortest digits, with an exponent below 1e-4 and from 1e6 on."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    number = Decimal(repr(value)).normalize()
    if not value:
        return "0"
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return f"{number:f}"
    digits = "".join(map(str, number.as_tuple().digits))
    fraction = f".{digits[1:]}" if digits[1:] else ""
    return f"{'-' if value < 0 else ''}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"


def to_json(value: object) -> str:
    """encoding/json's Marshal, keys in the order they came. Raises ValueProblemError for what has no JSON."""
    try:
        text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueProblemError(f"json cannot write this value: {error}") from error
    return _HTML.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return _plain(value.document if value.document is not None else dict(value.fields))
    if isinstance(value, TypeNames) and len(value) == 1:
        return value[0]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


def text_length(value: object, limit: int) -> int:
    """At most how many characters, roughly, `value` prints; counting stops above the limit."""
    length, waiting = 0, [value]
    while waiting and length <= limit:
        item = waiting.pop()
        length += 8
        if isinstance(item, str):
            length += 6 * len(item)  # a character may become an escape of six
        elif isinstance(item, int) and not isinstance(item, bool):
            length += item.bit_length() // 3
        elif isinstance(item, Record):
            waiting += [item.document, *item.fields.values()] if item.document is not None else item.fields.values()
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            waiting += item
    return length


def equal(left: object, right: object) -> bool:
    """Go's eq. Raises ValueProblemError for values of different kinds and for those that have no equality."""
    if left is None or right is None:
        return left is None and right is None
    for value in (left, right):
        if isinstance(value, TypeNames) and len(value) == 1:
            continue
        if _kind(value) == "other":
            raise ValueProblemError("eq compares texts, numbers and booleans only")
    left, right = _single(left), _single(right)
    if _kind(left) != _kind(right):
        raise ValueProblemError("eq compares values of one type only")
    return left == right


def less(left: object, right: object) -> bool:
    """Go's lt. Raises ValueProblemError as equal does, and for booleans."""
    left, right = _single(left), _single(right)
    if _kind(left) != _kind(right) or _kind(left) in ("bool", "other"):
        raise ValueProblemError("lt, le, gt and ge compare two numbers or two texts")
    return bool(left < right)  # type: ignore[operator]


def _single(value: object) -> object:
    return value[0] if isinstance(value, TypeNames) and len(value) == 1 else value


def _kind(value: object) -> str:
    # An int and a float are compared, as Go refuses to: JSON's numbers may be either here.
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "other"


def field(value: object, name: str) -> object:
    """`value.name`: a struct's field, a map's value, nil for a key that is not there. Raises ValueProblemError."""
    if isinstance(value, Record):
        if name not in value.fields:
            there = ", ".join(f".{known}" for known in value.fields)
            raise ValueProblemError(f"there is no field .{name} here; there are {there}")
        return value.fields[name]
    if isinstance(value, Mapping):
        return value.get(name)
    if value is None:
        raise ValueProblemError(f"the field .{name} of nothing is asked for")
    raise ValueProblemError(f"a {_go_name(value)} has no field .{name}")


def _go_name(value: object) -> str:
    names = {"bool": "boolean", "number": "number", "string": "text"}
    return names.get(_kind(value), "list")
