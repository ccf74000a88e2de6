"""What a test of processes may count: those that it has started itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def process_ids() -> Callable[[], list[int]]:
    """The children that the test has started and nobody has reaped; others of pytest's belong to other files."""
    others = _children()
    return lambda: [process_id for process_id in _children() if process_id not in others]


def _children() -> list[int]:
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
