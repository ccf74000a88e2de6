"""The hub's cache on this machine, which other tools share: where a file belongs, and which are there.

    <HF_HUB_CACHE>/models--OWNER--REPO/
    ├── refs/main                   the commit that was looked at last
    ├── blobs/<etag>                a whole file; the etag is its sha256, or the git hash of a small one
    ├── blobs/<etag>.incomplete     the beginning of one; download.py appends to it
    └── snapshots/<commit>/<path>   a link to the blob; a file, where links cannot be made

A link is made here and not by the library's hf_hub_download(): that asks the hub once more for what is known, downloads
a whole file anew when a mirror tells another etag now, and copies every file where links cannot be made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from localllm.store.repository import HubFile, Repository

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_INCOMPLETE_LOCK = "incomplete.lock"


def is_hash(text: str) -> bool:
    """Whether it is the name of a commit or a blob: it becomes part of a path."""
    return _HASH.fullmatch(text) is not None


def hub_cache(environment: Mapping[str, str], home: Path) -> Path:
    """Where huggingface_hub keeps its downloads, by the variables that library reads; it is not imported for this.

    What is set to nothing is not set, though the library then takes the folder one stands in. Absolute: a manifest says
    where a file is to whoever stands elsewhere.
    """
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if said := environment.get(variable):
            return _absolute(said)
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    return _absolute(environment.get("HF_HOME") or str(cache / "huggingface")) / "hub"


def _absolute(said: str) -> Path:
    # As that library: with variables in it, and a ~ of somebody who is not there stays. resolve() would follow links.
    return Path(os.path.abspath(os.path.expandvars(os.path.expanduser(said))))  # noqa: PTH100, PTH111


class HubFolder:
    """The cache at `path`. `may_link` is False where people do not want symbolic links in it."""

    def __init__(self, path: Path, *, may_link: bool = True) -> None:
        self.path = path
        self._may_link = may_link

    def look_up(self, repository_id: str) -> Repository | None:
        """What lies here of a repository, of its main branch or the newest commit with a GGUF; None for nothing."""
        there = [
            Repository(repository_id, snapshot.name, tuple(_files_in(snapshot)), is_offline=True)
            for snapshot in self._snapshots(repository_id)
        ]
        with_model = (one for one in there if any(file.path.lower().endswith(".gguf") for file in one.files))
        return next(with_model, there[0] if there else None)

    def _snapshots(self, repository_id: str) -> Iterator[Path]:
        home = self._home(repository_id)
        try:
            main = (home / "refs" / "main").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            main = ""
        there = [path for path in (home / "snapshots").glob("*") if path.is_dir() and is_hash(path.name)]
        yield from sorted(there, key=lambda path: (path.name != main, -path.stat().st_mtime, path.name))

    def find(self, repository: Repository, file: HubFile) -> Path | None:
        """The file's path when it is here whole; also when only its link is missing."""
        named = self._named(repository, file)
        if _size_of(named) == file.size_bytes:
            return named
        blob = self.blob(repository, file)
        if not file.oid or _size_of(blob) != file.size_bytes:
            return None
        try:
            return self.link(repository, file)
        except OSError:  # a cache that may be read only, and a commit that changed other files: it is here all the same
            older = (snapshot / file.path for snapshot in self._snapshots(repository.id))
            return next((path for path in older if path.exists() and path.samefile(blob)), blob)

    def link(self, repository: Repository, file: HubFile) -> Path:
        """Give the finished blob its readable name. Raises OSError."""
        named = self._named(repository, file)
        named.parent.mkdir(parents=True, exist_ok=True)
        _put(self.blob(repository, file), named, may_link=self._may_link)
        reference = self._home(repository.id) / "refs" / "main"
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary = reference.with_name(f".main.{os.getpid()}")
        temporary.write_text(repository.commit, encoding="ascii")
        temporary.replace(reference)
        return named

    def blob(self, repository: Repository, file: HubFile) -> Path:
        """Where the whole file is, or will be."""
        return self._home(repository.id) / "blobs" / file.oid

    def lock(self, repository: Repository, file: HubFile) -> Path:
        """What our downloads of the file lock; the library's have locks of other names, and write to other files."""
        return self.path / ".locks" / self._home(repository.id).name / f"{file.oid}.{_INCOMPLETE_LOCK}"

    def _named(self, repository: Repository, file: HubFile) -> Path:
        return self._home(repository.id) / "snapshots" / repository.commit / file.path

    def _home(self, repository_id: str) -> Path:
        return self.path / f"models--{repository_id.replace('/', '--')}"


def _files_in(snapshot: Path) -> Iterator[HubFile]:
    """The files of a snapshot. One that is no link to a blob has no hash."""
    for path in sorted(path for path in snapshot.rglob("*") if path.is_file()):
        blob = path.resolve().name if path.is_symlink() else ""
        yield HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, blob if is_hash(blob) else "")


def _put(blob: Path, named: Path, *, may_link: bool) -> None:
    """Let `named`, whatever was there, be the file `blob` without copying it."""
    temporary = named.with_name(f".localllm.{os.getpid()}")  # short: a name may be as long as a disk allows
    temporary.unlink(missing_ok=True)
    if not (may_link and _is_linked(temporary, blob)):
        _put_file(blob, temporary)
    temporary.replace(named)


def _is_linked(named: Path, blob: Path) -> bool:
    try:
        named.symlink_to(os.path.relpath(blob, named.parent))
    except OSError:  # Windows asks for a privilege, and some disks have no such thing
        return False
    return True


def _put_file(blob: Path, named: Path) -> None:
    """A second name of the same file; where there is no such thing either, its only one."""
    try:
        named.hardlink_to(os.path.realpath(blob))
    except OSError:
        if blob.is_symlink():  # the library's store of files that repositories share: what lies there is not ours
            raise
        blob.replace(named)


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
