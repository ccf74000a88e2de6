"""What holds for every test: the engine's library is never loaded here, where an abort() would end the whole run, and
what is started here can be interrupted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

# A shell lets what it runs in the background ignore Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _llama_cpp_stays_in_child_processes() -> Iterator[None]:
    yield
    assert "llama_cpp" not in sys.modules, "a test, or what it imports, has loaded llama_cpp into pytest's own process"
