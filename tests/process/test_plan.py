"""`localllm plan` as people use it: the real CLI and daemon, models that are here, and models on a hub that are not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import run_cli
from daemon_process import Daemon, running_daemon
from hub_server import HubRepo, HubServer, hub_server
from real_shapes import SHAPES, Shape, data_bytes, header_bytes

CARD = {
    "host": {"physical_cores": 16, "total": "64GiB", "free": "60GiB", "bandwidth": 80e9, "flops": 1.5e12},
    "gpus": [
        {
            "description": "RTX 4090",
            "total": "24GiB",
            "free": "23GiB",
            "bandwidth": 1008e9,
            "flops": 330e12,
            "link": 25e9,
        }
    ],
}
LARGE, MIDDLE = SHAPES["llama3-70b"], SHAPES["llama3-8b"]


def beginning(shape: Shape, quant: str, part: int = 0, parts: int = 1) -> tuple[bytes, int]:
    """Header and some data of a file, and the size of all of it."""
    header = header_bytes(shape, quant, part, parts)
    return header + bytes(24_000_000), len(header) + data_bytes(shape, quant, part, parts)


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    files = {
        "owner/Large-GGUF": {"Large-Q4_K_M.gguf": beginning(LARGE, "Q4_K_M")},
        "owner/Split-GGUF": {
            f"Split-Q8_0-0000{part + 1}-of-00003.gguf": beginning(MIDDLE, "Q8_0", part, 3) for part in range(3)
        },
        "owner/Middle-GGUF": {f"Middle-{quant}.gguf": beginning(MIDDLE, quant) for quant in ("Q4_K_M", "Q8_0", "F16")},
        "owner/Broken-GGUF": {"Broken-Q4_K_M.gguf": (b"GGUF" + bytes(1000), 1004)},
    }
    repositories = {
        name: HubRepo({path: data for path, (data, _) in kept.items()}, claimed=dict.fromkeys(kept, "ab" * 32))
        for name, kept in files.items()
    }
    with hub_server(repositories) as server:
        for name, kept in files.items():
            server.claimed_sizes |= {f"{name}/{path}": size for path, (_, size) in kept.items()}
        yield server


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("plans")
    with running_daemon(home, HF_ENDPOINT=hub.url, HF_HOME=str(home / "hf"), NO_PROXY="*") as running:
        (home / "card.json").write_text(json.dumps(CARD))
        yield running


def cpu_seconds(daemon: Daemon) -> float:
    """What the daemon and its children that have ended computed."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def plan(daemon: Daemon, *arguments: str):
    return run_cli("plan", *arguments, environment=daemon.environment, seconds=60)


def on_card(daemon: Daemon, *arguments: str) -> dict:
    done = plan(daemon, *arguments, "--device-file", str(daemon.home / "card.json"), "--json")
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


def test_a_model_of_70b_that_is_not_here_is_planned_from_its_first_megabytes_in_a_moment(daemon, hub):
    before = cpu_seconds(daemon)
    answer = daemon.http.post("/api/plan", json={"model": "hf.co/owner/Large-GGUF", "devices": CARD}).json()
    # Not the clock's: other tests use the machine too, and all that is waited for here comes from this machine.
    assert cpu_seconds(daemon) - before < 3
    assert hub.served_bytes() < 20_000_000
    assert ("layers", 81) == (answer["plan"]["tier"], answer["plan"]["layers"])
    assert 38 <= answer["plan"]["gpu_layers"] <= 44
    assert answer["file_bytes"] > 42 * 10**9
    assert [] == daemon.http.get("/api/ps").json()["models"]
    assert [] == list(Path(daemon.home / "hf").rglob("*.gguf"))


def test_all_parts_of_a_split_model_are_read_and_little_of_each(daemon, hub):
    answer = on_card(daemon, "hf.co/owner/Split-GGUF")
    whole = sum(share["weights"] for share in answer["plan"]["devices"])
    assert abs(whole - data_bytes(MIDDLE, "Q8_0")) < 10_000
    served = [hub.served[f"owner/Split-GGUF/Split-Q8_0-0000{part}-of-00003.gguf"] for part in (1, 2, 3)]
    assert sum(served) < 20_000_000
    assert max(served[1:]) < 4_000_000


def test_what_else_could_be_done_is_of_the_quants_that_the_repository_has(daemon):
    answer = on_card(daemon, "hf.co/owner/Middle-GGUF:Q8_0", "--kv", "f16")
    labels = [one["label"] for one in answer["alternatives"]]
    assert ["Q4_K_M", "F16", "keys, values q8_0", "CPU alone"] == labels
    speeds = {one["label"]: one["plan"]["speed"]["decode_tokens_per_second"] for one in answer["alternatives"]}
    own = answer["plan"]["speed"]["decode_tokens_per_second"]
    assert speeds["CPU alone"] < speeds["F16"] < own < speeds["Q4_K_M"]


def test_what_was_said_on_the_command_line_holds(daemon):
    arguments = ("--ctx", "32768", "--parallel", "3", "--kv", "q8_0", "--gpu-layers", "20")
    said = on_card(daemon, "hf.co/owner/Middle-GGUF", *arguments)["plan"]
    context = said["context"]
    assert (20, 3, "q8_0", "q8_0") == (
        said["gpu_layers"], context["parallel"], context["cache_type_k"], context["cache_type_v"],
    )  # fmt: skip
    assert {"--n-gpu-layers 20", "--device CUDA0", "--cache-type-k q8_0 --cache-type-v q8_0"} <= set(said["flags"])


def test_the_sheet_has_a_bar_and_a_row_for_each_device_the_choices_and_the_alternatives(daemon):
    done = plan(daemon, "hf.co/owner/Middle-GGUF", "--device-file", str(daemon.home / "card.json"))
    assert 0 == done.returncode, done.stderr
    assert "hf.co/owner/Middle-GGUF Q4_K_M (4.9 GB), 4.9 GB, not here yet (owner/Middle-GGUF)\n" in done.stdout
    bar = next(line for line in done.stdout.splitlines() if line.startswith("  CUDA0  █"))
    assert bar.count("▒") > bar.count("█") > bar.count("░") >= 1
    assert "⋅" in bar
    for words in ("KEPT FREE", "all 33 layers on CUDA0", "tokens/s, prompts", "--n-gpu-layers 33", "OTHERWISE"):
        assert words in done.stdout
    assert "CPU alone" in done.stdout


def test_a_plan_that_cannot_be_fails_with_what_is_missing_and_what_would_fit(daemon):
    card = str(daemon.home / "card.json")
    done = plan(daemon, "hf.co/owner/Large-GGUF", "--gpu-layers", "81", "--device-file", card)
    assert 1 == done.returncode
    assert "the model does not fit: " in done.stderr
    assert "hint: what would fit: num_gpu 4" in done.stderr
    assert "DEVICE" in done.stdout


def test_the_bundled_model_is_planned_for_this_machine(daemon):
    done = plan(daemon, "guide")
    assert 0 == done.returncode, done.stderr
    assert "all 5 layers on the CPU: no GPU here" in done.stdout
    assert "; assumed: nobody measured CPU\n" in done.stdout


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("null", "is no description of devices: Expected `object`, got `null`\n\nhint: such as {"),
        ("", "is no description of devices: Input data was truncated\n\nhint: such as {"),
        ('{"host": {"total": "lots"}}', ': host: total: "lots" is not an amount of bytes such as 500K, 5M or 1G\n'),
    ],
)
def test_a_device_file_that_describes_no_machine_is_named_with_what_is_wrong(daemon, tmp_path, content, says):
    file = tmp_path / "machine.json"
    file.write_text(content)
    done = plan(daemon, "guide", "--device-file", str(file))
    assert 1 == done.returncode
    assert done.stderr.startswith(f"Error: {file}{says}" if says[0] == ":" else f"Error: {file} {says}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense-model",), "model 'nonsense-model' not found"),
        (("hf.co/owner/Broken-GGUF",), "the header of Broken-Q4_K_M.gguf cannot be read from the hub"),
        (("hf.co/owner/Nowhere-GGUF",), "owner/Nowhere-GGUF"),
        (("hf.co/owner/Middle-GGUF", "--quant", "auto"), "the quant 'auto' is chosen when a model is pulled"),
        (("guide", "--kv", "q3"), 'option "cache_type_k" must be f16, q8_0'),
        (("guide", "--device-file", "/nowhere.json"), "/nowhere.json cannot be read: No such file or directory"),
        (("guide", "--parallel", "0"), "--parallel"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(daemon, arguments, says):
    done = plan(daemon, *arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        ({}, "missing required field `host`"),
        ({"host": {"total": "many"}}, 'host: total: "many" is not an amount of bytes'),
        ({"host": {"total": 1000, "free": 2000}}, "host: free is more than total"),
        ({"host": {"total": 1000}, "gpus": [{"total": 5}] * 17}, "has 17 GPUs, and 16 are the most"),
        ({"host": {"total": 1000}, "gpus": [{"total": 5, "name": "A"}] * 2}, "names two devices alike"),
        ({"host": {"total": 1000, "bandwidth": -1}}, "bandwidth is -1"),
        ({"host": {"total": 1000}, "cpus": 1}, "unknown field `cpus`"),
        ([], "Expected `object`"),
    ],
)
def test_a_device_file_that_says_nonsense_is_refused_with_what_is_wrong(daemon, devices, says):
    answer = daemon.http.post("/api/plan", json={"model": "guide", "devices": devices})
    assert 400 == answer.status_code
    assert says in answer.json()["error"]
