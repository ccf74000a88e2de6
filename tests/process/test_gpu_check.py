"""scripts/gpu_check where there is no GPU: the CPU's part in earnest, and what is packed for a machine with one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from gpu.build import key_of  # noqa: E402  # a folder of scripts, not a package that is installed
from gpu.check import Outcome, _compare  # noqa: E402
from gpu.models import GUIDE, SMALL, tokenizer_pairs, write_models  # noqa: E402
from gpu.pack import is_kept, prune, requirements  # noqa: E402

from localllm.gguf import read_header  # noqa: E402


@pytest.mark.slow
def test_the_cpus_part_passes(tmp_path):
    report = tmp_path / "report.json"
    command = [str(ROOT / "scripts" / "gpu_check"), "run", "--cpu", "--out", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=dict(os.environ))
    assert 0 == done.returncode, done.stdout + done.stderr[-2000:]
    outcomes = json.loads(report.read_text())
    assert [[]] * 6 == [outcome["failures"] for outcome in outcomes]
    assert {"cpu"} == {outcome["tier"] for outcome in outcomes[:4]}
    assert all(outcome["tokens_per_second"] > 0 for outcome in outcomes)


def test_models_of_zeros_speak_the_words_of_guide(tmp_path):
    files = write_models({"dense-small": SMALL["dense-small"]}, tmp_path)
    made, guide = read_header(files["dense-small"]), read_header(GUIDE)
    own = {key: value for key, value in guide.metadata.items() if key.startswith("tokenizer.")}
    assert own == {key: made.metadata[key] for key in own}
    assert own.keys() == tokenizer_pairs(GUIDE.read_bytes()).keys()


@pytest.mark.parametrize(
    ("held", "failures"),
    [
        ({"weights": 100, "cache": 10, "compute": 10, "total": None}, 0),
        ({"weights": 3 * 2**20, "cache": 10, "compute": 10, "total": None}, 1),
        ({"weights": 100, "cache": 3 * 2**20, "compute": 10, "total": 9 * 2**20}, 2),
    ],
)
def test_a_device_that_holds_more_than_was_planned_is_a_failure(held, failures):
    outcome = Outcome("one")
    share = {"device": "CUDA0", "layers": 3, "weights": 100, "cache": 10, "compute": 10, "total": 120, "budget": 1000}
    _compare(outcome, {"devices": [share | {"measured": held}]})
    assert failures == len(outcome.failures)
    nothing = Outcome("none")
    _compare(nothing, None)
    assert ["ps says nothing of the placement"] == nothing.failures


def test_only_what_a_build_reads_is_packed(tmp_path):
    vendored = [
        f"vendor/llama.cpp/{name}" for name in ("src/a.cpp", "models/v.gguf", "tools/server/s.cpp", "tools/mtmd/m.cpp")
    ]
    names = ["llama_cpp/llama_cpp.py", *vendored, "tests/test.py"]
    archive = tmp_path / "engine.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for name in names:
            member = tarfile.TarInfo(f"llama_cpp_python-1.0/{name}")
            member.size = 2
            out.addfile(member, io.BytesIO(b"ok"))
    prune(archive, tmp_path / "pruned.tar.gz")
    with tarfile.open(tmp_path / "pruned.tar.gz") as pruned:
        kept = [member.name.partition("/")[2] for member in pruned]
    assert [names[0], vendored[0], vendored[3]] == kept
    assert not is_kept("llama_cpp_more/file.py")


def test_wheels_are_those_of_every_dependency_but_the_engine():
    assert not any(one.startswith("llama-cpp-python") for one in requirements())
    assert {"numpy", "msgspec", "nvidia-ml-py"} <= {one.partition(">")[0] for one in requirements()}


def test_another_engine_is_another_build(tmp_path):
    (tmp_path / "engine.tar.gz").write_bytes(b"one")
    first = key_of(tmp_path)
    (tmp_path / "engine.tar.gz").write_bytes(b"two")
    assert first != key_of(tmp_path)


def test_without_an_action_the_script_says_what_it_can_do():
    done = subprocess.run(
        [str(ROOT / "scripts" / "gpu_check")], capture_output=True, text=True, timeout=30, check=False
    )
    assert 2 == done.returncode
    assert "scripts/gpu_check pack" in done.stderr
