"""Download one file of a Source (source.py, registry.py): resumed after anything, verified, never half-visible.

    blobs/<oid>.incomplete ──append──▶ size and hash are as promised ──rename──▶ blobs/<oid> ──▶ snapshots/…/<name>

What was written before is hashed again from the disk, so that the hash always covers what the file holds. A process
that is killed leaves the partial file; whatever wrote it, the next one goes on at its end. One at a time (a lock).
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from localllm.errors import DiskFullError, HubError, LocalllmError, WrongHashError
from localllm.pulling import PullEvent, PullProgress, PullStatus
from localllm.sizes import size_text
from localllm.store import ledger
from localllm.store.answers import Place, RangeRefusedError, SourceBusyError
from localllm.store.repository import HubFile, Repository
from localllm.store.source import GOES_ON, Source, refuse_other, wait

if TYPE_CHECKING:
    from hashlib import _Hash

_PIECE_BYTES = 2**20
_TRIES = 6  # in a row without one new byte: half a minute of waiting in all
_TELL_SECONDS = 0.1
_LOCK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Effects:
    """What a download does besides its file: tells, waits, and looks at the clock (seconds)."""

    tell: Callable[[PullEvent], None]
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


def download(
    source: Source, repository: Repository, file: HubFile, limit_bytes_per_second: int, effects: Effects
) -> Path:
    """The whole, verified file in the cache. Raises HubError's kinds, DiskFullError, and LocalllmError for the disk."""
    try:
        if found := source.find(repository, file):
            effects.tell(_progress(file, file.size_bytes) if file.oid else PullStatus(f"{file.name} is in the cache"))
            return found
        return _alone(source, repository, file, limit_bytes_per_second, effects)
    except OSError as error:
        raise disk_error(error, source) from error


def disk_error(error: OSError, source: Source) -> LocalllmError:
    """What a disk that refuses means."""
    folder = source.cache_dir
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room; the same command goes on where this one stopped"
        return DiskFullError(f"the disk with {folder} is full", hint=hint)
    hint = f"check its permissions, or set {source.moved_by} to another folder and start the daemon again"
    return LocalllmError(f"the folder {folder} cannot be written: {error.strerror or error}", hint=hint)


def partial_bytes(source: Source, repository: Repository, file: HubFile) -> int:
    """How much of the file is there already, without its being whole."""
    try:
        return _partial(source, repository, file).stat().st_size
    except OSError:
        return 0


def _partial(source: Source, repository: Repository, file: HubFile) -> Path:
    blob = source.blob(repository, file)
    return blob.with_name(f"{blob.name}.incomplete")


def _alone(source: Source, repository: Repository, file: HubFile, limit: int, effects: Effects) -> Path:
    """Download while no other process does, or take what it has downloaded."""
    with ExitStack() as stack:
        try:
            stack.enter_context(source.lock(repository, file, _LOCK_SECONDS))
        except TimeoutError:
            effects.tell(PullStatus(f"waiting for another download of {file.name}"))
            stack.enter_context(source.lock(repository, file, None))
        stack.callback(_drop_empty, _partial(source, repository, file))
        return source.find(repository, file) or _whole(source, repository, file, limit, effects)


def _drop_empty(partial: Path) -> None:
    """Leave nothing of a download of which not one byte came, as from a repository that refuses."""
    with suppress(OSError):
        if partial.stat().st_size == 0:
            partial.unlink()


def _whole(source: Source, repository: Repository, file: HubFile, limit: int, effects: Effects) -> Path:
    partial = _partial(source, repository, file)
    partial.parent.mkdir(parents=True, exist_ok=True)
    had_bytes = partial_bytes(source, repository, file)
    transfer = _Transfer(source, repository, file, limit, effects)
    digest = transfer.run(partial)
    if digest != file.oid and (had_bytes or transfer.connections > 1):
        # A power failure can leave a file of the right length with holes in it, and of several answers one may have
        # been of something else: what was put together is not trusted.
        effects.tell(PullStatus(f"what was there of {file.name} is damaged: downloading it anew"))
        partial.unlink()
        digest = _Transfer(source, repository, file, limit, effects).run(partial)
    if digest != file.oid:
        partial.unlink()
        message = f"{file.name} was downloaded, but its hash is {digest}, and {source.title} says {file.oid}"
        raise WrongHashError(
            message, hint=f"pull it again; if that does not help, {source.title} or a proxy sends another file"
        )
    blob = source.blob(repository, file)
    partial.replace(blob)
    ledger.record(source.cache_dir, blob)
    return source.link(repository, file)


class _Transfer:
    """One attempt at a whole file, over as many connections as it takes."""

    def __init__(self, source: Source, repository: Repository, file: HubFile, limit: int, effects: Effects) -> None:
        self._source = source
        self._repository = repository
        self._file = file
        self._effects = effects
        self._limit = limit
        # Small pieces at a low limit: each is followed by a pause, and a connection must not look dead meanwhile.
        self._piece_bytes = max(1024, min(_PIECE_BYTES, limit // 8)) if limit else _PIECE_BYTES
        self._hash = _new_hash(file)
        self._completed = 0
        self._asks_for_parts = True
        self.connections = 0
        self._told_at = effects.monotonic() - _TELL_SECONDS
        self._tries = 0

    def run(self, partial: Path) -> str:
        """Fill `partial`; return the hash of what it holds."""
        # Unbuffered: what was received is with the operating system, and stays when this process is killed.
        with partial.open("r+b" if partial.exists() else "w+b", buffering=0) as target:
            self._take_up(target)
            while self._completed < self._file.size_bytes:
                self._try(target)
            target.truncate(self._file.size_bytes)
            os.fsync(target.fileno())
        self._tell()
        return self._hash.hexdigest()

    def _take_up(self, target: BinaryIO) -> None:
        while self._completed < self._file.size_bytes:
            piece = target.read(min(_PIECE_BYTES, self._file.size_bytes - self._completed))
            if not piece:
                return
            self._count(piece)

    def _try(self, target: BinaryIO) -> None:
        before = self._completed
        try:
            self._receive(target)
        except SourceBusyError as error:
            # Whoever has no parts of a file may have all of it; what is here goes once that comes.
            self._asks_for_parts &= not isinstance(error, RangeRefusedError)
            self._tries = 1 if self._completed > before else self._tries + 1
            if self._tries >= _TRIES:
                raise
            wait(error, self._tries - 1, self._effects.sleep, lambda text: self._effects.tell(PullStatus(text)))

    def _receive(self, target: BinaryIO) -> None:
        self.connections += 1
        start = self._completed if self._asks_for_parts else 0
        with self._source.open(self._repository, self._file, start, self._piece_bytes) as opened:
            self._refuse_other(opened.place)
            if opened.place.start != self._completed:
                self._start_over(target)
            started_at, started_from = self._effects.monotonic(), self._completed
            for piece in opened.pieces:
                if self._completed + len(piece) > self._file.size_bytes:
                    raise HubError(
                        f"{self._source.title} sends more of {self._file.name} than its {self._file.size_bytes} bytes"
                    )
                _write(target, piece)
                self._count(piece)
                self._keep_to_limit(started_at, self._completed - started_from)
        if self._completed < self._file.size_bytes:
            message = f"the connection ended after {size_text(self._completed)} of {self._file.name}"
            raise SourceBusyError(message, hint=GOES_ON)

    def _refuse_other(self, place: Place) -> None:
        """What is here stays when what comes does not go on with it: an error's page, say, in a proxy's 200."""
        refuse_other(place, self._file, self._source.title)
        if place.start not in (0, self._completed):
            came = "nobody says from where on" if place.start is None else f"from {place.start} on"
            raise RangeRefusedError(f"{self._source.title} sends {self._file.name} {came}, not from {self._completed}")

    def _start_over(self, target: BinaryIO) -> None:
        target.seek(0)
        target.truncate()
        self._hash, self._completed = _new_hash(self._file), 0

    def _count(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._completed += len(piece)
        if self._effects.monotonic() - self._told_at >= _TELL_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._told_at = self._effects.monotonic()
        self._effects.tell(_progress(self._file, self._completed))

    def _keep_to_limit(self, started_at: float, received: int) -> None:
        if self._limit:
            ahead = received / self._limit - (self._effects.monotonic() - started_at)
            if ahead > 0:
                self._effects.sleep(ahead)


def _new_hash(file: HubFile) -> _Hash:
    if len(file.oid) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)  # how git names a small file


def _write(target: BinaryIO, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[target.write(view) :]


def _progress(file: HubFile, completed: int) -> PullProgress:
    kind = "sha256" if len(file.oid) == 64 else "sha1"
    return PullProgress(file.name, f"{kind}:{file.oid}", file.size_bytes, completed)
