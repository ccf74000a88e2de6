"""A Lark grammar as a tree: what lark_grammar.py reads, lark_quoting.py changes and lark_texts.py writes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, in any case of letters if it says so."""

    text: str
    any_case: bool = False


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression in Rust's syntax."""

    expression: str
    flags: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A rule, or a terminal: those begin with a capital. A rule that was made begins with a dot."""

    name: str

    @property
    def is_terminal(self) -> bool:
        """Whether it is a terminal's."""
        return self.name.lstrip("_")[:1].isupper()


@dataclass(frozen=True, slots=True)
class Sequenced:
    """One after another."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """So many times; any number of times without `most`."""

    item: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Both:
    """What all of several allow; terminals only."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Any text that this is not; terminals only."""

    item: Node


Node = Literal | Regex | Name | Sequenced | Either | Repeated | Both | Not
NOTHING = Sequenced(())


@dataclass(slots=True)
class Grammar:
    """Rules and terminals by their names. A text is one of `start`; what is `ignored` may stand anywhere in it."""

    rules: dict[str, Node] = field(default_factory=dict)
    ignored: list[Node] = field(default_factory=list)


def nullable_rules(grammar: Grammar) -> frozenset[str]:
    """The rules that allow an empty text."""
    found: set[str] = set()
    while True:
        more = {name for name, node in grammar.rules.items() if name not in found and is_nullable(node, found)}
        if not more:
            return frozenset(found)
        found |= more


def is_nullable(node: Node, names: Collection[str]) -> bool:
    """Whether nothing at all, no terminal either, may stand for it."""
    match node:
        case Sequenced(items):
            return all(is_nullable(item, names) for item in items)
        case Either(options):
            return any(is_nullable(option, names) for option in options)
        case Repeated(item, least, _):
            return least == 0 or is_nullable(item, names)
        case Name(name):
            return not node.is_terminal and name in names
        case Literal(text):
            return not text
    return False


def names_in(node: Node) -> list[str]:
    """The rules and terminals that a node names itself."""
    match node:
        case Name(name):
            return [name]
        case Sequenced(items) | Either(items) | Both(items):
            return [name for item in items for name in names_in(item)]
        case Repeated(item, _, _) | Not(item):
            return names_in(item)
    return []
