"""Files that localllm keeps itself, named by their sha256: what is uploaded, and weights that were written anew.

    <models_dir>/localllm/blobs/
    ├── sha256-<64 hex>              whole: its bytes have that hash
    └── .<random>.partial            being written, or left by a process that was killed; never read

A blob appears by a rename once its hash is known. Whoever writes a partial file holds a lock on it, which the system
takes back when its process dies: files without one go when the next is begun.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from localllm.errors import BadRequestError, DiskFullError, ModelFileError
from localllm.sizes import size_text

try:
    import fcntl
except ImportError:  # Windows: there a partial file goes by its age alone
    fcntl = None  # type: ignore[assignment]

PARTIAL_SUFFIX = ".partial"
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})", re.ASCII)
_BEGUN_SECONDS = 60.0  # a file so young may be about to be locked
_STALE_SECONDS = 24 * 3600.0
_READ_BYTES = 2**20


def blobs_dir(models_dir: Path) -> Path:
    """The folder of all blobs."""
    return models_dir / "localllm" / "blobs"


def parse_digest(text: str) -> str:
    """The hex digits, in lower case, of "sha256:…" or "sha256-…". Raises BadRequestError."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise BadRequestError("invalid digest format", hint="a digest is sha256: and 64 hexadecimal digits")
    return match[1].lower()


def blob_path(folder: Path, digest: str) -> Path:
    """Where the blob of a digest lies or would lie. Raises BadRequestError for what is no digest."""
    return folder / f"sha256-{parse_digest(digest)}"


def find_blob(folder: Path, digest: str) -> Path:
    """A blob that is there. Raises BadRequestError, also when it is not."""
    path = blob_path(folder, digest)
    if not path.is_file():
        raise BadRequestError(f'blob "{digest}" not found', hint="send it first: POST /api/blobs/DIGEST")
    return path


class BlobWriter:
    """One blob that is being written; a context manager, after which nothing is left but a blob that was kept."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelFileError when the folder cannot be written to."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale(folder, time.time())
            self._descriptor, text = tempfile.mkstemp(prefix=".", suffix=PARTIAL_SUFFIX, dir=folder)
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise ModelFileError(f"{folder} cannot be written to: {error.strerror}") from error
        self.path = Path(text)
        self._hash = hashlib.sha256()
        self._is_kept = False

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if not self._is_kept:
            self.path.unlink(missing_ok=True)

    def write(self, data: bytes | bytearray) -> None:
        """Append. Raises DiskFullError, and ModelFileError for another trouble with the disk."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise _disk_error(self._folder, error) from error
        self._hash.update(data)

    def hash_file(self) -> None:
        """Hash what another process has written to `path`. Raises ModelFileError."""
        try:
            with self.path.open("rb") as file:
                while piece := file.read(_READ_BYTES):
                    self._hash.update(piece)
        except OSError as error:
            raise ModelFileError(f"{self.path} cannot be read: {error.strerror}") from error

    def keep(self, digest: str | None = None) -> Path:
        """Make it a blob and return its path. Raises BadRequestError when it has not the `digest` it should have."""
        found = self._hash.hexdigest()
        if digest is not None and parse_digest(digest) != found:
            raise BadRequestError(
                f'digest mismatch, expected "{digest}", got "sha256:{found}"',
                hint="the file changed or was cut on its way; send it again under the digest of its bytes",
            )
        target = blob_path(self._folder, f"sha256:{found}")
        try:
            os.fsync(self._descriptor)
            self._close()
            self._age_like(target)
            self.path.chmod(0o644)  # mkstemp's 0600 would keep a daemon of another user from reading it
            self.path.replace(target)
        except OSError as error:
            raise _disk_error(self._folder, error) from error
        self._is_kept = True
        return target

    def _age_like(self, target: Path) -> None:
        """Names that stand for the same bytes already know them by their time too."""
        with contextlib.suppress(FileNotFoundError):
            there = target.stat()
            if there.st_size == self.path.stat().st_size:
                os.utime(self.path, ns=(there.st_atime_ns, there.st_mtime_ns))

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def refuse_too_large(folder: Path, size_bytes: int) -> None:
    """Raises DiskFullError when the disk with `folder` has less room than that."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if size_bytes > free:
        raise DiskFullError(
            f"{size_text(size_bytes)} do not fit: the disk with {folder} has {size_text(free)} free", hint=_MAKE_ROOM
        )


def remove_stale(folder: Path, now: float) -> None:
    """Remove partial files that nobody writes to any more; `now` is in seconds since the epoch."""
    for path in folder.glob(f".*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:  # its writer ended just now, or is another user
            age_seconds = now - path.stat().st_mtime
            if age_seconds > (_STALE_SECONDS if fcntl is None else _BEGUN_SECONDS) and not _is_locked(file):
                path.unlink()


def _is_locked(file: BinaryIO) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


_MAKE_ROOM = "make room (`localllm rm`), or point LOCALLLM_MODELS at another disk"


def _disk_error(folder: Path, error: OSError) -> DiskFullError | ModelFileError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"the disk with {folder} is full", hint=_MAKE_ROOM)
    return ModelFileError(f"{folder} cannot be written to: {error.strerror}")
