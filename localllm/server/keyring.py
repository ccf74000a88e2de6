"""The keys a daemon accepts, as they are now: a key that is made or revoked counts from the next request on."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import ConfigError
from localllm.keys import SCOPES, Key, Scope, find_key, read_keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who brought a right key: `name` and `id` are its own, or "" of LOCALLLM_API_KEY, which may do everything."""

    name: str
    scopes: tuple[Scope, ...]
    id: str = ""


class Keyring:
    """`shared` is LOCALLLM_API_KEY, "" for none; `path` is the file that `localllm key` writes."""

    def __init__(self, shared: str, path: Path) -> None:
        self._mark_key = secrets.token_bytes(32)
        self._shared = self._mark(shared.encode()) if shared else b""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    def holder(self, headers: Mapping[str, str]) -> Holder | None:
        """Who the key of a request belongs to; None without a right one."""
        sent = sent_key(headers)
        # Header text is Latin-1 by ASGI's rules: this gives the bytes back as they were sent.
        raw = sent.encode("latin-1")
        if self._shared and hmac.compare_digest(self._mark(raw), self._shared):
            return Holder("", SCOPES)
        key = find_key(sent, self._current())
        return Holder(key.name, key.scopes, key.id) if key is not None else None

    def _mark(self, text: bytes) -> bytes:
        """A digest of one length: comparing the texts would tell how long the right one is."""
        return hashlib.blake2b(text, key=self._mark_key, digest_size=32).digest()

    def _current(self) -> tuple[Key, ...]:
        """The file's keys, read anew when it has changed; none while it cannot be read."""
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:  # no key was ever made, or nobody may look
            self._seen, self._keys = None, ()
            return ()
        if seen != self._seen:
            self._seen, self._keys = seen, ()
            try:
                self._keys = read_keys(self._path)
            except ConfigError as error:
                logger.error("%s; no key of it is accepted", error)
        return self._keys


def sent_key(headers: Mapping[str, str]) -> str:
    """`Authorization: Bearer KEY` or `x-api-key: KEY`; "" for neither. `headers` are found by names in lower case."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
