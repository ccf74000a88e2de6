"""A hub on loopback for the real huggingface_hub client: the models API, resolve with its redirect, and a CDN.

    with hub_server({"owner/Tiny-GGUF": HubRepo({"Tiny-Q4_K_M.gguf": data})}) as hub:
        … HF_ENDPOINT=hub.url …
        hub.served                                   bytes of file content that left the CDN, per path

Two ports: the CDN is another origin, as with the real hub. A fault is used once, in order, by the next GET of its path.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from loopback_servers import serving

_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """What the CDN does instead of sending a file: answers `status`, or resets the connection after some bytes.

    With `page` it answers with that, as a proxy does that has something to say.
    """

    status: int = 0
    page: bytes = b""
    reset_after_bytes: int = -1
    ignores_range: bool = False
    retry_after: str = ""


@dataclass
class Pace:
    """How fast a CDN sends: 0 is as fast as it goes; small pieces make a trickle."""

    bytes_per_second: int = 0
    piece_bytes: int = _PIECE_BYTES


@dataclass
class HubRepo:
    """A repository. `claimed` says a sha256 other than the data's; small files without LFS are in `plain`.

    Of files in `untold` the list says neither size nor hash, as some mirrors' lists; an `etags` entry is what the file
    itself says of it ("" for nothing), and files in `lost` are listed only.
    """

    files: dict[str, bytes]
    plain: frozenset[str] = frozenset()
    claimed: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    is_gated: bool = False
    refusal: str = "gated"
    license: str | None = None
    downloads: int = 0
    gguf: dict[str, Any] | None = None
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    api_faults: list[int] = field(default_factory=list)
    bytes_per_second: int = 0
    piece_bytes: int = _PIECE_BYTES
    commit: str = "c0ffee" + "0" * 34
    extra_paths: tuple[str, ...] = ()
    untold: frozenset[str] = frozenset()
    etags: Mapping[str, str] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    page: bytes = b""

    def oid(self, path: str) -> str:
        if path in self.plain:
            return hashlib.sha1(b"blob %d\0" % len(self.files[path]) + self.files[path]).hexdigest()
        return self.claimed.get(path) or hashlib.sha256(self.files[path]).hexdigest()


@dataclass
class HubServer:
    """What runs: its URL, what it was asked, and how much it sent."""

    repositories: dict[str, HubRepo]
    search_status: int = 200
    url: str = ""
    cdn_url: str = ""
    requests: list[str] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tokens_at_cdn: list[str] = field(default_factory=list)
    open_transfers: int = 0
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    oids: dict[tuple[int, str], str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def served_bytes(self) -> int:
        return sum(self.served.values())

    def oid(self, repository: HubRepo, path: str) -> str:
        """Hashed once: the same repository is asked about many times."""
        key = (id(repository), path)
        if key not in self.oids:
            self.oids[key] = repository.oid(path)
        return self.oids[key]


@contextmanager
def hub_server(repositories: dict[str, HubRepo]) -> Iterator[HubServer]:
    """Serve until the block ends."""
    hub = HubServer(repositories)
    kinds = [type(kind.__name__, (kind,), {"hub": hub}) for kind in (_ApiHandler, _CdnHandler)]
    with serving(*kinds) as (hub.url, hub.cdn_url):
        yield hub


class Handler(BaseHTTPRequestHandler):
    """What both origins of a server have in common."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


def send_file(
    handler: BaseHTTPRequestHandler,
    data: bytes,
    fault: Fault,
    pace: Pace,
    count: Callable[[int], None],
    size: int | None = None,
) -> None:
    """Answer with `data` from where the Range header says, as a CDN does; `count` hears what was sent.

    Of a larger file of `size` bytes `data` is the beginning, and the connection ends behind it.
    """
    size = len(data) if size is None else size
    handler.close_connection = size > len(data)
    wanted = handler.headers.get("Range", "")
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not fault.ignores_range else 0
    if start and start >= len(data):
        handler.send_error(416)
        return
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(size - start))
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    handler.end_headers()
    end = len(data) if fault.reset_after_bytes < 0 else start + fault.reset_after_bytes
    # Small buffers, so that what counts as served is not what merely lies in the kernel.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _PIECE_BYTES)
    for at in range(start, min(end, len(data)), pace.piece_bytes):
        piece = memoryview(data)[at : min(at + pace.piece_bytes, end)]
        handler.wfile.write(piece)
        count(len(piece))
        if pace.bytes_per_second:
            time.sleep(len(piece) / pace.bytes_per_second)
    if fault.reset_after_bytes >= 0:
        # A RST rather than an orderly end.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True


class _ApiHandler(Handler):
    hub: HubServer

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if old := next((old for old in self.hub.renamed if f"{old}/" in f"{path}/"), None):
            self.answer(307, {"Location": self.path.replace(old, self.hub.renamed[old])})
        elif path == "/api/models":
            self._search(parse_qs(urlsplit(self.path).query))
        elif path.startswith("/api/models/"):
            self._models("/".join(parts[2:4]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.answer(404)

    do_HEAD = do_GET  # noqa: N815 - http.server's names

    def _models(self, name: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if repository.api_faults:
            self.answer(repository.api_faults.pop(0))
            return
        body = repository.page or json.dumps(_info(self.hub, name, repository)).encode()
        self.answer(200, {"Content-Type": "application/json"}, body)

    def _search(self, query: dict[str, list[str]]) -> None:
        if self.hub.search_status != 200:
            self.answer(self.hub.search_status)
            return
        assert ["gguf"] == query["filter"]
        assert ["downloads"] == query["sort"]
        word = query.get("search", [""])[0].lower()
        found = [
            {"id": name, "downloads": repo.downloads, "gated": repo.is_gated and "manual", "gguf": repo.gguf}
            for name, repo in sorted(self.hub.repositories.items(), key=lambda item: -item[1].downloads)
            if all(part in name.lower() for part in word.split())
        ]
        listed = found[: int(query["limit"][0])]
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(listed).encode())

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if repository.is_gated and self._token() != repository.token:
            self.answer(
                403 if self._token() else 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": repository.refusal}
            )
        elif path not in repository.files or path in repository.lost or revision not in (repository.commit, "main"):
            self.answer(404, {"X-Error-Code": "EntryNotFound"})
        else:
            headers = {
                "X-Repo-Commit": repository.commit,
                "X-Linked-Etag": f'"{repository.etags.get(path) or self.hub.oid(repository, path)}"',
                "X-Linked-Size": str(len(repository.files[path])),
                "ETag": '"etag-of-the-redirect"',
                "Location": f"{self.hub.cdn_url}/{quote(name)}/{quote(path)}?signature=x",
            }
            if repository.etags.get(path) == "":
                del headers["X-Linked-Etag"]
            self.answer(302, headers)

    def _repository(self, name: str) -> HubRepo | None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.token and not repository.is_gated and self._token() != repository.token):
            self.answer(401, {"X-Error-Code": "RepoNotFound"}, b'{"error":"Invalid username or password."}')
            return None
        return repository

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


def _info(hub: HubServer, name: str, repository: HubRepo) -> dict[str, Any]:
    siblings = []
    for path, data in repository.files.items():
        if path in repository.untold:
            siblings.append({"rfilename": path})
            continue
        oid = hub.oid(repository, path)
        size = hub.claimed_sizes.get(f"{name}/{path}", len(data))
        lfs = {"size": size, "sha256": oid, "pointerSize": 134}
        more = {"blobId": oid} if path in repository.plain else {"blobId": "0" * 40, "lfs": lfs}
        siblings.append({"rfilename": path, "size": size, **more})
    siblings += [{"rfilename": path, "size": 1, "blobId": "0" * 40} for path in repository.extra_paths]
    card = {"cardData": {"license": repository.license}} if repository.license else {}
    gated = "manual" if repository.is_gated else False
    return {"id": name, "modelId": name, "sha": repository.commit, "gated": gated, "siblings": siblings, **card}


class _CdnHandler(Handler):
    hub: HubServer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        owner, name, file = path.split("/", 2)
        repository = self.hub.repositories[f"{owner}/{name}"]
        if token := self.headers.get("Authorization"):
            self.hub.tokens_at_cdn.append(token)
        faults = repository.faults.get(file)
        fault = faults.pop(0) if faults else Fault()
        if fault.status:
            self.answer(fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else None, fault.page)
            return
        self.hub.open_transfers += 1
        try:
            pace = Pace(repository.bytes_per_second, repository.piece_bytes)
            data, size = repository.files[file], self.hub.claimed_sizes.get(path)
            send_file(self, data, fault, pace, lambda count: self._count(path, count), size)
        finally:
            self.hub.open_transfers -= 1

    def _count(self, path: str, count: int) -> None:
        self.hub.served[path] += count
