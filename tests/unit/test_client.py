"""The client against a small real HTTP server that plays literal answers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest
from scripted_server import LOCALLLM_VERSION, Reply, ScriptedServer, chat_lines, endless_lines, generate_lines

from localllm import errors
from localllm.client import ChatRequest, Client, GenerateRequest, ModelSummary, Turn, Version
from localllm.version import __version__

TAGS = {
    "models": [
        {
            "name": "guide:latest",
            "model": "guide:latest",
            "modified_at": "2026-08-01T10:00:00.123456789Z",
            "size": 4000000,
            "digest": "abcdef0123456789",
            "details": {"format": "gguf", "family": "llama", "families": None, "parameter_size": "5.6M"},
            "something_new": {"that": "is ignored"},
        }
    ]
}


def reply_to(route: str, body: object, status: int = 200) -> dict[str, Reply]:
    return {route: Reply(json.dumps(body), status)}


def test_the_version_tells_localllm_from_ollama():
    with ScriptedServer({"GET /api/version": Reply(LOCALLLM_VERSION)}) as server, Client(server.url) as client:
        assert Version(version="0.32.15", localllm=__version__) == client.version()
    with ScriptedServer({"GET /api/version": Reply('{"version":"0.11.4"}')}) as server, Client(server.url) as client:
        assert Version(version="0.11.4", localllm=None) == client.version()


def test_tags_are_typed_and_unknown_fields_ignored():
    with ScriptedServer(reply_to("GET /api/tags", TAGS)) as server, Client(server.url) as client:
        (model,) = client.tags()
    assert isinstance(model, ModelSummary)
    assert ("guide:latest", 4000000, "abcdef0123456789") == (model.name, model.size, model.digest)
    assert datetime(2026, 8, 1, 10, 0, 0, 123457, UTC) == model.modified_at
    assert None is model.details.families


def test_text_in_another_encoding_is_refused_before_it_is_sent():
    with Client("http://127.0.0.1:9") as client, pytest.raises(errors.BadRequestError) as caught:
        next(client.pull("caf\udce9"))
    assert r"this is not UTF-8 text: 'caf\udce9'" == caught.value.message


def test_a_null_list_of_models_is_an_empty_one():
    with ScriptedServer(reply_to("GET /api/ps", {"models": None})) as server, Client(server.url) as client:
        assert () == client.ps()


def test_ps_gives_localllms_queue_figures_when_they_are_there():
    models = [{"name": "a:latest", "active": 2, "waiting": 1, "state": "ready"}, {"name": "b:latest"}]
    with ScriptedServer(reply_to("GET /api/ps", {"models": models})) as server, Client(server.url) as client:
        first, second = client.ps()
    assert (2, 1, "ready") == (first.active, first.waiting, first.state)
    assert (None, None, None) == (second.active, second.waiting, second.state)


def test_show_and_delete_and_stop_send_what_ollama_takes():
    replies = {
        "POST /api/show": Reply('{"template":"{{ x }}","details":{"family":"llama"},"capabilities":["completion"]}'),
        "DELETE /api/delete": Reply(""),
        "POST /api/generate": Reply('{"model":"guide","response":"","done":true,"done_reason":"unload"}'),
    }
    with ScriptedServer(replies) as server, Client(server.url) as client:
        info = client.show("guide", verbose=True)
        client.delete("guide")
        client.stop("guide")
        bodies = [seen.body for seen in server.requests]
    assert ("{{ x }}", ("completion",)) == (info.template, info.capabilities)
    assert [
        {"model": "guide", "verbose": True},
        {"model": "guide"},
        {"model": "guide", "keep_alive": 0, "stream": False},
    ] == bodies


def test_generate_streams_chunks_and_ends_with_the_metrics():
    lines = generate_lines("Hel", "lo", last={"eval_count": 2, "eval_duration": 5})
    with ScriptedServer({"POST /api/generate": Reply(pieces=lines)}) as server, Client(server.url) as client:
        chunks = list(client.generate(GenerateRequest("guide", "hi", think=False, keep_alive=0)))
        assert [{"model": "guide", "prompt": "hi", "think": False, "keep_alive": 0}] == server.bodies(
            "POST /api/generate"
        )
    assert ["Hel", "lo", ""] == [chunk.response for chunk in chunks]
    assert (True, "stop", 2, 5) == (
        chunks[-1].done,
        chunks[-1].done_reason,
        chunks[-1].eval_count,
        chunks[-1].eval_duration,
    )


def test_chat_sends_every_role_and_reads_content_thinking_and_tool_calls():
    call = {"id": "call_1", "function": {"name": "f", "arguments": {"x": 1}}}
    first = {"message": {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}, "done": False}
    pieces = [json.dumps(first).encode() + b"\n", *chat_lines("ok")]
    turns = (Turn("system", "be short"), Turn("user", "hi"), Turn("assistant", "hello"), Turn("user", "again"))
    with ScriptedServer({"POST /api/chat": Reply(pieces=pieces)}) as server, Client(server.url) as client:
        chunks = list(client.chat(ChatRequest("guide", turns)))
        sent = server.bodies("POST /api/chat")[0]["messages"]
    assert ["system", "user", "assistant", "user"] == [message["role"] for message in sent]
    assert ("hm", (call,)) == (chunks[0].message.thinking, chunks[0].message.tool_calls)
    assert "ok" == chunks[1].message.content


def test_a_line_cut_anywhere_and_unicode_line_breaks_inside_a_string_are_read_whole():
    text = "a\u2028b\u0085cé\n"
    whole = b"".join(generate_lines(text))
    pieces = [whole[index : index + 3] for index in range(0, len(whole), 3)]
    with ScriptedServer({"POST /api/generate": Reply(pieces=pieces)}) as server, Client(server.url) as client:
        assert text == "".join(chunk.response for chunk in client.generate(GenerateRequest("guide", "hi")))


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "hint"),
    [
        (400, {"error": "no"}, errors.BadRequestError, "no", None),
        (400, {"error": "no", "code": "invalid_name", "hint": "h"}, errors.InvalidNameError, "no", "h"),
        (400, {"error": "long", "code": "prompt_too_long"}, errors.BadRequestError, "long", None),
        (401, {"error": "key"}, errors.UnauthorizedError, "key", None),
        (403, {"error": "host"}, errors.AccessDeniedError, "host", None),
        (500, {"error": "died", "code": "runner_crashed"}, errors.RunnerCrashedError, "died", None),
        (503, {"error": "busy", "code": "queue_full", "hint": "wait"}, errors.RemoteError, "busy", "wait"),
        (500, {"error": {"message": "as OpenAI says it"}}, errors.RemoteError, "as OpenAI says it", None),
        (502, "<html>", errors.RemoteError, "HTTP 502", None),
    ],
)
def test_an_error_answer_becomes_the_error_that_fits(status, body, kind, message, hint):
    with ScriptedServer(reply_to("POST /api/generate", body, status)) as server, Client(server.url) as client:
        with pytest.raises(kind) as caught:
            list(client.generate(GenerateRequest("guide", "hi")))
        with pytest.raises(kind):
            client.stop("guide")
    assert (message, hint) == (caught.value.message, caught.value.hint)


def test_404_for_a_model_names_the_model():
    with (
        ScriptedServer(reply_to("POST /api/show", {"error": "model 'x' not found"}, 404)) as server,
        Client(server.url) as client,
        pytest.raises(errors.ModelNotFoundError) as caught,
    ):
        client.show("x")
    assert "x" == caught.value.name


def test_an_error_line_in_a_stream_is_raised_after_the_chunks_before_it():
    pieces = [
        *generate_lines('saying "error" is fine')[:1],
        b'{"error":"the model process died","code":"runner_crashed","hint":"again"}\n',
    ]
    seen = []
    with (
        ScriptedServer({"POST /api/generate": Reply(pieces=pieces)}) as server,
        Client(server.url) as client,
        pytest.raises(errors.RunnerCrashedError) as caught,
    ):
        seen.extend(chunk.response for chunk in client.generate(GenerateRequest("guide", "hi")))
    assert (['saying "error" is fine'], "again") == (seen, caught.value.hint)


def test_a_stream_that_ends_without_a_last_chunk_is_an_error():
    pieces = generate_lines("half")[:1]
    with (
        ScriptedServer({"POST /api/generate": Reply(pieces=pieces)}) as server,
        Client(server.url) as client,
        pytest.raises(errors.DaemonError, match="before the answer was complete"),
    ):
        list(client.generate(GenerateRequest("guide", "hi")))


def test_closing_a_stream_closes_its_connection():
    end = threading.Event()
    reply = Reply(pieces=endless_lines("x", end))
    with ScriptedServer({"POST /api/generate": reply}) as server, Client(server.url) as client:
        stream = client.generate(GenerateRequest("guide", "hi"))
        next(stream)
        stream.close()
        left = server.client_left.wait(5)
        end.set()
    assert left


def test_nothing_listening_is_its_own_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(errors.DaemonAbsentError) as caught:
        client.version()
    assert "localllm serve" in caught.value.hint


def test_the_api_key_is_sent_and_proxies_are_not_used_for_loopback(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with ScriptedServer(reply_to("GET /api/tags", TAGS)) as server, Client(server.url, "secret") as client:
        client.tags()
        assert "Bearer secret" == server.requests[0].headers["Authorization"]


def test_importing_the_client_imports_neither_rich_nor_typer():
    code = "import sys, localllm.client; print([m for m in ('rich', 'typer', 'click', 'pygments') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == result.stdout.strip()
