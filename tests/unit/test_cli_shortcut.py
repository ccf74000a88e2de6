"""The shortcut binds what typer binds, and leaves to typer what it cannot."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest
import typer

from localllm.cli import create, models, pull, run, running, search, serve
from localllm.cli.shortcut import bind

COMMANDS = {
    "run": run.run,
    "list": models.list_models,
    "show": models.show,
    "create": create.create,
    "cp": create.copy,
    "rm": models.remove,
    "pull": pull.pull,
    "search": search.search,
    "ps": running.ps,
    "stop": running.stop,
    "serve": serve.serve,
}
LINES = [
    "run guide",
    "run guide hello you",
    "run guide hello --verbose you --hidethinking",
    "run --nowordwrap guide",
    "list",
    "list qw --json",
    "show guide -v",
    "show --system guide",
    "rm a",
    "rm a b c",
    "create x",
    "cp a b",
    "pull x",
    "search",
    "search qwen",
    "ps",
    "stop x",
    "serve",
    "serve --idle-exit",
]
LINES_FOR_TYPER = [
    "run",
    "run --think=low guide",
    "run guide --format json",
    "run guide -- --verbose",
    "run --help",
    "list a b",
    "list --bogus",
    "rm",
    "create x --from y.gguf",
    "create x -f y.Modelfile -q q8_0",
    "cp a",
    "serve now",
    "stop",
    "stop -",
]


def bound_by_typer(verb: str, words: list[str]) -> dict[str, object]:
    """The values that typer hands to the command, without those that are the defaults."""
    seen: dict[str, object] = {}
    command = COMMANDS[verb]

    def record(**values: object) -> None:
        seen.update(values)

    record.__signature__ = inspect.signature(command, eval_str=True)
    record.__annotations__ = dict(get_type_hints(command, include_extras=True))
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(record)
    parser = typer.main.get_command(app)
    with parser.make_context(verb, words) as context:
        parser.invoke(context)
    return {name: value for name, value in seen.items() if value not in (None, False, "", [], ())}


@pytest.mark.parametrize("line", LINES)
def test_the_shortcut_binds_what_typer_binds(line):
    verb, *words = line.split()
    assert bound_by_typer(verb, list(words)) == bind(COMMANDS[verb], words)


@pytest.mark.parametrize("line", LINES_FOR_TYPER)
def test_other_lines_are_left_to_typer(line):
    verb, *words = line.split()
    assert None is bind(COMMANDS[verb], words)


def test_an_empty_word_is_a_word():
    assert {"model": "guide", "prompt": [""]} == bind(run.run, ["guide", ""])


def test_parameters_it_does_not_know_are_left_to_typer():
    def command(file: Annotated[Path, typer.Argument()]) -> None:
        raise AssertionError(file)

    assert None is bind(command, ["x"])
