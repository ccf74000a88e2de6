"""What the tests of pulls share: model files of any size, the request, what is there afterwards, and kills."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import httpx
from daemon_process import Daemon, children_of, command_of, lines_of, wait_for
from gguf_files import Tensor, gguf_bytes

GUIDE_FILE = Path(__file__).parents[1] / "modelfiles" / "guide" / "guide.gguf"
GUIDE = GUIDE_FILE.read_bytes()
# What follows the tensors of a GGUF belongs to nobody, so that this is a model of any size.
LARGE = GUIDE + random.Random(1).randbytes(12_000_000)
SUCCESS = {"status": "success"}


def projector_bytes() -> bytes:
    """A file as the publishers of models that see put it beside them."""
    metadata = {"general.architecture": "clip", "general.type": "mmproj", "clip.projector_type": "gemma3"}
    return gguf_bytes(metadata, [Tensor("mm.0.weight", (256, 4), "F16")])


def pull(daemon: Daemon, name: str, **body) -> list[dict]:
    """The lines of one pull."""
    with daemon.http.stream("POST", "/api/pull", json={"model": name, **body}) as response:
        assert 200 == response.status_code
        return list(lines_of(response))


def names(daemon: Daemon) -> list[str]:
    """The names there are besides the bundled one."""
    return [model["name"] for model in daemon.http.get("/api/tags").json()["models"] if "guide" not in model["name"]]


def partial_bytes(home: Path) -> int:
    """How much of unfinished downloads lies under `home`."""
    return sum(path.stat().st_size for path in home.rglob("*.incomplete"))


def pull_until_killed(daemon: Daemon, name: str) -> None:
    """A pull whose end nobody looks at."""
    with suppress(httpx.HTTPError):  # what a killed daemon leaves its client
        httpx.post(f"{daemon.url}/api/pull", json={"model": name}, timeout=60, trust_env=False)


def download_processes(daemon: Daemon) -> list[int]:
    """The ids of the processes that download for a daemon."""
    return [process for process in children_of(daemon.process.pid) if "localllm.store.pull" in command_of(process)]


def kill_at_random(
    daemon: Daemon, name: str, kill: Callable[[], None], kept: Callable[[], int], points: random.Random
) -> None:
    """Begin a pull and `kill` at a random point: in a third of cases while it starts, else while bytes come."""
    before = kept()
    thread = Thread(target=pull_until_killed, args=(daemon, name))
    thread.start()
    wait_for(lambda: download_processes(daemon), 40)
    if points.random() > 1 / 3:
        wait_for(lambda: kept() > before or not download_processes(daemon), 40)
    time.sleep(points.uniform(0, 0.3))
    kill()
    thread.join(40)
    assert not thread.is_alive()
