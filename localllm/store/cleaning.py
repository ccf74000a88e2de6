"""Remove leftovers (usage.py): only what localllm brought here, and of that nothing that anybody may be using now.

    kept because …   a download writes to it, or to another file of its repository: their locks are held
                     it was written a moment ago: its name may be about to appear
                     a process has it open or mapped, such as a model that is still loaded

Whoever removes a download removes the links to it, and the folders of the hub's cache that this leaves empty.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from localllm.errors import LocalllmError
from localllm.store import ledger
from localllm.store.blobs import PARTIAL_SUFFIX
from localllm.store.usage import INCOMPLETE_SUFFIX, Leftover, lock_of

_SETTLED_SECONDS = 60.0
# An uploaded blob is without a name until the create that follows it.
_BLOB_SETTLED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of a leftover: it `is_removed`, or was `kept` for a reason, or was only looked at."""

    leftover: Leftover
    kept: str
    is_removed: bool


def reasons_to_keep(
    leftovers: Iterable[Leftover], cache: Path, now: float, proc: Path = Path("/proc")
) -> dict[str, str]:
    """By path, why a leftover must stay for now; `now` is in seconds since the epoch."""
    opened = _open_files(proc)
    reasons = ((one.path, _reason(one, cache, now, opened)) for one in leftovers)
    return {path: reason for path, reason in reasons if reason}


def remove(leftover: Leftover, cache: Path) -> None:
    """Remove it, and what pointed at it. Raises LocalllmError when the disk refuses.

    A download that begins meanwhile waits for the lock, and then finds nothing.
    """
    path = Path(leftover.path)
    try:
        with ExitStack() as stack:
            for lock in _own_lock(path, cache):
                stack.enter_context(FileLock(lock, timeout=0))
            if leftover.kind == "download":
                _remove_links(path)
            path.unlink(missing_ok=True)
            if cache in path.parents:
                _tidy(path, cache)
    except Timeout as error:
        raise LocalllmError(f"{path} is being downloaded", hint="try again when it is done") from error
    except OSError as error:
        raise LocalllmError(f"{path} cannot be removed: {error.strerror}", hint="check its permissions") from error


def _own_lock(path: Path, cache: Path) -> list[Path]:
    """The lock of the download of this very file, where there is one."""
    partial = path if path.name.endswith(INCOMPLETE_SUFFIX) else path.with_name(f"{path.name}{INCOMPLETE_SUFFIX}")
    lock = lock_of(cache, partial) if cache in path.parents else next(iter(_locks(path, cache)), None)
    return [lock] if lock is not None and lock.exists() else []


def _reason(one: Leftover, cache: Path, now: float, opened: dict[str, int]) -> str:
    path = Path(one.path)
    if any(_is_held(lock) for lock in _locks(path, cache)):
        return "it is being downloaded"
    try:
        age = now - path.stat().st_mtime
    except OSError:  # somebody else removed it
        return "it is gone"
    settled = _SETTLED_SECONDS if cache in path.parents else _BLOB_SETTLED_SECONDS
    if age < settled and not path.name.endswith(INCOMPLETE_SUFFIX):
        return "it was written a moment ago"
    if process := opened.get(os.path.realpath(path)):
        return f"process {process} uses it"
    return ""


def _locks(path: Path, cache: Path) -> list[Path]:
    """The locks of downloads that this file may be part of."""
    if cache in path.parents:
        return sorted((cache / ".locks" / path.parents[1].name).glob(f"*{INCOMPLETE_SUFFIX}.lock"))
    if path.name.endswith(PARTIAL_SUFFIX):
        return []  # it is written without one, and new bytes keep it young
    return [path.parent / ".locks" / f"{path.name.removesuffix(INCOMPLETE_SUFFIX)}.lock"]


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's: then another user's download may hold it
        return True


def _open_files(proc: Path) -> dict[str, int]:
    """Every regular file that a process maps or has open, by path; empty where there is no /proc."""
    found: dict[str, int] = {}
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            for line in (process / "maps").read_text(errors="replace").splitlines():
                _, slash, rest = line.partition("/")
                if slash:
                    found.setdefault(f"/{rest}", int(process.name))
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found.setdefault(str(descriptor.readlink()), int(process.name))
    return found


def _remove_links(blob: Path) -> None:
    for link in (blob.parents[1] / "snapshots").glob("**/*"):
        with contextlib.suppress(FileNotFoundError):  # it leads to nothing: nobody's
            if link.is_file() and link.samefile(blob):  # also a second name of it, where there are no symbolic links
                link.unlink()


def _tidy(blob: Path, cache: Path) -> None:
    """Take away what only that file needed: its note and lock, and folders without files."""
    ledger.forget(cache, blob)
    for lock in _own_lock(blob, cache):
        lock.unlink(missing_ok=True)
    repository = blob.parents[1]
    folders = sorted((path for path in repository.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
    for folder in folders:
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()
    if not (repository / "blobs").exists() and not (repository / "snapshots").exists():
        _remove_references(repository)


def _remove_references(repository: Path) -> None:
    """A repository of which no file is left: the notes of which commit its branches were at say nothing any more."""
    for reference in (repository / "refs").glob("*"):
        with contextlib.suppress(OSError):
            reference.unlink()
    for folder in (repository / "refs", repository):
        with contextlib.suppress(OSError):
            folder.rmdir()
