"""Arguments as XML elements, nested as deep as the values are (ElementSyntax): what elements.py reads back."""

from __future__ import annotations

from localllm.chat.branches import branches_of, has_any_text
from localllm.chat.json_schema import Schema, kinds_of, resolved, standalone
from localllm.chat.lark import BLANKS, Lark, Part, Rule, Text, other_than, without
from localllm.chat.lark_texts import follows_grammar, plain_text
from localllm.chat.notation import STANDARD_KEYWORDS, properties_of
from localllm.chat.raw_text import LITERAL_WORDS, PLAIN_TEXT, TEXT_KEYWORDS, listed, raw_text
from localllm.chat.syntax import ElementSyntax
from localllm.chat.values import Schema as ReadSchema
from localllm.errors import BadRequestError

_LIST_KEYWORDS = frozenset(["type", "items", "minItems", "maxItems"])


class ElementValues:
    """The elements of one tool's arguments; `root` is the schema that references lead through."""

    def __init__(self, lark: Lark, syntax: ElementSyntax, root: Schema) -> None:
        self._lark = lark
        self._syntax = syntax
        self._root = root
        self._rules: dict[tuple[str, str], Rule] = {}

    def members(self, schema: Schema) -> str:
        """The elements of an object's members, in the order of its schema; only those that it names."""
        named, required = properties_of(schema)
        elements = [(self._element(key, node), key in required) for key, node in named.items()]
        return " ".join(one.name if is_required else f"({one.name})?" for one, is_required in elements) or '""'

    def _element(self, key: str, node: object) -> Rule:
        if not key or any(character in "<>/" or character.isspace() for character in key):
            raise BadRequestError(f'the name "{key}" cannot be written in this model\'s notation')
        if (key, repr(node)) in self._rules:
            return self._rules[key, repr(node)]
        rule, define = self._lark.open_rule()
        self._rules[key, repr(node)] = rule
        prefix = self._syntax.prefix
        start = (BLANKS, *self._lark.mark(f"{prefix}<{key}>"))
        end = f"{prefix}</{key}>"
        define(" | ".join(self._lark.sequence(*start, *value) for value in self._values(node, end)))
        return rule

    def _values(self, node: object, end: str) -> list[tuple[Part, ...]]:
        closing = self._lark.mark(end)
        if (grammar := follows_grammar(node)) is not None:
            return [plain_text(self._lark, grammar, [end], closing)]
        if ReadSchema(node, self._root).is_text:
            return [(self._text(branch, end), *closing) for branch in branches_of(node, self._root)]
        found: list[tuple[Part, ...]] = []
        for branch in branches_of(node, self._root):
            if has_any_text(branch) and "type" in branch:
                found.append((other_than(without(PLAIN_TEXT, [end]), LITERAL_WORDS), *closing))
            found += [(*self._value(kind, branch), *closing) for kind in self._kinds(branch)]
        return found

    def _kinds(self, branch: Schema) -> tuple[str, ...]:
        # What is not said to be an object or a list is written as JSON.
        return kinds_of(branch) if "type" in branch else ("",)

    def _value(self, kind: str, branch: Schema) -> tuple[Part, ...]:
        if kind == "object" and listed(branch) is None and "properties" in branch:
            return (Rule(self._lark.rule(self.members(resolved(branch, self._root))).name), BLANKS)
        if kind == "array" and listed(branch) is None and "items" in branch:
            return (self._list(branch), BLANKS)
        narrowed = {**branch, "type": kind} if kind else branch
        return (self._lark.json(standalone(narrowed, self._root)),)

    def _list(self, branch: Schema) -> Rule:
        if others := [name for name in branch if name in STANDARD_KEYWORDS and name not in _LIST_KEYWORDS]:
            raise BadRequestError(f"cannot be kept in this model's notation: {', '.join(others)}")
        item = self._element(self._syntax.item, branch["items"])
        least, most = branch.get("minItems", 0), branch.get("maxItems", "")
        return self._lark.rule(f"({item.name}){{{least},{most}}}")

    def _text(self, branch: Schema, end: str) -> Text:
        if others := [name for name in branch if name in STANDARD_KEYWORDS and name not in TEXT_KEYWORDS]:
            raise BadRequestError(f"cannot be kept in this model's notation: {', '.join(others)}")
        return raw_text(branch, [end])
