"""What many names cost: `localllm list` with 500 beside 5, and `localllm show`, as wall time of the whole command.

    scripts/bench/listing [--names 500] [--few 5] [--rounds 15]

Two daemons, each with a home of its own and that many names for one small file (and a chat template as long as real
ones), answer in turns; every round runs each command once, so that whatever else the machine does meets all alike.
The goals: list with the many in less than 1.5 times the time with the few, show in less than 0.3 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from bench.inputs import say
from bench.report import aligned

from localllm.store.bundled import bundled_dir, probe_model
from localllm.store.store import Store

LOCALLLM = (sys.executable, "-P", "-m", "localllm")
RATIO_GOAL, SHOW_GOAL_SECONDS = 1.5, 0.3
START_SECONDS = 60.0


def home_with(names: int, folder: Path) -> Path:
    """A home whose store has that many names, each for a link to a copy of the bundled model."""
    store = Store(folder / "models", bundled_dir())
    (folder / "files").mkdir(parents=True)
    model = folder / "model.gguf"
    shutil.copyfile(probe_model(), model)  # the bundled one may be trained anew while this runs
    for number in range(names):
        link = folder / "files" / f"model-{number:04}-Q4_K_M.gguf"
        link.symlink_to(model)
        store.create_from_file(f"model-{number:04}:q4_k_m", link)
    return folder


@contextmanager
def daemon(home: Path, port: int) -> Iterator[dict[str, str]]:
    """The environment for commands that ask the daemon of `home`."""
    environment = {**os.environ, "LOCALLLM_HOME": str(home), "LOCALLLM_HOST": f"127.0.0.1:{port}"}
    with (
        (home / "serve.log").open("w") as log,
        subprocess.Popen([*LOCALLLM, "serve"], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/api/version")
            yield environment
        finally:
            process.terminate()


def wait_for(url: str) -> None:
    """Until the daemon answers. Raises TimeoutError."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"{url} does not answer")


def seconds_of(arguments: list[str], environment: Mapping[str, str]) -> float:
    """Wall time of one command, from its start to its end."""
    started = time.perf_counter()
    subprocess.run([*LOCALLLM, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="listing", description="See this file's first lines.")
    parser.add_argument("--names", type=int, default=500)
    parser.add_argument("--few", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--port", type=int, default=21434)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        say(f"making {chosen.names} and {chosen.few} names")
        homes = [home_with(count, Path(folder) / str(count)) for count in (chosen.few, chosen.names)]
        few, many = (stack.enter_context(daemon(home, chosen.port + number)) for number, home in enumerate(homes))
        commands = {
            f"list, {chosen.few} names": (["list"], few),
            f"list, {chosen.names} names": (["list"], many),
            f"show, {chosen.names} names": (["show", "model-0003:q4_k_m"], many),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(chosen.rounds + 1):
            for name, (arguments, environment) in commands.items():
                spent = seconds_of(arguments, environment)
                if number:  # the first round fills the caches of the disk
                    times[name].append(spent)
    report(times)


def report(times: Mapping[str, list[float]]) -> None:
    """The medians, their spread, and how the goals were met."""
    rows = [
        (name, f"{statistics.median(spent) * 1000:.0f} ms", f"{min(spent) * 1000:.0f} to {max(spent) * 1000:.0f}")
        for name, spent in times.items()
    ]
    few, many, shown = times.values()
    ratio = statistics.median(b / a for a, b in zip(few, many, strict=True))
    sys.stdout.write(aligned([("command", "median", "spread"), *rows]) + "\n")
    sys.stdout.write(f"many names / few names, paired: {ratio:.2f} (goal: under {RATIO_GOAL})\n")
    sys.stdout.write(f"show: {statistics.median(shown):.2f} s (goal: under {SHOW_GOAL_SECONDS})\n")


if __name__ == "__main__":
    main()
