"""`run` as a process against a scripted daemon: what is sent, what is printed where, how Ctrl-C ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading

import pytest
from cli_process import LOCALLLM, cli_environment, run_cli
from scripted_server import LOCALLLM_VERSION, Reply, ScriptedServer, endless_lines, generate_lines

METRICS = {"total_duration": 2_000_000_000, "eval_count": 3, "eval_duration": 1_000_000_000}


def daemon(reply: Reply) -> ScriptedServer:
    return ScriptedServer({"GET /api/version": Reply(LOCALLLM_VERSION), "POST /api/generate": reply})


@pytest.mark.parametrize(
    ("arguments", "stdin", "sent"),
    [
        (["hello", "you"], "", {"prompt": "hello you"}),
        (["explain"], "some code", {"prompt": "some code explain"}),
        ([], "only piped", {"prompt": "only piped"}),
        ([""], "", {}),
        (["hi", "--think"], "", {"prompt": "hi", "think": True}),
        (["--think", "hi"], "", {"prompt": "hi", "think": True}),
        (["hi", "--think=false"], "", {"prompt": "hi", "think": False}),
        (["hi", "--think=low"], "", {"prompt": "hi", "think": "low"}),
        (["hi", "--format", "json"], "", {"prompt": "hi", "format": "json"}),
        (["hi", "--format", '{"type":"object"}'], "", {"prompt": "hi", "format": {"type": "object"}}),
        (["hi", "--keepalive", "10m"], "", {"prompt": "hi", "keep_alive": "10m"}),
        (["hi", "--keepalive", "0"], "", {"prompt": "hi", "keep_alive": 0}),
        (["--", "--think", "--hi"], "", {"prompt": "--think --hi"}),
    ],
)
def test_options_and_prompt_become_one_request(tmp_path, arguments, stdin, sent):
    with daemon(Reply(pieces=generate_lines("ok"))) as server:
        result = run_cli("run", "guide", *arguments, environment=cli_environment(tmp_path, server.address), stdin=stdin)
        assert [{"model": "guide", **sent}] == server.bodies("POST /api/generate")
    assert (0, "ok\n", "") == (result.returncode, result.stdout, result.stderr)


def test_that_a_model_went_to_the_cpu_is_told_apart_from_the_answer(tmp_path):
    last = {"fallback": "the engine was built without CUDA"}
    with daemon(Reply(pieces=generate_lines("ok", last=last))) as server:
        result = run_cli("run", "guide", "hi", environment=cli_environment(tmp_path, server.address))
    assert (0, "ok\n") == (result.returncode, result.stdout)
    assert (
        "Warning: guide is on the CPU, or partly so: the engine was built without CUDA\n"
        "hint: `localllm ps` shows what lies where\n"
    ) == result.stderr


def test_loading_says_nothing(tmp_path):
    with daemon(Reply(pieces=generate_lines(last={"done_reason": "load"}))) as server:
        result = run_cli("run", "guide", "", environment=cli_environment(tmp_path, server.address))
    assert (0, "", "") == (result.returncode, result.stdout, result.stderr)


def test_thinking_goes_to_stderr_and_can_be_hidden(tmp_path):
    thought = json.dumps({"response": "", "thinking": "hm", "done": False}).encode() + b"\n"
    with daemon(Reply(pieces=[thought, *generate_lines("42")])) as server:
        environment = cli_environment(tmp_path, server.address)
        result = run_cli("run", "guide", "x", "--think", environment=environment)
        hidden = run_cli("run", "guide", "x", "--think", "--hidethinking", environment=environment)
    assert ("42\n", "Thinking...\nhm\n...done thinking.\n\n") == (result.stdout, result.stderr)
    assert ("42\n", "") == (hidden.stdout, hidden.stderr)


def test_verbose_prints_statistics_on_stderr(tmp_path):
    with daemon(Reply(pieces=generate_lines("a b c", last=METRICS))) as server:
        result = run_cli("run", "guide", "x", "--verbose", environment=cli_environment(tmp_path, server.address))
    statistics = [
        "",
        "total duration:       2s",
        "eval count:           3 token(s)",
        "eval duration:        1s",
        "eval rate:            3.00 tokens/s",
    ]
    assert ("a b c\n", statistics) == (result.stdout, result.stderr.splitlines())


@pytest.mark.parametrize(
    ("more", "said"), [([], "3 tokens\n"), (["--verbose"], "3 tokens: 1 22 333\n")], ids=["plain", "verbose"]
)
def test_render_prints_the_prompt_to_the_letter_and_its_tokens_apart(tmp_path, more, said):
    shown = {"response": "", "done": False, "_debug_info": {"rendered_template": "<s>hi\n\x1b", "tokens": [1, 22, 333]}}
    with daemon(Reply(json.dumps(shown))) as server:
        environment = cli_environment(tmp_path, server.address)
        result = run_cli("run", "guide", "hi", "--render", *more, environment=environment)
        assert [{"model": "guide", "prompt": "hi", "_debug_render_only": True}] == server.bodies("POST /api/generate")
    assert (0, "<s>hi\n\x1b", said) == (result.returncode, result.stdout, result.stderr)


def test_text_arrives_while_the_stream_still_runs(tmp_path):
    end = threading.Event()
    with daemon(Reply(pieces=endless_lines("tick ", end))) as server:
        process = subprocess.Popen(
            [*LOCALLLM, "run", "guide", "x"],
            env=cli_environment(tmp_path, server.address),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        first = process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
        left = server.client_left.wait(5)
        end.set()
    assert (b"tick tick ", 130, b"", True) == (first, process.returncode, error, left)


def test_a_model_that_nobody_has_is_asked_for_once_and_is_an_error(tmp_path):
    with daemon(Reply('{"error":"model \'llama3.2:3b\' not found"}', 404)) as server:
        result = run_cli("run", "llama3.2:3b", "hi", environment=cli_environment(tmp_path, server.address))
        assert ["GET /api/version", "POST /api/generate", "POST /api/pull"] == [seen.route for seen in server.requests]
    error = "Error: model 'llama3.2:3b' not found\n\nhint: `localllm list` shows the models there are\n"
    assert (1, "", error) == (result.returncode, result.stdout, result.stderr)


def test_an_error_in_the_middle_keeps_what_came_and_ends_with_1(tmp_path):
    failed = b'{"error":"the model\'s process died","code":"runner_crashed","hint":"send it again"}\n'
    with daemon(Reply(pieces=[*generate_lines("half")[:1], failed])) as server:
        result = run_cli("run", "guide", "x", environment=cli_environment(tmp_path, server.address))
    assert (1, "half\n", "Error: the model's process died\n\nhint: send it again\n") == (
        result.returncode,
        result.stdout,
        result.stderr,
    )


def test_utf8_comes_out_whatever_the_locale(tmp_path):
    with daemon(Reply(pieces=generate_lines("é 日本 🙂"))) as server:
        environment = cli_environment(tmp_path, server.address, LANG="C", LC_ALL="C")
        result = run_cli("run", "guide", "é", environment=environment)
        assert "é" == server.bodies("POST /api/generate")[0]["prompt"]
    assert "é 日本 🙂\n" == result.stdout


def test_a_path_needs_a_daemon_on_this_machine(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    result = run_cli("run", str(tmp_path / "x.gguf"), "hi", environment=cli_environment(tmp_path, "name.invalid:1"))
    assert (1, f"Error: {tmp_path}/x.gguf is a file on this machine, but the daemon is at http://name.invalid:1") == (
        result.returncode,
        result.stderr.splitlines()[0],
    )
