"""An HTTP proxy on loopback that finds hosts nobody else knows, and tells through whom requests went.

    with proxy_server({"hub.test": "http://127.0.0.1:4711"}) as proxy:
        … HTTP_PROXY=proxy.url HF_ENDPOINT=http://hub.test …
        proxy.seen                                   "GET http://hub.test/api/models/…", "CONNECT hub.test:443"

A CONNECT, which encrypted requests start with, is noted and refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx
from hub_server import Handler

_PASSED_ON = ("Range", "Accept", "Authorization")
_PASSED_BACK = ("Content-Type", "Content-Range", "Location", "ETag", "X-Repo-Commit", "X-Linked-Etag", "X-Linked-Size")


@dataclass
class ProxyServer:
    """What runs: its URL, where hosts are, and what it was asked."""

    hosts: Mapping[str, str]
    url: str = ""
    seen: list[str] = field(default_factory=list)


@contextmanager
def proxy_server(hosts: Mapping[str, str]) -> Iterator[ProxyServer]:
    """Serve until the block ends."""
    proxy = ProxyServer(hosts)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Proxy", (_ProxyHandler,), {"proxy": proxy}))
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _ProxyHandler(Handler):
    proxy: ProxyServer

    def do_GET(self) -> None:  # noqa: N802 - http.server's names
        self.proxy.seen.append(f"{self.command} {self.path.partition('?')[0]}")
        url = urlsplit(self.path)
        target = self.proxy.hosts.get(url.hostname or "", f"{url.scheme}://{url.netloc}")
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        query = f"?{url.query}" if url.query else ""
        answer = httpx.request(self.command, f"{target}{url.path}{query}", headers=headers, trust_env=False)
        back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        self.answer(answer.status_code, back, answer.content)

    do_HEAD = do_GET  # noqa: N815 - likewise

    def do_CONNECT(self) -> None:  # noqa: N802 - likewise
        self.proxy.seen.append(f"{self.command} {self.path}")
        self.answer(502)
