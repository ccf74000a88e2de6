"""The 70 chat templates of known models that the engine's source distribution carries, by name.

None of them is kept here: they are taken out of the source distribution that scripts/bench fetches once (76 MB).
"""

from __future__ import annotations

import functools
import subprocess

import pytest
from bench.inputs import CACHE, ENGINE, ensure_templates


@functools.cache
def upstream_templates() -> dict[str, str]:
    """Name to source. Fails the test, and says why, where the source distribution cannot be had."""
    try:
        folder = ensure_templates()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(
            f"the source distribution of {ENGINE}, which holds the templates, cannot be fetched ({error}); "
            f"run again with a network, or put its archive into {CACHE}"
        )
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.jinja"))}
