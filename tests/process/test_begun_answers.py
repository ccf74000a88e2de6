"""An answer that a conversation ends with the beginning of, through the real daemon, in each dialect that has chats."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from daemon_process import Daemon, running_daemon

QUESTION = {"role": "user", "content": "How do I pull a model?"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("begun")) as running:
        yield running


def answer(daemon: Daemon, path: str, *said: str, **more: object) -> str:
    messages = [QUESTION, *({"role": "assistant", "content": text} for text in said)]
    body = {"model": "guide", "messages": messages, "stream": False, "options": {"temperature": 0}, **more}
    told = daemon.http.post(path, json=body).raise_for_status().json()
    if path == "/v1/messages":
        return "".join(block["text"] for block in told["content"])
    return (told["message"] if path == "/api/chat" else told["choices"][0]["message"])["content"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
def test_an_answer_goes_on_from_where_the_conversation_leaves_it(daemon: Daemon, path: str) -> None:
    more = {"max_tokens": 100} if path == "/v1/messages" else {}
    whole = answer(daemon, path, **more)
    begun = whole[: whole.index(" downloads")]
    assert whole == begun + answer(daemon, path, begun, **more)


def test_an_answer_in_a_form_is_begun_anew(daemon: Daemon) -> None:
    schema = {"type": "object", "properties": {"command": {"enum": ["pull"]}}, "required": ["command"]}
    assert '"pull"' in answer(daemon, "/api/chat", "It is", format=schema)
    wanted = {"type": "json_schema", "json_schema": {"name": "command", "schema": schema}}
    assert '"pull"' in answer(daemon, "/v1/chat/completions", "It is", response_format=wanted)
