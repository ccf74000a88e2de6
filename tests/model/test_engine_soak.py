"""Thousands of short requests, some of them taken back, leave nothing behind: no cells and no memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHILD = Path(__file__).with_name("soak_child.py")
REQUESTS = 2000
SETTLED = 500  # by then every buffer has been made that is made once
# A leak of one kilobyte per request would be 1.5 MB; over twelve seeds 0.1 to 0.7 MB were measured.
GROWTH_BYTES = 1_500_000
# One object left by every fifth request would be 300; over twelve seeds 18 to 160 were measured.
GROWTH_BLOCKS = (REQUESTS - SETTLED) // 5


@pytest.fixture(scope="session")
def figures() -> dict[str, Any]:
    """What the child measured."""
    order = json.dumps({"model": str(GUIDE), "requests": REQUESTS, "settled": SETTLED})
    command = [sys.executable, str(CHILD)]
    done = subprocess.run(command, input=order, capture_output=True, text=True, timeout=110, check=False)
    assert 0 == done.returncode, done.stderr[-4000:]
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def test_every_request_comes_to_an_end_and_none_fails(figures: dict[str, Any]) -> None:
    late = figures["late"]
    assert 0 == late["failed"]
    assert REQUESTS == late["finished"] + late["cancelled"]
    assert late["cancelled"] > REQUESTS / 20
    assert late["cached_tokens"] > REQUESTS


@pytest.mark.parametrize("when", ["early", "late"])
def test_no_cell_stays_in_use(when: str, figures: dict[str, Any]) -> None:
    assert 0 < figures[when]["idle_prefixes"]
    assert (0, 0) == (figures[when]["used_cells"], figures[when]["held_tokens"])


def test_the_process_does_not_grow(figures: dict[str, Any]) -> None:
    assert figures["late"]["resident_bytes"] - figures["early"]["resident_bytes"] < GROWTH_BYTES


def test_no_object_stays_for_every_request(figures: dict[str, Any]) -> None:
    assert figures["late"]["python_blocks"] - figures["early"]["python_blocks"] < GROWTH_BLOCKS
