"""A client's Lark grammar, written anew for the place where its text stands in a call.

    in JSON      {"input": "…"}             as JSON writes it, with escapes (lark_quoting.py)
    as it is     <parameter=input>…</…>     no terminal has the mark that ends the text in it, and a last terminal that
                                            might goes on with what follows the text: the lexer reads the longest word
                                            there is, and would take the mark for a part of it

A mark that a grammar's terminals only spell together, letter by letter, is not seen.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence

from localllm.chat.json_schema import Schema
from localllm.chat.lark import ANY_CHARACTERS, BLANKS, Lark, Part, Rule, Text, escaped, literal
from localllm.chat.lark_grammar import first_bytes, read_grammar
from localllm.chat.lark_quoting import quoted
from localllm.chat.lark_tree import (
    Both,
    Either,
    Grammar,
    Literal,
    Name,
    Node,
    Not,
    Regex,
    Repeated,
    Sequenced,
    is_nullable,
    names_in,
    nullable_rules,
)

# Where a schema says what Lark grammar its text is to follow; it is the only member of its object then.
KEYWORD = "x-lark"
_NEVER = "(/a/ & /b/)"
_LOOKED_AT = 64  # terminals that a text may end with; to take one for another that goes on is right, too, but slower


def follows_grammar(schema: object) -> str | None:
    """The grammar that a schema's text is to follow."""
    grammar = schema.get(KEYWORD) if isinstance(schema, Mapping) else None
    return grammar if isinstance(grammar, str) else None


def arguments_object(lark: Lark, schema: Schema, otherwise: Callable[[], Rule]) -> Rule:
    """Arguments as JSON: an object of one text that follows a grammar, or what there is `otherwise`."""
    named = schema.get("properties")
    grammars = {key: follows_grammar(node) for key, node in named.items()} if isinstance(named, Mapping) else {}
    key, grammar = next(iter(grammars.items()), ("", None))
    if grammar is None:
        return otherwise()
    head = (literal("{"), BLANKS, literal(json.dumps(key)), BLANKS, literal(":"), BLANKS)
    return lark.rule(lark.sequence(*head, *quoted_text(lark, grammar), BLANKS, literal("}")))


def quoted_text(lark: Lark, grammar: str) -> tuple[Part, ...]:
    """A text between JSON's quotes that follows a grammar."""
    return (literal('"'), lark.lark(quoted_grammar(grammar)), literal('"'))


def plain_text(lark: Lark, grammar: str, forbidden: Sequence[str], end: Sequence[Part]) -> tuple[Part, ...]:
    """A text that follows a grammar, as it is, and its end."""
    texts: list[str] = []
    for part in end:
        if not isinstance(part, Text):
            break
        texts.append(part.body)
    return (lark.lark(plain_grammar(grammar, tuple(forbidden), " ".join(texts))), *end[len(texts) :])


@functools.lru_cache(maxsize=64)
def quoted_grammar(text: str) -> str:
    """The grammar of the same texts as they stand between JSON's quotes. Raises BadRequestError."""
    return _Writer(quoted(read_grammar(text))).grammar()


@functools.lru_cache(maxsize=64)
def plain_grammar(text: str, forbidden: tuple[str, ...], suffix: str) -> str:
    """The grammar of the same texts without `forbidden` ones in them, and behind each `suffix`, a terminal's body."""
    return _Writer(read_grammar(text), forbidden, suffix).grammar()


class _Writer:
    """Writes one grammar, in which every name is one of the grammar's behind `u_`, `U_` or `v_`, or of this class's."""

    def __init__(self, grammar: Grammar, forbidden: Sequence[str] = (), suffix: str = "") -> None:
        self._grammar = grammar
        self._excluded = "".join(f" & ~/{ANY_CHARACTERS}{escaped(one)}{ANY_CHARACTERS}/" for one in forbidden)
        self._suffix = suffix
        self._nullable = nullable_rules(grammar)
        self._terminals: dict[str, str] = {}
        self._lines: list[str] = []
        self._last: set[str] = set()
        self._looked_at = 0

    def grammar(self) -> str:
        start = self._ended_start() if self._suffix else _own("start")
        for name, node in self._grammar.rules.items():
            body = self._body(node) if _is_terminal(name) else self._rule(node)
            self._lines.append(f"{_own(name)}: {body}")
        ignored = [f"%ignore {self._terminal(self._body(node))}" for node in self._grammar.ignored]
        named = [f"{name}: {body}" for body, name in self._terminals.items()]
        return "\n".join(["%llguidance {}", f"start: {start}", *self._lines, *named, *ignored, ""])

    def _ended_start(self) -> str:
        alone = [self._end()] if "start" in self._nullable else []
        return " | ".join([self._last_rule("start"), *alone])

    def _end(self) -> str:
        """The suffix behind a text that cannot have it. A line break that it begins with is a terminal of its own: the
        text may go on behind the same one, and the lexer, once it has read more of the suffix, does not go back to it.
        What is ignored would take such a line break for itself."""
        if self._grammar.ignored or not self._suffix.startswith('"'):
            return self._terminal(self._suffix)
        text, length = json.JSONDecoder().raw_decode(self._suffix)
        rest = text.lstrip("\n")
        breaks = [json.dumps("\n")] * (len(text) - len(rest))
        words = [*breaks, json.dumps(rest, ensure_ascii=False) + self._suffix[length:]] if rest else [self._suffix]
        return " ".join(map(self._terminal, words))

    def _terminal(self, body: str) -> str:
        return self._terminals.setdefault(body, f"T{len(self._terminals)}")

    def _body(self, node: Node) -> str:
        """A terminal's body."""
        match node:
            case Literal(text, any_case):
                return json.dumps(text, ensure_ascii=False) + "i" * any_case
            case Regex(expression, flags):
                return f"/{expression}/{flags}"
            case Name(name):
                return _own(name)
            case Not(item):
                return f"~({self._body(item)})"
            case Both(parts):
                return f"({' & '.join(map(self._body, parts))})"
        return _held_together(node, self._body)

    def _rule(self, node: Node) -> str:
        """A rule's body: what is a terminal there has a name of its own."""
        if isinstance(node, Name) and not node.is_terminal:
            return _own(node.name)
        if isinstance(node, Literal) and not node.text:
            return '""'
        if isinstance(node, (Sequenced, Either, Repeated)):
            return _held_together(node, self._rule)
        return self._terminal(self._checked(node))

    def _checked(self, node: Node) -> str:
        """Without the marks that end the text; words that a grammar writes itself may be what they are."""
        body = self._body(node)
        return body if isinstance(node, Literal) or not self._excluded else f"({body}{self._excluded})"

    def _last_rule(self, name: str) -> str:
        """The rule of a rule's texts that are not empty, with the suffix behind."""
        last = f"{_own(name)}_last"
        if name not in self._last:
            self._last.add(name)
            endings = self._endings(self._grammar.rules[name]) or [self._terminal(_NEVER)]
            self._lines.append(f"{last}: {' | '.join(endings)}")
        return last

    def _endings(self, node: Node) -> list[str]:
        """The texts of a node that are not empty, with the suffix behind: alternatives."""
        match node:
            case Sequenced(items):
                return self._endings_of_sequence(items)
            case Either(options):
                return [ending for option in options for ending in self._endings(option)]
            case Repeated(item, least, most):
                endings = self._endings(item) if most != 0 else []
                before = Repeated(item, max(least - 1, 0), None if most is None else most - 1)
                return [f"{self._rule(before)} {self._named(endings)}"] if endings else []
            case Name(name) if not node.is_terminal:
                return [self._last_rule(name)]
            case Literal(text) if not text:
                return []
        checked = self._checked(node)
        if isinstance(node, Literal) or not self._may_take(node, checked):
            return [f"{self._terminal(checked)} {self._end()}"]
        return [self._terminal(f"({checked}) {self._suffix}")]

    def _may_take(self, node: Node, body: str) -> bool:
        """Whether a terminal may have in it what the suffix begins with; of many not every one is looked at."""
        self._looked_at += 1
        if not self._suffix.startswith('"') or self._looked_at > _LOOKED_AT:
            return True
        first = escaped(json.JSONDecoder().raw_decode(self._suffix)[0][0])
        named = [f"{_own(name)}: {self._body(self._grammar.rules[name])}" for name in self._terminals_of(node)]
        return bool(first_bytes("\n".join(["start: T", f"T: ({body}) & /(?s:.*{first}.*)/", *named])))

    def _terminals_of(self, node: Node) -> list[str]:
        """The named terminals that a terminal is made of."""
        found: dict[str, None] = {}
        waiting = names_in(node)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                waiting += names_in(self._grammar.rules[name])
        return list(found)

    def _endings_of_sequence(self, items: Sequence[Node]) -> list[str]:
        """A rule for each place where a sequence may end, since all that follows there may be nothing."""
        behind: list[str] = []
        may_end = True
        for item in reversed(items):
            found = [f"{self._rule(item)} {self._named(behind)}"] if behind else []
            behind = found + (self._endings(item) if may_end else [])
            may_end = may_end and is_nullable(item, self._nullable)
        return behind

    def _named(self, options: Sequence[str]) -> str:
        """One of these, as a rule of its own if they are several: what goes before is written once."""
        if len(options) == 1:
            return options[0]
        name = f"place{len(self._lines)}"
        self._lines.append(f"{name}: {' | '.join(options)}")
        return name


def _held_together(node: Node, write: Callable[[Node], str]) -> str:
    match node:
        case Sequenced(items):
            return f"({' '.join(map(write, items))})" if items else '""'
        case Either(options):
            return f"({' | '.join(map(write, options))})"
        case Repeated(item, least, most):
            return f"({write(item)}){{{least},{'' if most is None else most}}}" if most != 0 else '""'
    raise TypeError(type(node).__name__)


def _is_terminal(name: str) -> bool:
    return Name(name).is_terminal


def _own(name: str) -> str:
    if name.startswith("."):
        return f"v_{name[1:].lower()}"
    return f"{'U' if _is_terminal(name) else 'u'}_{name}"
