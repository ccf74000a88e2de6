"""Quantizing with llama.cpp in a child: what comes out is loaded and answers, and whatever stops it leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from cli_process import LOCALLLM, run_cli
from daemon_process import Daemon, children_of, command_of, is_alive, running_daemon, wait_for
from synthetic_models import build

from localllm.creating import CreateProgress, Creation
from localllm.errors import LocalllmError, ModelFileError
from localllm.gguf import read_header
from localllm.modelfile import Modelfile
from localllm.store.blobs import remove_stale
from localllm.store.create import create
from localllm.store.manifest import Manifest
from localllm.store.model import Model, facts_from
from localllm.store.quantize import QuantizedFile, Source, quantize
from localllm.store.store import Store

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in F32."""
    return build("llama-tiny", GUIDE, tmp_path_factory.mktemp("whole") / "whole.gguf")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("quantize")) as running:
        yield running


def source_of(file: Path) -> Source:
    header = read_header(file)
    return Source(file, facts_from(header), header.tensors)


def blobs(home: Path) -> list[Path]:
    folder = home / "models" / "localllm" / "blobs"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_the_command_quantizes_and_the_result_answers(daemon: Daemon, whole: Path) -> None:
    made = run_cli("create", "small", "--from", str(whole), "-q", "q4_K_M", environment=daemon.environment)
    assert 0 == made.returncode, made.stderr
    assert made.stdout.startswith("created 'small:latest' (llama 2.6M Q4_K_M, ")
    assert made.stderr.splitlines()[-1].startswith("quantizing F32 model to Q4_K_M: 10 MB of 10 MB")
    told = daemon.http.post("/api/show", json={"model": "small"}).json()
    assert "Q4_K_M" == told["details"]["quantization_level"]
    body = {"model": "small", "prompt": "hello", "raw": True, "stream": False, "options": {"num_predict": 4}}
    assert daemon.http.post("/api/generate", json=body).json()["eval_count"] in range(1, 5)
    again = run_cli("create", "smaller", "--from", "small", "-q", "q8_0", environment=daemon.environment)
    assert (1, "") == (again.returncode, again.stdout)
    assert "quantization is only supported for F16, BF16 and F32 models, and this one is Q4_K_M" in again.stderr


def test_the_route_tells_how_it_goes(daemon: Daemon, whole: Path) -> None:
    run_cli("create", "whole", "--from", str(whole), environment=daemon.environment)
    body = {"model": "eight", "from": "whole", "quantize": "q8_0"}
    with daemon.http.stream("POST", "/api/create", json=body) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    progress = [line for line in lines if "total" in line]
    assert {"quantizing F32 model to Q8_0"} == {line["status"] for line in progress}
    assert len(read_header(whole).tensors) + 1 == len(progress)
    assert progress[-1]["total"] == progress[-1]["completed"]
    assert sorted(line["completed"] for line in progress) == [line["completed"] for line in progress]
    assert ["parsing GGUF", "writing manifest", "success"] == [line["status"] for line in lines if "total" not in line]
    assert "Q8_0" == daemon.http.post("/api/show", json={"model": "eight"}).json()["details"]["quantization_level"]


@pytest.mark.parametrize("target", ["Q2_K", "IQ4_NL", "Q5_0", "F16", "BF16"])
def test_every_kind_of_type_gives_a_file_of_that_type(target: str, whole: Path, tmp_path: Path) -> None:
    async def made() -> Path:
        events = [event async for event in quantize(source_of(whole), target, tmp_path)]
        assert isinstance(events[-1], QuantizedFile)
        return events[-1].path

    path = asyncio.run(made())
    assert target == facts_from(read_header(path)).file_type
    assert [path] == list(tmp_path.iterdir())


def test_who_gives_up_in_the_middle_leaves_nothing(whole: Path, tmp_path: Path) -> None:
    async def begin() -> None:
        async with aclosing(quantize(source_of(whole), "Q4_K_M", tmp_path)) as events:
            assert isinstance(await anext(events), CreateProgress)
            assert 1 == len(list(tmp_path.iterdir()))

    asyncio.run(begin())
    assert [] == list(tmp_path.iterdir())


def test_a_file_that_gets_no_name_in_the_end_does_not_stay(whole: Path, tmp_path: Path) -> None:
    class Forgetful(Store):
        """Its disk is full when the manifest is written."""

        def create(self, base: Manifest, settings: Modelfile) -> Model:
            raise ModelFileError("the manifest cannot be written")

    store = Forgetful(tmp_path / "models", tmp_path / "none")

    async def in_store(work, *arguments, **keywords):
        return work(*arguments, **keywords)

    async def refused() -> None:
        creation = Creation("x", Modelfile(("x",)), files=(str(whole),), quantization="q8_0")
        with pytest.raises(ModelFileError, match="the manifest cannot be written"):
            async for _ in create(store, in_store, creation):
                pass

    asyncio.run(refused())
    assert [] == list(store.blobs_dir.iterdir())


def test_a_source_that_llama_cpp_refuses_is_an_error_and_leaves_nothing(whole: Path, tmp_path: Path) -> None:
    source = source_of(whole)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(whole.read_bytes()[:5000])

    async def refused() -> None:
        folder = tmp_path / "blobs"
        with pytest.raises(LocalllmError, match=r"llama\.cpp could not quantize the model: "):
            async for _ in quantize(Source(broken, source.facts, source.tensors), "Q4_K_M", folder):
                pass
        assert [] == list(folder.iterdir())

    asyncio.run(refused())


def test_a_command_that_is_killed_leaves_no_process_no_name_and_no_file(daemon: Daemon, whole: Path) -> None:
    before = blobs(daemon.home)
    command = [*LOCALLLM, "create", "killed", "--from", str(whole), "-q", "q4_K_M"]
    process = subprocess.Popen(
        command, env=dict(daemon.environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    child = wait_for(lambda: next((i for i in children_of(process.pid) if "quantize" in command_of(i)), None), 30)
    os.kill(child, signal.SIGSTOP)  # it cannot be done before its starter is gone
    process.kill()
    process.wait()
    os.kill(child, signal.SIGCONT)
    wait_for(lambda: not is_alive(child), 30)
    # Killed before it said where to write, it leaves an empty file that the next create removes.
    assert [] == [path for path in blobs(daemon.home) if path not in before and path.stat().st_size]
    remove_stale(daemon.home / "models" / "localllm" / "blobs", time.time() + 61)
    assert before == blobs(daemon.home)
    assert 404 == daemon.http.post("/api/show", json={"model": "killed"}).status_code
