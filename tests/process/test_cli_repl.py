"""The chat on a real pseudo-terminal against a scripted daemon."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from cli_process import cli_environment
from pseudo_terminal import Terminal
from scripted_server import LOCALLLM_VERSION, Reply, ScriptedServer, chat_lines


class Answers:
    """The pieces of one reply after the other; the last is repeated."""

    def __init__(self, *replies: object) -> None:
        self._replies = list(replies)

    def __iter__(self) -> Iterator[bytes]:
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        return iter(reply() if callable(reply) else reply)


LOADED = chat_lines(last={"done_reason": "load"})


def daemon(*answers: object) -> ScriptedServer:
    return ScriptedServer(
        {
            "GET /api/version": Reply(LOCALLLM_VERSION),
            "GET /api/tags": Reply('{"models":[{"name":"guide:latest"}]}'),
            "POST /api/show": Reply('{"details":{"family":"llama"},"capabilities":["completion"]}'),
            "POST /api/chat": Reply(pieces=Answers(LOADED, *answers)),
        }
    )


def test_a_conversation_keeps_its_history_and_its_settings(tmp_path):
    with (
        daemon(chat_lines("Hi ", "there."), chat_lines("Still here.")) as server,
        Terminal("run", "guide", environment=cli_environment(tmp_path, server.address)) as terminal,
    ):
        terminal.enter("hello")
        terminal.wait_for("Hi there.")
        terminal.enter("/set system be brief")
        terminal.wait_for("Set system message.")
        terminal.enter("/byebye")
        terminal.wait_for("Unknown command '/byebye'. Type /? for help")
        terminal.enter('"""two\rlines"""')
        terminal.wait_for("Still here.")
        terminal.enter("/bye")
        code = terminal.end()
        last = server.bodies("POST /api/chat")[-1]
    assert 0 == code
    assert [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi there."},
        {"role": "user", "content": "two\nlines"},
    ] == last["messages"]
    history = tmp_path / "state" / "history"
    assert 0o600 == history.stat().st_mode & 0o777
    assert "+hello\n" in history.read_text()


def test_ctrl_c_stops_the_answer_and_keeps_what_came(tmp_path):
    end = threading.Event()

    def endless() -> Iterator[bytes]:
        while not end.wait(0.02):
            yield chat_lines("word ")[0]

    with (
        daemon(endless, chat_lines("Done.")) as server,
        Terminal("run", "guide", environment=cli_environment(tmp_path, server.address)) as terminal,
    ):
        terminal.enter("go on")
        terminal.wait_for("word word word")
        terminal.type("\x03")
        left = server.client_left.wait(5)
        end.set()
        terminal.enter("and now?")
        terminal.wait_for("Done.")
        terminal.wait_for("Send a message")
        terminal.type("\x04")
        code = terminal.end()
        messages = server.bodies("POST /api/chat")[-1]["messages"]
    assert (True, 0) == (left, code)
    assert ["user", "assistant", "user"] == [message["role"] for message in messages]
    assert messages[1]["content"].startswith("word word word")


def test_ctrl_c_clears_a_line_and_on_an_empty_one_says_how_to_leave(tmp_path):
    with (
        daemon(chat_lines("Never asked.")) as server,
        Terminal("run", "guide", environment=cli_environment(tmp_path, server.address)) as terminal,
    ):
        terminal.wait_for("Send a message")
        terminal.type("half a thought")
        terminal.wait_for("half a thought")
        terminal.type("\x03")
        terminal.type("\x03")
        terminal.wait_for("Use Ctrl + d or /bye to exit.")
        terminal.wait_for("Send a message")
        terminal.type("\x04")
        code = terminal.end()
        asked = [body for body in server.bodies("POST /api/chat") if body.get("messages")]
    assert (0, []) == (code, asked)


def test_a_failed_answer_does_not_end_the_session(tmp_path):
    failed = [json.dumps({"error": "the model died", "code": "runner_crashed", "hint": "again"}).encode() + b"\n"]
    with (
        daemon(failed, chat_lines("Back.")) as server,
        Terminal("run", "guide", environment=cli_environment(tmp_path, server.address)) as terminal,
    ):
        terminal.enter("one")
        terminal.wait_for("Error: the model died")
        terminal.wait_for("hint: again")
        terminal.enter("two")
        terminal.wait_for("Back.")
        terminal.enter("/exit")
        code = terminal.end()
        messages = server.bodies("POST /api/chat")[-1]["messages"]
    assert (0, [{"role": "user", "content": "two"}]) == (code, messages)


@pytest.mark.parametrize("line", ["/show info", "/? set", "/load guide:latest"])
def test_commands_answer_without_asking_the_model(tmp_path, line):
    shown = {
        "/show info": "architecture    llama",
        "/? set": "/set system TEXT",
        "/load guide:latest": "/load guide:latest",
    }
    with (
        daemon(LOADED) as server,
        Terminal("run", "guide", environment=cli_environment(tmp_path, server.address)) as terminal,
    ):
        terminal.enter(f"{line}")
        terminal.wait_for(shown[line])
        terminal.wait_for("Send a message")
        terminal.type("\x04")
        code = terminal.end()
    assert 0 == code


def test_an_unknown_model_ends_before_the_prompt(tmp_path):
    replies = {
        "GET /api/version": Reply(LOCALLLM_VERSION),
        "POST /api/show": Reply('{"error":"model \'x\' not found"}', 404),
    }
    with (
        ScriptedServer(replies) as server,
        Terminal("run", "x", environment=cli_environment(tmp_path, server.address)) as terminal,
    ):
        terminal.wait_for("Error: model 'x' not found")
        terminal.wait_for("`localllm list` shows the models there are")
        assert 1 == terminal.end()
