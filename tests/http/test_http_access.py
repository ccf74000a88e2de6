"""Who may talk to the daemon: Host, Origin, key, size of the body."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import httpx
import pytest
from live_server import LiveServer, live_server

from localllm.config import Address


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """One for all: these tests change nothing in it."""
    with live_server() as running:
        yield running


def get(server, path="/api/tags", **headers):
    return httpx.get(server.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:11434",
        "localhost.",
        "127.0.0.1:80",
        "127.8.9.1",
        "[::1]:11434",
        "0.0.0.0",
        "192.168.1.7",
        "10.1.2.3:9",
        "app.localhost",
        "mac.local",
        "host.docker.internal",
        "workbench",
        "",
    ],
)
def test_names_of_this_machine_are_welcome(server, host):
    assert 200 == get(server, host=host).status_code


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "8.8.8.8",
        "evil@localhost",
        "local",
        "a b",
        "[::1",
        "x:y",
    ],
)
def test_any_other_name_is_dns_rebinding(server, host):
    answer = get(server, host=host)
    assert 403 == answer.status_code
    assert f"the Host header names '{host}', which is not this server" == answer.json()["error"]


def test_each_of_several_host_headers_must_be_ours(server):
    raw = server.ask(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert raw.split(b" ")[1] in (b"400", b"403")


def test_the_configured_host_is_a_name_of_ours():
    with live_server(address=Address("Box.Example", 1)) as server:
        assert 200 == get(server, host="box.example").status_code


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:8080",
        "http://0.0.0.0",
        "http://[::1]:5",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "vscode-webview://abc",
        "vscode-file://vscode-app",
    ],
)
def test_local_pages_and_editors_may_use_the_api(server, origin):
    answer = get(server, origin=origin)
    assert (200, origin) == (answer.status_code, answer.headers["access-control-allow-origin"])
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost.evil.example",
        "https://127.0.0.1.nip.io",
        "null",
        "chrome-extension://abc",
        "http://[",
        "",
    ],
)
def test_foreign_pages_may_not_even_send_a_simple_post(server, origin):
    answer = httpx.post(
        f"{server.url}/api/chat", content=b"{}", headers={"origin": origin, "content-type": "text/plain"}
    )
    assert (403, f"pages of '{origin}' may not use this server") == (answer.status_code, answer.json()["error"])
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_this_server_may_use_it_under_any_of_its_names(server):
    assert 200 == get(server, host="mac.local:11434", origin="http://mac.local:11434").status_code
    assert 403 == get(server, host="mac.local:11434", origin="http://mac.local:1").status_code


def test_origins_can_be_allowed_one_by_one_or_with_a_star():
    with live_server(origins=("https://chat.example", "chrome-extension://*", "https://*.team.example")) as server:
        for origin in ("https://chat.example", "chrome-extension://abc", "https://a.team.example"):
            assert 200 == get(server, origin=origin).status_code
        for origin in ("https://chat.example.evil.example", "https://team.example", "http://chat.example"):
            assert 403 == get(server, origin=origin).status_code


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "x" * 500])
def test_a_compressed_body_is_refused_by_name(server, encoding):
    body = gzip.compress(b'{"model": "guide"}')
    answer = httpx.post(f"{server.url}/v1/responses", content=body, headers={"content-encoding": encoding})
    error = answer.json()["error"]
    assert (400, "send it as it is, without one") == (answer.status_code, error["hint"])
    assert f"a body with the Content-Encoding '{encoding[:40]}' is not read" == error["message"]
    plain = httpx.post(f"{server.url}/api/show", json={"model": "guide"}, headers={"content-encoding": "identity"})
    assert 200 == plain.status_code


def test_a_preflight_allows_what_the_sdks_send(server):
    asked = "x-api-key,anthropic-version,authorization,x-stainless-new-thing"
    answer = httpx.options(
        f"{server.url}/v1/chat/completions",
        headers={
            "origin": "http://localhost:3000",
            "access-control-request-method": "POST",
            "access-control-request-headers": asked,
            "access-control-request-private-network": "true",
        },
    )
    assert (204, "http://localhost:3000") == (answer.status_code, answer.headers["access-control-allow-origin"])
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {*asked.split(","), "x-stainless-retry-count", "content-type"} <= allowed
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    told = answer.headers["access-control-expose-headers"].split(", ")
    assert {"retry-after", "request-id", "x-localllm-ignored", "x-localllm-queue-ms"} <= set(told)
    assert "true" == answer.headers["access-control-allow-private-network"]
    assert 403 == httpx.options(server.url, headers={"origin": "https://evil.example"}).status_code
    plain = httpx.options(server.url)
    assert (204, True) == (plain.status_code, "POST" in plain.headers["allow"])


def test_without_a_key_whatever_clients_send_as_one_is_ignored(server):
    assert 200 == get(server, authorization="Bearer ollama", x_api_key="x").status_code


def test_with_a_key_everything_but_the_sign_of_life_needs_it():
    with live_server(api_key="séçret") as server:
        for headers in (
            {"authorization": "Bearer séçret"},
            {"authorization": "bearer séçret"},
            {"x-api-key": "séçret"},
        ):
            raw = {name: value.encode() for name, value in headers.items()}
            assert 200 == httpx.get(f"{server.url}/api/tags", headers=raw).status_code
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic séçret".encode()},
            {"x-api-key": ""},
        ):
            answer = httpx.get(f"{server.url}/api/tags", headers=headers)
            assert (401, "an API key is needed") == (answer.status_code, answer.json()["error"])
            assert "Bearer" == answer.headers["www-authenticate"]
        error = httpx.post(f"{server.url}/v1/chat/completions", json={}).json()["error"]
        assert ("authentication_error", "invalid_api_key") == (error["type"], error["code"])
        for path in ("/", "/api/version"):
            assert [200, 200] == [httpx.get(server.url + path).status_code, httpx.head(server.url + path).status_code]
        assert 401 == httpx.post(server.url).status_code


def test_a_body_that_announces_too_much_is_refused_unread():
    with live_server(max_body_bytes=1000) as server:
        raw = server.ask(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n"
        )
        assert b"413" == raw.split(b" ")[1]
        assert b'{"error":"the request body is larger than 1000 bytes","code":"payload_too_large"' in raw


def test_a_body_of_unknown_length_is_counted_while_it_is_read():
    with live_server(max_body_bytes=1000) as server:
        for size, status in ((1000, 400), (1001, 413)):
            pieces = iter([b" " * 600, b" " * (size - 600)])
            assert status == httpx.post(f"{server.url}/api/chat", content=pieces).status_code


def test_a_large_body_is_answered_although_it_is_still_on_its_way():
    with live_server(max_body_bytes=1000) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", content=b" " * 5_000_000)
        assert (413, "invalid_request_error") == (answer.status_code, answer.json()["error"]["type"])


def test_what_is_not_a_request_gets_an_answer_and_the_server_stays(server):
    assert b"400" == server.ask(b"\x16\x03\x01 hello\r\n\r\n").split(b" ")[1]
    assert 200 == get(server).status_code
