"""Who may talk to the daemon, decided before a handler runs: Host, Origin (CORS), API key, size of the body.

    Host    a loopback, private or own address, localhost, *.localhost, *.local, *.internal, this machine's name or the
            configured host; anything else is a web page that made its own name point here (DNS rebinding) → 403
    Origin  none (no browser), a local page or an editor's webview, the page's own server, or LOCALLLM_ORIGINS; anything
            else → 403, also for the simple POSTs that browsers send without asking
    key     when other machines can reach the daemon, or LOCALLLM_API_KEY or LOCALLLM_REQUIRE_KEY is set:
            `Authorization: Bearer` or `x-api-key` → else 401. Without a key stay GET and HEAD of OPEN_PATHS, by
            which clients look whether someone is there and what can be asked; they tell nothing of this machine
    scope   a key may `infer`, `manage` or both; without a key this machine may both, but nobody else may manage → 403
    body    at most LOCALLLM_MAX_BODY_BYTES, counted while it is read if its length was not announced → 413; a file that
            is sent to UNLIMITED_PATH goes to the disk and may have any size; one that comes too slowly → 408 (bodies)

The checks are pure functions; `Access` is the plain ASGI layer that applies them on every bind.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.config import Settings
from localllm.errors import AccessDeniedError, BadRequestError, LocalllmError, PayloadTooLargeError, UnauthorizedError
from localllm.server.bodies import limited
from localllm.server.keyring import Holder, Keyring, sent_key
from localllm.server.progress import HEADER_NAMES
from localllm.server.replies import FULL_QUEUE_HEADERS, IGNORED_HEADER, error_response

OPEN_PATHS = frozenset({"/", "/api/version", "/api/hello", "/health", "/v1/health", "/openapi.json", "/docs"})
UNLIMITED_PATH = "/api/blobs/"
MANAGED_PATHS = frozenset({"/api/pull", "/api/create", "/api/copy", "/api/delete"})
FORWARDED_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
# What the checks leave in the ASGI scope: the headers as a dict, a Holder or None, and a bool.
HEADERS, HOLDER, MAY_MANAGE = "localllm.headers", "localllm.holder", "localllm.may_manage"
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
LOCAL_ORIGIN_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})
EDITOR_SCHEMES = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = (
    "authorization, content-type, user-agent, accept, x-requested-with, x-api-key, anthropic-version, anthropic-beta, "
    "anthropic-dangerous-direct-browser-access, openai-beta, openai-organization, openai-project, x-stainless-lang, "
    "x-stainless-package-version, x-stainless-os, x-stainless-arch, x-stainless-retry-count, x-stainless-runtime, "
    "x-stainless-runtime-version, x-stainless-async, x-stainless-helper-method, x-stainless-poll-helper, "
    "x-stainless-custom-poll-interval, x-stainless-timeout, x-request-timeout, x-localllm-priority, x-localllm-client"
)
PREFLIGHT_SECONDS = "43200"
EXPOSED_HEADERS = ", ".join(
    ("retry-after", "x-should-retry", "x-request-id", "request-id", IGNORED_HEADER, *FULL_QUEUE_HEADERS, *HEADER_NAMES)
)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What the checks need. Hosts are lower case; `origins` are exact or hold `*`."""

    hosts: frozenset[str]
    origins: tuple[re.Pattern[str], ...]
    keyring: Keyring
    needs_key: bool
    max_body_bytes: int
    body_seconds: float


def rules_from(settings: Settings, machine_name: str, *, is_exposed: bool = False) -> AccessRules:
    """The rules of a daemon on a machine of that name; `is_exposed`: other machines can reach it."""
    origins = tuple(_pattern(origin) for origin in settings.origins)
    hosts = frozenset({settings.address.host.lower(), machine_name.lower()} - {""})
    keyring = Keyring(settings.api_key, settings.keys_file)
    needs_key = is_exposed or settings.require_key or bool(settings.api_key)
    return AccessRules(hosts, origins, keyring, needs_key, settings.max_body_bytes, settings.body_timeout_seconds)


def host_is_allowed(host_header: str, rules: AccessRules, own_address: str) -> bool:
    """Whether a Host header can be ours. `own_address` is the address the connection came in on."""
    host = _host_of(host_header)
    if host is None:
        return False
    if host in ("", "localhost") or host in rules.hosts or host.endswith(LOCAL_SUFFIXES):
        return True
    address = _address_of(host)
    if address is None:
        return False
    own = host == own_address.split("%", 1)[0]
    return own or address.is_loopback or address.is_private or address.is_unspecified


def origin_is_allowed(origin: str, host_header: str, rules: AccessRules) -> bool:
    """Whether a page of `origin` may use the API. `host_header` is known to be ours: a page from there is our own."""
    if any(pattern.fullmatch(origin) for pattern in rules.origins):
        return True
    try:
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme in EDITOR_SCHEMES:
        return True
    if parts.scheme not in ("http", "https"):
        return False
    return host in LOCAL_ORIGIN_HOSTS or parts.netloc.lower() == host_header.lower()


def manages(path: str) -> bool:
    """Whether a request changes which models there are, or writes files."""
    return path in MANAGED_PATHS or path.startswith(UNLIMITED_PATH)


def is_local(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from this machine itself, and not through a proxy on it."""
    host = str((scope.get("client") or ("",))[0]).split("%", 1)[0]
    address = _address_of(host)
    if address is None:  # a Unix socket has none: only this machine can reach it
        return host == ""
    return address.is_loopback and not any(name in headers for name in FORWARDED_HEADERS)


def announced_length(headers: Mapping[str, str]) -> int | None:
    """The body's length as Content-Length says it; None when it does not. Raises BadRequestError."""
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise BadRequestError("Content-Length is not a number")
    return int(text)


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raises BadRequestError for a body that is compressed: a few bytes of it could become any number."""
    encoding = headers.get("content-encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        raise BadRequestError(
            f"a body with the Content-Encoding {encoding[:40]!r} is not read", hint="send it as it is, without one"
        )


class Access:
    """The ASGI layer. Answers what is not allowed; everything else goes on with a body that counts itself."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope[HEADERS] = _headers_of(scope)
        origin = headers.get("origin")
        try:
            self._check_host(scope)
            self._check_origin(origin, headers)
        except AccessDeniedError as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        if origin is not None:
            send = _with_origin(send, origin)
        if scope["method"] == "OPTIONS":
            await _preflight(headers)(scope, receive, send)
            return
        is_unlimited = scope["path"].startswith(UNLIMITED_PATH)
        try:
            self._check_key(scope, headers)
            _check_scope(scope)
            check_encoding(headers)
            length = announced_length(headers)
            if length is not None and length > self._rules.max_body_bytes and not is_unlimited:
                raise PayloadTooLargeError(self._rules.max_body_bytes)
        except LocalllmError as error:
            await error_response(error, scope["path"])(scope, receive, send)
            return
        most_bytes = math.inf if is_unlimited else self._rules.max_body_bytes
        await self._app(scope, limited(receive, most_bytes, self._rules.body_seconds), send)

    def _check_host(self, scope: Scope) -> None:
        own_address = str((scope.get("server") or ("",))[0])
        for host in (value.decode("latin-1") for name, value in scope["headers"] if name == b"host"):
            if not host_is_allowed(host, self._rules, own_address):
                raise AccessDeniedError(
                    f"the Host header names '{host}', which is not this server",
                    hint="use localhost or this machine's address, or set LOCALLLM_HOST to that name",
                )

    def _check_origin(self, origin: str | None, headers: Mapping[str, str]) -> None:
        if origin is not None and not origin_is_allowed(origin, headers.get("host", ""), self._rules):
            raise AccessDeniedError(
                f"pages of '{origin}' may not use this server", hint="LOCALLLM_ORIGINS lists those that may"
            )

    def _check_key(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Leave in `scope` who asks and whether they may manage. Raises UnauthorizedError."""
        holder = self._rules.keyring.holder(headers) if sent_key(headers) else None
        scope[HOLDER] = holder
        scope[MAY_MANAGE] = "manage" in holder.scopes if holder is not None else is_local(scope, headers)
        is_open = scope["path"] in OPEN_PATHS and scope["method"] in ("GET", "HEAD")
        if self._rules.needs_key and holder is None and not is_open:
            raise UnauthorizedError(
                "an API key is needed",
                hint="send one as 'Authorization: Bearer KEY'; `localllm key new NAME` makes one on the server",
            )


def _headers_of(scope: Scope) -> dict[str, str]:
    """By their names, which ASGI has in lower case; the first of those that were sent more than once."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


def _check_scope(scope: Scope) -> None:
    holder: Holder | None = scope[HOLDER]
    if manages(scope["path"]):
        if not scope[MAY_MANAGE]:
            raise AccessDeniedError(
                "only this machine, or a key with the scope manage, may change which models there are",
                hint="`localllm key new NAME --scope infer,manage` makes one on the server",
            )
    elif holder is not None and "infer" not in holder.scopes and scope["method"] == "POST":
        raise AccessDeniedError(
            f"the key '{holder.name}' may manage models but not ask them",
            hint="`localllm key new NAME --scope infer,manage` makes one that may both",
        )


# The same few hosts and clients ask again and again.
@lru_cache(maxsize=64)
def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _host_of(header: str) -> str | None:
    """The host in lower case without brackets, port and final dot; None if this is no host."""
    try:
        parts = urlsplit(f"//{header.strip()}")
        _ = parts.port  # raises for a port that is none
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return (parts.hostname or "").removesuffix(".")


def _pattern(origin: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in origin.rstrip("/").split("*")), re.IGNORECASE)


def _preflight(headers: Mapping[str, str]) -> Response:
    if "origin" not in headers:
        return Response(status_code=204, headers={"allow": ALLOWED_METHODS})
    asked = headers.get("access-control-request-headers", "")
    extra = f", {asked}" if asked and _HEADER_NAMES.fullmatch(asked) else ""
    answer = {
        "access-control-allow-methods": ALLOWED_METHODS,
        "access-control-allow-headers": ALLOWED_HEADERS + extra,
        "access-control-max-age": PREFLIGHT_SECONDS,
    }
    if headers.get("access-control-request-private-network") == "true":
        answer["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=answer)


def _with_origin(send: Send, origin: str) -> Send:
    extra: Iterable[tuple[bytes, bytes]] = (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
        (b"vary", b"Origin"),
    )

    async def send_with_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return send_with_origin
