"""`localllm doctor` with the real engine: what it says, and that it starts nothing."""

from cli_process import cli_environment, run_cli
from scripted_server import ScriptedServer


def test_it_tries_the_engine_and_says_what_it_found_without_starting_a_daemon(tmp_path):
    done = run_cli("doctor", environment=cli_environment(tmp_path, "127.0.0.1:1"), seconds=60)
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert 0 == done.returncode, done.stderr
    assert "runs here" in rows["engine"]
    assert "GB/s" in rows["speed"] or "busy" in rows["speed"]
    assert any(name.startswith("GPU") for name in rows)
    assert "not running at http://127.0.0.1:1" == rows["daemon"]
    assert (tmp_path / "state" / "engine-verdict.json").is_file()


def test_it_names_a_program_that_is_no_localllm(tmp_path):
    with ScriptedServer(replies={}) as server:
        done = run_cli("doctor", environment=cli_environment(tmp_path, server.address), seconds=60)
    assert "is used by another program" in done.stdout
