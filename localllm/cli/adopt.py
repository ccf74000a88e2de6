"""`import`: give names to models that other tools already hold, where they lie."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli.daemonize import is_on_this_machine
from localllm.cli.output import Screen, screen_of
from localllm.config import load_settings
from localllm.errors import BadRequestError
from localllm.sizes import size_text
from localllm.store.adopt import Adopted, adopt
from localllm.store.bundled import bundled_dir
from localllm.store.finding import find
from localllm.store.store import Store

_ORDER = {"named": 0, "known": 1, "skipped": 2}


def import_models(
    where: Annotated[
        str, typer.Argument(metavar="ollama|lmstudio|llama.cpp|hf|DIR", help="A tool, or a folder with GGUF files")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Give names to models that another tool holds. Nothing is copied: deleting them there deletes them here."""
    screen, settings = screen_of(os.environ), load_settings(os.environ)
    if not is_on_this_machine(settings):
        raise BadRequestError(
            f"the models are on this machine, but the daemon is at {settings.address.url}",
            hint=f"unset LOCALLLM_HOST, or run `localllm import {where}` on that machine",
        )
    folders, findings = find(where, os.environ, Path.home())
    screen.say(f"looking in {', '.join(map(str, folders))}")
    done = list(adopt(Store(settings.models_dir, bundled_dir()), findings, dry_run=dry_run))
    done.sort(key=lambda one: (_ORDER[one.status], one.name.lower(), one.what))
    if json:
        screen.json(done)
        return
    if done:
        screen.table(*adopted_table(done), folds="WHAT")
    _sum_up(screen, done, dry_run)


def adopted_table(done: Sequence[Adopted]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows."""
    rows: list[tuple[str, ...]] = [
        (one.name or "-", size_text(one.size_bytes) if one.size_bytes else "-", _status_text(one)) for one in done
    ]
    return ("NAME", "SIZE", "WHAT"), rows


def _status_text(one: Adopted) -> str:
    if one.status == "known":
        return f"named already: {one.what}"
    if one.status == "skipped":
        return f"skipped: {one.note}" if one.what in one.note else f"skipped: {one.what}: {one.note}"
    return f"{one.what} ({one.note})" if one.note else one.what


def _sum_up(screen: Screen, done: Sequence[Adopted], dry_run: bool) -> None:
    if not done:
        screen.say("no GGUF models there")
        return
    count = Counter(one.status for one in done)
    words = "would be named" if dry_run else "named"
    screen.say(f"{count['named']} {words}, {count['known']} named already, {count['skipped']} skipped")
    if count["named"]:
        first = next(one.name for one in done if one.status == "named")
        screen.say("nothing was changed; leave out --dry-run to do it" if dry_run else f"try: localllm run {first}")
