"""What hostile clients try on the real daemon: each is refused with the right status, while a normal stream goes on."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from urllib.parse import quote, urlsplit

import httpx
import pytest
from beside import streaming_beside
from daemon_process import running_daemon

HEAD_SECONDS = BODY_SECONDS = 1.0
CONNECTIONS = 24
TRAVERSALS = ("../../../../etc/passwd", "/etc/passwd", "..", "a/../../b", "..%2f..%2fetc", "C:\\windows\\system.ini",
              "\\\\host\\share", "a\x00b", "~/.ssh/id_rsa", "hf.co/../..:x", "hf.co/a/b:../../c", "ollama.com/../x:y",
              "http://169.254.169.254/latest", "file:///etc/passwd", "sha256:../../etc/passwd")  # fmt: skip
# Every route that takes a name, and the field it takes it in.
NAMED = (
    ("POST", "/api/show", "model"), ("POST", "/api/show", "name"), ("POST", "/api/generate", "model"),
    ("POST", "/api/chat", "model"), ("POST", "/api/embed", "model"), ("POST", "/api/embeddings", "model"),
    ("POST", "/api/pull", "model"), ("POST", "/api/pull", "name"), ("POST", "/api/create", "model"),
    ("POST", "/api/create", "from"), ("POST", "/api/create", "files"), ("POST", "/api/copy", "source"),
    ("POST", "/api/copy", "destination"), ("DELETE", "/api/delete", "model"), ("DELETE", "/api/delete", "name"),
    ("POST", "/v1/chat/completions", "model"), ("POST", "/v1/completions", "model"),
    ("POST", "/v1/messages", "model"), ("POST", "/v1/messages/count_tokens", "model"),
    ("POST", "/v1/embeddings", "model"), ("POST", "/completion", "model"), ("POST", "/infill", "model"),
    ("POST", "/tokenize", "model"), ("POST", "/detokenize", "model"), ("POST", "/apply-template", "model"),
    ("POST", "/embedding", "model"),
)  # fmt: skip
MESSAGES = [{"role": "user", "content": "hi"}]
# What else those bodies need, so that nothing but the name can be wrong.
FILLED = {"messages": MESSAGES, "prompt": "hi", "input": "hi", "max_tokens": 1, "stream": False, "content": "hi",
          "tokens": [1], "input_prefix": "a", "input_suffix": "b", "source": "guide", "destination": "mine",
          "from": "guide"}  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    limits = {"LOCALLLM_HEAD_TIMEOUT": "1s", "LOCALLLM_BODY_TIMEOUT": "1s"}
    with running_daemon(
        tmp_path_factory.mktemp("security") / "home",
        LOCALLLM_MAX_CONNECTIONS=str(CONNECTIONS),
        LOCALLLM_MAX_BODY_BYTES="3000000",
        **limits,
    ) as running:
        yield running


@contextmanager
def connection(daemon):
    parts = urlsplit(daemon.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as opened:
        yield opened


def everything_from(opened: socket.socket) -> bytes:
    """What comes until the daemon closes."""
    received = b""
    while piece := opened.recv(65536):
        received += piece
    return received


def ask(daemon, request: bytes) -> bytes:
    with connection(daemon) as opened:
        opened.sendall(request)
        return everything_from(opened)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def post(path: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"POST " + path + b" HTTP/1.1", b"Host: localhost", *headers, b"", b""))


def test_headers_that_never_end_get_a_408_and_their_connection_is_closed(daemon):
    with streaming_beside(daemon), ExitStack() as stack:
        slow = [stack.enter_context(connection(daemon)) for _ in range(8)]
        began = time.monotonic()
        for opened in slow:
            opened.sendall(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for opened in slow:
            opened.sendall(b"a")  # a byte now and then buys no time
        answers = [everything_from(opened) for opened in slow]
        assert [408] * 8 == [status_of(answer) for answer in answers]
        assert HEAD_SECONDS * 0.9 < time.monotonic() - began < HEAD_SECONDS + 8
    assert b'{"error":"the headers were not complete within 1 s"}' in answers[0]


@pytest.mark.parametrize(
    ("path", "word"), [(b"/api/chat", b'"code":"slow_body"'), (b"/v1/messages", b'"type":"error"')]
)
def test_a_body_that_stands_still_gets_a_408_in_the_words_of_its_dialect(daemon, path, word):
    with streaming_beside(daemon):
        answer = ask(daemon, post(path, b"Content-Length: 100") + b'{"model": ')
    assert (408, True) == (status_of(answer), word in answer)
    assert b"connection: close" in answer


def test_a_body_that_trickles_is_ended_though_it_never_stands_still(daemon):
    with streaming_beside(daemon), connection(daemon) as opened:
        opened.sendall(post(b"/api/chat", b"Content-Length: 100000"))
        opened.settimeout(0.2)
        began, answer = time.monotonic(), b""
        while not answer and time.monotonic() < began + 10:
            opened.sendall(b" ")
            try:
                answer = opened.recv(4096)
            except TimeoutError:
                continue
        assert 408 == status_of(answer)


def test_a_slow_upload_that_makes_progress_is_taken_whole(daemon):
    def pieces():
        for _ in range(8):
            time.sleep(0.3)
            yield b"x" * 2000

    with streaming_beside(daemon):
        answer = daemon.http.post(f"/api/blobs/sha256:{'0' * 64}", content=pieces())
        assert (400, "digest") == (answer.status_code, re.search("digest", answer.text)[0])  # whole, and then compared
        body = json.dumps({"model": "guide", "messages": MESSAGES, "stream": False}).encode()
        slowly = (part for index, part in enumerate((body[:10], body[10:])) if not time.sleep(0.5 * index))
        assert 200 == daemon.http.post("/api/chat", content=slowly).status_code


def test_more_headers_than_fit_get_a_431(daemon):
    with streaming_beside(daemon):
        answer = ask(daemon, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 200_000)
        assert 431 == status_of(answer)
        answer = ask(daemon, b"GET /" + b"a" * 200_000)
        assert 431 == status_of(answer)


def test_a_body_over_the_limit_gets_a_413_whether_it_is_announced_or_not(daemon):
    with streaming_beside(daemon):
        answer = ask(daemon, post(b"/v1/chat/completions", b"Content-Length: 99999999999"))
        assert (413, True) == (status_of(answer), b'"invalid_request_error"' in answer)
        whole = httpx.post(f"{daemon.url}/api/generate", content=(b" " * 100_000 for _ in range(31)))
        assert (413, "payload_too_large") == (whole.status_code, whole.json()["code"])


def test_what_has_waited_longest_goes_when_there_are_too_many_connections(daemon):
    with streaming_beside(daemon, asks_again=True), ExitStack() as stack:
        idle = [stack.enter_context(connection(daemon)) for _ in range(CONNECTIONS + 5)]
        for opened in idle[-3:]:
            opened.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert [200] * 3 == [status_of(everything_from(opened)) for opened in idle[-3:]]
        assert b"" == idle[0].recv(10)


AMBIGUOUS = (
    post(b"/api/chat", b"Content-Length: 2", b"Content-Length: 3") + b"{}}",
    post(b"/api/chat", b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    post(b"/api/chat", b"Content-Length: -1"),
    post(b"/api/chat", b"Transfer-Encoding: gzip, cow") + b"{}",
    b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    b"GET /api/tags HTTP/1.1\nHost: localhost\r\n folded\r\n: empty\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


def test_what_two_servers_could_read_differently_is_no_request(daemon):
    with streaming_beside(daemon):
        answers = [(request, status_of(ask(daemon, request))) for request in AMBIGUOUS]
    assert [] == [(request, status) for request, status in answers if status != 400]


def test_what_a_client_writes_begins_no_header_and_no_line_of_the_log(daemon):
    with streaming_beside(daemon):
        split = b"x%0d%0aset-cookie:%20a=b%0d%0a%0d%0aHTTP/1.1%20200"
        answer = ask(daemon, b"GET /v1/models/" + split + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert (404, False) == (status_of(answer), b"set-cookie" in head.lower())
        assert b"\r\n" not in body
        fields = {"model": "guide", "messages": MESSAGES, "max_tokens": 1, "a\r\nset-cookie: b": 1, "é": 1, "ok_one": 1}
        told = daemon.http.post("/v1/chat/completions", json=fields)
        assert (200, "ok_one") == (told.status_code, told.headers["x-localllm-ignored"])
        assert "set-cookie" not in told.headers
        daemon.http.post("/api/chat", json={"model": "guide", "options": {"x\n2026 INFO forged": 1}})
        daemon.http.get("/a%0a2026-01-01 INFO forged")
    assert [] == [line for line in daemon.log().splitlines() if line.startswith(("2026-01-01 INFO", "2026 INFO"))]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


def nested(levels: int) -> tuple[tuple[str, str], ...]:
    return (
        ("/api/chat", f'{{"model": "guide", "messages": {deep(levels)}}}'),
        (
            "/api/chat",
            f'{{"model": "guide", "messages": [{{"role": "user", "content": "x"}}], "tools": {deep(levels)}}}',
        ),
        ("/api/generate", f'{{"model": "guide", "prompt": "x", "format": {deep(levels)}}}'),
        ("/api/generate", f'{{"model": "guide", "prompt": "x", "options": {{"stop": {deep(levels)}}}}}'),
        ("/api/create", f'{{"model": "mine", "from": "guide", "parameters": {{"stop": {deep(levels)}}}}}'),
        ("/v1/chat/completions", f'{{"model": "guide", "messages": [{{"role": "user", "content": {deep(levels)}}}]}}'),
        ("/v1/completions", f'{{"model": "guide", "prompt": {deep(levels)}}}'),
        ("/v1/messages", f'{{"model": "guide", "max_tokens": 1, "messages": [{{"content": {deep(levels)}}}]}}'),
        ("/v1/embeddings", f'{{"model": "guide", "input": {deep(levels)}}}'),
        ("/completion", f'{{"prompt": {deep(levels)}}}'),
        ("/api/show", deep(levels)),
    )


def test_bodies_that_are_nested_too_deeply_get_a_400(daemon):
    with streaming_beside(daemon):
        answers = [
            (path, levels, daemon.http.post(path, content=body))
            for levels in (200, 200_000)
            for path, body in nested(levels)
        ]
    wrong = [(path, levels, answer.text[:200]) for path, levels, answer in answers if answer.status_code != 400]
    assert [] == wrong


def test_no_name_leads_out_of_the_store(daemon):
    outside = daemon.home.parent
    before = sorted(path.name for path in outside.iterdir())
    wrong = []
    with streaming_beside(daemon):
        for method, path, field in NAMED:
            for text in TRAVERSALS:
                value = {text: f"sha256:{'0' * 64}"} if field == "files" else text
                body = {**FILLED, "model": "guide", field: value}
                if field == "files":
                    del body["from"]
                if field == "name":
                    del body["model"]
                answer = daemon.http.request(method, path, json=body)
                # llama-server's clients name any model: there an unknown name is ignored, and said to be.
                is_ignored = answer.status_code == 200 and answer.headers.get("x-localllm-ignored") == "model"
                if answer.status_code not in (400, 404) and not is_ignored and not is_error_line(answer):
                    wrong.append((method, path, field, text, answer.status_code, answer.text[:200]))
        for text in (quote(text, safe="/%:") for text in TRAVERSALS):
            for path in (f"/v1/models/{text}", f"/api/blobs/{text}"):
                answer = httpx.head(daemon.url + path) if "blobs" in path else httpx.get(daemon.url + path)
                if answer.status_code not in (400, 404):
                    wrong.append(("GET", path, "", text, answer.status_code, answer.text[:200]))
    assert [] == wrong
    assert before == sorted(path.name for path in outside.iterdir())


def is_error_line(answer: httpx.Response) -> bool:
    """A pull's or a create's errors come in its stream."""
    return answer.status_code == 200 and "error" in json.loads(answer.text.strip().splitlines()[-1])


def test_foreign_pages_and_hosts_get_a_403(daemon):
    with streaming_beside(daemon):
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
            for path in ("/api/chat", "/v1/messages", "/completion"):
                answer = httpx.post(daemon.url + path, content=b"{}", headers={**headers, "content-type": "text/plain"})
                assert (403, False) == (answer.status_code, "access-control-allow-origin" in answer.headers)


def test_a_client_that_leaves_what_it_sent_unread_is_answered_after_all_and_holds_nothing_up(daemon):
    early = post(b"/api/nosuch", b"Content-Length: 3000000")
    with streaming_beside(daemon), connection(daemon) as opened:
        opened.sendall(early + b" " * 3_000_000)
        answer = HTTPResponse(opened)  # reads no further than its end, however many packets it comes in
        answer.begin()
        assert (404, b"404 page not found") == (answer.status, answer.read())
        opened.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert 200 == status_of(everything_from(opened))
