"""Hugging Face's hub: lists and searches, opens a file's bytes; hub_folder.py knows where they belong on this machine.

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

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import constants, get_hf_file_metadata
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are public, but not listed in an __all__
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from localllm.errors import HubAccessError, HubError, LocalllmError, NotOnHubError
from localllm.store.answers import Refusal, SourceBusyError, network_error, passing_error, place_of, trust_error
from localllm.store.hub_folder import HubFolder, is_hash
from localllm.store.hub_listing import EXPANDED, Found, read_repository, read_search
from localllm.store.repository import HubFile, Repository
from localllm.store.source import STALL_SECONDS, Opened
from localllm.version import __version__

_WHERE_A_TOKEN_COMES_FROM = "log in with `hf auth login`, or start the daemon with HF_TOKEN set"
_BAD_TOKEN = (
    "log in anew with `hf auth login`; if HF_TOKEN is set, set it anew, or unset it, and start the daemon again"
)


def _network_error() -> type[Exception]:
    # The HTTP library differs between versions of huggingface_hub (httpx, httpx2); its errors have this root in both.
    root = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    assert issubclass(root, Exception)
    return root


_NETWORK_ERROR = _network_error()


SEARCH_SECONDS = 10.0


class Hub:
    """The hub that HF_ENDPOINT names, and the cache in a folder (hub_folder.hub_cache). A Source."""

    title = "the hub"
    moved_by = "HF_HOME"

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        # Early versions of the library have no such wish.
        self._folder = HubFolder(self.cache_dir, may_link=not getattr(constants, "HF_HUB_DISABLE_SYMLINKS", False))
        self._endpoint = constants.ENDPOINT or constants.HUGGINGFACE_CO_URL_HOME.rstrip("/")

    def look_up(self, repository_id: str) -> Repository:
        """What lies in the repository now; offline, what lies of it in the cache. Raises HubError, NotOnHubError."""
        if constants.HF_HUB_OFFLINE:
            return self._look_up_in_cache(repository_id)
        query = {"blobs": "true"}
        answer = self._get(f"/api/models/{repository_id}", query, STALL_SECONDS, repository_id)
        return read_repository(answer, self._endpoint)

    def search(self, words: str, limit: int) -> tuple[Found, ...]:
        """The repositories with GGUF files that have `words` in their names, the most downloaded first.

        Raises HubError, offline too.
        """
        if constants.HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set")
        query = {"search": words, "filter": "gguf", "sort": "downloads", "limit": limit, "expand": EXPANDED}
        return read_search(self._get("/api/models", query, SEARCH_SECONDS, words), self._endpoint)

    def _get(self, path: str, query: Mapping[str, Any], seconds: float, what: str) -> bytes:
        # Not the library's own functions: some wait for ever for an answer, and try for half a minute where there is no
        # network, and an answer that is none, as a hotel's page, they meet with whatever error comes.
        with self._errors(what):
            url = f"{self._endpoint}{path}"
            _make_session()
            response = get_session().get(url, params=query, headers=_headers(), timeout=seconds, follow_redirects=True)
            hf_raise_for_status(response)
            return response.content

    def _look_up_in_cache(self, repository_id: str) -> Repository:
        if found := self._folder.look_up(repository_id):
            return found
        raise NotOnHubError(
            f"{repository_id} is not in the cache, and HF_HUB_OFFLINE forbids to look for it on the hub",
            hint="unset HF_HUB_OFFLINE and start the daemon again",
        )

    def known(self, repository: Repository, files: tuple[HubFile, ...]) -> tuple[HubFile, ...]:
        """`files` with the size and hash of each: where the list says none, as a mirror's may, each file is asked for.

        Raises HubError for a file of which nothing is told: nobody could say whether what comes is that file.
        """
        if repository.is_offline:
            return files
        return tuple(file if file.oid else self._asked(repository, file) for file in files)

    def _asked(self, repository: Repository, file: HubFile) -> HubFile:
        with self._errors(repository.id, file.path):
            said = get_hf_file_metadata(self._url(repository, file), timeout=STALL_SECONDS, headers=_headers())
        if said.size is None or not is_hash(said.etag or ""):
            missing = "its size" if said.size is None else "what its sha256 or git hash is"
            raise HubError(
                f"{self._endpoint} does not say of {file.path} {missing}: what comes could not be verified",
                hint="choose another file, or set HF_ENDPOINT to the hub itself and start the daemon again",
            )
        return HubFile(file.path, said.size, said.etag or "")

    @contextmanager
    def open(self, repository: Repository, file: HubFile, start: int, piece_bytes: int) -> Iterator[Opened]:
        """The bytes of `file` from `start` on, in pieces. Raises SourceBusyError for what may pass, else HubError."""
        headers = {**_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with (
            self._errors(repository.id, file.path),
            # Redirects to a CDN are followed without the token; it is asked anew each time, since its links expire.
            get_session().stream(
                "GET", self._url(repository, file), headers=headers, timeout=STALL_SECONDS, follow_redirects=True
            ) as response,
        ):
            hf_raise_for_status(response)
            place = place_of(response.status_code, response.headers, self._endpoint, file.path)
            yield Opened(place, response.iter_raw(piece_bytes))

    def find(self, repository: Repository, file: HubFile) -> Path | None:
        """The file's path when it is in the cache whole; also when only its link is missing."""
        return self._folder.find(repository, file)

    def link(self, repository: Repository, file: HubFile) -> Path:
        """Give the finished blob its readable name. Raises OSError."""
        return self._folder.link(repository, file)

    def blob(self, repository: Repository, file: HubFile) -> Path:
        """Where the whole file is, or will be."""
        return self._folder.blob(repository, file)

    @contextmanager
    def lock(self, repository: Repository, file: HubFile, seconds: float | None) -> Iterator[None]:
        """Hold off other processes of ours that download this file. Raises TimeoutError when one still does in time."""
        path = self._folder.lock(repository, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path, timeout=seconds):
            yield

    def _url(self, repository: Repository, file: HubFile) -> str:
        return f"{self._endpoint}/{repository.id}/resolve/{repository.commit}/{quote(file.path)}"

    @contextmanager
    def _errors(self, repository_id: str, path: str = "") -> Iterator[None]:
        """Turn the library's errors about a repository, or its file at `path`, into ours."""
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise HubError(str(error), hint="unset HF_HUB_OFFLINE and start the daemon again") from error
        except HfHubHTTPError as error:
            raise self._answer_error(error, repository_id, path) from error
        except LocalEntryNotFoundError as error:
            raise SourceBusyError(f"{self._endpoint} cannot be reached: {error}", hint=_NETWORK_HINT) from error
        except _NETWORK_ERROR as error:
            raise network_error(error, self._endpoint, _NETWORK_HINT) from error

    def _answer_error(self, error: HfHubHTTPError, repository_id: str, path: str) -> LocalllmError:
        status, headers = error.response.status_code, error.response.headers
        # What has this header is the hub's own word, also where a mirror led to the hub.
        url = self._endpoint if "X-Error-Code" in headers else str(error.response.url)
        what = f"{path} of {repository_id}" if path else repository_id
        if passing := passing_error(Refusal(status, url, headers), self._endpoint, what, _NETWORK_HINT):
            return passing
        if status in (401, 403) and "Invalid" in headers.get("X-Error-Message", ""):
            return HubAccessError(f"{self._endpoint} does not know the token that is sent ({status})", hint=_BAD_TOKEN)
        if isinstance(error, GatedRepoError):
            message = f"{repository_id} asks everyone to accept its terms first{_its_words(headers)}"
            hint = f"accept them at {self._endpoint}/{repository_id}, then {_WHERE_A_TOKEN_COMES_FROM}"
            return HubAccessError(message, hint=hint)
        if isinstance(error, EntryNotFoundError):
            hint = "pull again, in case it was replaced just now; else choose another file"
            return NotOnHubError(f"{self._endpoint} lists {what}, but does not have it", hint=hint)
        if status in (404, 410) or isinstance(error, RepositoryNotFoundError):
            message = f"{repository_id} is not on {self._endpoint}, or it is private"
            return NotOnHubError(message, hint=f"check the name; for a private repository {_WHERE_A_TOKEN_COMES_FROM}")
        if status in (401, 403):
            message = f"{self._endpoint} refuses {what} to this token ({status}){_its_words(headers)}"
            hint = f"look at {self._endpoint}/{repository_id}, then {_WHERE_A_TOKEN_COMES_FROM}"
            return HubAccessError(message, hint=hint)
        return HubError(f"{self._endpoint} answered {status} for {what}")


_NETWORK_HINT = "check the network, HF_ENDPOINT and the proxy; the same command goes on where this one stopped"


def _make_session() -> None:
    """Let the library make its client, which it keeps, while nothing else can raise an OSError."""
    try:
        get_session()
    except OSError as error:
        raise trust_error(error) from error


def _its_words(headers: Mapping[str, str]) -> str:
    """What the hub itself says of a refusal, such as that somebody still has to look at one's request."""
    words = "".join(letter for letter in headers.get("X-Error-Message", "")[:200] if letter.isprintable())
    return f"; it says: {words}" if words else ""


def _headers() -> dict[str, str]:
    return build_hf_headers(library_name="localllm", library_version=__version__)
