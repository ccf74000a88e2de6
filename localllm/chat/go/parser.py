"""Tokens of a Go template into its tree. What is not known is refused by its name and line; nothing is run.

item      text | {{ pipeline }} | if | with | range | define | block | template | break | continue
pipeline  [$x := | $x = | $i, $e :=] command { | command }
command   operand { operand }
operand   literal | . | .Field | $x | name | ( pipeline ), each with .Field.Field behind it
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from localllm.chat.go import nodes
from localllm.chat.go.lexer import Token, error, tokens
from localllm.chat.go.nodes import Body, Command, Node, Operand, Pipeline

MAX_NESTING = 64  # of blocks and of parentheses; Python's own stack is deep enough for it
MAX_NODES = 100_000
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "nil": None}
_KEYWORDS = frozenset("if else end range with define block template break continue".split())


@dataclass(frozen=True, slots=True)
class Parsed:
    """A template: what it prints, and the templates it defines."""

    body: Body
    defined: dict[str, Body] = field(default_factory=dict)


def parse(source: str, functions: Collection[str]) -> Parsed:
    """Read a template that may call `functions`. Raises TemplateError naming the line."""
    return _Parser(source, functions).parse()


class _Parser:
    def __init__(self, source: str, functions: Collection[str]) -> None:
        self._tokens = tokens(source)
        self._functions = functions
        self._next: Token | None = None
        self._line = 1
        self._depth = 0
        self._count = 0
        self._loops = 0
        self._variables = ["$"]
        self._defined: dict[str, Body] = {}

    def parse(self) -> Parsed:
        body, end = self._body()
        if end is not None:
            raise error(end.line, f"{{{{ {end.text} }}}} without an if, with or range before it")
        return Parsed(body, self._defined)

    # Tokens: one is looked at before it is taken.

    def _peek(self) -> Token | None:
        if self._next is None:
            self._next = next(self._tokens, None)
        return self._next

    def _take(self) -> Token:
        token = self._peek()
        if token is None:
            raise error(self._line, "the template ends inside an action or a block")
        self._next = None
        self._line = token.line
        self._count += 1
        if self._count > MAX_NODES:
            raise error(token.line, f"it has more than {MAX_NODES} parts")
        return token

    def _close(self, what: str) -> None:
        token = self._take()
        if token.kind != "close":
            raise error(token.line, f"unexpected {token.text} in {what}")

    def _is_next(self, kind: str, text: str = "") -> bool:
        token = self._peek()
        return token is not None and token.kind == kind and (not text or token.text == text)

    # Blocks.

    def _body(self) -> tuple[Body, Token | None]:
        """Nodes up to {{ else or {{ end, of which the word is returned, or up to the end of the source."""
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise error(self._line, f"it nests deeper than {MAX_NESTING} levels")
        found: list[Node] = []
        while self._peek() is not None:
            token = self._take()
            if token.kind == "text":
                found.append(nodes.Text(token.line, token.text))
                continue
            word = self._peek()
            if word is not None and word.kind == "word" and word.text in ("else", "end"):
                self._depth -= 1
                return tuple(found), self._take()
            node = self._action()
            if node is not None:
                found.append(node)
        self._depth -= 1
        return tuple(found), None

    def _action(self) -> Node | None:
        word = self._peek()
        if word is None or word.kind != "word" or word.text not in _KEYWORDS:
            pipeline = self._pipeline()
            self._close("an action")
            return nodes.Action(pipeline.line, pipeline)
        self._take()
        if word.text in ("if", "with"):
            return self._branch(word)
        if word.text == "range":
            return self._range(word)
        if word.text in ("break", "continue"):
            return self._jump(word)
        return self._named(word)

    def _branch(self, word: Token) -> Node:
        kept = len(self._variables)
        pipeline = self._pipeline()
        self._close(word.text)
        body, otherwise = self._blocks(word)
        del self._variables[kept:]
        return nodes.Branch(word.line, word.text, pipeline, body, otherwise)

    def _range(self, word: Token) -> Node:
        kept = len(self._variables)
        pipeline = self._pipeline(in_range=True)
        self._close(word.text)
        self._loops += 1
        body, otherwise = self._blocks(word, leaves_loop=True)
        del self._variables[kept:]
        return nodes.Range(word.line, pipeline, body, otherwise)

    def _blocks(self, word: Token, *, leaves_loop: bool = False) -> tuple[Body, Body]:
        """The body and what stands behind its else, up to the end."""
        kept = len(self._variables)
        body, end = self._body()
        self._loops -= leaves_loop
        del self._variables[kept:]
        if end is None:
            raise error(word.line, f"{{{{ {word.text} }}}} has no {{{{ end }}}}")
        if end.text == "end":
            self._close("end")
            return body, ()
        chained = self._peek()
        if chained is not None and chained.kind == "word" and chained.text in ("if", "with"):
            self._depth += 1  # a chain of else-ifs is evaluated as deep as it is long
            if self._depth > MAX_NESTING:
                raise error(chained.line, f"it nests deeper than {MAX_NESTING} levels")
            node = self._branch(self._take())  # takes the end that belongs to the whole chain
            self._depth -= 1
            return body, (node,)
        self._close("else")
        otherwise, last = self._body()
        del self._variables[kept:]
        if last is None or last.text != "end":
            raise error(word.line, f"{{{{ {word.text} }}}} has no {{{{ end }}}} behind its {{{{ else }}}}")
        self._close("end")
        return body, otherwise

    def _jump(self, word: Token) -> Node:
        if not self._loops:
            raise error(word.line, f"{{{{ {word.text} }}}} outside a range")
        self._close(word.text)
        return nodes.Jump(word.line, word.text)

    def _named(self, word: Token) -> Node | None:
        """define, block and template."""
        name = self._take()
        if name.kind != "literal" or not isinstance(name.value, str):
            raise error(name.line, f"{word.text} needs a name in quotes, not {name.text}")
        pipeline = None
        if word.text != "define" and not self._is_next("close"):
            pipeline = self._pipeline()
        self._close(word.text)
        if word.text == "template":
            return nodes.Call(word.line, name.value, pipeline)
        if word.text == "define" and self._depth > 1:
            raise error(word.line, "define must not stand inside another block")
        self._define(word, name.value)
        return nodes.Call(word.line, name.value, pipeline) if word.text == "block" else None

    def _define(self, word: Token, name: str) -> None:
        variables, loops = self._variables, self._loops
        self._variables, self._loops = ["$"], 0
        body, end = self._body()
        if end is None or end.text != "end":
            raise error(word.line, f"{{{{ {word.text} }}}} has no {{{{ end }}}}")
        self._close("end")
        self._variables, self._loops = variables, loops
        self._defined[name] = body

    # Expressions.

    def _pipeline(self, *, in_range: bool = False) -> Pipeline:
        line = self._line
        first = self._peek()
        if first is not None:
            line = first.line
        variables, declares, commands = self._declaration(in_range)
        if not commands:
            commands = [self._command()]
        while self._is_next("mark", "|"):
            self._take()
            command = self._command()
            if not isinstance(command[0], nodes.Name):
                raise error(line, "a value is piped into something that is no function")
            commands.append(command)
        if declares:
            self._variables += variables
        return Pipeline(line, tuple(commands), variables, declares)

    def _declaration(self, in_range: bool) -> tuple[tuple[str, ...], bool, list[Command]]:
        """The variables before := or =, or the command that turned out to begin with a variable."""
        if not self._is_next("variable"):
            return (), False, []
        first = self._take()
        if self._is_next("mark", ":=") or self._is_next("mark", "="):
            return (first.text,), self._sets(first), []
        if in_range and self._is_next("mark", ","):
            self._take()
            second = self._take()
            if second.kind != "variable" or not (self._is_next("mark", ":=") or self._is_next("mark", "=")):
                raise error(second.line, "range takes one or two variables, as in: range $i, $e := .Messages")
            return (first.text, second.text), self._sets(first, second), []
        return (), False, [self._command(self._chained(self._variable(first)))]

    def _sets(self, *variables: Token) -> bool:
        """Take := or =; whether it declares."""
        declares = self._take().text == ":="
        for variable in variables:
            if not declares:
                self._variable(variable)
        return declares

    def _command(self, first: Operand | None = None) -> Command:
        operands = [first] if first is not None else [self._operand()]
        while not (self._is_next("close") or self._is_next("mark", "|") or self._is_next("mark", ")")):
            operands.append(self._operand())
        head = operands[0]
        if len(operands) > 1 and not isinstance(head, nodes.Name):
            raise error(head.line, "only a function takes arguments")
        return tuple(operands)

    def _operand(self) -> Operand:
        token = self._take()
        if token.kind == "literal":
            return nodes.Literal(token.line, token.value)
        if token.kind == "dot":
            return nodes.Dot(token.line)
        if token.kind == "field":
            return self._chained(nodes.Chain(token.line, nodes.Dot(token.line), (token.text[1:],)))
        if token.kind == "variable":
            return self._chained(self._variable(token))
        if token.kind == "word":
            return self._word(token)
        if token.text == "(":
            return self._chained(self._parenthesis(token))
        if token.kind == "close":
            raise error(token.line, "a value is missing before }}")
        raise error(token.line, f"unexpected {token.text} where a value should stand")

    def _word(self, token: Token) -> Operand:
        if token.text in _CONSTANTS:
            return nodes.Literal(token.line, _CONSTANTS[token.text])
        if token.text in _KEYWORDS:
            raise error(token.line, f"unexpected {token.text} where a value should stand")
        if token.text not in self._functions:
            raise error(token.line, f"function {token.text} is not supported")
        return nodes.Name(token.line, token.text)

    def _parenthesis(self, token: Token) -> Pipeline:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise error(token.line, f"it nests deeper than {MAX_NESTING} levels")
        pipeline = self._pipeline()
        self._depth -= 1
        closing = self._take()
        if closing.text != ")":
            raise error(closing.line, f"unexpected {closing.text} inside parentheses")
        return pipeline

    def _variable(self, token: Token) -> Operand:
        if token.text not in self._variables:
            raise error(token.line, f"undefined variable {token.text}")
        return nodes.Variable(token.line, token.text)

    def _chained(self, base: Operand) -> Operand:
        fields: list[str] = []
        while (token := self._peek()) is not None and token.kind == "field" and not token.spaced:
            fields.append(self._take().text[1:])
        if not fields:
            return base
        if isinstance(base, nodes.Chain):
            return nodes.Chain(base.line, base.base, (*base.fields, *fields))
        return nodes.Chain(base.line, base, tuple(fields))
