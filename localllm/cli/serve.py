"""`serve`: the daemon in this process."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from localllm.config import load_settings


def serve(
    idle_exit: Annotated[
        bool, typer.Option("--idle-exit", help="End after LOCALLLM_IDLE_EXIT without a request, as if auto-started")
    ] = False,
) -> None:
    """Run the daemon until Ctrl-C or SIGTERM. Raises DaemonError when the address is taken."""
    settings = load_settings(os.environ)
    # Imported here: only when it really runs; `serve --help` does not need the server.
    from localllm.server.daemon import serve as serve_until_ended

    if idle_exit:  # started in whatever folder the user stood in, which must not stay in use for half an hour
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chdir(settings.state_dir)
    serve_until_ended(settings, idle_exit=idle_exit)
