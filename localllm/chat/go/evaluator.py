"""Run a Go template's tree over data. Every step and every character is counted, so that it ends.

steps      nodes that are run and items that are passed over        MAX_STEPS
output     the text it makes, and each value on the way             MAX_CHARACTERS, and all values together
nesting    templates that call templates                            MAX_CALLS
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from localllm.chat.go import nodes
from localllm.chat.go.functions import EARLY, Function
from localllm.chat.go.lexer import error
from localllm.chat.go.nodes import Body, Command, Node, Operand, Pipeline
from localllm.chat.go.values import ValueProblemError, field, is_true, printed, text_length

MAX_STEPS = 2_000_000
MAX_CHARACTERS = 16 * 2**20
MAX_PRODUCED_CHARACTERS = 32 * MAX_CHARACTERS
MAX_CALLS = 32


class _JumpSignal(Exception):  # noqa: N818 - no error: how break and continue leave the blocks they stand in
    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Run:
    """One rendering of one template; use once. `functions` are those the template was parsed with."""

    def __init__(self, defined: Mapping[str, Body], functions: Mapping[str, Function]) -> None:
        self._defined = defined
        self._functions = functions
        self._pieces: list[str] = []
        self._characters = 0
        self._produced = 0
        self._steps = 0
        self._calls = 0
        self._variables: list[tuple[str, Any]] = []

    def text(self, body: Body, data: object) -> str:
        """What `body` prints for `data`. Raises TemplateError naming the line."""
        self._variables = [("$", data)]
        self._body(body, data)
        return "".join(self._pieces)

    def _step(self, line: int, count: int = 1) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise error(line, f"it takes more than {MAX_STEPS} steps")

    def _write(self, line: int, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise error(line, f"it makes more than {MAX_CHARACTERS} characters")
        self._pieces.append(text)

    def _charge(self, line: int, *values: object) -> None:
        """Account for the text that may be made of these values before it is made."""
        length = sum(text_length(value, MAX_CHARACTERS) for value in values)
        self._produced += length
        if length > 8 * MAX_CHARACTERS or self._produced > MAX_PRODUCED_CHARACTERS:
            raise error(line, f"it makes more than {MAX_CHARACTERS} characters")

    # Nodes.

    def _body(self, body: Body, dot: object) -> None:
        kept = len(self._variables)
        for node in body:
            self._node(node, dot)
        del self._variables[kept:]

    def _node(self, node: Node, dot: object) -> None:
        self._step(node.line)
        match node:
            case nodes.Text():
                self._write(node.line, node.text)
            case nodes.Action():
                value = self._pipeline(node.pipeline, dot)
                if not node.pipeline.variables:
                    self._charge(node.line, value)
                    self._write(node.line, printed(value))
            case nodes.Branch():
                self._branch(node, dot)
            case nodes.Range():
                self._range(node, dot)
            case nodes.Call():
                self._call(node, dot)
            case nodes.Jump():
                raise _JumpSignal(node.kind)

    def _branch(self, node: nodes.Branch, dot: object) -> None:
        kept = len(self._variables)
        value = self._pipeline(node.pipeline, dot)
        if is_true(value):
            self._body(node.body, value if node.kind == "with" else dot)
        else:
            self._body(node.otherwise, dot)
        del self._variables[kept:]

    def _range(self, node: nodes.Range, dot: object) -> None:
        kept = len(self._variables)
        pipeline = node.pipeline
        value = self._value(pipeline, dot)
        items = self._items(node.line, value)
        if not items:
            self._body(node.otherwise, dot)
        for key, item in items:
            self._step(node.line)
            if pipeline.variables:
                pair = (item,) if len(pipeline.variables) == 1 else (key, item)
                for name, part in zip(pipeline.variables, pair, strict=True):
                    self._set(name, part, declares=pipeline.declares)
            inner = len(self._variables)
            try:
                self._body(node.body, item)
            except _JumpSignal as signal:
                del self._variables[inner:]
                if signal.kind == "break":
                    break
            if pipeline.declares:
                del self._variables[kept:]
        del self._variables[kept:]

    def _items(self, line: int, value: object) -> Sequence[tuple[object, object]]:
        if isinstance(value, Mapping):
            self._step(line, len(value))
            return [(key, value[key]) for key in sorted(value)]
        if isinstance(value, (list, tuple)):
            self._step(line, len(value))
            return list(enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool):
            self._step(line, max(0, value))
            return [(number, number) for number in range(value)]
        if value is None:
            return ()
        raise error(line, "range goes over a list, a map or a number only")

    def _call(self, node: nodes.Call, dot: object) -> None:
        body = self._defined.get(node.name)
        if body is None:
            raise error(node.line, f'template "{node.name}" is not defined')
        data = self._pipeline(node.pipeline, dot) if node.pipeline else None
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise error(node.line, f"templates call each other more than {MAX_CALLS} deep")
        outer, self._variables = self._variables, [("$", data)]
        self._body(body, data)
        self._variables = outer
        self._calls -= 1

    # Values.

    def _pipeline(self, pipeline: Pipeline, dot: object) -> Any:
        value = self._value(pipeline, dot)
        for name in pipeline.variables:
            self._set(name, value, declares=pipeline.declares)
        return value

    def _set(self, name: str, value: object, *, declares: bool) -> None:
        if declares:
            self._variables.append((name, value))
            return
        place = self._place(name)
        self._variables[place] = (name, value)

    def _place(self, name: str) -> int:
        """Where the innermost variable of that name is; the parser has seen to it that there is one."""
        return next(place for place in reversed(range(len(self._variables))) if self._variables[place][0] == name)

    def _value(self, pipeline: Pipeline, dot: object) -> Any:
        first, *others = pipeline.commands
        value = self._command(first, dot)
        for command in others:
            value = self._command(command, dot, (value,))
        return value

    def _command(self, command: Command, dot: object, piped: tuple[object, ...] = ()) -> Any:
        head, *arguments = command
        self._step(head.line)
        if not isinstance(head, nodes.Name):
            return self._operand(head, dot)
        if head.name in EARLY:
            return self._early(head, arguments, dot, piped)
        values = [*(self._operand(argument, dot) for argument in arguments), *piped]
        self._pay(head, values)
        try:
            return self._functions[head.name](*values)
        except ValueProblemError as problem:
            raise error(head.line, str(problem)) from None
        except TypeError:  # of the call itself: the functions take the values apart with care
            raise error(head.line, f"{head.name} does not take {len(values)} values") from None

    def _pay(self, head: nodes.Name, values: Sequence[object]) -> None:
        """Account for a call: what prints its values by their text, what copies or compares them by their length."""
        if head.name in ("print", "println", "printf", "json"):
            self._charge(head.line, *values)
            return
        for value in values:
            if isinstance(value, str):
                self._charge(head.line, value)
            elif isinstance(value, (list, tuple)):
                self._step(head.line, len(value) // 64)

    def _early(self, head: nodes.Name, arguments: Sequence[Operand], dot: object, piped: tuple[object, ...]) -> Any:
        """`and` gives the first value that is false, `or` the first that is true, each else the last."""
        value: object = None
        for argument in arguments:
            value = self._operand(argument, dot)
            if is_true(value) == (head.name == "or"):
                return value
        if not arguments and not piped:
            raise error(head.line, f"{head.name} takes a value or more")
        return piped[0] if piped else value

    def _operand(self, operand: Operand, dot: object) -> Any:
        self._step(operand.line)
        match operand:
            case nodes.Literal():
                return operand.value
            case nodes.Dot():
                return dot
            case nodes.Variable():
                return self._variables[self._place(operand.name)][1]
            case nodes.Chain():
                return self._chain(operand, dot)
            case nodes.Name():
                return self._command((operand,), dot)
            case nodes.Pipeline():
                return self._pipeline(operand, dot)

    def _chain(self, chain: nodes.Chain, dot: object) -> Any:
        value = self._operand(chain.base, dot)
        for name in chain.fields:
            try:
                value = field(value, name)
            except ValueProblemError as problem:
                raise error(chain.line, str(problem)) from None
        return value
