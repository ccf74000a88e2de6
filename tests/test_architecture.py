"""The shape of the program, checked on its source: who may import whom, and how large anything may get.

A rule is a function from one module to its violations; each has a bad example beside it that it must catch, so that a
rule cannot rot into one that passes everything. Nothing here runs the program but the last test.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "localllm"

# Imports point down this list only; the names of one row never import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("client", "server"),
    ("scheduler",),
    ("runner.handle", "runner.process", "runner.preflight", "runner.inventory", "runner.measuring"),
    ("runner.worker",),
    ("runner.preparer",),
    ("runner.embedding", "runner.speaker"),
    ("runner.answer",),
    ("runner.conversation",),
    ("runner.exchange",),
    ("engine", "chat", "convert"),
    ("runner.death", "runner.child"),
    ("runner.protocol",),
    ("dialects", "store", "placement"),
    ("creating", "failures"),
    ("modelfile", "pulling"),
    ("placement.estimate",),
    ("placement.adapters",),
    ("placement.compute", "placement.weights"),
    ("placement.graph_mixers",),
    ("placement.graph",),
    ("placement.tape",),
    ("placement.cache",),
    ("placement.windows",),
    ("placement.shape",),
    ("gguf_adapters",),
    ("gguf_rules",),
    ("gguf_memory_rules", "gguf_single_rules"),
    ("gguf_numbers",),
    ("gguf",),
    ("gguf_tokens", "gguf_architectures"),
    ("gguf_file", "gguf_types"),
    ("answer_rules", "embedding", "generation", "load_options"),
    ("config", "logs"),
    ("client_models", "client_plans", "connecting", "durations", "keys", "option_values", "paths"),
    ("remote_errors", "sizes", "template_syntax", "tls"),
    ("errand", "errors", "version"),
)
RANKS = {group: rank for rank, row in enumerate(LAYERS) for group in row}

# A third-party package and the only modules that may import it; a name ending in "." is a whole package.
IMPORTERS = {
    "llama_cpp": (
        "engine.llama",
        "engine.llama_adapters",
        "engine.llama_backends",
        "engine.llama_draft",
        "engine.llama_embedding",
        "engine.llama_memory",
        "engine.llama_model",
        "engine.llama_parameters",
        "engine.llama_quantize",
        "engine.llama_rows",
        "engine.llama_samplers",
        "engine.measure",
        "engine.survey",
    ),
    "jinja2": ("chat.sandbox", "chat.lengths", "chat.template_code"),
    "starlette": ("server.",),
    "uvicorn": ("server.daemon",),
    "typer": ("cli.",),
    "rich": ("cli.",),
    "prompt_toolkit": ("cli.",),
    "httpx": ("connecting", "client", "store.registry", "store.fetch_converter"),
    "numpy": ("engine.",),
    "opentelemetry": ("server.traces",),
    "prometheus_client": ("server.metrics",),
    "psutil": ("placement.devices",),
    "pynvml": ("placement.nvml",),
    "huggingface_hub": ("store.hub",),
}
# What runs what comes out of a model file; the daemon must never load it.
CHILD_ONLY_GROUPS = (
    "engine",
    "chat",
    "convert",
    "runner.worker",
    "runner.preparer",
    "runner.embedding",
    "runner.speaker",
    "runner.answer",
    "runner.conversation",
    "runner.exchange",
)
CHILD_ONLY_LIBRARIES = ("llama_cpp", "numpy", "jinja2", "huggingface_hub", "httpx")  # the last two load for long
# The CLI's main, a request handler's last line, the worker's outermost loop.
BROAD_EXCEPT_MODULES = ("cli.main", "server.app", "runner.worker")
FILE_LINES = 400
FUNCTION_LINES = 60


@dataclass(frozen=True)
class Module:
    """One source file. `name` is dotted and without the leading "localllm."; "" is the package itself."""

    name: str
    text: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, dotted name) of everything imported, wherever it stands; `from a import b` is "a.b"."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)

    @property
    def own_imports(self) -> Iterator[tuple[int, str]]:
        """The imports from localllm itself, without the leading "localllm."."""
        for line, name in self.imports:
            if name.partition(".")[0] == "localllm":
                yield line, name.removeprefix("localllm").removeprefix(".")

    @property
    def library_imports(self) -> Iterator[tuple[int, str]]:
        """The top-level names of all other packages."""
        for line, name in self.imports:
            if name.partition(".")[0] != "localllm":
                yield line, name.partition(".")[0]


def read_modules(folder: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, path.read_text(encoding="utf-8"), is_package)
    return modules


def group_of(name: str) -> str | None:
    """The group of LAYERS that a module, or a name in it, belongs to; a module may stand apart from its package."""
    parts = name.split(".")
    return next((group for group in (".".join(parts[:2]), parts[0]) if group in RANKS), None)


def layers(module: Module) -> Iterator[str]:
    if module.is_package:
        return
    own = group_of(module.name)
    if own is None:
        yield "has no place in LAYERS"
        return
    for line, name in module.own_imports:
        group = group_of(name)
        if group is None:
            yield f"{line}: imports {name or 'localllm'}, which is no module of a layer"
        elif group != own and RANKS[group] <= RANKS[own]:
            yield f"{line}: {own} must not import {group}"


def daemon_side(module: Module) -> Iterator[str]:
    if group_of(module.name) in CHILD_ONLY_GROUPS:
        return
    for line, name in module.own_imports:
        if group_of(name) in CHILD_ONLY_GROUPS:
            yield f"{line}: only a child process may import {name}"


def single_importers(module: Module) -> Iterator[str]:
    for line, library in module.library_imports:
        allowed = IMPORTERS.get(library)
        if allowed and not any(f"{module.name}.".startswith(f"{place.removesuffix('.')}.") for place in allowed):
            yield f"{line}: {library} may be imported by {', '.join(allowed)} only"


def no_relative_import(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{node.lineno}: a relative import"


def packages_import_nothing(module: Module) -> Iterator[str]:
    if module.is_package:
        yield from (f"{line}: a package's __init__ imports {name}" for line, name in module.imports)


def has_docstring(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield "has no docstring"


def file_length(module: Module) -> Iterator[str]:
    lines = module.text.count("\n")
    if lines > FILE_LINES:
        yield f"has {lines} lines; {FILE_LINES} is the most"


def function_length(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines; {FUNCTION_LINES} is the most"


def broad_excepts(module: Module) -> Iterator[str]:
    if module.name in BROAD_EXCEPT_MODULES:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _raises_again(node):
            yield f"{node.lineno}: a broad except"


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_is_broad(one) for one in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether it only tidies up: nothing is caught by a handler that ends in a bare `raise`."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def no_print(module: Module) -> Iterator[str]:
    if module.name.startswith("cli."):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{node.lineno}: print() outside cli/"


def threads_are_owned(module: Module) -> Iterator[str]:
    """A class derived from Thread shares its attributes, and Python adds to those: 3.13 has a _handle of its own."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            bases = (base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases)
            if "Thread" in bases:
                yield f"{node.lineno}: {node.name} is a thread; let it have one"


def no_unfinished_marks(module: Module) -> Iterator[str]:
    for line, text in enumerate(module.text.splitlines(), start=1):
        if any(mark in text for mark in ("TODO", "FIXME", "NotImplementedError")):
            yield f"{line}: {text.strip()}"


def future_annotations(module: Module) -> Iterator[str]:
    libraries = {name for _, name in module.library_imports}
    if not module.is_package and libraries and "__future__" not in libraries:
        yield "lacks `from __future__ import annotations`"


@dataclass(frozen=True)
class Rule:
    """A check of one module, and modules that it must complain about."""

    check: Callable[[Module], Iterator[str]]
    bad: tuple[Module, ...]


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
RULES = (
    Rule(
        layers,
        (
            Module("store.store", "from localllm.scheduler import loop"),
            Module("client", "def f():\n    from localllm.server.daemon import main"),
            Module("chat.parser", "import localllm.engine.engine"),
            Module("errors", "from localllm.config import Settings"),
            Module("gguf", "from localllm import utils"),
            Module("helpers", ""),
        ),
    ),
    Rule(
        daemon_side,
        (
            Module("scheduler.fleet", "from localllm.runner import worker"),
            Module("server.generate", "from localllm.chat.template import render"),
            Module("cli.run", "from localllm.engine import llama"),
        ),
    ),
    Rule(
        single_importers,
        (
            Module("engine.probe", "import llama_cpp.llama_cpp"),
            Module("chat.templates", "from jinja2 import Environment"),
            Module("chat.template.extra", "import numpy"),
            Module("cli.serve", "import uvicorn"),
            Module("server.generate", "import rich.console"),
            Module("clients", "import httpx"),
            Module("runner.worker", "import psutil"),
        ),
    ),
    Rule(
        no_relative_import, (Module("store.store", "from . import names"), Module("cli.run", "from ..errors import X"))
    ),
    Rule(packages_import_nothing, (Module("store", "from localllm.store.store import Store", is_package=True),)),
    Rule(has_docstring, (Module("logs", "import sys"), Module("cli", "", is_package=True))),
    Rule(file_length, (Module("logs", "x = 1\n" * (FILE_LINES + 1)),)),
    Rule(function_length, (Module("logs", LONG_FUNCTION), Module("logs", f"async {LONG_FUNCTION}"))),
    Rule(
        broad_excepts,
        tuple(
            Module("logs", f"try:\n    pass\n{line}\n    pass")
            for line in ("except:", "except Exception:", "except BaseException as e:", "except (OSError, Exception):")
        ),
    ),
    Rule(no_print, (Module("server.app", "def f():\n    print('x')"), Module("client", "print(1)"))),
    Rule(
        threads_are_owned,
        (Module("logs", "class A(threading.Thread):\n    pass"), Module("logs", "class A(Thread):\n    pass")),
    ),
    Rule(no_unfinished_marks, (Module("logs", "x = 1  # TODO: more"), Module("logs", "raise NotImplementedError"))),
    Rule(future_annotations, (Module("logs", "import sys"),)),
)
MODULES = read_modules(PACKAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    violations = [f"localllm.{name}: {text}" for name, module in MODULES.items() for text in rule.check(module)]
    assert "" == "\n".join(violations)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_rule_catches_its_bad_examples(rule: Rule) -> None:
    assert [] == [module for module in rule.bad if not list(rule.check(module))]


def static_closure(start: str, modules: Mapping[str, Module]) -> tuple[set[str], set[str]]:
    """All modules of ours and all libraries that importing `start` can reach, lazy imports included."""
    ours: set[str] = set()
    libraries: set[str] = set()
    queue = [start]
    while queue:
        name = queue.pop()
        while name and name not in modules:  # a name inside a module: the module is what gets imported
            name = name.rpartition(".")[0]
        if name in ours:
            continue
        ours.add(name)
        libraries.update(library for _, library in modules[name].library_imports)
        queue.extend(imported for _, imported in modules[name].own_imports)
        queue.append(name.rpartition(".")[0])
    return ours, libraries


def test_nothing_the_daemon_imports_reaches_the_engine_a_template_or_a_hub() -> None:
    ours, libraries = static_closure("server.daemon", MODULES)
    assert "scheduler.loop" in ours
    assert [] == sorted(name for name in ours if group_of(name) in CHILD_ONLY_GROUPS)
    assert [] == sorted(libraries.intersection(CHILD_ONLY_LIBRARIES))


def test_the_closure_follows_imports_through_modules_and_packages() -> None:
    modules = {
        "": Module("", "", is_package=True),
        "a": Module("a", "import msgspec", is_package=True),
        "a.b": Module("a.b", "def f():\n    from localllm.c import thing"),
        "c": Module("c", "import numpy"),
        "d": Module("d", "import jinja2"),
    }
    assert ({"", "a", "a.b", "c"}, {"msgspec", "numpy"}) == static_closure("a.b", modules)


def test_the_running_daemon_has_not_loaded_the_engine_a_template_library_or_a_hubs_client() -> None:
    code = (
        "import localllm.server.daemon, sys\n"
        f"names = {(*CHILD_ONLY_LIBRARIES, *(f'localllm.{group}' for group in CHILD_ONLY_GROUPS))!r}\n"
        "print(sorted(name for name in sys.modules if name in names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "[]" == done.stdout.strip()
