"""A small real HTTP server that plays answers from a table: a daemon, an Ollama, or whatever a test needs on a port.

    with ScriptedServer({"GET /api/version": Reply(LOCALLLM_VERSION)}) as server:
        … server.url … server.requests …

A reply's pieces are sent one by one, so that an endless iterator is a stream that only the client can end; then
`client_left` is set.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from localllm.version import __version__

LOCALLLM_VERSION = json.dumps({"version": "0.32.15", "localllm": __version__})


@dataclass(frozen=True)
class Reply:
    """What to answer: one body, or pieces that are sent as they come."""

    body: str = ""
    status: int = 200
    pieces: Iterable[bytes] | None = None


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    route: str
    body: Any
    headers: Mapping[str, str]


@dataclass
class ScriptedServer:
    """Serves `replies` (by "METHOD /path") on a free loopback port; other routes are 404."""

    replies: Mapping[str, Reply]
    requests: list[Seen] = field(default_factory=list)
    client_left: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> ScriptedServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def bodies(self, route: str) -> list[Any]:
        """The bodies of all requests of one route."""
        return [seen.body for seen in self.requests if seen.route == route]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                route = f"{self.command} {self.path}"
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                script.requests.append(Seen(route, json.loads(text) if text else None, dict(self.headers)))
                reply = script.replies.get(route, Reply("404 page not found", 404))
                try:
                    self._send(reply)
                except (BrokenPipeError, ConnectionResetError):  # what a client that cancels does
                    script.client_left.set()

            do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                if reply.pieces is None:
                    body = reply.body.encode()
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in reply.pieces:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def generate_lines(*texts: str, last: Mapping[str, Any] | None = None) -> list[bytes]:
    """The lines of an answer of /api/generate."""
    done = {"model": "guide", "response": "", "done": True, "done_reason": "stop", **(last or {})}
    return [_line({"model": "guide", "response": text, "done": False}) for text in texts] + [_line(done)]


def chat_lines(*texts: str, last: Mapping[str, Any] | None = None) -> list[bytes]:
    """The lines of an answer of /api/chat."""
    message = {"role": "assistant", "content": ""}
    done = {"model": "guide", "message": message, "done": True, "done_reason": "stop", **(last or {})}
    lines = [{"model": "guide", "message": {**message, "content": text}, "done": False} for text in texts]
    return [_line(line) for line in [*lines, done]]


def endless_lines(text: str, pause: threading.Event) -> Iterator[bytes]:
    """An answer of /api/generate that goes on until the client leaves."""
    while not pause.wait(0.02):
        yield _line({"model": "guide", "response": text, "done": False})


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
