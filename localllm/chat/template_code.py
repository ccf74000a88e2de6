"""The Python code that a chat template is compiled to: what sandbox.py checks, and what needs no check.

jinja2 writes a call into its sandbox for every look-up, call and piece of text. Here the common case of each stands in
the code itself, behind a test of the value's exact type, and all else goes the long way through the sandbox:

    message.role, message['role']    a plain dict that has the key; any, where only its truth is asked
    ns.found, loop.last              a namespace that has it; a loop
    message.get('name')              a plain dict: get, items, keys and values copy nothing and change nothing
    {{ text }}                       a plain text

Names that a loop only may assign are asked for once before it and not at each step: no loop changes the context.
What jinja2 tells functions of the loop they are called from is left out, for there are none here that ask for it.
Buffers and `~` are bounded; values are made when the code runs, never when it is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.idtracking import VAR_LOAD_RESOLVE
from jinja2.utils import Namespace

DICT_ATTRIBUTES = frozenset(dir(dict))
# Methods that make no copy of what is in a dict, and change nothing.
DICT_READERS = frozenset(["get", "items", "keys", "values"])
_LOOP_ATTRIBUTES = frozenset(
    ["depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem", "revindex", "revindex0"]
)
# What a template may do to a list, and by which method of the sandbox.
_LIST_METHODS = {"append": "append_to", "pop": "pop_from"}
_NO_SCOPE = "_loop_vars = {}"


class Space(Namespace):
    """What `namespace()` makes: only the code and the sandbox know how to look its names up.

    With a look-up of its own, as jinja2's has one, `_names` would take twice as long to read.
    """

    __slots__ = ("_names",)
    __getattribute__ = object.__getattribute__
    _names: dict[str, Any]

    def __init__(*args: Any, **kwargs: Any) -> None:  # a name of a template's may be `self`
        space, *rest = args
        space._names = dict(*rest, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        self._names[name] = value

    def __repr__(self) -> str:
        return f"<Namespace {self._names!r}>"


class BoundedCode(CodeGenerator):
    """The compiler. `v` is the one variable that the code keeps a value in while it looks at its type."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802, as all of these
        assigned = ((one.target, one.node) for one in node.find_all(nodes.Assign))
        self._spaces = {nsref.name for nsref in node.find_all(nodes.NSRef)} | {
            target.name for target, value in assigned if isinstance(target, nodes.Name) and _makes_space(value)
        }
        self._conditions = set(map(id, _conditions(node)))
        self._resolved: dict[str, str] = {}
        super().visit_Template(node, frame)

    def writeline(self, x: str, node: nodes.Node | None = None, extra: int = 0) -> None:
        if x != _NO_SCOPE:
            super().writeline(x, node, extra)

    def pop_assign_tracking(self, frame: Frame) -> None:
        if frame.loop_frame:
            self._assign_stack.pop()  # would be told to the functions that a loop calls
        else:
            super().pop_assign_tracking(frame)

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        resolved = {} if node.recursive else self._resolve_before(node, frame)
        self._resolved |= resolved
        super().visit_For(node, frame)
        for name in resolved:
            del self._resolved[name]

    def _resolve_before(self, node: nodes.For, frame: Frame) -> dict[str, str]:
        body = frame.inner()
        body.symbols.analyze_node(node, for_branch="body")
        resolved: dict[str, str] = {}
        for target, (action, name) in body.symbols.loads.items():
            if action == VAR_LOAD_RESOLVE and name != "loop":
                resolved[target] = self.temporary_identifier()
                self.writeline(f"{resolved[target]} = {self.get_resolve_func()}({name!r})")
        return resolved

    def enter_frame(self, frame: Frame) -> None:
        loads = frame.symbols.loads
        known = {target: self._resolved[target] for target in loads if target in self._resolved}
        for target, temporary in known.items():
            if loads[target][0] == VAR_LOAD_RESOLVE:
                self.writeline(f"{target} = {temporary}")
        frame.symbols.loads = {target: load for target, load in loads.items() if target not in known}
        super().enter_frame(frame)
        frame.symbols.loads = loads

    def buffer(self, frame: Frame) -> None:
        frame.buffer = self.temporary_identifier()
        self.writeline(f"{frame.buffer} = environment.new_pieces()")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:  # noqa: N802
        self.write("environment.plus(context, ")
        self.visit(node.left, frame)
        self.write(", ")
        self.visit(node.right, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            self._write_key(node, frame, node.arg.value, "environment.getitem")
            return
        is_slice = isinstance(node.arg, nodes.Slice)
        self.write("environment.charged(" if is_slice else "")
        super().visit_Getitem(node, frame)
        self.write(")" if is_slice else "")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802
        name = node.attr
        owner = node.node.name if isinstance(node.node, nodes.Name) else None
        if name.startswith("_"):
            super().visit_Getattr(node, frame)
        elif owner == "loop" and name in _LOOP_ATTRIBUTES:
            self._write_either(node, frame, f"v.{name}", "LoopContext", f"environment.look_up(v, {name!r})")
        elif owner in self._spaces:
            self._write_key(node, frame, name, "environment.look_up", names="v._names", kind="environment.space")
        elif name not in DICT_ATTRIBUTES:
            self._write_key(node, frame, name, "environment.look_up")
        else:
            self.write("environment.look_up(")
            self.visit(node.node, frame)
            self.write(f", {name!r})")

    def _write_key(
        self,
        node: nodes.Getattr | nodes.Getitem,
        frame: Frame,
        key: str,
        look_up: str,
        names: str = "v",
        kind: str = "dict",
    ) -> None:
        """The value of a key among the `names` of a value of this kind, or what the sandbox finds."""
        if id(node) in self._conditions and key not in DICT_ATTRIBUTES:
            # What is not there counts as false, and need not be made to be asked.
            self._write_either(node, frame, f"{names}.get({key!r})", kind, f"{look_up}(v, {key!r})")
        else:
            is_there = f"{kind} and {key!r} in {names}"
            self._write_either(node, frame, f"{names}[{key!r}]", is_there, f"{look_up}(v, {key!r})")

    def _write_either(
        self, node: nodes.Getattr | nodes.Getitem, frame: Frame, value: str, condition: str, other: str
    ) -> None:
        self.write(f"({value} if type(v := ")
        self.visit(node.node, frame)
        self.write(f") is {condition} else {other})")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:  # noqa: N802
        caller = {"caller": "caller"} if forward_caller else None
        callee, constants = node.node, _constants(node)
        is_reader = isinstance(callee, nodes.Getattr) and callee.attr in DICT_READERS
        if not isinstance(callee, nodes.Getattr) or not is_reader or caller or constants is None:
            self.write("environment.call(context, ")
            self.visit(callee, frame)
            self.signature(node, frame, caller)
            self.write(")")
            return
        arguments = ", ".join(map(repr, constants))  # so short that they may be written twice
        method = f"environment.look_up(v, {callee.attr!r})"
        other = f"environment.call(context, {', '.join(filter(None, (method, arguments)))})"
        self._write_either(callee, frame, f"v.{callee.attr}({arguments})", "dict", other)

    def visit_Assign(self, node: nodes.Assign, frame: Frame) -> None:  # noqa: N802
        """`set x = list.append(y)` becomes the sandbox's own append_to, which knows what it lets grow."""
        call = node.node
        if isinstance(call, nodes.Call) and isinstance(call.node, nodes.Getattr) and call.node.attr in _LIST_METHODS:
            method = nodes.EnvironmentAttribute(_LIST_METHODS[call.node.attr])
            node.node = nodes.Call(method, [call.node.node, *call.args], call.kwargs, call.dyn_args, call.dyn_kwargs)
            node.node.set_lineno(call.lineno).set_environment(self.environment)
        super().visit_Assign(node, frame)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("(v if type(v := ")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_post(node, frame, finalize)
        else:
            self.write(") is str else environment.printed(v))")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, (nodes.TemplateData, nodes.Const)):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


def _makes_space(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "namespace"


def _conditions(template: nodes.Template) -> Iterator[nodes.Node]:
    """The look-ups of which nothing is asked but whether they are true."""
    waiting: list[nodes.Node | None] = [node.node for node in template.find_all(nodes.Not)]
    waiting += [node.test for node in template.find_all(nodes.If)]
    waiting += [node.test for node in template.find_all(nodes.CondExpr)]
    waiting += [node.test for node in template.find_all(nodes.For)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (nodes.And, nodes.Or)):
            waiting += [node.left, node.right]
        elif isinstance(node, nodes.CondExpr):
            waiting += [node.expr1, node.expr2]
        elif isinstance(node, (nodes.Getattr, nodes.Getitem)):
            yield node


def _constants(call: nodes.Call) -> list[object] | None:
    """The values of a call's arguments; None where one of them is no constant."""
    if call.kwargs or call.dyn_args or call.dyn_kwargs:
        return None
    values = [argument.value for argument in call.args if isinstance(argument, nodes.Const)]
    are_plain = all(isinstance(value, (str, int, type(None))) for value in values)
    return values if are_plain and len(values) == len(call.args) else None
