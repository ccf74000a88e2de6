"""Starting the daemon in the background: once for many, with the reason when it fails, and the real one."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from cli_process import cli_environment, run_cli

from localllm.cli.daemonize import connect
from localllm.cli.output import Screen, screen_of
from localllm.config import Settings, load_settings
from localllm.errors import DaemonError
from localllm.version import __version__

# A daemon in ten lines: notes that it started, waits a little, then answers /api/version.
SMALL_DAEMON = """
import http.server, os, sys, time
port, starts, version = int(sys.argv[1]), sys.argv[2], sys.argv[3]
open(starts, "a").write(f"{os.getpid()} {os.getsid(0)}\\n")
time.sleep(0.3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"version":"0","localllm":"%s"}' % version.encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def small_daemon(tmp_path, free_port):
    """The command that starts it; whatever was started ends with the test."""
    starts = tmp_path / "starts"
    yield (sys.executable, "-c", SMALL_DAEMON, str(free_port), str(starts), __version__)
    for process_id, _ in started(tmp_path):
        os.kill(process_id, signal.SIGKILL)
        wait_until(lambda process_id=process_id: not is_running(process_id))


def started(folder: Path) -> list[tuple[int, int]]:
    """Process and session ids of the small daemons that were started."""
    path = folder / "starts"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(process_id), int(session_id)) for process_id, session_id in map(str.split, lines)]


def is_running(process_id: int) -> bool:
    try:
        if os.waitpid(process_id, os.WNOHANG)[0]:  # one of our own children, started by connect()
            return False
    except ChildProcessError:  # not ours, or reaped already
        pass
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def settings_for(home: Path, port: int) -> Settings:
    return load_settings({"LOCALLLM_HOME": str(home), "LOCALLLM_HOST": f"127.0.0.1:{port}"})


def quiet_screen() -> Screen:
    return screen_of({})


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # that is what a daemon does
def test_a_daemon_is_started_in_a_session_of_its_own_and_found_again(tmp_path, free_port, small_daemon):
    settings = settings_for(tmp_path, free_port)
    for _ in range(2):
        with connect(settings, quiet_screen(), small_daemon) as client:
            assert __version__ == client.version().localllm
    ((process_id, session_id),) = started(tmp_path)
    assert process_id == session_id
    assert 0o700 == settings.state_dir.stat().st_mode & 0o777


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_of_several_that_start_at_once_one_starts_it_and_all_use_it(tmp_path, free_port, small_daemon):
    settings = settings_for(tmp_path, free_port)
    versions: list[str | None] = []

    def use() -> None:
        with connect(settings, quiet_screen(), small_daemon) as client:
            versions.append(client.version().localllm)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [__version__] * 4 == versions
    assert 1 == len(started(tmp_path))


def test_a_daemon_that_ends_at_once_is_an_error_with_its_last_words(tmp_path, free_port):
    settings = settings_for(tmp_path, free_port)
    log = settings.state_dir / "daemon.log"
    log.parent.mkdir()
    log.write_text("a line of an earlier start\n")
    words = "import sys; print('no room left'); sys.exit(7)"
    with pytest.raises(DaemonError) as caught:
        connect(settings, quiet_screen(), (sys.executable, "-c", words))
    assert "the daemon ended while it started (exit code 7)\n  no room left" == caught.value.message
    assert f"the whole log is {log}; `localllm serve` runs it in the foreground" == caught.value.hint


def test_a_folder_that_the_daemon_cannot_write_is_named_with_the_variable_that_moves_it(tmp_path, free_port):
    settings = settings_for(tmp_path, free_port)
    settings.state_dir.write_text("a file where the folder should be: not even root can write there")
    with pytest.raises(DaemonError) as caught:
        connect(settings, quiet_screen(), (sys.executable, "-c", "not reached"))
    assert f"the daemon cannot be started: {settings.state_dir}: File exists" == caught.value.message
    assert "set LOCALLLM_HOME to another folder" in (caught.value.hint or "")


def test_a_long_log_is_put_aside(tmp_path, free_port):
    settings = settings_for(tmp_path, free_port)
    log = settings.state_dir / "daemon.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * (5 * 2**20))
    with pytest.raises(DaemonError):
        connect(settings, quiet_screen(), (sys.executable, "-c", "raise SystemExit('short')"))
    assert ("short\n", 5 * 2**20) == (log.read_text(), log.with_suffix(".log.1").stat().st_size)


def test_list_starts_the_real_daemon_and_finds_it_the_second_time(tmp_path, free_port):
    environment = cli_environment(tmp_path, f"127.0.0.1:{free_port}")
    first = run_cli("list", environment=environment)
    log = (tmp_path / "state" / "daemon.log").read_text()
    second = run_cli("ps", environment=environment)
    after = (tmp_path / "state" / "daemon.log").read_text()
    serve = run_cli("serve", environment=environment)
    end_daemon_of(tmp_path)
    assert (0, "") == (first.returncode, first.stderr)
    assert (0, "") == (second.returncode, second.stderr)
    assert 1 == after.count("serves http://") == log.count("serves http://")
    assert (1, f"Error: 127.0.0.1:{free_port} is already used by another localllm ({__version__})") == (
        serve.returncode,
        serve.stderr.splitlines()[0],
    )


def end_daemon_of(home: Path) -> None:
    """End the daemon whose home this is, found by its environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes()
        except OSError:  # it ended, or is another user's
            continue
        if f"LOCALLLM_HOME={home}".encode() in environment and b"serve" in command:
            process_id = int(process.name)
            os.kill(process_id, signal.SIGTERM)
            wait_until(lambda process_id=process_id: not is_running(process_id))
