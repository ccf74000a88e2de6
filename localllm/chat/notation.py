"""JSON values as Python or Gemma write them, held to a JSON Schema: grammars for what llguidance has no syntax of.

Scalars are JSON in both notations and llguidance's own; objects, lists, words and Gemma's texts are written here. What
a schema says of values that cannot be kept so is refused, never left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from localllm.chat.json_schema import ANNOTATIONS, KINDS, Schema, kinds_of, resolved
from localllm.chat.lark import Lark, Part, Rule, Text, any_of, literal, other_than, pattern
from localllm.chat.lark_texts import follows_grammar, plain_text, quoted_text
from localllm.chat.raw_text import listed, raw_text
from localllm.errors import BadRequestError

_KEPT = {
    "object": frozenset(["properties", "required", "additionalProperties"]),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"]),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
STANDARD_KEYWORDS = frozenset(
    """type enum const anyOf oneOf allOf not if then else properties required additionalProperties patternProperties
    minProperties maxProperties propertyNames dependentRequired dependentSchemas dependencies unevaluatedProperties
    items prefixItems additionalItems minItems maxItems uniqueItems contains minContains maxContains unevaluatedItems
    minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf $ref $dynamicRef
    """.split()
)
_KEPT["number"] = _KEPT["integer"]
_BOUNDS = _KEPT["integer"] - {"format"}
# Without bounds Python would refuse what has more digits, or overflow.
_INTEGER = r"-?(?:0|[1-9][0-9]{0,15})"
_NUMBER = rf"{_INTEGER}(?:\.[0-9]{{1,16}})?(?:[eE][+-]?[0-9]{{1,2}})?"
KEY_PATTERN = "[A-Za-z_][A-Za-z0-9_]{0,40}"
_IS_KEY = re.compile(KEY_PATTERN)
_SINGLE_QUOTED = r"'(?:[^'\\\x00-\x1f\x7f]|\\['\\nrt])*'"


Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written. `words` are true, false and null; `quote` surrounds Gemma's texts, or is empty."""

    words: tuple[str, str, str]
    separator: Text
    colon: Text
    quote: str = ""


PYTHON = Notation(("True", "False", "None"), Text("/, ?/"), Text("/: ?/"))
GEMMA = Notation(("true", "false", "null"), literal(","), literal(":"), '<|"|>')


class Values:
    """The grammars of values in one notation, written into `lark`; `root` is what references lead through."""

    def __init__(self, lark: Lark, notation: Notation, root: Schema) -> None:
        self._lark = lark
        self._notation = notation
        self._root = root
        self._rules: dict[str, Rule] = {}

    def value(self, node: object) -> Rule:
        """A value that the schema `node` allows. Raises BadRequestError naming what cannot be kept."""
        key = json.dumps(node, sort_keys=True)
        if key not in self._rules:
            self._rules[key], define = self._lark.open_rule()
            define(" | ".join(self._alternatives(resolved(node, self._root))))
        return self._rules[key]

    def _alternatives(self, schema: Schema) -> list[str]:
        if (grammar := follows_grammar(schema)) is not None:
            return [self._lark.sequence(*self._following(grammar))]
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self._combined(key, schema)
        if (values := listed(schema)) is not None:
            return [self._lark.sequence(*self.written(value)) for value in self._checked(values, schema)]
        kinds = kinds_of(schema)
        kept = frozenset().union(*(_KEPT.get(kind, frozenset()) for kind in kinds))
        others = [key for key in schema if key not in kept and key not in ANNOTATIONS and key != "type"]
        if unknown := [key for key in others if key in STANDARD_KEYWORDS]:
            raise BadRequestError(f"cannot be kept in this model's notation: {', '.join(unknown)}")
        return [self._of_kind(kind, schema) for kind in kinds]

    def _checked(self, values: Sequence[object], schema: Schema) -> Sequence[object]:
        others = [key for key in schema if key in STANDARD_KEYWORDS and key not in ("enum", "const", "type")]
        if others:
            raise BadRequestError(f"cannot be kept beside listed values in this model's notation: {', '.join(others)}")
        kinds = kinds_of({"type": schema["type"]}) if "type" in schema else KINDS
        found = [value for value in values if not kinds or _is_of(value, kinds)]
        if not found:
            raise BadRequestError("none of its listed values is of its type")
        return found

    def _combined(self, key: str, schema: Schema) -> list[str]:
        options = schema[key]
        others = [name for name in schema if name in STANDARD_KEYWORDS and name != key]
        if not isinstance(options, list) or not options or others:
            raise BadRequestError(f'"{key}" beside other keywords cannot be kept in this model\'s notation')
        if key == "allOf" and len(options) > 1:
            raise BadRequestError('"allOf" of several schemas cannot be kept in this model\'s notation')
        if key == "oneOf" and not are_disjoint([resolved(option, self._root) for option in options]):
            raise BadRequestError('"oneOf" of schemas that overlap cannot be kept in this model\'s notation')
        return [self.value(option).name for option in options]

    def _of_kind(self, kind: str, schema: Schema) -> str:
        words = self._notation.words
        match kind:
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema)
            case "string":
                return self._string(schema)
            case "boolean":
                return self._lark.sequence(any_of([literal(words[0]), literal(words[1])]))
            case "null":
                return self._lark.sequence(literal(words[2]))
            case "integer" | "number":
                own = {name: schema[name] for name in _BOUNDS if name in schema}
                plain = pattern(_INTEGER if kind == "integer" else _NUMBER)
                return self._lark.json({"type": kind, **own}).name if own else self._lark.sequence(plain)
        raise BadRequestError(f"Invalid type: {kind}")

    def _string(self, schema: Schema) -> str:
        own = {name: schema[name] for name in _KEPT["string"] if name in schema}
        if self._notation.quote:
            return self._lark.sequence(*self._quoted(raw_text(own, [self._notation.quote])))
        in_json = self._lark.json({"type": "string", **own}).name
        return in_json if own else f"{in_json} | {self._lark.sequence(pattern(_SINGLE_QUOTED))}"

    def _following(self, grammar: str) -> tuple[Part, ...]:
        """A text that follows a grammar; JSON's escapes mean the same in Python."""
        if not self._notation.quote:
            return quoted_text(self._lark, grammar)
        quote = self._lark.mark(self._notation.quote)
        return (*quote, *plain_text(self._lark, grammar, [self._notation.quote], quote))

    def _quoted(self, text: Text) -> tuple[Part, ...]:
        quote = self._lark.mark(self._notation.quote)
        return (*quote, text, *quote)

    def _array(self, schema: Schema) -> str:
        lark, separator = self._lark, self._notation.separator
        first = schema.get("prefixItems", [])
        rest = schema.get("items", True)
        least, most = int(str(schema.get("minItems", 0))), schema.get("maxItems")
        if not isinstance(first, list):
            raise BadRequestError("prefixItems must be a list")
        if most is not None and int(str(most)) < least:
            raise BadRequestError("Unsatisfiable schema: minItems is more than maxItems")
        items = [self.value(one) for one in first]
        tail = ""
        if rest is not False and (most is None or int(str(most)) > len(items)):
            low = max(least - len(items), 0)
            high = "" if most is None else int(str(most)) - len(items)
            if not items:
                return self._plain_array(self.value(rest), low, high)
            tail = f"({lark.sequence(separator, self.value(rest))}){{{low},{high}}}"
        elif least > len(items):
            raise BadRequestError("Unsatisfiable schema: minItems is more than there may be")
        if most is not None:
            items = items[: int(str(most))]
        return self._prefixed(items, least, tail)

    def _plain_array(self, item: Rule, low: int, high: int | str) -> str:
        lark = self._lark
        opening, closing = lark.sequence(literal("[")), lark.sequence(literal("]"))
        more = lark.sequence(self._notation.separator, item)
        if high == 0:
            return f"{opening} {closing}"
        highest = "" if high == "" else int(high) - 1
        some = f"{item.name} ({more}){{{max(low - 1, 0)},{highest}}}"
        return f"{opening} {some} {closing}" if low else f"{opening} ({some})? {closing}"

    def _prefixed(self, items: Sequence[Rule], least: int, tail: str) -> str:
        """`[first, second, …]`, of which only `least` must be there; a tail only behind all of them."""
        inner = tail
        for index in range(len(items) - 1, -1, -1):
            separator = self._lark.sequence(self._notation.separator) + " " if index else ""
            inner = f"{separator}{items[index].name} {inner}".strip()
            inner = inner if index < least else f"({inner})?"
        return f"{self._lark.sequence(literal('['))} {inner} {self._lark.sequence(literal(']'))}"

    def _object(self, schema: Schema) -> str:
        colon = self._notation.colon
        quote = () if self._notation.quote else (literal('"'),)
        inner = self.members(schema, lambda key: (self._key(key), colon), lambda key: (*quote, key, *quote, colon))
        return f"{self._lark.sequence(literal('{'))} {inner} {self._lark.sequence(literal('}'))}"

    def _key(self, key: str) -> Text:
        if not self._notation.quote:
            return literal(json.dumps(key, ensure_ascii=False))
        if not key or any(character in ':{}[],"<>|' or character.isspace() for character in key):
            raise BadRequestError(f'the name "{key}" cannot be written in this model\'s notation')
        return literal(key)

    def members(self, schema: Schema, key_of: Callable[[str], Parts], any_key: Callable[[Text], Parts]) -> str:
        """Members of an object, in the order of its schema: `key_of` writes what stands before a value.

        So does `any_key` for members without a name of their own.
        """
        lark = self._lark
        names, required = properties_of(schema)
        members = [(lark.sequence(*key_of(name), self.value(node)), name in required) for name, node in names.items()]
        separator = lark.sequence(self._notation.separator)
        extra = self._extra(schema, any_key)
        more = f"({separator} {extra})*" if extra else '""'
        rest = more
        first = f"({extra} {more})?" if extra else '""'
        for member, is_required in reversed(members):
            follows = lark.rule(rest).name
            first_follows = lark.rule(first).name
            if is_required:
                first, rest = f"{member} {follows}", f"{separator} {member} {follows}"
            else:
                first, rest = f"{member} {follows} | {first_follows}", f"({separator} {member})? {follows}"
        return lark.rule(first).name

    def _extra(self, schema: Schema, key_pattern: Callable[[Text], Parts]) -> str:
        """Any other member, where the schema says outright that there may be some."""
        allowed = schema.get("additionalProperties")
        if allowed is None and "properties" not in schema:
            allowed = True
        if allowed is None or allowed is False:
            return ""
        taken = [key for key in properties_of(schema)[0] if _IS_KEY.fullmatch(key)]
        return self._lark.sequence(*key_pattern(other_than(pattern(KEY_PATTERN), taken)), self.value(allowed))

    def written(self, value: object) -> tuple[Part, ...]:
        """One value as the notation writes it."""
        if isinstance(value, str) and self._notation.quote:
            return self._quoted(literal(value)) if value else (*self._lark.mark(self._notation.quote * 2),)
        if isinstance(value, str):
            options = [literal(json.dumps(value, ensure_ascii=False))]
            if value.isprintable() and "'" not in value and "\\" not in value:
                options.append(literal(f"'{value}'"))
            return (any_of(options),)
        if isinstance(value, bool) or value is None:
            return (literal(self._notation.words[2 if value is None else 0 if value else 1]),)
        if isinstance(value, list):
            return self._listed("[", [self.written(one) for one in value], "]")
        if isinstance(value, dict):
            pairs = [(self._key(key), self._notation.colon, *self.written(one)) for key, one in value.items()]
            return self._listed("{", pairs, "}")
        return (literal(json.dumps(value)),)

    def _listed(self, opening: str, items: Sequence[tuple[Part, ...]], closing: str) -> tuple[Part, ...]:
        parts: list[Part] = [literal(opening)]
        for index, item in enumerate(items):
            parts += [self._notation.separator, *item] if index else item
        return (*parts, literal(closing))


def properties_of(schema: Schema) -> tuple[Mapping[str, object], frozenset[str]]:
    """The members an object schema names, those first that it only requires, and which are required."""
    kept = {"type", *_KEPT["object"]}
    if others := [name for name in schema if name in STANDARD_KEYWORDS and name not in kept]:
        raise BadRequestError(f"cannot be kept in this model's notation: {', '.join(others)}")
    named, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(named, Mapping) or not isinstance(required, list):
        raise BadRequestError("properties must be an object, and required a list")
    any_other = schema.get("additionalProperties", True)
    unnamed = {str(name): any_other for name in required if name not in named}
    if unnamed and any_other is False:
        raise BadRequestError(f"Unsatisfiable schema: required property '{next(iter(unnamed))}' is unsatisfiable")
    return {**named, **unnamed}, frozenset(map(str, required))


def are_disjoint(options: Sequence[Schema]) -> bool:
    """Whether no value can be of two of these, as far as their types and one member's constant tell."""
    seen: set[str] = set()
    for option in options:
        kinds = set(kinds_of(option)) if "type" in option else set(KINDS)
        kinds |= {"number", "integer"} if kinds & {"number", "integer"} else set()
        if kinds & seen:
            return _differ_in_a_constant(options)
        seen |= kinds
    return True


def _differ_in_a_constant(options: Sequence[Schema]) -> bool:
    named = [option.get("properties") for option in options]
    if not all(isinstance(one, Mapping) for one in named):
        return False
    first = named[0]
    assert isinstance(first, Mapping)
    for key in first:
        constants: list[object] = []
        for option, members in zip(options, named, strict=True):
            member = members.get(key) if isinstance(members, Mapping) else None
            required = option.get("required")
            if isinstance(member, Mapping) and isinstance(required, list) and key in required:
                constants += [json.dumps(value) for value in listed(member) or []] or [None]
            else:
                constants.append(None)
        if None not in constants and len(set(constants)) == len(constants):
            return True
    return False


def _is_of(value: object, kinds: Sequence[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, (int, float)):
        return "number" in kinds or ("integer" in kinds and value == int(value))
    name = {str: "string", dict: "object", list: "array", type(None): "null"}[type(value)]
    return name in kinds
