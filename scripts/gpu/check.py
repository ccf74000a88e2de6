"""Load models where plans say, at several limits of GPU memory, and hold what they take against the plans.

    python -m gpu.check [--cpu] [--limits 8,16,…] [--out FILE]        one line per case; exit 1 when one fails

Each case: a process takes GPU memory until only the limit is free; the model is planned, loaded, asked and unloaded.
It fails when a device holds more than the plan said and a twentieth, when a layer lies elsewhere, when an answer does
not come, or when the memory is not free again afterwards. Then a runner is killed, and eight clients ask at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from daemon_process import Daemon, running_daemon, wait_for
from gpu.models import LARGE, SMALL, write_models

GIB = 2**30
LIMITS_GIB = (4, 8, 16, 24)
LEFT_BYTES = 64 * 2**20  # of GPU memory that may still be held after all is unloaded
TOLERANCE = 0.05
CLIENTS = 8
ANSWER_TOKENS = 64
PROMPT = "How do I pull a model? " * 20
SECONDS = 300.0


@dataclass
class Outcome:
    """What came of one case; `failures` are sentences, none when it is as planned."""

    case: str
    tier: str = ""
    gpu_layers: int = 0
    devices: list[dict[str, Any]] = field(default_factory=list)
    predicted_tokens_per_second: float = 0.0
    tokens_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    load_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Run all cases."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check run")
    parser.add_argument("--cpu", action="store_true", help="small models, no GPU")
    parser.add_argument("--limits", default=",".join(map(str, LIMITS_GIB)), help="GiB of GPU memory to leave free")
    parser.add_argument("--out", type=Path, help="write the outcomes as JSON, too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        files = write_models(SMALL if chosen.cpu else LARGE, Path(folder))
        limits = [] if chosen.cpu else [int(limit) for limit in chosen.limits.split(",") if limit]
        outcomes = check(files, Path(folder) / "home", limits)
    if chosen.out:
        chosen.out.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    failed = [outcome for outcome in outcomes if outcome.failures]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} cases as planned")
    return int(bool(failed))


def check(files: dict[str, Path], home: Path, limits_gib: list[int]) -> list[Outcome]:
    """All cases, each told as soon as it is done."""
    outcomes = []
    with running_daemon(home) as daemon:
        names = {name: _register(daemon, name, file) for name, file in files.items()}
        gpus = [device["device"] for device in _machine(daemon, next(iter(names.values()))) if device["kind"] == "gpu"]
        for name, model in names.items():
            for limit in [None, *limits_gib] if gpus else [None]:
                with ballast(gpus[:1], limit):
                    outcomes.append(_told(one_case(daemon, model, f"{name} {_limit_text(limit)}")))
            outcomes.append(_told(one_case(daemon, model, f"{name} on the CPU", num_gpu=0)))
        model = next(iter(names.values()))
        outcomes += [_told(killed_case(daemon, model)), _told(serving_case(daemon, model))]
    return outcomes


def one_case(daemon: Daemon, model: str, case: str, **options: Any) -> Outcome:
    """Plan, load, ask, compare, unload."""
    outcome, before = Outcome(case), _free(daemon, model)
    planned = _post(daemon, "/api/plan", {"model": model, "options": options})
    plan = planned.get("plan")
    if plan is None:
        outcome.tier = "does not fit"
        return outcome
    answer = _ask(daemon, model, **options)
    loaded = next((row for row in daemon.http.get("/api/ps").json()["models"] if row["name"] == model), {})
    outcome.tier, outcome.gpu_layers = plan["tier"], plan["gpu_layers"]
    outcome.predicted_tokens_per_second = (plan["speed"] or {}).get("decode_tokens_per_second", 0.0)
    outcome.load_seconds = answer["load_duration"] / 1e9
    outcome.tokens_per_second = answer["eval_count"] / max(answer["eval_duration"] / 1e9, 1e-9)
    outcome.prompt_tokens_per_second = answer["prompt_eval_count"] / max(answer["prompt_eval_duration"] / 1e9, 1e-9)
    _compare(outcome, loaded.get("placement"))
    _unload(daemon, model)
    for device, free in before.items():
        if device != "CPU" and not _comes_back(daemon, model, device, free):
            outcome.failures.append(f"{device} is not free again after unloading")
    return outcome


def _compare(outcome: Outcome, placement: dict[str, Any] | None) -> None:
    """The plan's bytes on each device and those of the buffers that are there."""
    if placement is None:
        outcome.failures.append("ps says nothing of the placement")
        return
    for share in placement["devices"]:
        held = share["measured"]
        outcome.devices.append({key: share[key] for key in ("device", "layers", "total", "budget")} | {"held": held})
        # Mapped weights that are packed anew are in two buffers, of which the system may drop one at any time.
        kinds = ("cache", "compute") if share["device"] == "CPU" else ("weights", "cache", "compute")
        for kind in (*kinds, "total") if held["total"] is not None else kinds:
            if held[kind] > share[kind] * (1 + TOLERANCE) + 2**20:
                outcome.failures.append(f"{share['device']}: {kind} {held[kind]}, planned {share[kind]}")


def killed_case(daemon: Daemon, model: str) -> Outcome:
    """A runner that is killed costs one request; the next loads the model again."""
    outcome = Outcome("kill and reload")
    _ask(daemon, model)
    victim = daemon.runner_ids()[-1]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: victim not in daemon.runner_ids(), 30)
    for attempt in range(2):  # one request may still meet the runner that is gone
        try:
            outcome.tokens_per_second = _ask(daemon, model)["eval_count"]
        except httpx.HTTPStatusError as error:
            if attempt:
                outcome.failures.append(f"no answer after a runner was killed: {error.response.text}")
        else:
            break
    return outcome


def serving_case(daemon: Daemon, model: str) -> Outcome:
    """Eight clients at once."""
    outcome, began = Outcome("eight clients"), time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda _: _ask(daemon, model), range(CLIENTS)))
    outcome.tokens_per_second = sum(answer["eval_count"] for answer in answers) / (time.monotonic() - began)
    _unload(daemon, model)
    return outcome


@contextmanager
def ballast(devices: list[str], limit_gib: int | None) -> Iterator[None]:
    """Only so many GiB of each device are free; all of it for None."""
    holders = []
    try:
        for device in devices if limit_gib is not None else []:
            command = [sys.executable, "-P", "-m", "gpu.ballast", device, str(limit_gib * GIB)]
            holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert holders[-1].stdout is not None
            holders[-1].stdout.readline()
        yield
    finally:
        for holder in holders:
            holder.communicate()


def _register(daemon: Daemon, name: str, file: Path) -> str:
    command = [sys.executable, "-m", "localllm", "create", name, "--from", str(file)]
    subprocess.run(command, env=dict(daemon.environment), check=True, capture_output=True, timeout=SECONDS)
    return f"{name}:latest"


def _post(daemon: Daemon, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = daemon.http.post(path, json=body, timeout=SECONDS)
    response.raise_for_status()
    return dict(response.json())


def _ask(daemon: Daemon, model: str, **options: Any) -> dict[str, Any]:
    options = {"num_predict": ANSWER_TOKENS, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 1, **options}
    return _post(
        daemon, "/api/generate", {"model": model, "prompt": PROMPT, "raw": True, "stream": False, "options": options}
    )


def _unload(daemon: Daemon, model: str) -> None:
    _post(daemon, "/api/generate", {"model": model, "keep_alive": 0, "stream": False})
    wait_for(lambda: not daemon.http.get("/api/ps").json()["models"], 60)


def _machine(daemon: Daemon, model: str) -> list[dict[str, Any]]:
    return list(_post(daemon, "/api/plan", {"model": model})["machine"])


def _free(daemon: Daemon, model: str) -> dict[str, int]:
    return {device["device"]: device["free"] for device in _machine(daemon, model)}


def _comes_back(daemon: Daemon, model: str, device: str, free: int) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if _free(daemon, model).get(device, 0) >= free - LEFT_BYTES:
            return True
        time.sleep(0.5)
    return False


def _limit_text(limit_gib: int | None) -> str:
    return "with all memory" if limit_gib is None else f"with {limit_gib} GiB free"


def _told(outcome: Outcome) -> Outcome:
    print(json.dumps(asdict(outcome)), flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
