"""`template-check`: what a chat template can do, and what goes wrong with it, tried in a process that may hang."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from localllm.cli.daemonize import connect
from localllm.cli.output import Screen, screen_of
from localllm.cli.run import is_path
from localllm.config import Settings, load_settings
from localllm.creating import CheckEvent, CheckRequest, Finding
from localllm.errors import BadRequestError, LocalllmError
from localllm.generation import Failed
from localllm.store.processes import lines_from

_CHECK = "localllm.chat.check"
_TEMPLATE_SUFFIXES = (".jinja", ".jinja2", ".j2", ".tmpl")
_NAMED = "tokenizer.chat_template."
_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
_event: msgspec.json.Decoder[CheckEvent] = msgspec.json.Decoder(CheckEvent)


def template_check(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, a .gguf file, or a .jinja file")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Check a chat template: roles, prompt, calls and thinking there and back. Exit code 1 when something is wrong."""
    screen, settings = screen_of(os.environ), load_settings(os.environ)
    results = {
        name: asyncio.run(findings(text, settings.render_timeout_seconds))
        for name, text in templates(model, settings, screen)
    }
    if json:
        screen.json(results)
    else:
        for name, found in results.items():
            if len(results) > 1:
                screen.out(f"{name}:\n")
            screen.out(screen.clean(findings_text(found)))
    problems = sum(one.level == "problem" for found in results.values() for one in found)
    if problems:
        screen.say(f"{problems} problem{'s' if problems > 1 else ''}")
        raise typer.Exit(1)


def templates(model: str, settings: Settings, screen: Screen) -> list[tuple[str, str]]:
    """The templates of a model or a file, the default first: name and source, which may be empty."""
    path = Path(model).expanduser()
    suffix = path.suffix.lower()
    if suffix in _TEMPLATE_SUFFIXES or is_path(model):
        if not path.is_file():
            raise BadRequestError(f"there is no file {model}", hint="a model is given by its name, `localllm list`")
        if suffix in _TEMPLATE_SUFFIXES:
            return [("template", path.read_text(encoding="utf-8", errors="replace"))]
        # Imported here: a template by name needs no GGUF reader.
        from localllm.gguf import read_header

        header = read_header(path)
        return [("default", header.chat_template or ""), *_named(header.metadata)]
    with connect(settings, screen) as client:
        info = client.show(model, verbose=True)
        return [("default", info.template or ""), *_named(info.model_info or {})]


def _named(metadata: Mapping[str, object]) -> list[tuple[str, str]]:
    """The templates besides the default one, such as tool_use."""
    found = ((key.removeprefix(_NAMED), value) for key, value in metadata.items() if key.startswith(_NAMED))
    return [(name, value) for name, value in found if isinstance(value, str)]


async def findings(template: str, seconds: float) -> tuple[Finding, ...]:
    """What a thorough check of a template finds; one that does not end in time is a finding too."""
    request = CheckRequest(template, thorough=True)
    try:
        async with asyncio.timeout(seconds), aclosing(lines_from(_CHECK, request)) as lines:
            answer = _event.decode(await anext(lines))
    except TimeoutError:
        text = f"it is not done after {seconds:g} s: look for a loop that never ends"
        return (Finding("problem", "template", text),)
    except LocalllmError:
        return (Finding("problem", "template", "it ended the process that tried it: it may need too much memory"),)
    if isinstance(answer, Failed):
        return (Finding("problem", "template", answer.message),)
    return answer.findings


def findings_text(found: Sequence[Finding]) -> str:
    """A line for each."""
    width = max((len(one.subject) for one in found), default=0)
    lines = (f"{_MARKS[one.level]:<8} {one.subject:<{width}}  {one.text}".rstrip() for one in found)
    return "".join(f"{line}\n" for line in lines)
