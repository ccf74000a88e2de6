"""Several models under a budget of memory, with the real daemon, planner and engine: who goes, and what is taken.

The budget is that of a device file, and holds two of three models of different sizes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import run_cli
from daemon_process import Daemon, running_daemon
from synthetic_models import build

from localllm.gguf import read_header
from localllm.placement.budgets import machine_of, room_of
from localllm.placement.demand import demands
from localllm.placement.devices import Host
from localllm.placement.estimate import estimate
from localllm.placement.wishes import Wishes

GUIDE = Path(__file__).resolve().parent.parent.parent / "modelfiles" / "guide" / "guide.gguf"
TRACE = re.compile(r"memory of models: CPU (\d+) of (\d+) bytes")
NAMES = ("small", "middle", "large")


def least_bytes(file: Path) -> int:
    """What a model takes at least on a machine without a GPU, by the planner itself."""
    estimated = estimate(read_header(file))
    host = Host(2, 8 * 2**30, 8 * 2**30)
    (choice,) = demands(estimated, room_of(machine_of(host), estimated.vocabulary, Wishes()), Wishes())
    return choice["CPU"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "small": GUIDE,
        "middle": build("llama-tiny", GUIDE, folder / "middle.gguf"),
        "large": build("gemma3-tiny", GUIDE, folder / "large.gguf"),
    }


@pytest.fixture(scope="module")
def budget(files: dict[str, Path]) -> int:
    """Room for any two, and by a little not for all three, even with the smallest of pools."""
    return sum(least_bytes(file) for file in files.values()) - 8 * 10**6


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path], budget: int) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("many")
    devices = home / "devices.json"
    devices.write_text(json.dumps({"host": {"physical_cores": 2, "total": budget}}))
    with running_daemon(home, LOCALLLM_DEVICES=str(devices), LOCALLLM_RESERVE="0") as running:
        for name in NAMES:
            done = run_cli("create", name, "--from", str(files[name]), environment=running.environment)
            assert 0 == done.returncode, done.stderr
        yield running


def ask(daemon: Daemon, name: str) -> None:
    body = {"model": name, "prompt": "Hello", "stream": False, "options": {"num_predict": 2}}
    response = daemon.http.post("/api/generate", json=body)
    assert 200 == response.status_code, response.text
    assert "x-localllm-fallback" not in response.headers


def loaded(daemon: Daemon) -> list[str]:
    models = daemon.http.get("/api/ps").json()["models"]
    return sorted(model["name"].partition(":")[0] for model in models if model["state"] == "ready")


def resident_bytes(daemon: Daemon) -> int:
    """What the runners really hold now."""
    pages = [int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in daemon.runner_ids()]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def test_three_models_take_turns_in_room_for_two_the_one_unused_longest_goes_and_no_load_is_over(
    daemon: Daemon, budget: int
) -> None:
    seen = []
    for name in (*NAMES, *NAMES):
        ask(daemon, name)
        seen.append(loaded(daemon))
        assert resident_bytes(daemon) <= budget
    one_round = [["large", "middle"], ["large", "small"], ["middle", "small"]]
    assert [["small"], ["middle", "small"], *one_round, one_round[0]] == seen
    trace = [(int(held), int(most)) for held, most in TRACE.findall(daemon.log())]
    assert {budget} == {most for _, most in trace}
    assert max(held for held, _ in trace) <= budget
    assert 6 == daemon.log().count(": loaded in ")


def test_ps_says_what_each_model_was_to_take_and_what_it_took(daemon: Daemon) -> None:
    for model in daemon.http.get("/api/ps").json()["models"]:
        (share,) = model["placement"]["devices"]
        measured = share["measured"]
        assert model["size"] == measured["weights"] + measured["cache"] + measured["compute"]
        assert (0, "cpu", "CPU") == (model["size_vram"], model["placement"]["tier"], share["device"])
        assert share["cache"] == measured["cache"]
        assert share["total"] <= share["budget"]
        assert abs(measured["total"] - share["total"]) <= 0.05 * share["total"]


def test_a_model_that_a_machine_would_not_hold_is_told_with_figures_and_what_would_fit(daemon: Daemon) -> None:
    before = loaded(daemon)
    ample = daemon.http.post("/api/plan", json={"model": "large", "devices": {"host": {"total": "8GB"}}}).json()
    least = ample["plan"]["size"] - ample["plan"]["devices"][0]["cache"]
    small = {"host": {"total": least + 1_000_000}}
    body = {"model": "large", "parameters": {"kv_cache_type": "f32"}, "devices": small}
    plan = daemon.http.post("/api/plan", json=body).json()
    assert plan["plan"] is None
    assert 0 < plan["missing"] < 100 * 10**6
    assert plan["error"].startswith("the model does not fit: ")
    assert "what would fit: " in plan["hint"]
    assert before == loaded(daemon)
