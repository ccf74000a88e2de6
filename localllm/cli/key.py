"""`key`: make, list and revoke the API keys of this machine's daemon."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from localllm.cli.figures import age_text
from localllm.cli.output import Screen, screen_of
from localllm.config import load_settings
from localllm.keys import SCOPES, Scope, add_key, new_key, read_keys, remove_key


def key(
    action: Annotated[str, typer.Argument(metavar="new|list|revoke")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name, for new and revoke")] = "",
    scope: Annotated[str, typer.Option("--scope", help="What it may do: infer, manage, or infer,manage")] = "infer",
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Make, list or revoke API keys. A new one is shown once; the daemon knows of a change at once."""
    screen, path = screen_of(os.environ), load_settings(os.environ).keys_file
    now = datetime.now(UTC)
    if action == "list" and not name:
        keys = read_keys(path)
        if json:
            known = ("id", "name", "scopes", "created_at")
            screen.json([{field: getattr(one, field) for field in known} for one in keys])
        else:
            rows = [(one.name, one.id, ", ".join(one.scopes), age_text(one.created_at, now)) for one in keys]
            screen.table(("NAME", "ID", "SCOPES", "CREATED"), rows)
    elif action == "new" and name:
        made, text = new_key(name, _scopes(scope), now)
        add_key(path, made)
        _show(screen, text)
    elif action == "revoke" and name:
        screen.out(f"revoked '{remove_key(path, name).name}'\n")
    else:
        raise typer.BadParameter("use `localllm key new NAME`, `localllm key list` or `localllm key revoke NAME`")


def _scopes(text: str) -> tuple[Scope, ...]:
    asked = [part.strip() for part in text.split(",")]
    if not set(asked) <= set(SCOPES):
        raise typer.BadParameter(f"--scope takes {' and '.join(SCOPES)}, with a comma between both, not '{text}'")
    return tuple(one for one in SCOPES if one in asked)


def _show(screen: Screen, text: str) -> None:
    screen.out(f"{text}\n")
    screen.say("this is the only time it is shown; clients send it as `Authorization: Bearer` or `x-api-key`")
