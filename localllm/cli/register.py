"""Give a GGUF file a name in the store, where it lies; the one thing the CLI does without the daemon."""

from __future__ import annotations

from pathlib import Path

from localllm.cli.daemonize import is_on_this_machine
from localllm.config import Settings
from localllm.errors import BadRequestError
from localllm.store.bundled import bundled_dir
from localllm.store.model import Model
from localllm.store.store import Store


def register_file(file: Path, name: str | None, settings: Settings) -> Model:
    """Register `file` as `name`, or as a name made from the file's that no other file has.

    Raises ModelFileError, InvalidNameError, and BadRequestError when the daemon is on another machine.
    """
    if not is_on_this_machine(settings):
        raise BadRequestError(
            f"{file} is a file on this machine, but the daemon is at {settings.address.url}",
            hint="unset LOCALLLM_HOST, or run `localllm create NAME --from FILE` on that machine",
        )
    path = file.expanduser().absolute()
    store = Store(settings.models_dir, bundled_dir())
    return store.create_from_file(name or store.name_for(path), path)
