"""`du` and `gc`: what models take of the disk, and removing what no name uses."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli.daemonize import is_on_this_machine
from localllm.cli.output import Screen, screen_of
from localllm.config import Settings, load_settings
from localllm.errors import BadRequestError
from localllm.sizes import size_text
from localllm.store.bundled import bundled_dir
from localllm.store.cleaning import Cleaned, reasons_to_keep, remove
from localllm.store.hub_folder import hub_cache
from localllm.store.store import Store
from localllm.store.usage import Leftover, ModelUsage, Usage, usage

_KINDS = {"download": "download", "partial": "partial download", "blob": "blob"}


def du(json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False) -> None:
    """Show what each model takes of the disk, where it lies, and what no name uses any more."""
    screen, settings = screen_of(os.environ), load_settings(os.environ)
    found = _look(settings, "du")
    if json:
        screen.json(found)
        return
    screen.table(*models_table(found.models, Path.home()), folds="FILE")
    screen.say(f"{size_text(found.used_bytes)} in all, a file that several names share counted once")
    for problem in found.problems:
        screen.warn(problem)
    if found.leftovers:
        screen.out("\n")
        screen.table(*leftovers_table(found.leftovers, {}), folds="FILE")
        total = sum(one.size_bytes for one in found.leftovers)
        screen.say(f"{size_text(total)} that no name uses: `localllm gc` removes them")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Remove what localllm downloaded or wrote and no name uses; files of other tools are left alone."""
    screen, settings = screen_of(os.environ), load_settings(os.environ)
    found = _look(settings, "gc")
    if not found.is_certain:
        raise BadRequestError(
            f"a manifest cannot be read, and any file may be its own: {'; '.join(found.problems)}",
            hint="mend it, or forget that name: localllm rm NAME",
        )
    cache = hub_cache(os.environ, Path.home())
    kept = reasons_to_keep(found.leftovers, cache, time.time())
    going = [one for one in found.leftovers if one.path not in kept]
    if not json and found.leftovers:
        screen.table(*leftovers_table(found.leftovers, kept), folds="FILE")
    removes = bool(going) and not dry_run and _is_meant(screen, going, yes=yes)
    if removes:
        for one in going:
            remove(one, cache)
    if json:
        screen.json([Cleaned(one, kept.get(one.path, ""), removes and one in going) for one in found.leftovers])
        return
    _sum_up(screen, going, removes, dry_run)


def models_table(models: Sequence[ModelUsage], home: Path) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows, the largest first. A model of several files is told by the first."""
    rows: list[tuple[str, ...]] = [
        (
            model.name,
            size_text(model.size_bytes),
            size_text(model.shared_bytes) if model.shared_bytes else "-",
            _shown(model.files[0], home) + (f" and {len(model.files) - 1} more" if len(model.files) > 1 else ""),
        )
        for model in sorted(models, key=lambda model: (-model.size_bytes, model.name))
    ]
    return ("NAME", "SIZE", "SHARED", "FILE"), rows


def leftovers_table(
    leftovers: Sequence[Leftover], kept: Mapping[str, str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows; `kept` says by path why one stays."""
    rows: list[tuple[str, ...]] = [
        (
            _KINDS[one.kind],
            size_text(one.size_bytes),
            one.path + (f" (stays: {kept[one.path]})" if one.path in kept else ""),
        )
        for one in leftovers
    ]
    return ("UNUSED", "SIZE", "FILE"), rows


def _look(settings: Settings, verb: str) -> Usage:
    if not is_on_this_machine(settings):
        raise BadRequestError(
            f"the daemon is at {settings.address.url}, and its disk cannot be seen from here",
            hint=f"unset LOCALLLM_HOST, or run `localllm {verb}` on that machine",
        )
    store = Store(settings.models_dir, bundled_dir())
    return usage(store, settings.models_dir, hub_cache(os.environ, Path.home()))


def _is_meant(screen: Screen, going: Sequence[Leftover], *, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise BadRequestError(
            f"{len(going)} files would be removed, and nobody can be asked here",
            hint="`localllm gc --yes` removes them, `localllm gc --dry-run` only shows them",
        )
    screen.say(f"Remove {_counted(going)}? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _sum_up(screen: Screen, going: Sequence[Leftover], removed: bool, dry_run: bool) -> None:
    if not going:
        screen.say("nothing to remove")
    elif removed:
        screen.say(f"removed {_counted(going)}")
    else:
        screen.say(f"{_counted(going)} would be removed" if dry_run else "nothing was removed")


def _counted(going: Sequence[Leftover]) -> str:
    files = "1 file" if len(going) == 1 else f"{len(going)} files"
    return f"{files}, {size_text(sum(one.size_bytes for one in going))}"


def _shown(path: str, home: Path) -> str:
    """A path with ~ for the home folder."""
    return f"~{path[len(str(home)) :]}" if path.startswith(f"{home}/") else path
