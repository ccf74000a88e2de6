"""How long values are that a template is about to make, before it makes them: what sandbox.py counts by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_OUTPUT_CHARACTERS = 16 * 2**20
_MAX_INTEGER_BITS = 4096
_PLAIN = (str, int, dict, list, bool, tuple, type(None))


def counted(value: Any) -> Any:
    """Something whose length can be asked: what is still to be iterated becomes a list."""
    # Asking an abstract class costs more than all the rest of most filters.
    return list(value) if type(value) not in _PLAIN and isinstance(value, Iterator) else value


def text_length(values: Sequence[object]) -> int:
    """At most how many characters, roughly, `str` of these values has; counting stops above the limit."""
    if len(values) == 1 and type(values[0]) is str:
        return 1 + len(values[0])
    length, waiting = 0, list(values)
    while waiting and length <= MAX_OUTPUT_CHARACTERS:
        value = waiting.pop()
        length += 1
        if isinstance(value, str):
            length += len(value)
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, Namespace):
            # Its repr shows everything in it, and a namespace may contain itself.
            length = MAX_OUTPUT_CHARACTERS + 1
    return length


def contains(value: object, wanted: list[Any]) -> bool:
    """Whether `wanted` itself, not an equal list, is in `value`."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one is wanted:
            return True
        if id(one) not in seen and isinstance(one, (Mapping, list, tuple)):
            seen.add(id(one))
            waiting += one.values() if isinstance(one, Mapping) else one
    return False


def result_length(operator: str, left: Any, right: Any) -> int:
    """How long the result of `left operator right` can be. Raises SecurityError for integers that explode."""
    if operator == "%" and isinstance(left, str):
        return _formatted_length(left, [right], left.count("%"))
    lengths = [len(side) for side in (left, right) if hasattr(side, "__len__")]
    if operator == "+":
        return sum(lengths)
    if operator == "*" and lengths:
        times = right if hasattr(left, "__len__") else left
        return lengths[0] * max(times, 0) if isinstance(times, int) else 0
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * abs(right)
        if bits > _MAX_INTEGER_BITS:
            raise SecurityError(f"it makes an integer of more than {_MAX_INTEGER_BITS} bits")
    return 0


def growth(name: str, subject: Any, arguments: Sequence[Any]) -> int:
    """At most how many characters the method or filter `name` makes beyond those of its subject."""
    if name in ("format", "format_map"):
        return _formatted_length(str(subject), arguments, str(subject).count("{") + str(subject).count("%"))
    text = text_length(arguments)
    widest = max((value for value in arguments if isinstance(value, int)), default=0)
    if name == "join" and isinstance(subject, str):
        return text + len(subject) * max((len(value) for value in arguments if hasattr(value, "__len__")), default=0)
    if name == "join":
        return text * len(subject) if hasattr(subject, "__len__") else text
    if name == "replace":
        old = str(arguments[0]) if arguments else ""
        return text * (str(subject).count(old) if old else len(str(subject)) + 1)
    if name in ("indent", "expandtabs", "wordwrap"):
        return (text + widest) * (str(subject).count("\n") + str(subject).count("\t") + 1)
    if name == "tojson":
        return widest * text_length([subject])
    return widest


def _formatted_length(layout: str, arguments: Sequence[Any], fields: int) -> int:
    """At most how long a formatted text is: widths may stand in the layout or come from the arguments."""
    length = len(layout) + sum(int(digits) for digits in re.findall(r"\d+", layout))
    if "*" in layout or re.search(r"\{[^{}]*\{", layout):
        raise SecurityError("it formats with a computed width, which is not allowed in a chat template")
    return length + fields * text_length(arguments)
