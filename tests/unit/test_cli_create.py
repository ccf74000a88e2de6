"""`create` and `run FILE`: a GGUF gets a name where it lies, and what is no GGUF is refused with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_process import cli_environment, run_cli
from gguf_files import gguf_bytes
from scripted_server import LOCALLLM_VERSION, Reply, ScriptedServer, generate_lines

from localllm.cli.register import register_file
from localllm.config import load_settings
from localllm.store.bundled import bundled_dir
from localllm.store.store import Store


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "Tiny-1B.Q4_K_M.gguf"
    path.write_bytes(gguf_bytes())
    return path


def test_create_registers_a_file_in_place_and_says_what_it_is(tmp_path, gguf):
    result = run_cli("create", "tiny", "--from", str(gguf), environment=cli_environment(tmp_path, "127.0.0.1:1"))
    model = Store(tmp_path / "models", bundled_dir()).find("tiny")
    assert (0, f"created 'tiny:latest' (llama 1.3K Q4_K_M, 2 KB) from {gguf}\n", "") == (
        result.returncode,
        result.stdout,
        result.stderr,
    )
    assert gguf == model.file


def test_a_path_is_registered_under_its_own_name_and_run(tmp_path, gguf):
    replies = {"GET /api/version": Reply(LOCALLLM_VERSION), "POST /api/generate": Reply(pieces=generate_lines("ok"))}
    with ScriptedServer(replies) as server:
        result = run_cli("run", str(gguf), "hi", environment=cli_environment(tmp_path, server.address))
        (body,) = server.bodies("POST /api/generate")
    (name,) = [model.name for model in Store(tmp_path / "models", tmp_path / "none").list()]
    assert {"model": name, "prompt": "hi"} == body
    assert (0, "ok\n", f"{gguf} is now the model '{name}'\n") == (result.returncode, result.stdout, result.stderr)


def test_a_path_does_not_take_the_name_of_another_file(tmp_path, gguf):
    other = tmp_path / "other" / gguf.name
    other.parent.mkdir()
    other.write_bytes(gguf.read_bytes())
    settings = load_settings({"LOCALLLM_HOME": str(tmp_path)})
    first = register_file(gguf, None, settings)
    second = register_file(other, None, settings)
    again = register_file(other, None, settings)
    assert ("tiny-1b.q4_k_m:latest", gguf) == (first.name, first.file)
    assert ("tiny-1b.q4_k_m-2:latest", other) == (second.name, second.file)
    assert (second.name, other) == (again.name, again.file)
    assert gguf == Store(settings.models_dir, bundled_dir()).find("tiny-1b.q4_k_m").file


def test_what_is_no_model_file_is_refused_with_its_reason(tmp_path, gguf):
    text = tmp_path / "text.gguf"
    text.write_text("hello, I am no model")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:100])
    environment = cli_environment(tmp_path, "127.0.0.1:1")
    for path in (text, cut, tmp_path, tmp_path / "absent.gguf"):
        for arguments in (
            ["create", "x", "--from", str(path)],
            ["run", f"{path}{os.sep}" if path.is_dir() else str(path)],
        ):
            result = run_cli(*arguments, environment=environment)
            assert (1, "") == (result.returncode, result.stdout)
            assert result.stderr.startswith(f"Error: {path} ")
            assert "unexpected" not in result.stderr


def test_a_bad_name_is_refused(tmp_path, gguf):
    result = run_cli("create", "../x", "--from", str(gguf), environment=cli_environment(tmp_path, "127.0.0.1:1"))
    assert (1, "Error: invalid model name '../x'") == (result.returncode, result.stderr[:32])
