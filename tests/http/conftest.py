"""One live server for the tests that only ask questions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_server import LiveServer, live_server


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with live_server() as running:
        yield running
