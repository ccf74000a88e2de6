"""What the hub's API says: of a repository with its files, and of those that a search finds. Pure.

    GET /api/models/OWNER/REPO?blobs=true     {"id", "sha", "siblings": [{"rfilename", "size", "blobId", "lfs"}], …}
    GET /api/models?search=…&filter=gguf      [{"id", "downloads", "gated", "gguf"}]

Mirrors tell less of a file; a network that asks for a login answers with a page.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from localllm.errors import HubError
from localllm.store.hub_folder import is_hash
from localllm.store.repository import HubFile, Repository

EXPANDED = ("downloads", "gated", "gguf")
Read = TypeVar("Read")


class _Lfs(msgspec.Struct):
    sha256: str | None = None
    oid: str | None = None  # the same, by another word
    size: int | None = None


class _Sibling(msgspec.Struct, rename="camel"):
    rfilename: str
    size: int | None = None
    blob_id: str | None = None
    lfs: _Lfs | None = None


class _Card(msgspec.Struct):
    license: str | list[str] | None = None


class _Repository(msgspec.Struct, rename="camel"):
    id: str
    sha: str
    siblings: list[_Sibling] = []
    gated: bool | str | None = None
    card_data: _Card | None = None


class _GgufFacts(msgspec.Struct):
    architecture: str | None = None
    total: int | None = None


class _Listed(msgspec.Struct):
    id: str
    downloads: int | None = None
    gated: bool | str | None = None
    gguf: _GgufFacts | None = None


_repository = msgspec.json.Decoder(_Repository)
_listing = msgspec.json.Decoder(list[_Listed])


@dataclass(frozen=True, slots=True)
class Found:
    """A repository that a search found. What the hub does not say of it is 0, "" or False."""

    id: str
    downloads: int = 0
    is_gated: bool = False
    architecture: str = ""
    parameter_count: int = 0


def read_repository(answer: bytes, endpoint: str) -> Repository:
    """The repository that an answer of `endpoint` describes. Raises HubError."""
    info = _read(answer, _repository, endpoint)
    if not is_hash(info.sha):
        raise HubError(f"{endpoint} does not say which commit of {info.id} it has")
    files = (_file_of(sibling) for sibling in info.siblings if _is_safe(sibling.rfilename, info.id))
    said = info.card_data.license if info.card_data else None
    license_name = ", ".join(said) if isinstance(said, list) else said
    return Repository(info.id, info.sha, tuple(files), license_name, bool(info.gated))


def read_search(answer: bytes, endpoint: str) -> tuple[Found, ...]:
    """What a search found. Raises HubError."""
    return tuple(_found(info) for info in _read(answer, _listing, endpoint))


def _read(answer: bytes, decoder: msgspec.json.Decoder[Read], endpoint: str) -> Read:
    try:
        return decoder.decode(answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HubError(
            f"{endpoint} answers with something else than the hub does: {error}",
            hint="check that HF_ENDPOINT names a hub, and that no page asks for a login to the network",
        ) from error


def _found(info: _Listed) -> Found:
    about = info.gguf or _GgufFacts()
    return Found(info.id, info.downloads or 0, bool(info.gated), about.architecture or "", about.total or 0)


def _file_of(sibling: _Sibling) -> HubFile:
    size, oid = sibling.size, sibling.blob_id or ""
    if lfs := sibling.lfs:  # then the others may be those of the note that stands in its place in git
        size, oid = lfs.size or size, (lfs.sha256 or lfs.oid or "").removeprefix("sha256:")
    return (
        HubFile(sibling.rfilename, size, oid)
        if size is not None and is_hash(oid)
        else HubFile(sibling.rfilename, 0, "")
    )


def _is_safe(path: str, repository_id: str) -> bool:
    """Whether a file may be looked at. Raises HubError for a model with a path that only a hub that is none sends.

    Of other files nothing is written, and people's screenshots have the strangest names.
    """
    parts = path.split("/")
    is_text = all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in path)
    if is_text and "\\" not in path and ":" not in parts[0] and {"", ".", ".."}.isdisjoint(parts):
        return True
    if path.lower().endswith(".gguf"):
        raise HubError(f"{repository_id} has a file with a path that cannot be: {path[:80]!a}")
    return False
