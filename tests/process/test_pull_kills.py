"""SIGKILL at random points of downloads, over and over: what is left is consistent, and the next pull ends right.

The process that downloads is killed here, test_pull.py kills the whole daemon. `scripts/test --all` does 50 of each.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from daemon_process import Daemon, running_daemon, wait_for
from hub_server import HubRepo, Pace, hub_server
from pulls import GUIDE, SUCCESS, download_processes, kill_at_random, names, partial_bytes, pull
from registry_server import RegistryModel, registry_server

KILLS = [pytest.param(8, id="few"), pytest.param(50, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
SECONDS_PER_KILL = 1.5
# A download writes a mebibyte at a time: so much and a half comes between two kills.
BYTES_PER_KILL = 2_500_000
LEAST_PACE = 500_000


def model_for(kills: int) -> bytes:
    """A model that is large enough for so many kills: what follows a GGUF's tensors belongs to nobody."""
    return GUIDE + random.Random(kills).randbytes(kills * BYTES_PER_KILL)


def kill_over_and_over(
    daemon: Daemon, name: str, kills: int, open_transfers: Callable[[], int], set_pace: Callable[[int], None]
) -> list[int]:
    """Kill `kills` downloads of model_for(kills); the bytes that are there after each."""
    points = random.Random(kills)
    kept: list[int] = []

    def kill() -> None:
        for process in download_processes(daemon):
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(process, signal.SIGKILL)

    for left in range(kills, 0, -1):
        to_come = 0.9 * kills * BYTES_PER_KILL - (kept[-1] if kept else 0)
        set_pace(max(LEAST_PACE, int(to_come / (left * SECONDS_PER_KILL))))
        kill_at_random(daemon, name, kill, lambda: partial_bytes(daemon.home), points)
        wait_for(lambda: not open_transfers(), 10)
        assert [] == names(daemon), "a name is there before its file is"
        kept.append(partial_bytes(daemon.home))
    return kept


def assert_whole(home: Path, kept: list[int], kills: int, size: int, served: int) -> None:
    """Nothing was lost by a kill, little was sent twice, and nothing but the whole file is there."""
    assert sorted(kept) == kept
    assert len(set(kept)) >= kills // 3, "the kills came before anything was downloaded"
    assert kept[-1] < size
    # A kill loses what was not yet written, and a trifle that lies in the sockets.
    assert served <= size + kills * 2**21
    assert [] == list(home.rglob("*.incomplete"))


@pytest.mark.parametrize("kills", KILLS)
def test_whatever_kills_a_download_from_the_hub_the_next_pull_ends_right(tmp_path, kills):
    data = model_for(kills)
    slow = HubRepo({"Tiny-Q8_0.gguf": data})
    name = "hf.co/owner/Tiny-GGUF:Q8_0"
    with hub_server({"owner/Tiny-GGUF": slow}) as hub:
        there = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
        with running_daemon(tmp_path, **there) as daemon:
            kept = kill_over_and_over(
                daemon, name, kills, lambda: hub.open_transfers, lambda pace: setattr(slow, "bytes_per_second", pace)
            )
            slow.bytes_per_second = 0
            assert SUCCESS == pull(daemon, name)[-1]
            assert [name] == names(daemon)
        assert_whole(tmp_path, kept, kills, len(data), hub.served_bytes())
    assert data == next((tmp_path / "hf").rglob("snapshots/*/Tiny-Q8_0.gguf")).read_bytes()


@pytest.mark.parametrize("kills", KILLS)
def test_whatever_kills_a_download_from_the_registry_the_next_pull_ends_right(tmp_path, kills):
    data = model_for(kills)
    slow = RegistryModel(model=data, system="Be brief.")
    name = "ollama.com/library/tiny:large"
    with registry_server({"library/tiny:large": slow}) as registry:
        with running_daemon(tmp_path, LOCALLLM_REGISTRY=registry.url, NO_PROXY="*") as daemon:
            kept = kill_over_and_over(
                daemon,
                name,
                kills,
                lambda: registry.open_transfers,
                lambda pace: setattr(slow.pace, "bytes_per_second", pace),
            )
            slow.pace = Pace()
            assert SUCCESS == pull(daemon, name)[-1]
            assert [name] == names(daemon)
        assert_whole(tmp_path, kept, kills, len(data), registry.served_bytes())
    blobs = list((tmp_path / "models" / "localllm" / "blobs").glob("sha256-*"))
    assert [data] == [blob.read_bytes() for blob in blobs]
