"""Keys over HTTP: when one is needed, what each may do, and what counts as this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from live_server import live_server, wait_until

from localllm.keys import add_key, new_key, remove_key
from localllm.server import create, pull
from localllm.server.access import manages
from localllm.server.app import ROUTES
from localllm.server.manage import delete

CHAT = {"model": "guide", "messages": [{"role": "user", "content": "echo a"}], "stream": False}
INFER, MANAGE = ("POST", "/api/chat", CHAT), ("POST", "/api/copy", {"source": "guide", "destination": "mine"})


def make(folder: Path, name: str, *scopes: str) -> dict[str, str]:
    key, text = new_key(name, scopes or ("infer",), datetime.now(UTC))
    add_key(folder / "keys.json", key)
    return {"authorization": f"Bearer {text}"}


def ask(server, route, headers=None) -> int:
    method, path, body = route
    return httpx.request(method, server.url + path, json=body, headers=headers or {}, timeout=20).status_code


@pytest.fixture
def guarded(tmp_path):
    with live_server(config_file=tmp_path / "config.toml", require_key=True) as server:
        yield server


def test_every_route_that_changes_models_needs_the_scope_manage():
    changing = {
        entry.path
        for entry in ROUTES
        if entry.handler is delete or entry.handler.__module__ in (pull.__name__, create.__name__)
    }
    assert changing == {entry.path for entry in ROUTES if manages(entry.path)}


def test_a_key_may_do_what_its_scopes_say_and_no_more(guarded, tmp_path):
    infer, manage = make(tmp_path, "reader"), make(tmp_path, "keeper", "manage")
    both = make(tmp_path, "owner", "infer", "manage")
    assert (401, 401) == (ask(guarded, INFER), ask(guarded, MANAGE))
    assert (200, 403) == (ask(guarded, INFER, infer), ask(guarded, MANAGE, infer))
    assert (403, 200) == (ask(guarded, INFER, manage), ask(guarded, MANAGE, manage))
    assert (200, 200) == (ask(guarded, INFER, both), ask(guarded, MANAGE, both))
    assert 200 == ask(guarded, INFER, {"x-api-key": infer["authorization"].split()[1]})
    denied = httpx.post(f"{guarded.url}/api/pull", json={"model": "guide"}, headers=infer)
    assert "only this machine, or a key with the scope manage, may change which models there are" in denied.text


def test_a_key_that_is_revoked_is_refused_from_the_next_request_on(guarded, tmp_path):
    key = make(tmp_path, "laptop")
    assert 200 == ask(guarded, INFER, key)
    remove_key(tmp_path / "keys.json", "laptop")
    assert 401 == ask(guarded, INFER, key)


def test_a_damaged_file_of_keys_lets_nobody_in(guarded, tmp_path):
    key = make(tmp_path, "laptop")
    (tmp_path / "keys.json").write_text("{")
    assert 401 == ask(guarded, INFER, key)


def test_the_name_of_a_key_is_the_client_whatever_the_request_says_of_itself(guarded, tmp_path):
    key = make(tmp_path, "laptop")
    ask(guarded, INFER, {**key, "x-localllm-client": "someone else"})
    assert "key laptop" == guarded.scheduler.requesters[-1].client


def test_who_waits_is_told_by_name_only_to_those_who_may_manage(guarded, tmp_path):
    infer, owner = make(tmp_path, "reader"), make(tmp_path, "owner", "infer", "manage")
    queues = [httpx.get(f"{guarded.url}/api/ps", headers=key).json()["queue"] for key in (infer, owner)]
    assert ["", "someone"] == [queue[0]["client"] for queue in queues]


def test_without_a_key_this_machine_may_manage_and_a_proxy_on_it_may_not(tmp_path):
    with live_server(config_file=tmp_path / "config.toml") as server:
        assert (200, 200) == (ask(server, INFER), ask(server, MANAGE))
        assert 200 == ask(server, MANAGE, {"authorization": "Bearer ollama"})  # what clients send when none is needed
        for name in ("x-forwarded-for", "forwarded", "x-real-ip"):
            assert (200, 403) == (ask(server, INFER, {name: "10.0.0.1"}), ask(server, MANAGE, {name: "10.0.0.1"}))
        infer = make(tmp_path, "reader")
        assert 403 == ask(server, MANAGE, infer)  # a key that was recognised counts


def test_bodies_and_headers_that_are_no_requests_are_refused_and_a_stream_beside_them_goes_on(guarded, tmp_path):
    key = make(tmp_path, "laptop")
    body = {"model": "guide", "prompt": "wait"}
    with httpx.stream("POST", f"{guarded.url}/api/generate", json=body, headers=key, timeout=20) as stream:
        lines = stream.iter_lines()  # held: a generator that is dropped closes its connection
        assert "once" in next(lines)
        deep = b'{"model":"guide","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        for content, status in ((deep, 400), (b"{", 400), (b"\xff", 400)):
            answer = httpx.post(f"{guarded.url}/api/chat", content=content, headers=key, timeout=20)
            assert status == answer.status_code
        smuggled = guarded.ask(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nX-A: b\x00c\r\nConnection: close\r\n\r\n")
        assert b"400" == smuggled.split(b" ")[1]
        assert 200 == ask(guarded, INFER, key)
        assert 1 == guarded.scheduler.leased
    wait_until(lambda: guarded.scheduler.leased == 0)
