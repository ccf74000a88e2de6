"""Real models in safetensors, converted by the real converter from the package index, and run by the real engine: they
must say what Transformers says.

    .venv/bin/pytest -m clients tests/clients/test_conversions.py

The first time this installs torch (requirements_convert.txt), and each time the converter is fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_process import run_cli
from client_programs import PROGRAMS, libraries
from daemon_process import Daemon, running_daemon

from localllm.gguf import Header, read_header

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]
TEXT = Path(__file__).resolve().parents[2] / "scripts" / "guide" / "facts.txt"
NETWORK = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_INDEX_URL")
KINDS = [("llama", "BF16"), ("llama-fast", "F16"), ("qwen3", "BF16"), ("qwen3-whole", "F16"), ("qwen35", "BF16")]

# How much the logarithm of a probability differs in the mean, twice the largest of fifteen models: llama.cpp rounds
# what it multiplies with to the type of the weights, where Transformers was asked for 32 bits.
ROUNDING = {"BF16": 0.06, "F16": 0.008}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon, and in its environment commands, that find torch and the package index of whoever runs this."""
    network = {name: value for name in NETWORK if (value := os.environ.get(name))}
    # Keys and values in 32 bits: what differs from Transformers then is the conversion's fault, or nobody's.
    exact = {"LOCALLLM_KV_CACHE_TYPE": "f32", "LOCALLLM_FLASH_ATTENTION": "off"}
    home = tmp_path_factory.mktemp("convert")
    with running_daemon(home, PYTHONPATH=str(libraries()), **exact, **network) as running:
        yield running


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folders of the models, and what Transformers says of them."""
    folder = tmp_path_factory.mktemp("models")
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "make_models.py"), str(folder), str(TEXT)],
        env={"PYTHONPATH": str(libraries()), "HF_HUB_OFFLINE": "1", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def create(daemon: Daemon, name: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_cli("create", name, "--from", str(folder), *more, environment=daemon.environment, seconds=300)


def blobs(daemon: Daemon) -> list[Path]:
    return sorted((daemon.home / "models" / "localllm" / "blobs").glob("*"))


def header_of(daemon: Daemon, name: str) -> Header:
    manifest = daemon.home / "models" / "localllm" / "manifests" / name / "latest.json"
    return read_header(Path(json.loads(manifest.read_text())["file"]))


def logprobs_of(daemon: Daemon, name: str, tokens: list[int]) -> list[float]:
    """How likely the engine finds each token after the first, after those before it."""
    body = {"model": name, "prompt": tokens, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
    answer = daemon.http.post("/v1/completions", json=body)
    assert 200 == answer.status_code, answer.text
    return answer.json()["choices"][0]["logprobs"]["token_logprobs"][1 : len(tokens)]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_converted_model_reads_and_says_what_transformers_reads_and_says(
    daemon: Daemon, models: tuple[Path, dict[str, Any]], name: str, kind: str
) -> None:
    folder, expected = models[0] / name, models[1][name]
    made = create(daemon, name, folder)
    assert 0 == made.returncode, made.stderr
    assert f" {kind}, " in made.stdout
    assert f" to {kind}: " in made.stderr
    asked = {"model": name, "content": expected["prompt"], "add_special": True}
    assert expected["tokens"] == daemon.http.post("/tokenize", json=asked).json()["tokens"]
    said = logprobs_of(daemon, name, expected["whole"])
    differences = [abs(mine - theirs) for mine, theirs in zip(said, expected["logprobs"], strict=True)]
    assert sum(differences) / len(differences) < ROUNDING[kind]


@pytest.mark.parametrize("name", [name for name, _ in KINDS])
def test_without_rounding_every_probability_is_the_one_that_transformers_computes(
    daemon: Daemon, models: tuple[Path, dict[str, Any]], name: str
) -> None:
    made = create(daemon, f"{name}-f32", models[0] / name, "-q", "f32")
    assert " F32, " in made.stdout, made.stderr
    expected = models[1][name]
    assert expected["logprobs"] == pytest.approx(logprobs_of(daemon, f"{name}-f32", expected["whole"]), abs=0.001)


def test_what_the_folder_says_of_chats_and_sampling_is_what_the_model_does(
    daemon: Daemon, models: tuple[Path, dict[str, Any]]
) -> None:
    assert 0 == create(daemon, "said", models[0] / "llama").returncode
    header = header_of(daemon, "said")
    assert "{% for message in messages %}<s>{{ message.role }}" in (header.chat_template or "")
    assert (0.25, 7, 0.5) == (header.sampling.temperature, header.sampling.top_k, header.sampling.top_p)


def test_whole_weights_are_quantized_from_32_bits_and_only_that_stays(
    daemon: Daemon, models: tuple[Path, dict[str, Any]]
) -> None:
    before = blobs(daemon)
    made = create(daemon, "eight", models[0] / "qwen3-whole", "-q", "q8_0")
    assert 0 == made.returncode, made.stderr
    assert " to F32: " in made.stderr
    assert "quantizing F32 model to Q8_0: " in made.stderr
    assert 1 == len(set(blobs(daemon)) - set(before))
    expected = models[1]["qwen3-whole"]
    assert expected["logprobs"] == pytest.approx(logprobs_of(daemon, "eight", expected["whole"]), abs=0.5)


def test_the_files_of_a_folder_are_converted_when_they_are_sent(
    daemon: Daemon, models: tuple[Path, dict[str, Any]]
) -> None:
    body = {"model": "sent", "files": sent(daemon, *(models[0] / "qwen3").iterdir()), "stream": False}
    answer = daemon.http.post("/api/create", json=body, timeout=300)
    assert {"status": "success"} == answer.json()
    assert 0 == create(daemon, "here", models[0] / "qwen3").returncode
    theirs, here = header_of(daemon, "sent"), header_of(daemon, "here")
    assert [tensor.name for tensor in here.tensors] == [tensor.name for tensor in theirs.tensors]
    assert "Sent" == theirs.name


def sent(daemon: Daemon, *files: Path) -> dict[str, str]:
    """Send files; their digests by their names."""
    digests = {}
    for path in files:
        digests[path.name] = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        daemon.http.post(f"/api/blobs/{digests[path.name]}", content=path.read_bytes()).raise_for_status()
    return digests


def test_an_adapter_that_is_converted_changes_the_model_as_merging_it_does(
    daemon: Daemon, models: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    assert 0 == create(daemon, "plain", models[0] / "llama", "-q", "f32").returncode
    file = tmp_path / "Modelfile"
    file.write_text(f"FROM plain\nADAPTER {models[0] / 'adapter'}\n")
    made = run_cli("create", "adapted", "-f", str(file), environment=daemon.environment, seconds=300)
    assert 0 == made.returncode, made.stderr
    assert "converting the adapter adapter: " in made.stderr
    expected, plain = models[1]["adapter"], models[1]["llama"]
    assert expected["logprobs"] == pytest.approx(logprobs_of(daemon, "adapted", expected["whole"]), abs=0.001)
    assert expected["logprobs"] != pytest.approx(plain["logprobs"], abs=0.1)
    adapters = sent(daemon, *(models[0] / "adapter").iterdir(), models[0] / "llama" / "config.json")
    body = {"model": "over-http", "from": "plain", "adapters": adapters, "stream": False}
    assert {"status": "success"} == daemon.http.post("/api/create", json=body, timeout=300).json()
    assert expected["logprobs"] == pytest.approx(logprobs_of(daemon, "over-http", expected["whole"]), abs=0.001)


def changed(models: tuple[Path, dict[str, Any]], target: Path, **config: Any) -> Path:
    """The llama model with another config.json."""
    shutil.copytree(models[0] / "llama", target)
    said = {**json.loads((target / "config.json").read_text()), **config}
    (target / "config.json").write_text(json.dumps(said))
    return target


def test_a_model_that_transformers_knows_is_read_without_the_code_it_brings(
    daemon: Daemon, models: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = changed(models, tmp_path / "m", auto_map={"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"})
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    assert 0 == create(daemon, "brings", folder).returncode
    assert not (tmp_path / "marker").exists()


def test_a_model_that_needs_its_own_code_is_refused_and_nothing_of_it_runs(
    daemon: Daemon, models: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    auto_map = {"AutoConfig": "theirs.C"}
    folder = changed(models, tmp_path / "m", model_type="theirs", architectures=["QWenLMHeadModel"], auto_map=auto_map)
    (folder / "tokenizer.model").rename(folder / "theirs.tiktoken")
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    said = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.T", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    before = blobs(daemon)
    refused = create(daemon, "needs", folder)
    assert 1 == refused.returncode
    assert "forbids there: to run a program that came with the model" in refused.stderr
    assert (False, before) == ((tmp_path / "marker").exists(), blobs(daemon))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["NopeForCausalLM"]}, "knows no models of the architecture NopeForCausalLM"),
        ({"architectures": ["GPT2LMHeadModel"]}, "Can not map tensor 'model.layers.0.mlp."),
        ({"quantization_config": {"quant_method": "nope"}}, "Quant method is not yet supported: 'nope'"),
    ],
)
def test_what_the_converter_cannot_do_is_told_and_leaves_nothing(
    daemon: Daemon, models: tuple[Path, dict[str, Any]], tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    before = blobs(daemon)
    refused = create(daemon, "cannot", changed(models, tmp_path / "m", **config))
    assert (1, before) == (refused.returncode, blobs(daemon))
    assert message in refused.stderr
