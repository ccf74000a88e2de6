"""The verbs that look at models, as processes against a scripted daemon: stdout, stderr and exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest
from cli_process import LOCALLLM, cli_environment, run_cli
from pseudo_terminal import Terminal
from scripted_server import LOCALLLM_VERSION, Reply, ScriptedServer

from localllm.version import __version__

VERSION = {"GET /api/version": Reply(LOCALLLM_VERSION)}
MODEL = {
    "name": "guide:latest",
    "size": 4_000_000,
    "digest": "abcdef0123456789",
    "modified_at": "2020-01-01T00:00:00Z",
}
SHOW = {
    "license": "MIT License",
    "modelfile": "FROM /x/guide.gguf\n",
    "system": "You are the guide.",
    "details": {"family": "llama", "parameter_size": "5.6M", "quantization_level": "Q4_K_M"},
    "model_info": {"general.architecture": "llama"},
    "capabilities": ["completion"],
}


def daemon(**replies: object) -> ScriptedServer:
    """A daemon of this version; keyword `GET_api_tags={…}` is the JSON of that route."""
    table = {name.replace("_", " ", 1).replace("_", "/").replace(" ", " /"): body for name, body in replies.items()}
    return ScriptedServer({**VERSION, **{route: Reply(json.dumps(body)) for route, body in table.items()}})


@pytest.mark.parametrize("flag", ["--version", "-v"])
def test_version_is_one_line_on_stdout(tmp_path, flag):
    result = run_cli(flag, environment=cli_environment(tmp_path, "127.0.0.1:1"))
    assert (0, f"localllm {__version__}\n", "") == (result.returncode, result.stdout, result.stderr)


def test_help_names_every_verb_and_imports_no_command(tmp_path):
    environment = cli_environment(tmp_path, "127.0.0.1:1", PYTHONPROFILEIMPORTTIME="1")
    result = run_cli("--help", environment=environment)
    assert 0 == result.returncode
    assert all(verb in result.stdout for verb in ("serve", "run", "list", "ps", "show", "stop", "rm", "create", "pull"))
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert set() == imported & {"typer", "rich", "httpx", "localllm.client", "localllm.cli.run", "prompt_toolkit"}


def test_a_warm_list_imports_neither_rich_nor_prompt_toolkit_nor_the_store(tmp_path):
    with daemon(GET_api_tags={"models": [MODEL]}) as server:
        environment = cli_environment(tmp_path, server.address, PYTHONPROFILEIMPORTTIME="1")
        result = run_cli("list", environment=environment)
    assert 0 == result.returncode
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "httpx" in imported
    assert set() == imported & {"rich", "prompt_toolkit", "localllm.store.store", "localllm.gguf", "asyncio", "numpy"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lst"], "Error: 'lst' is not a command\n\nhint: did you mean `localllm list`?\n"),
        (["--bogus"], "Error: no such option: --bogus\n\nhint: `localllm --help` lists the commands\n"),
        (["list", "--bogus"], "Error: no such option: --bogus\n\nhint: `localllm list --help` shows the usage\n"),
        (["show"], "Error: missing argument 'MODEL'\n\nhint: `localllm show --help` shows the usage\n"),
        (
            ["run", "m", "--think=hard"],
            'Error: invalid value for --think: "hard" (must be true, false, high, medium, low, or max)\n\n'
            "hint: `localllm run --help` shows the usage\n",
        ),
    ],
)
def test_wrong_usage_is_exit_code_2_and_a_hint(tmp_path, arguments, error):
    result = run_cli(*arguments, environment=cli_environment(tmp_path, "127.0.0.1:1"))
    assert (2, "", error) == (result.returncode, result.stdout, result.stderr)


@pytest.mark.parametrize("verb", ["list", "ls"])
def test_list_prints_aligned_columns_into_a_pipe(tmp_path, verb):
    with daemon(GET_api_tags={"models": [MODEL, {**MODEL, "name": "Qwen3:4b"}]}) as server:
        result = run_cli(verb, environment=cli_environment(tmp_path, server.address))
    lines = result.stdout.splitlines()
    assert (0, "") == (result.returncode, result.stderr)
    assert "NAME            ID              SIZE    MODIFIED" == lines[0]
    assert "guide:latest    abcdef012345    4 MB    " == lines[1][:40]
    assert 3 == len(lines)


def test_list_takes_a_prefix_in_any_case_and_prints_json(tmp_path):
    with daemon(GET_api_tags={"models": [MODEL, {**MODEL, "name": "Qwen3:4b"}]}) as server:
        result = run_cli("list", "qwen", "--json", environment=cli_environment(tmp_path, server.address))
    assert ["Qwen3:4b"] == [model["name"] for model in json.loads(result.stdout)]


def test_ps_shows_where_a_model_lies_and_who_waits(tmp_path):
    running = {**MODEL, "size_vram": 0, "context_length": 4096, "active": 1, "waiting": 2, "state": "ready"}
    with daemon(GET_api_ps={"models": [running]}) as server:
        result = run_cli("ps", environment=cli_environment(tmp_path, server.address))
    expected = (
        "NAME            ID              SIZE    PROCESSOR    CONTEXT    UNTIL      ACTIVE    WAITING\n"
        "guide:latest    abcdef012345    4 MB    100% CPU     4096       Forever    1         2\n"
    )
    assert (0, expected) == (result.returncode, result.stdout)


def test_show_prints_sections_or_one_part(tmp_path):
    with daemon(POST_api_show=SHOW) as server:
        environment = cli_environment(tmp_path, server.address)
        sheet = run_cli("show", "guide", environment=environment)
        part = run_cli("show", "guide", "--modelfile", environment=environment)
        data = run_cli("show", "guide", "--json", environment=environment)
    assert "  Model\n    architecture    llama\n    parameters      5.6M\n" in sheet.stdout
    assert "FROM /x/guide.gguf\n" == part.stdout
    assert "You are the guide." == json.loads(data.stdout)["system"]


def test_show_takes_one_part_at_a_time(tmp_path):
    result = run_cli("show", "guide", "--system", "--license", environment=cli_environment(tmp_path, "127.0.0.1:1"))
    error = "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"
    assert (1, "", f"Error: {error}\n") == (result.returncode, result.stdout, result.stderr)


def test_rm_says_what_it_deleted_and_stops_at_the_first_error(tmp_path):
    replies = {**VERSION, "DELETE /api/delete": Reply("")}
    with ScriptedServer(replies) as server:
        result = run_cli("rm", "a", "b", environment=cli_environment(tmp_path, server.address))
        assert [{"model": "a"}, {"model": "b"}] == server.bodies("DELETE /api/delete")
    assert (0, "deleted 'a'\ndeleted 'b'\n", "") == (result.returncode, result.stdout, result.stderr)


def test_rm_of_an_unknown_model_is_an_error_with_a_hint(tmp_path):
    replies = {**VERSION, "DELETE /api/delete": Reply('{"error":"model \'a\' not found"}', 404)}
    with ScriptedServer(replies) as server:
        result = run_cli("rm", "a", environment=cli_environment(tmp_path, server.address))
    error = "Error: model 'a' not found\n\nhint: `localllm list` shows the models there are\n"
    assert (1, "", error) == (result.returncode, result.stdout, result.stderr)


def test_stop_unloads_and_an_unknown_model_is_an_error(tmp_path):
    replies = {**VERSION, "POST /api/generate": Reply('{"done":true,"done_reason":"unload"}')}
    with ScriptedServer(replies) as server:
        result = run_cli("stop", "guide", environment=cli_environment(tmp_path, server.address))
    assert (0, "stopped 'guide'\n") == (result.returncode, result.stdout)
    replies = {**VERSION, "POST /api/generate": Reply('{"error":"model \'x\' not found"}', 404)}
    with ScriptedServer(replies) as server:
        result = run_cli("stop", "x", environment=cli_environment(tmp_path, server.address))
    assert (1, 'Error: couldn\'t find model "x" to stop') == (result.returncode, result.stderr.splitlines()[0])


def test_pull_asks_the_daemon_and_tells_what_it_tells(tmp_path):
    lines = '{"status":"pulling manifest"}\n{"status":"license: mit"}\n{"status":"success"}\n'
    with ScriptedServer({**VERSION, "POST /api/pull": Reply(lines)}) as server:
        environment = cli_environment(tmp_path, server.address)
        result = run_cli("pull", "llama3.2", "--limit-rate", "1.5M", environment=environment)
        assert [{"model": "llama3.2", "limit_rate": 1_500_000}] == server.bodies("POST /api/pull")
    assert (0, "pulled 'llama3.2'\n", "license: mit\n") == (result.returncode, result.stdout, result.stderr)


def test_an_ollama_at_the_address_is_named_and_left_alone(tmp_path):
    with ScriptedServer({"GET /api/version": Reply('{"version":"0.11.4"}')}) as server:
        result = run_cli("list", environment=cli_environment(tmp_path, server.address))
        assert ["GET /api/version"] == [seen.route for seen in server.requests]
    error = (
        f"Error: {server.address} is used by Ollama 0.11.4, not by localllm\n\n"
        "hint: set LOCALLLM_HOST to another address, or stop that program\n"
    )
    assert (1, "", error) == (result.returncode, result.stdout, result.stderr)


def test_serve_does_not_start_where_ollama_or_a_daemon_runs(tmp_path):
    with ScriptedServer({"GET /api/version": Reply('{"version":"0.11.4"}')}) as server:
        result = run_cli("serve", environment=cli_environment(tmp_path, server.address))
    assert (1, f"Error: {server.address} is already used by Ollama 0.11.4") == (
        result.returncode,
        result.stderr.splitlines()[0],
    )
    with daemon() as server:
        result = run_cli("serve", environment=cli_environment(tmp_path, server.address))
    assert (1, f"Error: {server.address} is already used by another localllm ({__version__})") == (
        result.returncode,
        result.stderr.splitlines()[0],
    )


def test_another_web_server_at_the_address_is_no_daemon(tmp_path):
    with ScriptedServer({"GET /api/version": Reply("<html>hello</html>")}) as server:
        result = run_cli("list", environment=cli_environment(tmp_path, server.address))
    assert (1, f"Error: {server.address} is used by another program") == (
        result.returncode,
        result.stderr.partition(" (")[0],
    )


def test_a_program_that_never_answers_is_no_daemon(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        result = run_cli("list", environment=cli_environment(tmp_path, address))
    assert (1, f"Error: {address} is used by another program (http://{address} did not answer in time)") == (
        result.returncode,
        result.stderr.splitlines()[0],
    )


def test_a_daemon_of_another_version_is_used_with_a_warning(tmp_path):
    replies = {
        "GET /api/version": Reply('{"version":"0.32.15","localllm":"0.0.1"}'),
        "GET /api/tags": Reply('{"models":[]}'),
    }
    with ScriptedServer(replies) as server:
        result = run_cli("list", environment=cli_environment(tmp_path, server.address))
    warning = f"Warning: the daemon is localllm 0.0.1, this command is {__version__}"
    assert (0, "NAME    ID    SIZE    MODIFIED\n", warning) == (
        result.returncode,
        result.stdout,
        result.stderr.splitlines()[0],
    )


def test_a_wrong_setting_is_an_error_that_names_it(tmp_path):
    result = run_cli("list", environment=cli_environment(tmp_path, "127.0.0.1:99999"))
    assert 1 == result.returncode
    assert "LOCALLLM_HOST is '127.0.0.1:99999', but must be" in result.stderr


def test_nothing_at_a_distant_address_is_an_error_without_a_start(tmp_path):
    result = run_cli("list", environment=cli_environment(tmp_path, "name.invalid:11434"))
    assert (1, "Error: nothing answers at http://name.invalid:11434", []) == (
        result.returncode,
        result.stderr.splitlines()[0],
        list(tmp_path.rglob("daemon.log")),
    )


def test_an_unexpected_failure_is_a_sentence_and_with_debug_a_traceback(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "httpx.py").write_text("raise RuntimeError('half of a library')")
    environment = cli_environment(tmp_path, "127.0.0.1:1", PYTHONPATH=str(tmp_path / "broken"))
    short = run_cli("list", environment=environment)
    long = run_cli("list", environment={**environment, "LOCALLLM_LOG_LEVEL": "DEBUG"})
    assert (1, "Error: unexpected RuntimeError: half of a library") == (short.returncode, short.stderr[:49])
    assert "hint: the same command with LOCALLLM_LOG_LEVEL=DEBUG shows where" in short.stderr
    assert "Traceback" not in short.stderr
    assert long.stderr.startswith("Traceback (most recent call last):")


def test_a_reader_that_leaves_is_no_error(tmp_path):
    models = [{**MODEL, "name": f"model-{number}"} for number in range(3000)]
    with daemon(GET_api_tags={"models": models}) as server:
        read_end, write_end = os.pipe()
        os.close(read_end)
        process = subprocess.Popen(
            [*LOCALLLM, "list"],
            env=cli_environment(tmp_path, server.address),
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(write_end)
        _, error = process.communicate(timeout=30)
    assert (0, "") == (process.returncode, error)


@pytest.mark.parametrize(("variable", "styled"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_the_same_columns_and_styles_only_if_wanted(tmp_path, variable, styled):
    with (
        daemon(GET_api_tags={"models": [MODEL]}) as server,
        Terminal("list", environment=cli_environment(tmp_path, server.address, **variable)) as terminal,
    ):
        code = terminal.end()
    header, row = terminal.shown.splitlines()
    assert (0, ["NAME", "ID", "SIZE", "MODIFIED"]) == (code, header.split())
    assert "guide:latest    abcdef012345    4 MB    " == row[:40]
    assert styled is ("\x1b[" in terminal.raw)
