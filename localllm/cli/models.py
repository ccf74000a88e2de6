"""`list`, `show` and `rm`: the models there are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from localllm.cli.daemonize import connect
from localllm.cli.figures import age_text
from localllm.cli.output import screen_of
from localllm.cli.sheet import sheet_lines
from localllm.client import ModelSummary
from localllm.client_models import ModelInfo
from localllm.config import load_settings
from localllm.errors import UnsupportedError
from localllm.sizes import size_text

_PARTS = ("license", "modelfile", "parameters", "system", "template")


def list_models(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only names that start so")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """List the models there are, newest first."""
    screen = screen_of(os.environ)
    with connect(load_settings(os.environ), screen) as client:
        models = [model for model in client.tags() if model.name.lower().startswith(prefix.lower())]
    if json:
        screen.json(models)
        return
    screen.table(*list_table(models, datetime.now(UTC)))


def list_table(models: Sequence[ModelSummary], now: datetime) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows."""
    rows: list[tuple[str, ...]] = [
        (model.name, model.digest[:12], size_text(model.size), age_text(model.modified_at, now)) for model in models
    ]
    return ("NAME", "ID", "SIZE", "MODIFIED"), rows


def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name that `localllm list` shows")],
    license: Annotated[bool, typer.Option("--license", help="Only the license")] = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Only the Modelfile")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Only the parameters")] = False,
    system: Annotated[bool, typer.Option("--system", help="Only the system message")] = False,
    template: Annotated[bool, typer.Option("--template", help="Only the chat template")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also metadata and tensors")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Show what is known about a model."""
    wanted = [
        part
        for part, is_wanted in zip(_PARTS, (license, modelfile, parameters, system, template), strict=True)
        if is_wanted
    ]
    if len(wanted) > 1:
        raise UnsupportedError(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"
        )
    screen = screen_of(os.environ)
    with connect(load_settings(os.environ), screen) as client:
        info = client.show(model, verbose=verbose)
    if json:
        screen.json(info)
    elif wanted:
        screen.out(screen.clean(part_text(info, wanted[0])))
    else:
        screen.out(screen.clean("\n".join(sheet_lines(info, verbose=verbose)) + "\n"))


def part_text(info: ModelInfo, part: str) -> str:
    """One part of what `show` knows, ending in a line break."""
    text = getattr(info, part) or ""
    return text if text.endswith("\n") or not text else f"{text}\n"


def remove(models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Names to remove")]) -> None:
    """Remove models; the file of a model that was registered in place stays."""
    screen = screen_of(os.environ)
    with connect(load_settings(os.environ), screen) as client:
        for name in models:
            client.delete(name)
            screen.out(f"deleted '{name}'\n")
