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

UNSENT = "ab" * 32


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


def cli(tmp_path: Path, *arguments: str, address: str = "127.0.0.1:1", folder: Path | None = None):
    """One command, started in `folder`, or in the home."""
    return run_cli(*arguments, environment=cli_environment(tmp_path, address), folder=folder or tmp_path)


def test_a_modelfile_in_the_folder_makes_a_model_and_tells_what_has_no_effect(tmp_path, gguf):
    text = f"from ./{gguf.name}\nSYSTEM Be brief.\nPARAMETER top_k 5\nRENDERER qwen3-coder\n"
    (tmp_path / "Modelfile").write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    result = cli(tmp_path, "create", "mine")
    model = Store(tmp_path / "models", bundled_dir()).find("mine")
    assert (0, f"created 'mine:latest' (llama 1.3K Q4_K_M, 2 KB) from {gguf}\n") == (result.returncode, result.stdout)
    assert "Warning: (line 4): RENDERER has no effect: the chat template is used\n" == result.stderr
    assert ("Be brief.", 5, gguf) == (model.system, model.options.top_k, model.file)


def test_a_modelfile_may_come_from_stdin(tmp_path, gguf):
    environment = cli_environment(tmp_path, "127.0.0.1:1")
    text = f"FROM ./{gguf.name}\nSYSTEM Be brief.\n"
    result = run_cli("create", "mine", "-f", "-", environment=environment, stdin=text, folder=tmp_path)
    assert (0, "") == (result.returncode, result.stderr)
    model = Store(tmp_path / "models", bundled_dir()).find("mine")
    assert ("Be brief.", gguf) == (model.system, model.file)


def test_a_path_in_from_starts_from_the_modelfiles_folder(tmp_path, gguf):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "x.Modelfile").write_text("FROM ../\n")
    result = cli(tmp_path, "create", "mine", "-f", str(folder / "x.Modelfile"), folder=folder)
    assert (0, "") == (result.returncode, result.stderr)
    assert gguf == Store(tmp_path / "models", bundled_dir()).find("mine").file


def test_a_model_is_made_of_another_and_from_of_the_command_line_wins(tmp_path, gguf):
    cli(tmp_path, "create", "base", "--from", str(gguf))
    (tmp_path / "Modelfile").write_text("FROM absent\nSYSTEM Be brief.\n")
    result = cli(tmp_path, "create", "mine", "-f", "Modelfile", "--from", "base")
    assert (0, "created 'mine:latest' (llama 1.3K Q4_K_M, 2 KB) from base\n", "") == (
        result.returncode,
        result.stdout,
        result.stderr,
    )
    assert "Be brief." == Store(tmp_path / "models", bundled_dir()).find("mine").system


@pytest.mark.parametrize(
    ("text", "arguments", "message", "hint"),
    [
        (None, [], "there is no Modelfile at Modelfile", "say which with -f FILE"),
        ("SYSTEM x\n", [], "no FROM line", "add a line such as: FROM ./model.gguf"),
        ("FROM x\nPARAMETER speed 5\n", [], "(line 2): unknown parameter 'speed'", "did you mean seed?"),
        ("FROM x\nPARAMETER wobble 5\n", [], "(line 2): unknown parameter 'wobble'", "there are num_keep, seed"),
        ("FROM ./absent.gguf\n", [], "{home}/absent.gguf does not exist", "check the path"),
        ("FROM absent\n", [], "model 'absent' not found", "a file is named by its path: FROM ./absent"),
        ("FROM mine\n", [], "model 'mine' not found", "FROM names the very model that is to be made"),
        ("FROM ~nobody-of-that-name/x.gguf\n", [], "~nobody-of-that-name/x.gguf cannot be found", ""),
        (
            "FROM base\nADAPTER ./lora.gguf\n",
            [],
            "(line 2): {home}/lora.gguf does not exist",
            "check the path",
        ),
        (
            "FROM base\n\nADAPTER ./adapter_model.safetensors\n",
            [],
            "(line 3): the adapter {home}/adapter_model.safetensors is no GGUF, and no adapter that can be converted",
            "name a GGUF, or the folder of an adapter in safetensors",
        ),
        (
            f"FROM base\nADAPTER @sha256:{UNSENT}\n",
            [],
            f'(line 2): blob "sha256:{UNSENT}" not found',
            "send it first",
        ),
        (
            "FROM base\nFROM ./mmproj.gguf\n",
            [],
            "(line 2): a second FROM (./mmproj.gguf) is not supported yet",
            "leave one",
        ),
        ("FROM ./model.safetensors\n", [], "{home}/model.safetensors is a part of a model", "name the folder: "),
        ("FROM x\n", ["-f", "."], ". cannot be read: Is a directory", "-f names a text file"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_to_do(tmp_path, text, arguments, message, hint):
    if text is not None:
        (tmp_path / "Modelfile").write_text(text)
    result = cli(tmp_path, "create", "mine", *arguments)
    assert (1, "") == (result.returncode, result.stdout)
    assert result.stderr.startswith(f"Error: {message.format(home=tmp_path)}")
    assert hint in result.stderr.partition("hint: ")[2]
    assert () == tuple(m for m in Store(tmp_path / "models", bundled_dir()).list() if not m.is_bundled)


def test_a_model_is_not_made_on_this_machine_for_a_daemon_on_another(tmp_path, gguf):
    result = cli(tmp_path, "create", "mine", "--from", str(gguf), address="192.0.2.1:11434")
    assert (1, "Error: 'mine' would be made on this machine, but the daemon is at http://192.0.2.1:11434") == (
        result.returncode,
        result.stderr.splitlines()[0],
    )


def test_a_copy_is_asked_of_the_daemon(tmp_path):
    replies = {"GET /api/version": Reply(LOCALLLM_VERSION), "POST /api/copy": Reply("")}
    with ScriptedServer(replies) as server:
        result = cli(tmp_path, "cp", "a", "b", address=server.address)
        (body,) = server.bodies("POST /api/copy")
    assert {"source": "a", "destination": "b"} == body
    assert (0, "copied 'a' to 'b'\n", "") == (result.returncode, result.stdout, result.stderr)
