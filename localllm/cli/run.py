"""`run`: ask a model once, or chat with it.

Not interactive when there is a prompt, when stdin is piped (its text comes before the prompt's words) or when stdout is
no terminal; then one /api/generate. Else the REPL. An empty prompt loads the model and says nothing. With --render the
prompt is shown that the model would get, and no answer is asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TextIO, TypeVar

import typer

from localllm.cli.answer import AnswerWriter, show_answer, statistics_lines
from localllm.cli.arguments import AnswerStyle, RunOptions, parse_format, parse_keep_alive_argument, parse_think
from localllm.cli.daemonize import connect
from localllm.cli.output import Screen, screen_of
from localllm.client import Client, GenerateRequest
from localllm.config import Settings, load_settings
from localllm.errors import ModelNotFoundError

_Value = TypeVar("_Value")


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """A bare --think means --think=true; the word after it belongs to the prompt."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = ["--think=true" if word == "--think" else word for word in arguments[:end]]
    return [*options, *arguments[end:]]


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or a path to a .gguf file")],
    prompt: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to ask; without it: chat")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print statistics after the answer")] = False,
    format: Annotated[str | None, typer.Option("--format", help="json, or a JSON schema")] = None,
    think: Annotated[
        str | None, typer.Option("--think", metavar="[=true|false|low|medium|high]", help="Let the model think first")
    ] = None,
    hidethinking: Annotated[bool, typer.Option("--hidethinking", help="Do not show the thinking")] = False,
    keepalive: Annotated[
        str | None, typer.Option("--keepalive", metavar="DURATION", help='Keep the model loaded, such as "5m"')
    ] = None,
    nowordwrap: Annotated[bool, typer.Option("--nowordwrap", help="Do not break lines between words")] = False,
    render: Annotated[
        bool, typer.Option("--render", help="Print what the model would be given, and ask nothing")
    ] = False,
) -> None:
    """Ask a model, or chat with it."""
    screen, settings = screen_of(os.environ), load_settings(os.environ)
    options = RunOptions(
        model=model,
        style=AnswerStyle(hides_thinking=hidethinking, wraps_words=not nowordwrap, shows_statistics=verbose),
        format=_parsed(format, parse_format, "--format"),
        think=_parsed(think, parse_think, "--think"),
        keep_alive=_parsed(keepalive, parse_keep_alive_argument, "--keepalive"),
    )
    text = prompt_text(prompt, sys.stdin)
    if render and text is None:
        raise typer.BadParameter("it needs a prompt", param_hint="--render")
    if is_path(model):
        options = replace(options, model=_registered(model, settings, screen))
    with connect(settings, screen) as client:
        if render:
            with_model(client, options.model, screen, lambda: show_prompt(client, options, text or "", screen))
        elif text is None and screen.stdout_is_terminal:
            with_model(client, options.model, screen, lambda: _chat(client, options, screen, settings))
        else:
            with_model(client, options.model, screen, lambda: ask(client, options, text or "", screen))


def ask(client: Client, options: RunOptions, prompt: str, screen: Screen) -> None:
    """One question, one answer; an empty question only loads the model."""
    writer = AnswerWriter(screen, options.style)
    last = show_answer(client.generate(_request(options, prompt)), options.model, screen, writer, is_only=True)
    if options.style.shows_statistics:
        screen.say("\n".join(["", *statistics_lines(last)]))


def show_prompt(client: Client, options: RunOptions, prompt: str, screen: Screen) -> None:
    """The text that the model would be given on stdout, to the letter; its tokens on stderr, all of them if verbose."""
    rendered = client.render(_request(options, prompt))
    screen.out(screen.clean(rendered.text))
    if screen.stdout_is_terminal:
        screen.out("\n")
    ids = f": {' '.join(map(str, rendered.tokens))}" if options.style.shows_statistics else ""
    screen.say(f"{len(rendered.tokens)} tokens{ids}")


def _request(options: RunOptions, prompt: str) -> GenerateRequest:
    return GenerateRequest(
        model=options.model,
        prompt=prompt,
        format=options.format,
        think=options.think,
        keep_alive=options.keep_alive,
    )


def prompt_text(words: Sequence[str] | None, stdin: TextIO) -> str | None:
    """The prompt: what is piped in, then the words; None when there is neither."""
    parts = [" ".join(words)] if words else []
    if stdin.isatty():
        return parts[0] if words else None
    piped = stdin.buffer.read().decode("utf-8", "replace")
    return " ".join([*([piped] if piped else []), *parts])


def is_path(model: str) -> bool:
    """Whether this is a file rather than a name."""
    # No model name starts with one of these.
    return model.startswith((".", "/", "~", "\\")) or (model.lower().endswith(".gguf") and Path(model).exists())


def with_model(client: Client, name: str, screen: Screen, work: Callable[[], None]) -> None:
    """Do what needs the model; when it is not there, pull it and do it then."""
    try:
        work()
    except ModelNotFoundError:
        # Imported here: most runs pull nothing.
        from localllm.cli.pull import pull_model

        pull_model(client, name, screen)
        work()


def _parsed(text: str | None, parse: Callable[[str], _Value], option: str) -> _Value | None:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _registered(path_text: str, settings: Settings, screen: Screen) -> str:
    # Imported here: a run by name needs neither the store nor the GGUF reader.
    from localllm.cli.register import register_file

    model = register_file(Path(path_text), None, settings)
    screen.say(f"{path_text} is now the model '{model.name}'")
    return model.name


def _chat(client: Client, options: RunOptions, screen: Screen, settings: Settings) -> None:
    # Imported here: prompt_toolkit takes 100 ms, which one question should not wait for.
    from localllm.cli.repl import Repl

    Repl(client, screen, options, settings.state_dir / "history").run()
