"""What a Go template may call: text/template's functions but for HTML's, and those that Ollama adds.

    and or not  eq ne lt le gt ge  len index slice  print println printf      (`and` and `or` stop early: evaluator)
    json VALUE  currentDate  yesterdayDate  toTypeScriptType SCHEMA

Each takes the values it was called with and raises ValueProblemError for what it cannot do with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from localllm.chat.go.values import (
    TypeNames,
    ValueProblemError,
    equal,
    field,
    is_true,
    less,
    printed,
    to_json,
)

MOST_PADDING, MOST_COUNTED = 1000, 10_000  # Granite's templates count messages by the length of a padded text
EARLY = ("and", "or")  # their arguments are evaluated one by one
_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\*|\d*)(?:\.(?P<precision>\d*))?(?P<verb>[^\d.])?", re.DOTALL)
_TYPE_SCRIPT = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "array": "any[]",
                "object": "Record<string, any>", "null": "null"}  # fmt: skip

Function = Callable[..., Any]


def functions(today: Callable[[], datetime]) -> dict[str, Function]:
    """The table of names; `today` tells the local time."""
    return {
        "not": lambda value: not is_true(value),
        "eq": _eq,
        "ne": lambda left, right: not equal(left, right),
        "lt": less,
        "le": lambda left, right: less(left, right) or equal(left, right),
        "gt": lambda left, right: not (less(left, right) or equal(left, right)),
        "ge": lambda left, right: not less(left, right),
        "len": _len,
        "index": _index,
        "slice": _slice,
        "print": _print,
        "println": lambda *values: " ".join(map(_shown, values)) + "\n",
        "printf": _printf,
        "json": to_json,
        # Ollama takes and ignores arguments here.
        "currentDate": lambda *_: f"{today():%Y-%m-%d}",
        "yesterdayDate": lambda *_: f"{today() - timedelta(days=1):%Y-%m-%d}",
        "toTypeScriptType": type_script_type,
    }


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise ValueProblemError("eq takes two values or more")
    return any(equal(first, other) for other in others)


def _len(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, (list, tuple, Mapping)):
        return len(value)
    raise ValueProblemError(f"len of {'nothing' if value is None else 'a value without a length'}")


def _index(value: object, *keys: object) -> object:
    for key in keys:
        value = _item(value, key)
    return value


def _item(value: object, key: object) -> object:
    if isinstance(value, Mapping):
        if not isinstance(key, str):
            raise ValueProblemError("index of a map takes a text")
        return value.get(key)
    if isinstance(value, str):
        value = list(value.encode("utf-8", "replace"))
    if not isinstance(value, (list, tuple)):
        raise ValueProblemError(f"index of {'nothing' if value is None else 'a value without items'}")
    return value[_position(key, len(value) - 1)]


def _slice(value: object, *bounds: object) -> object:
    if isinstance(value, str):
        data = value.encode("utf-8", "replace")
        start, end = _range(bounds, len(data))
        return data[start:end].decode("utf-8", "replace")
    if not isinstance(value, (list, tuple)):
        raise ValueProblemError(f"slice of {'nothing' if value is None else 'a value without items'}")
    start, end = _range(bounds, len(value))
    return value[start:end]


def _range(bounds: Sequence[object], length: int) -> tuple[int, int]:
    if len(bounds) > 2:
        raise ValueProblemError("slice with a capacity is not supported")
    start, end = [_position(bound, length) for bound in bounds] + [0, length][len(bounds) :]
    if start > end:
        raise ValueProblemError(f"slice from {start} to {end}")
    return start, end


def _position(key: object, most: int) -> int:
    if isinstance(key, bool) or not isinstance(key, int):
        raise ValueProblemError("an index must be a whole number")
    if not 0 <= key <= most:
        raise ValueProblemError(f"index out of range: {key if abs(key) < 10**9 else 'a huge number'}")
    return key


def _shown(value: object) -> str:
    return "<nil>" if value is None else printed(value)


def _print(*values: object) -> str:
    """fmt.Sprint: a blank between two values that are no texts."""
    pieces: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            pieces.append(" ")
        pieces.append(_shown(value))
    return "".join(pieces)


def _printf(layout: object, *values: object) -> str:
    if not isinstance(layout, str):
        raise ValueProblemError("printf takes a layout first")
    waiting = list(values)

    def formatted(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        if verb is None:
            raise ValueProblemError("printf's layout ends with %")
        width = waiting.pop(0) if match["width"] == "*" and waiting else 0
        if not waiting:
            return f"%!{verb}(MISSING)"
        return _padded(_formatted(verb, match, waiting.pop(0)), match, _width_of(width))

    text = _VERB.sub(formatted, layout)
    extra = ", ".join(f"{_type_name(value)}={_shown(value)}" for value in waiting)
    return f"{text}%!(EXTRA {extra})" if waiting else text


def _formatted(verb: str, match: re.Match[str], value: object) -> str:
    precision = _number(match["precision"]) if match["precision"] is not None else None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if verb == "v":
        return _shown(value)
    if verb == "s" and not is_number and value is not None:
        text = printed(value)
        return text if precision is None else text[:precision]
    if verb == "q" and isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if verb == "d" and isinstance(value, int) and not isinstance(value, bool):
        return f"{value:+d}" if "+" in match["flags"] else str(value)
    if verb in "xX" and isinstance(value, int) and not isinstance(value, bool):
        return f"{value:{verb}}"
    if verb == "t" and isinstance(value, bool):
        return printed(value)
    if verb == "f" and isinstance(value, float):
        return f"{value:.{6 if precision is None else precision}f}"
    if verb in "svqdxXtf":
        return f"%!{verb}({_type_name(value)}={_shown(value)})"
    raise ValueProblemError(f"printf's verb %{verb} is not supported")


def _width_of(value: object) -> int:
    """The width that stands for `*`; a negative one sets the text to the left."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueProblemError(f"printf's width is a {_type_name(value)}")
    if abs(value) > MOST_COUNTED:
        raise ValueProblemError(f"printf's width may be {MOST_COUNTED} at most")
    return value


def _padded(text: str, match: re.Match[str], width: int) -> str:
    width = width if match["width"] == "*" else _number(match["width"] or "0")
    if "-" in match["flags"] or width < 0:
        return text.ljust(abs(width))
    return text.zfill(width) if "0" in match["flags"] and match["verb"] in "dxXf" else text.rjust(width)


def _number(digits: str) -> int:
    number = int(digits or "0") if len(digits) < 9 else MOST_PADDING + 1
    if number > MOST_PADDING:
        raise ValueProblemError(f"printf's widths and precisions may be {MOST_PADDING} at most")
    return number


def _type_name(value: object) -> str:
    if value is None:
        return "<nil>"
    names = {bool: "bool", int: "int", float: "float64", str: "string"}
    return names.get(type(value), "map[string]interface {}" if isinstance(value, Mapping) else "[]interface {}")


def type_script_type(schema: object) -> str:
    """A JSON schema's type as TypeScript writes it; several are joined by "|"."""
    if isinstance(schema, TypeNames):
        names: Sequence[str] = schema
    else:
        members = field(schema, "AnyOf")
        if isinstance(members, (list, tuple)) and members:
            return " | ".join(type_script_type(member) for member in members)
        found = field(schema, "Type")
        names = found if isinstance(found, TypeNames) else ()
    return " | ".join(_TYPE_SCRIPT.get(name, "any") for name in names) or "any"
