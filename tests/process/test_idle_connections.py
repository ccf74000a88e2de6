"""What connections that nobody uses cost the daemon: a thousand of them, opened, used once and kept."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from daemon_process import running_daemon

CONNECTIONS = 1000
OTHER_FILES = 200
MOST_BYTES = 50_000_000
REQUEST = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def connections():
    """How many this process may hold: a thousand, or what a hard limit on its files leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    yield allowed - OTHER_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(process_id: int) -> int:
    line = next(line for line in Path(f"/proc/{process_id}/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1]) * 1024


def status(connection: socket.socket) -> int:
    """Of one answer, read whole, however many packets it comes in."""
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def test_a_thousand_idle_connections_cost_little_and_keep_nobody_out(tmp_path, connections, record_property):
    with running_daemon(tmp_path) as daemon, ExitStack() as stack:
        assert 200 == daemon.http.get("/api/tags").status_code
        before = resident_bytes(daemon.process.pid)
        parts = urlsplit(daemon.url)
        for _ in range(connections):
            connection = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=20))
            connection.sendall(REQUEST)
            assert 200 == status(connection)
        cost = (resident_bytes(daemon.process.pid) - before) * CONNECTIONS / connections
        record_property("bytes", cost)
        assert cost < MOST_BYTES, f"{cost / CONNECTIONS:.0f} bytes each"
        assert 200 == daemon.http.get("/api/tags").status_code
        print(f"{CONNECTIONS} idle connections: {cost / 1e6:.1f} MB")  # noqa: T201  (for -s)
        connection.sendall(REQUEST)  # the last is still there
        assert 200 == status(connection)
