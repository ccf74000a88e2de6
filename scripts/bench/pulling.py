"""What a pull costs beside the least that could be done: `curl -o FILE URL`, and then `sha256sum FILE`.

    scripts/bench/pulling [--gib 2] [--rounds 3] [--folder FOLDER]

A hub on loopback serves one GGUF. In every round both fetch it, first one and then the other, each into a folder that
is new. A pull is the whole command, with a daemon that runs already: it asks the hub, downloads, checks the sha256 and
the header, and gives the model its name. The goal: at most 1.3 times the time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.inputs import say
from bench.listing import LOCALLLM, daemon
from bench.report import aligned
from gguf_files import MODEL_METADATA, MODEL_TENSORS, Tensor, gguf_bytes
from hub_server import HubRepo, HubServer, hub_server

RATIO_GOAL = 1.3
REPOSITORY, FILE = "owner/Large-GGUF", "Large-Q4_K_M.gguf"


def model_of(gib: float) -> bytes:
    """A GGUF that is mostly one matrix."""
    rows = max(256, round(gib * 2**30 / 144))  # of one block of Q4_K each
    return gguf_bytes(MODEL_METADATA, (*MODEL_TENSORS, Tensor("blk.0.ffn_up.weight", (256, rows), "Q4_K")))


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time, from a disk that has nothing left to write."""
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def by_curl(hub: HubServer, folder: Path) -> float:
    """Seconds of a plain download and a plain sum."""
    file = folder / FILE
    url = f"{hub.url}/{REPOSITORY}/resolve/main/{FILE}"

    def fetch() -> None:
        subprocess.run(["curl", "--silent", "--fail", "--location", "--noproxy", "*", "-o", file, url], check=True)
        subprocess.run(["sha256sum", file], check=True, stdout=subprocess.DEVNULL)

    return seconds_of(fetch)


def by_pull(hub: HubServer, folder: Path, port: int) -> float:
    """Seconds of `localllm pull`."""
    os.environ.update({"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "NO_PROXY": "*"})
    with daemon(folder, port) as environment:
        command = [*LOCALLLM, "pull", f"hf.co/{REPOSITORY}"]
        return seconds_of(lambda: subprocess.run(command, env=environment, check=True, capture_output=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="pulling", description="See this file's first lines.")
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are written; the system's temporary one otherwise")
    parser.add_argument("--port", type=int, default=21436)
    chosen = parser.parse_args()
    say(f"making a model of {chosen.gib:g} GiB")
    times: dict[str, list[float]] = {"curl, sha256sum": [], "localllm pull": []}
    with hub_server({REPOSITORY: HubRepo({FILE: model_of(chosen.gib)})}) as hub:
        hub.oid(hub.repositories[REPOSITORY], FILE)  # hashed before anybody waits for it
        for number in range(chosen.rounds):
            turns = [("curl, sha256sum", lambda folder: by_curl(hub, folder)),
                     ("localllm pull", lambda folder: by_pull(hub, folder, chosen.port))]  # fmt: skip
            for name, measure in turns if number % 2 == 0 else reversed(turns):
                with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
                    times[name].append(measure(Path(folder)))
                say(f"round {number + 1}: {name} took {times[name][-1]:.2f} s")
    report(times)


def report(times: dict[str, list[float]]) -> None:
    """The medians, their spread, and how the goal was met."""
    rows = [
        (name, f"{statistics.median(spent):.2f} s", f"{min(spent):.2f} to {max(spent):.2f}")
        for name, spent in times.items()
    ]
    ratio = statistics.median(ours / theirs for theirs, ours in zip(*times.values(), strict=True))
    sys.stdout.write(aligned([("command", "median", "spread"), *rows]) + "\n")
    sys.stdout.write(f"pull / curl and sha256sum, paired: {ratio:.2f} (goal: at most {RATIO_GOAL})\n")


if __name__ == "__main__":
    main()
