"""The 70 chat templates of known models that the engine's source distribution carries, by name.

None of them is kept here: they are taken out of the source distribution that scripts/bench fetches once (76 MB).
"""

from __future__ import annotations

import functools
import subprocess
import tarfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from bench.inputs import CACHE, ENGINE, ensure_source_archive
from filelock import FileLock

_FOLDER = "vendor/llama.cpp/models/templates/"


@functools.cache
def upstream_templates() -> dict[str, str]:
    """Name to source. Fails the test, and says why, where the source distribution cannot be had."""
    folder = CACHE / f"templates-{metadata.version(ENGINE)}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # the tests run in several processes
        if not folder.exists():
            _take_out(folder)
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}


def _take_out(folder: Path) -> None:
    try:
        archive = ensure_source_archive()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(
            f"the source distribution of {ENGINE}, which holds the templates, cannot be fetched ({error}); "
            f"run again with a network, or put its archive into {CACHE}"
        )
    draft = folder.with_suffix(".partial")
    draft.mkdir(exist_ok=True)
    with tarfile.open(archive) as files:
        for member in files:
            if _FOLDER in member.name and member.name.endswith(".jinja"):
                stream = files.extractfile(member)
                assert stream is not None
                (draft / PurePosixPath(member.name).name).write_bytes(stream.read())
    draft.rename(folder)
