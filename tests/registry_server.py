"""An OCI registry on loopback as Ollama's speaks it: manifests, blobs that redirect to a CDN, an anonymous token.

    with registry_server({"library/tiny:latest": RegistryModel(model=data, template="…")}) as registry:
        … LOCALLLM_REGISTRY=registry.url …
        registry.served_bytes()                      bytes of blobs that left the CDN

The CDN is another origin. A fault (hub_server.Fault) is used once, in order, by the next GET of a model's layer.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hub_server import Fault, Handler, Pace, send_file
from loopback_servers import serving

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
PREFIX = "application/vnd.ollama.image."
TOKEN = "an-anonymous-token"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class RegistryModel:
    """A model: its weights and its texts. `more` are further layers, kind and bytes; `faults` hit any of its blobs.

    `manifest` replaces the whole document; `claimed` says another digest for a layer's kind than its bytes have.
    """

    model: bytes | None = None
    template: str | None = None
    system: str | None = None
    params: dict[str, Any] | str | None = None
    messages: list[dict[str, str]] | None = None
    licenses: tuple[str, ...] = ()
    more: tuple[tuple[str, bytes], ...] = ()
    claimed: dict[str, str] = field(default_factory=dict)
    manifest: bytes | None = None
    manifest_faults: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)

    def layers(self) -> list[tuple[str, bytes]]:
        texts = {"template": self.template, "system": self.system}
        layers = [("model", self.model)] if self.model is not None else []
        layers += [(kind, text.encode()) for kind, text in texts.items() if text is not None]
        for kind, value in (("params", self.params), ("messages", self.messages)):
            if value is not None:
                layers.append((kind, value.encode() if isinstance(value, str) else json.dumps(value).encode()))
        return layers + [("license", text.encode()) for text in self.licenses] + list(self.more)

    def document(self) -> bytes:
        if self.manifest is not None:
            return self.manifest
        layers = [
            {"mediaType": PREFIX + kind, "digest": self.claimed.get(kind) or digest(data), "size": len(data)}
            for kind, data in self.layers()
        ]
        config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest(b"{}"), "size": 2}
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}).encode()

    def blob(self, wanted: str) -> bytes | None:
        named = {self.claimed.get(kind) or digest(data): data for kind, data in self.layers()}
        return named.get(wanted)


@dataclass
class RegistryServer:
    """What runs: its URL, what it was asked, how much it sent, and to whom."""

    models: dict[str, RegistryModel]
    needs_token: bool = False
    realm: str = ""
    url: str = ""
    cdn_url: str = ""
    requests: list[str] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tokens_at_cdn: list[str] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    open_transfers: int = 0

    def served_bytes(self) -> int:
        return sum(self.served.values())


@contextmanager
def registry_server(models: dict[str, RegistryModel], *, needs_token: bool = False) -> Iterator[RegistryServer]:
    """Serve until the block ends."""
    registry = RegistryServer(models, needs_token)
    kinds = [type(kind.__name__, (kind,), {"registry": registry}) for kind in (_RegistryHandler, _CdnHandler)]
    with serving(*kinds) as (registry.url, registry.cdn_url):
        yield registry


class _RegistryHandler(Handler):
    registry: RegistryServer

    def do_GET(self) -> None:  # noqa: N802 - http.server's names
        self.registry.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        if url.path == "/token":
            self.registry.scopes += parse_qs(url.query).get("scope", [])
            self.answer(200, {"Content-Type": "application/json"}, json.dumps({"token": TOKEN}).encode())
        elif self.registry.needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._challenge(url.path)
        else:
            self._serve(url.path.strip("/").split("/"))

    do_HEAD = do_GET  # noqa: N815 - likewise

    def _challenge(self, path: str) -> None:
        realm = self.registry.realm or f"{self.registry.url}/token"
        scope = f"repository:{'/'.join(path.split('/')[2:4])}:pull"
        challenge = f'Bearer realm="{realm}",service="registry",scope="{scope}"'
        self.answer(401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')

    def _serve(self, parts: list[str]) -> None:
        if len(parts) != 5 or parts[0] != "v2" or parts[3] not in ("manifests", "blobs"):
            self.answer(404)
        elif parts[3] == "manifests":
            self._manifest(self.registry.models.get(f"{parts[1]}/{parts[2]}:{parts[4]}"))
        elif any(model.blob(parts[4]) is not None for model in self.registry.models.values()):
            self.answer(307, {"Location": f"{self.registry.cdn_url}/{parts[4]}?signature=x"})
        else:
            self.answer(404)

    def _manifest(self, model: RegistryModel | None) -> None:
        if model is None or self.headers.get("Accept") != MANIFEST_TYPE:
            self.answer(404, None, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        elif model.manifest_faults:
            self.answer(model.manifest_faults.pop(0))
        else:
            self.answer(200, {"Content-Type": MANIFEST_TYPE}, model.document())


class _CdnHandler(Handler):
    registry: RegistryServer

    def do_GET(self) -> None:  # noqa: N802 - http.server's names
        wanted = urlsplit(self.path).path.lstrip("/")
        model = next(model for model in self.registry.models.values() if model.blob(wanted) is not None)
        data = model.blob(wanted)
        assert data is not None
        if token := self.headers.get("Authorization"):
            self.registry.tokens_at_cdn.append(token)
        fault = model.faults.pop(0) if model.faults and data is model.model else Fault()
        if fault.status:
            self.answer(fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else None)
            return
        self.registry.open_transfers += 1
        try:
            send_file(self, data, fault, model.pace, lambda count: self._count(wanted, count))
        finally:
            self.registry.open_transfers -= 1

    def _count(self, wanted: str, count: int) -> None:
        self.registry.served[wanted] += count
