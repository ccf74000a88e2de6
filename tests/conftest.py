"""What holds for every test: the engine's library is never loaded here, where an abort() would end the whole run."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _llama_cpp_stays_in_child_processes() -> Iterator[None]:
    yield
    assert "llama_cpp" not in sys.modules, "a test, or what it imports, has loaded llama_cpp into pytest's own process"
