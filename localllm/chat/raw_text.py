"""A text of a JSON Schema that is written as it is, without quotes or escapes, up to a mark that ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localllm.chat.lark import Text, any_of, literal, pattern, searched, without
from localllm.errors import BadRequestError

# No number, text, list or object of JSON or Python begins so; the words that are values of theirs are to be left out.
PLAIN_TEXT = pattern(r"[A-Za-z_](?s:.*)")
LITERAL_WORDS = ("true", "false", "null", "True", "False", "None", "NaN", "Infinity")
# What raw_text keeps; `type` and annotations go without saying.
TEXT_KEYWORDS = frozenset(["type", "enum", "const", "minLength", "maxLength", "pattern", "format"])
_DATE = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:0[0-9]|1[0-2]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?"
_HEX = "[0-9a-fA-F]"
# The texts of each format that are plain: not all that it allows, and nothing that it does not.
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": "P(?:[0-9]{1,4}[DW]|(?:[0-9]{1,4}D)?T(?:[0-9]{1,4}H)?(?:[0-9]{1,4}M)?[0-9]{1,4}S)",
    "email": rf"[a-zA-Z0-9_+-]{{1,20}}(?:\.[a-zA-Z0-9_+-]{{1,20}}){{0,3}}@{_LABEL}(?:\.{_LABEL}){{0,3}}",
    "hostname": rf"{_LABEL}(?:\.{_LABEL}){{0,3}}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": f"{_HEX}{{1,4}}(?::{_HEX}{{1,4}}){{7}}",
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "uri": r"[a-z][a-z0-9+.-]{1,15}:(?:[a-zA-Z0-9._~:\/?@!$&'()*+,;=-]|%[0-9a-fA-F]{2}){1,200}",
}


def raw_text(schema: Mapping[str, object], forbidden: Sequence[str]) -> Text:
    """The texts that a schema of strings allows, without the `forbidden` ones in them. Raises BadRequestError."""
    if (values := listed(schema)) is not None:
        possible = [value for value in values if isinstance(value, str) and not any(one in value for one in forbidden)]
        if not possible:
            raise BadRequestError("none of its listed values can be written in this model's notation")
        return any_of([literal(value) for value in possible])
    least, most = schema.get("minLength"), schema.get("maxLength")
    lengths = f"{{{least or 0},{'' if most is None else most}}}" if least or most is not None else "*"
    bodies = [f"/(?s:.{lengths})/"]
    if isinstance(expression := schema.get("pattern"), str):
        whole = searched(expression)
        if whole is None:
            raise BadRequestError(f'the pattern "{expression}" cannot be kept in this model\'s notation')
        bodies.append(f"/{whole}/")
    if (name := schema.get("format")) is not None:
        if name not in _FORMATS:
            raise BadRequestError(f"Unknown format: {name}")
        bodies.append(f"/{_FORMATS[str(name)]}/")
    if len(bodies) > 1 and lengths == "*":
        del bodies[0]
    return without(Text(" & ".join(bodies) if len(bodies) == 1 else f"({' & '.join(bodies)})"), forbidden)


def listed(schema: Mapping[str, object]) -> list[object] | None:
    """The values of `enum` or `const`."""
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None
