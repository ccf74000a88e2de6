"""`search`: the short names, and the hub's repositories with GGUF files, in one table that a pull can go on from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localllm.cli.output import Screen, Spinner, aligned_lines, screen_of
from localllm.errors import HubError
from localllm.store.bundled import bundled_dir
from localllm.store.catalogue import entries
from localllm.store.model import format_parameter_count
from localllm.store.names import DEFAULT_TAG, Name

if TYPE_CHECKING:
    from localllm.store.hub_listing import Found

Row = tuple[str, str, str]
_USUAL_LIMIT = 20


def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="WORD", help="Only what has this in it")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, max=100, help="At most so many of Hugging Face's; 20 when unsaid")
    ] = None,
) -> None:
    """List short names that can be pulled and, with a word, repositories on Hugging Face, most downloaded first."""
    screen = screen_of(os.environ)
    wanted = " ".join(words or ()).split()
    rows = [row for row in catalogue_rows() if _has_all(row, wanted)]
    most = _USUAL_LIMIT if limit is None else limit
    if wanted and most:
        shown = {source.partition(":")[0].lower() for _, _, source in rows}
        rows += [row for row in hub_rows(_ask_hub(" ".join(wanted), most, screen)) if row[0].lower() not in shown]
    # No table of rich's, which cuts a name in two on a narrow terminal: names are there to be copied.
    screen.out(screen.clean("".join(f"{line}\n" for line in aligned_lines([("NAME", "WHAT", "FROM"), *rows]))))
    if not rows:
        screen.say(f'nothing has "{" ".join(wanted)}" in it')


def catalogue_rows() -> Iterable[Row]:
    """The short names, in order."""
    for entry in entries(bundled_dir()):
        yield _short(entry.name), entry.about, _short(entry.source)


def _short(name: Name) -> str:
    return str(name).removesuffix(f":{DEFAULT_TAG}")


def _has_all(row: Row, words: Sequence[str]) -> bool:
    text = " ".join(row).lower()
    return all(word.lower() in text for word in words)


def _ask_hub(words: str, limit: int, screen: Screen) -> tuple[Found, ...]:
    """What the hub finds; nothing, which is said, when it cannot be asked."""
    # The library would tell the hub which other programs run here; it reads this when it is imported, which is here
    # also because it takes 300 ms, and the short names alone need none of it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from localllm.store.hub import Hub
    from localllm.store.hub_folder import hub_cache

    try:
        with Spinner(screen, "asking Hugging Face"):
            return Hub(hub_cache(os.environ, Path.home())).search(words, limit)
    except HubError as error:
        screen.say(f"Hugging Face was not searched: {error.message}")
        return ()


def hub_rows(found: Iterable[Found]) -> Iterable[Row]:
    """The hub's repositories, by the names that pull them."""
    for model in found:
        about = [
            model.architecture,
            format_parameter_count(model.parameter_count) if model.parameter_count else "",
            f"{format_parameter_count(model.downloads)} downloads",
            "terms to accept first" if model.is_gated else "",
        ]
        yield f"hf.co/{model.id}", ", ".join(part for part in about if part), "Hugging Face"
