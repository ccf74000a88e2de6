"""The syntax tree of a Go template. Pure data; every node knows its line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, boolean, or nil (None)."""

    line: int
    value: object


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`, the current value."""

    line: int


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name`; "$" is the data the template was started with."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """`base.Field.Field`."""

    line: int
    base: Operand
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """A function's name where a value stands."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each given the value before it as its last argument; `variables` are set to the last one's value."""

    line: int
    commands: tuple[Command, ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


Operand = Literal | Dot | Variable | Chain | Name | Pipeline
Command = tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it is."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`: its value is printed, unless it sets a variable."""

    line: int
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if` and `with`: the second also makes the value the dot."""

    line: int
    kind: str
    pipeline: Pipeline
    body: Body
    otherwise: Body


@dataclass(frozen=True, slots=True)
class Range:
    """`range`: the body once per item, or `otherwise` when there is none."""

    line: int
    pipeline: Pipeline
    body: Body
    otherwise: Body


@dataclass(frozen=True, slots=True)
class Call:
    """`{{ template "name" pipeline }}`."""

    line: int
    name: str
    pipeline: Pipeline | None


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    line: int
    kind: str


Node = Text | Action | Branch | Range | Call | Jump
Body = tuple[Node, ...]
