"""Hugging Face's hub and its cache on this machine: lists and searches, opens a file's bytes, knows where they belong.

    <HF_HUB_CACHE>/models--OWNER--REPO/
    ├── refs/main                   the commit that was looked at last
    ├── blobs/<etag>                a whole file; the etag is its sha256, or the git hash of a small one
    ├── blobs/<etag>.incomplete     the beginning of one; download.py appends to it
    └── snapshots/<commit>/<path>   a link to the blob

The only importer of huggingface_hub, and run in the processes of a pull and a search alone: HF_ENDPOINT, HF_TOKEN,
HF_HOME, HF_HUB_OFFLINE and the proxies are read by that library when it is imported. Its HTTP client, its errors, its
lock and its cache are used. Its download is not, nor hf-xet, which can be had through hf_hub_download() alone:

    resume   every call writes to a temporary file of a random name and deletes it on failure (2.4: "_download_to_tmp_
             and_move"), so that what a kill or a lost network leaves is never taken up again
    verify   neither compares a sha256, and hf-xet writes chunks as they come: hashing them would be a second reading
    limit    neither has a rate

The hub serves every file that lies in Xet storage over plain HTTP with ranges too, and says its sha256.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are public, but not listed in an __all__
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from localllm.errors import HubAccessError, HubError, LocalllmError, NotOnHubError
from localllm.store.answers import Refusal, SourceBusyError, first_byte, passing_error
from localllm.store.repository import HubFile, Repository
from localllm.store.source import STALL_SECONDS, Opened
from localllm.version import __version__

_HEXADECIMAL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_WHERE_A_TOKEN_COMES_FROM = "log in with `hf auth login`, or start the daemon with HF_TOKEN set"


def _network_error() -> type[Exception]:
    # The HTTP library differs between versions of huggingface_hub (httpx, httpx2); its errors have this root in both.
    root = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    assert issubclass(root, Exception)
    return root


_NETWORK_ERROR = _network_error()


SEARCH_SECONDS = 10.0


_EXPANDED = (("expand", "downloads"), ("expand", "gated"), ("expand", "gguf"))


class _GgufFacts(msgspec.Struct):
    architecture: str | None = None
    total: int | None = None


class _Listed(msgspec.Struct):
    id: str
    downloads: int | None = None
    gated: bool | str | None = None
    gguf: _GgufFacts | None = None


_listing = msgspec.json.Decoder(list[_Listed])


@dataclass(frozen=True, slots=True)
class Found:
    """A repository that a search found. What the hub does not say of it is 0, "" or False."""

    id: str
    downloads: int = 0
    is_gated: bool = False
    architecture: str = ""
    parameter_count: int = 0


class Hub:
    """The hub that HF_ENDPOINT names, and the cache under HF_HOME. A Source."""

    title = "the hub"
    moved_by = "HF_HOME"

    def __init__(self) -> None:
        self.cache_dir = Path(constants.HF_HUB_CACHE)
        self._endpoint = constants.ENDPOINT
        self._api = HfApi(library_name="localllm", library_version=__version__)

    def look_up(self, repository_id: str) -> Repository:
        """What lies in the repository now; offline, what lies of it in the cache. Raises HubError, NotOnHubError."""
        if constants.HF_HUB_OFFLINE:
            return self._look_up_in_cache(repository_id)
        with self._errors(repository_id):
            info = self._api.model_info(repository_id, files_metadata=True, timeout=STALL_SECONDS)
        commit = info.sha or ""
        if not _is_hash(commit):
            raise HubError(f"{self._endpoint} does not say which commit of {repository_id} it has")
        license_name = info.card_data.get("license") if info.card_data else None
        files = []
        for sibling in info.siblings or ():
            _refuse_unsafe(sibling.rfilename, repository_id)
            oid = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            if sibling.size is not None and oid and _is_hash(oid):
                files.append(HubFile(sibling.rfilename, sibling.size, oid))
        is_gated = bool(info.gated)
        return Repository(
            info.id, commit, tuple(files), license_name if isinstance(license_name, str) else None, is_gated
        )

    def search(self, words: str, limit: int) -> tuple[Found, ...]:
        """The repositories with GGUF files that have `words` in their names, the most downloaded first.

        Raises HubError, offline too.
        """
        if constants.HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set")
        # Not list_models(), which waits for ever for an answer, and tries for half a minute where there is no network.
        asked = (("search", words), ("filter", "gguf"), ("sort", "downloads"), ("limit", limit))
        headers = build_hf_headers(library_name="localllm", library_version=__version__)
        with self._errors(words):
            url = f"{self._endpoint}/api/models"
            response = get_session().get(url, params=[*asked, *_EXPANDED], headers=headers, timeout=SEARCH_SECONDS)
            hf_raise_for_status(response)
        try:
            return tuple(_found(info) for info in _listing.decode(response.content))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise HubError(f"{self._endpoint} answers with something else than a list of models: {error}") from error

    def _look_up_in_cache(self, repository_id: str) -> Repository:
        reference = self._folder(repository_id) / "refs" / "main"
        try:
            commit = reference.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            commit = ""
        snapshot = self._folder(repository_id) / "snapshots" / commit
        if not _is_hash(commit) or not snapshot.is_dir():
            raise NotOnHubError(
                f"{repository_id} is not in the cache, and HF_HUB_OFFLINE forbids to look for it on the hub",
                hint="unset HF_HUB_OFFLINE and start the daemon again",
            )
        paths = sorted(path for path in snapshot.rglob("*") if path.is_file())
        files = (HubFile(str(path.relative_to(snapshot)), path.stat().st_size, path.resolve().name) for path in paths)
        return Repository(repository_id, commit, tuple(files), is_offline=True)

    @contextmanager
    def open(self, repository: Repository, file: HubFile, start: int, piece_bytes: int) -> Iterator[Opened]:
        """The bytes of `file` from `start` on, in pieces. Raises SourceBusyError for what may pass, else HubError."""
        url = f"{self._endpoint}/{repository.id}/resolve/{repository.commit}/{quote(file.path)}"
        headers = build_hf_headers(library_name="localllm", library_version=__version__)
        headers |= {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with (
            self._errors(repository.id),
            # Redirects to a CDN are followed without the token; it is asked anew each time, since its links expire.
            get_session().stream("GET", url, headers=headers, timeout=STALL_SECONDS, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise HubError(f"{self._endpoint} sends {file.path} compressed, though that was not asked for")
            start = first_byte(response.status_code, response.headers.get("Content-Range", ""))
            yield Opened(start, response.iter_raw(piece_bytes))

    def find(self, repository: Repository, file: HubFile) -> Path | None:
        """The file's path when it is in the cache whole; also when only its link is missing."""
        linked = self._folder(repository.id) / "snapshots" / repository.commit / file.path
        if _size_of(linked) == file.size_bytes:
            return linked
        if _size_of(self.blob(repository, file)) == file.size_bytes and not constants.HF_HUB_OFFLINE:
            return self.link(repository, file)
        return None

    def link(self, repository: Repository, file: HubFile) -> Path:
        """Give the finished blob its readable name, by the library's own way where links cannot be made."""
        with self._errors(repository.id):
            path = Path(hf_hub_download(repository.id, file.path, revision=repository.commit))
        reference = self._folder(repository.id) / "refs" / "main"
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary = reference.with_name(f".main.{repository.commit}")
        temporary.write_text(repository.commit, encoding="ascii")
        temporary.replace(reference)
        return path

    def blob(self, repository: Repository, file: HubFile) -> Path:
        """Where the whole file is, or will be."""
        return self._folder(repository.id) / "blobs" / file.oid

    @contextmanager
    def lock(self, repository: Repository, file: HubFile, seconds: float | None) -> Iterator[None]:
        """Hold off other processes of ours that download this file. Raises TimeoutError when one still does in time."""
        # Not the library's own lock, which link() takes; its downloads write to files of other names.
        folder = self.cache_dir / ".locks" / repo_folder_name(repo_id=repository.id, repo_type="model")
        path = folder / f"{file.oid}.incomplete.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path, timeout=seconds):
            yield

    def _folder(self, repository_id: str) -> Path:
        return self.cache_dir / repo_folder_name(repo_id=repository_id, repo_type="model")

    @contextmanager
    def _errors(self, repository_id: str) -> Iterator[None]:
        """Turn the library's errors into ours."""
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise HubError(str(error), hint="unset HF_HUB_OFFLINE and start the daemon again") from error
        except HfHubHTTPError as error:
            raise self._answer_error(error, repository_id) from error
        except LocalEntryNotFoundError as error:
            raise SourceBusyError(f"{self._endpoint} cannot be reached: {error}", hint=_NETWORK_HINT) from error
        except _NETWORK_ERROR as error:
            what = str(error) or type(error).__name__
            raise SourceBusyError(f"{self._endpoint} cannot be reached: {what}", hint=_NETWORK_HINT) from error

    def _answer_error(self, error: HfHubHTTPError, repository_id: str) -> LocalllmError:
        page = f"{self._endpoint}/{repository_id}"
        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            message = f"{repository_id} asks everyone to accept its terms first"
            return HubAccessError(message, hint=f"accept them at {page}, then {_WHERE_A_TOKEN_COMES_FROM}")
        # What has this header is the hub's own word, also where a mirror led to the hub.
        url = self._endpoint if "X-Error-Code" in error.response.headers else str(error.response.url)
        refusal = Refusal(status, url, error.response.headers)
        if passing := passing_error(refusal, self._endpoint, repository_id, _NETWORK_HINT):
            return passing
        if status in (404, 410) or isinstance(error, RepositoryNotFoundError):
            message = f"{repository_id} is not on {self._endpoint}, or it is private"
            return NotOnHubError(message, hint=f"check the name; for a private repository {_WHERE_A_TOKEN_COMES_FROM}")
        if status in (401, 403):
            message = f"{self._endpoint} refuses {repository_id} to this token ({status})"
            return HubAccessError(message, hint=f"look at {page}, then {_WHERE_A_TOKEN_COMES_FROM}")
        return HubError(f"{self._endpoint} answered {status} for {repository_id}")


_NETWORK_HINT = "check the network, HF_ENDPOINT and the proxy; the same command goes on where this one stopped"


def _found(info: _Listed) -> Found:
    about = info.gguf or _GgufFacts()
    return Found(info.id, info.downloads or 0, bool(info.gated), about.architecture or "", about.total or 0)


def _refuse_unsafe(path: str, repository_id: str) -> None:
    """No repository has such paths: only a hub that is none sends them. Raises HubError."""
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or ":" in parts[0] or not {"", ".", ".."}.isdisjoint(parts):
        raise HubError(f"{repository_id} has a file with a path that cannot be: {path[:80]!a}")


def _is_hash(text: str) -> bool:
    # It becomes part of a path.
    return _HEXADECIMAL.fullmatch(text) is not None


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
