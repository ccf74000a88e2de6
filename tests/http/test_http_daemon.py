"""The composition root as a process: it starts, says why it does not, and ends in good order. No model is loaded."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from scripted_server import LOCALLLM_VERSION, Reply, ScriptedServer

from localllm.version import __version__

CHILD = Path(__file__).parent / "daemon_child.py"


@contextmanager
def child(home: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOCALLLM_", "OLLAMA_"))}
    environment = {**kept, "LOCALLLM_HOME": str(home), "LOCALLLM_HOST": "127.0.0.1:0", **variables}
    process = subprocess.Popen(
        [sys.executable, str(CHILD), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refusal(home: Path, **variables: str) -> str:
    with child(home, **variables) as process:
        said, _ = process.communicate(timeout=30)
        assert 1 == process.returncode
        return said.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_daemon_at_once_with_exit_code_0(tmp_path, number):
    with child(tmp_path) as process:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        with httpx.Client() as client:  # whose connection stays open
            assert __version__ == client.get(f"{url}/api/version").json()["localllm"]
            process.send_signal(number)
            _, log = process.communicate(timeout=10)
        assert 0 == process.returncode, log
        assert f"{number.name}: ending" in log


def test_an_unknown_model_is_a_404_of_the_real_store(tmp_path):
    with child(tmp_path) as process:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        answer = httpx.post(f"{url}/api/chat", json={"model": "nobody", "messages": []})
        assert (404, "model 'nobody' not found") == (answer.status_code, answer.json()["error"])
        answer = httpx.post(f"{url}/api/chat", json={"model": "../etc", "messages": []})
        assert 400 == answer.status_code


def test_an_auto_started_daemon_ends_when_it_has_nothing_to_do(tmp_path):
    with child(tmp_path, "idle", LOCALLLM_IDLE_EXIT="0.5") as process:
        _, log = process.communicate(timeout=30)
        assert (0, True) == (process.returncode, "nothing to do" in log)


@pytest.mark.parametrize(
    ("replies", "who"),
    [
        ({"GET /api/version": Reply('{"version": "0.32.15"}')}, "Ollama 0.32.15"),
        ({"GET /api/version": Reply(LOCALLLM_VERSION)}, f"another localllm ({__version__})"),
        ({}, "another program"),
        ({"GET /api/version": Reply("[]")}, "another program"),
    ],
)
def test_a_taken_port_is_told_with_who_has_it(tmp_path, replies, who):
    with ScriptedServer(replies) as server:
        place = server.url.removeprefix("http://")
        assert f"DaemonError: {place} is already used by {who}" == refusal(tmp_path, LOCALLLM_HOST=place)


def test_a_taken_port_that_never_answers_is_another_programs(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        assert f"DaemonError: {place} is already used by another program" == refusal(tmp_path, LOCALLLM_HOST=place)


def test_other_machines_may_only_come_in_with_a_key(tmp_path):
    expected = "ConfigError: other machines can reach 0.0.0.0, but no API key is set"
    assert expected == refusal(tmp_path, LOCALLLM_HOST="0.0.0.0:0")
    with child(tmp_path, LOCALLLM_HOST="0.0.0.0:0", LOCALLLM_API_KEY="k") as process:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        assert 401 == httpx.get(f"{url}/api/tags").status_code
        assert 200 == httpx.get(f"{url}/api/tags", headers={"authorization": "Bearer k"}).status_code
        assert 403 == httpx.get(f"{url}/api/tags", headers={"host": "evil.example"}).status_code


def test_an_address_that_is_not_this_machines_is_an_error_that_names_it(tmp_path):
    said = refusal(tmp_path, LOCALLLM_HOST="192.0.2.1:9", LOCALLLM_API_KEY="k")
    assert "DaemonError: cannot listen at 192.0.2.1:9: Cannot assign requested address" == said
    assert refusal(tmp_path, LOCALLLM_HOST="nowhere.invalid:9").startswith(
        "DaemonError: nowhere.invalid is not an address"
    )
