"""Ollama's registry, asked in the OCI distribution protocol, and the folder where its blobs belong. A Source.

    GET /v2/library/llama3.2/manifests/3b      which layers (image.py reads it)
    GET /v2/library/llama3.2/blobs/sha256:…    one of them; redirects to a CDN
    401 WWW-Authenticate: Bearer realm=…       an anonymous token is asked there, and the request sent again

    <models_dir>/localllm/blobs/
    ├── sha256-<hex>                a whole, verified file; a manifest refers to it where it lies
    ├── sha256-<hex>.incomplete     the beginning of one; download.py appends to it
    └── .locks/sha256-<hex>.lock    who downloads it

A registry's address comes from the settings alone, never from a model's name. Nobody logs in: public models only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
from filelock import FileLock

from localllm.errors import HubAccessError, HubError, LocalllmError, NotOnHubError, WrongHashError
from localllm.store.answers import Refusal, network_error, passing_error, place_of, refuse_compressed, trust_error
from localllm.store.image import MANIFEST_TYPE, MAX_MANIFEST_BYTES, MAX_TEXT_BYTES, Image, Text, image_of
from localllm.store.repository import HubFile, Repository
from localllm.store.source import STALL_SECONDS, Opened
from localllm.version import __version__

_MAX_REDIRECTS = 5
_MAX_TOKEN_BYTES = 2**16
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_NETWORK_HINT = "check the network, LOCALLLM_REGISTRY and the proxy; the same command goes on where this one stopped"


class Registry:
    """The registry at `url`, and the blobs in `blobs_dir`. Close it, or use it as a context manager.

    `transport` replaces the network (httpx.MockTransport in tests).
    """

    title = "the registry"
    moved_by = "LOCALLLM_MODELS"

    def __init__(self, url: str, blobs_dir: Path, transport: httpx.BaseTransport | None = None) -> None:
        self.cache_dir = blobs_dir
        self._url = url.rstrip("/")
        self._token = ""
        try:
            self._http = self._client(transport)
        except OSError as error:
            raise trust_error(error) from error

    def _client(self, transport: httpx.BaseTransport | None) -> httpx.Client:
        return httpx.Client(
            headers={"User-Agent": f"localllm/{__version__}", "Accept-Encoding": "identity"},
            timeout=STALL_SECONDS,
            follow_redirects=True,  # to a CDN, without the token; asked anew each time, since its links expire
            max_redirects=_MAX_REDIRECTS,
            event_hooks={"request": [self._refuse_downgrade]},
            transport=transport,
        )

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def look_up(self, repository_id: str, tag: str) -> Image:
        """What the registry has under "library/llama3.2" and this tag now. Raises HubError's kinds, NotOnHubError."""
        what = f"{repository_id}:{tag}"
        with self._answer(f"/v2/{repository_id}/manifests/{tag}", what, {"Accept": MANIFEST_TYPE}) as response:
            data = _body(response, MAX_MANIFEST_BYTES, f"the registry's manifest of {what}")
        return image_of(repository_id, tag, hashlib.sha256(data).hexdigest(), data)

    def read(self, image: Image, text: Text) -> bytes:
        """The bytes of a small layer, verified. Raises HubError's kinds."""
        file = text.file
        with self._answer(_blob_path(image.repository, file), file.path) as response:
            data = _body(response, MAX_TEXT_BYTES, f"the {text.kind}")
        if hashlib.sha256(data).hexdigest() != file.oid:
            message = f"the registry sends another {text.kind} of {image.repository.id} than its digest says"
            raise WrongHashError(message, hint="pull it again; a proxy may have changed it")
        return data

    @contextmanager
    def open(self, repository: Repository, file: HubFile, start: int, piece_bytes: int) -> Iterator[Opened]:
        """The bytes of `file` from `start` on, in pieces. Raises SourceBusyError for what may pass, else HubError."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._answer(_blob_path(repository, file), file.name, headers) as response:
            place = place_of(response.status_code, response.headers, self._url, file.name)
            yield Opened(place, response.iter_raw(piece_bytes))

    def find(self, repository: Repository, file: HubFile) -> Path | None:
        """The blob when it is there whole, whichever model brought it."""
        blob = self.blob(repository, file)
        return blob if blob.is_file() and blob.stat().st_size == file.size_bytes else None

    def blob(self, repository: Repository, file: HubFile) -> Path:
        """Where the whole file is, or will be."""
        return self.cache_dir / f"sha256-{file.oid}"

    link = blob

    @contextmanager
    def lock(self, repository: Repository, file: HubFile, seconds: float | None) -> Iterator[None]:
        """Hold off other processes of ours that download this file. Raises TimeoutError when one still does in time."""
        path = self.cache_dir / ".locks" / f"sha256-{file.oid}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path, timeout=-1 if seconds is None else seconds):
            yield

    @contextmanager
    def _answer(self, path: str, what: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """A successful answer, its body not yet read."""
        with self._errors(), ExitStack() as stack:
            response = stack.enter_context(self._stream(path, headers or {}))
            if response.status_code == 401 and (challenge := response.headers.get("WWW-Authenticate")):
                self._token = self._anonymous_token(challenge)
                response = stack.enter_context(self._stream(path, headers or {}))
            if not response.is_success:
                raise self._answer_error(response, what)
            refuse_compressed(response.headers, self._url, what)
            yield response

    @contextmanager
    def _stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        token = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        with self._http.stream("GET", f"{self._url}{path}", headers={**headers, **token}) as response:
            yield response

    def _anonymous_token(self, challenge: str) -> str:
        """The token that a WWW-Authenticate header says where to get. Raises HubError for one that leads elsewhere."""
        values = dict(_PARAMETER.findall(challenge))
        realm = values.pop("realm", "")
        if not challenge.lower().startswith("bearer ") or not self._is_ours(realm):
            raise HubError(f"{self._url} asks for a login in a way that is not followed: {challenge[:120]!a}")
        query = {name: value for name, value in values.items() if name in ("service", "scope")}
        with self._http.stream("GET", realm, params=query) as response:
            if not response.is_success:
                raise self._answer_error(response, "a token")
            data = _body(response, _MAX_TOKEN_BYTES, "the token")
        try:
            answer = msgspec.json.decode(data, type=dict[str, object])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise HubError(f"{self._url} gives a token that cannot be read: {error}") from error
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise HubError(f"{self._url} gives no token to people who have not logged in")
        return token

    def _is_ours(self, realm: str) -> bool:
        """A token is asked of the registry's own host only: a login elsewhere is a way to lead requests astray."""
        ours, theirs = urlsplit(self._url), urlsplit(realm)
        return (ours.scheme, ours.hostname) == (theirs.scheme, theirs.hostname)

    def _refuse_downgrade(self, request: httpx.Request) -> None:
        if request.url.scheme != "https" and self._url.startswith("https:"):
            raise HubError(f"{self._url} leads to {request.url.host} without encryption, which is not followed")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the HTTP library's errors into ours."""
        try:
            yield
        except httpx.HTTPError as error:
            raise network_error(error, self._url, _NETWORK_HINT) from error

    def _answer_error(self, response: httpx.Response, what: str) -> LocalllmError:
        status = response.status_code
        refusal = Refusal(status, str(response.url), response.headers)
        if passing := passing_error(refusal, self._url, what, _NETWORK_HINT):
            return passing
        if status in (404, 410):
            hint = "check the name and the tag; the registry's page of the model lists its tags"
            return NotOnHubError(f"{what} is not on {self._url}", hint=hint)
        if status in (401, 403):
            hint = "it may be private; localllm pulls public models only"
            return HubAccessError(f"{self._url} refuses {what} to people who have not logged in ({status})", hint=hint)
        return HubError(f"{self._url} answered {status} for {what}")


def _blob_path(repository: Repository, file: HubFile) -> str:
    return f"/v2/{repository.id}/blobs/sha256:{file.oid}"


def _body(response: httpx.Response, limit_bytes: int, what: str) -> bytes:
    data = bytearray()
    for piece in response.iter_raw(2**16):
        data += piece
        if len(data) > limit_bytes:
            raise HubError(f"{what} is larger than {limit_bytes} bytes")
    return bytes(data)
