"""A real daemon for tests: `localllm serve` in a process of its own, on a free port, with a home of its own.

    with running_daemon(tmp_path) as daemon:
        daemon.http.post("/api/chat", json=…)

It is ended with SIGTERM at the end of the block, and killed if that does not help; `daemon.log()` is what it wrote.
The first daemon of a run tries the engine on this machine, as a person's does; those after it are told the verdict.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from cli_process import LOCALLLM, cli_environment

from localllm.runner.preflight import VERDICT_FILE

START_SECONDS = 60.0
END_SECONDS = 20.0


@dataclass(frozen=True)
class Daemon:
    """A running daemon: its base URL, an HTTP client for it, its process and its home."""

    url: str
    http: httpx.Client
    process: subprocess.Popen
    home: Path
    environment: Mapping[str, str]

    def log(self) -> str:
        return (self.home / "serve.log").read_text(encoding="utf-8")

    def runner_ids(self) -> list[int]:
        """Process ids of its runners, the oldest first."""
        return [process for process in children_of(self.process.pid) if "localllm.runner.worker" in command_of(process)]

    def chat(self, text: str, **body) -> dict:
        """One whole answer of `guide`."""
        response = self.http.post("/api/chat", json=chat_body(text, stream=False, **body))
        response.raise_for_status()
        return response.json()

    def endless(self) -> dict:
        """A body for /api/generate whose answer goes on until the context is full: the end token is forbidden."""
        return {"model": "guide", "prompt": "Hello", "raw": True, "options": {"logit_bias": self.no_end()}}

    def no_end(self) -> dict[str, float]:
        info = self.http.post("/api/show", json={"model": "guide"}).json()["model_info"]
        ends = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        return {str(info[key]): -1e9 for key in ends if key in info}


def chat_body(text: str, **body) -> dict:
    return {"model": "guide", "messages": [{"role": "user", "content": text}], "options": {"temperature": 0}, **body}


@contextmanager
def running_daemon(home: Path, **variables: str) -> Iterator[Daemon]:
    """Start a daemon and wait until it serves."""
    home.mkdir(parents=True, exist_ok=True)
    _engine_verdict.lend_to(home)
    environment = cli_environment(home, "127.0.0.1:0", **variables)
    log = home / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*LOCALLLM, "serve"], env=environment, stdout=output, stderr=output)
    try:
        url = wait_for(lambda: _url_in(log, process), START_SECONDS)
        client_environment = {**environment, "LOCALLLM_HOST": url}
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Daemon(url, http, process, home, client_environment)
    finally:
        end(process)
        _engine_verdict.keep_from(home)


class _EngineVerdict:
    """What the first daemon of a run found out about the engine, for the homes of those after it."""

    def __init__(self) -> None:
        self._content = b""

    def lend_to(self, home: Path) -> None:
        if self._content and not (file := home / "state" / VERDICT_FILE).exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_bytes(self._content)

    def keep_from(self, home: Path) -> None:
        with suppress(FileNotFoundError):  # it served nothing that needs the engine
            self._content = self._content or (home / "state" / VERDICT_FILE).read_bytes()


_engine_verdict = _EngineVerdict()


def _url_in(log: Path, process: subprocess.Popen) -> str | None:
    text = log.read_text(encoding="utf-8")
    if found := re.search(r"serves (https?://\S+)", text):
        return found[1]
    if process.poll() is not None:
        raise AssertionError(f"the daemon ended with {process.returncode}:\n{text}")
    return None


def end(process: subprocess.Popen) -> None:
    """SIGTERM, and SIGKILL for one that does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_for(look: Callable[[], object], seconds: float):
    """The first true value `look` gives; AssertionError when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing came within {seconds} s")
        time.sleep(0.02)
    return value


def children_of(process_id: int) -> list[int]:
    try:
        text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    return [int(number) for number in text.split()]


def command_of(process_id: int) -> str:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(process_id: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(process_id, 0)
        status = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii")
    except (ProcessLookupError, FileNotFoundError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def lines_of(response: httpx.Response) -> Iterator[dict]:
    """The objects of an NDJSON stream."""
    for line in response.iter_lines():
        yield json.loads(line)
