"""The process that downloads: one PullRequest in on stdin, PullEvents out on stdout, a line of JSON each.

A process of its own, because a download must not hold up the daemon's event loop, because ending a process is the one
way to stop it whatever it waits for, and because huggingface_hub need not stay in the daemon's memory. It may be killed
at any moment. stdin stays open as long as somebody wants the model: its end ends this process, so that none is left
behind whatever kills the daemon.

    python -m localllm.store.pull
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from localllm.errors import DiskFullError, LocalllmError
from localllm.generation import failed_from
from localllm.pulling import Pulled, PulledFile, PullEvent, PullRequest, PullStatus
from localllm.sizes import size_text
from localllm.store.download import Effects, disk_error, download, partial_bytes
from localllm.store.hub import Hub, HubBusyError
from localllm.store.repository import HubFile, Repository, choose

_LOOKS = 4
# What is written besides the file itself, and room for others to go on.
_SPARE_BYTES = 64 * 2**20


def pull(hub: Hub, request: PullRequest, effects: Effects) -> Pulled:
    """Look, choose, check the room, download every file. Raises LocalllmErrors."""
    effects.tell(PullStatus("pulling manifest"))
    repository = _look_up(hub, request.repository, effects)
    choice = choose(repository, request.choice)
    for remark in choice.remarks:
        effects.tell(PullStatus(remark))
    files = choice.variant.files
    check_room(hub, repository, files, _free_bytes(hub.cache_dir))
    paths = [download(hub, repository, file, request.limit_bytes_per_second, effects) for file in files]
    effects.tell(PullStatus("verifying sha256 digest"))  # it was, byte by byte; clients wait for the words
    pulled = zip(paths, files, strict=True)
    return Pulled(repository.id, repository.commit, tuple(PulledFile(str(path), file.oid) for path, file in pulled))


def check_room(hub: Hub, repository: Repository, files: tuple[HubFile, ...], free_bytes: int) -> None:
    """Raises DiskFullError, with the figures, when what is still to come does not fit."""
    missing = [file for file in files if hub.find(repository, file) is None]
    needed = sum(max(0, file.size_bytes - partial_bytes(hub, repository, file)) for file in missing)
    if missing and needed + _SPARE_BYTES > free_bytes:
        raise DiskFullError(
            f"{repository.id} needs {size_text(needed)} more, and {size_text(free_bytes)} are free where the cache is, "
            f"in {hub.cache_dir}",
            hint="make room, choose a smaller quant, or set HF_HOME to a larger disk and start the daemon again",
        )


def _look_up(hub: Hub, repository_id: str, effects: Effects) -> Repository:
    for attempt in range(_LOOKS - 1):
        try:
            return hub.look_up(repository_id)
        except HubBusyError as error:
            effects.sleep(min(10.0, error.retry_after_seconds or 0.5 * 2**attempt))
    return hub.look_up(repository_id)


def _free_bytes(folder: Path) -> int:
    """The room where `folder` is, or will be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def main() -> None:
    """Run the one request of this process."""
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    request = msgspec.json.decode(line, type=PullRequest)
    tell = _teller()
    hub = Hub()
    try:
        tell(pull(hub, request, Effects(tell, time.sleep, time.monotonic)))
    except LocalllmError as error:
        tell(failed_from(error))
    except OSError as error:
        tell(failed_from(disk_error(error, hub.cache_dir)))


def _end_with_stdin() -> None:
    while os.read(0, 4096):  # unbuffered: a thread that waits in sys.stdin would hold its lock when Python ends
        pass
    os._exit(1)  # not sys.exit(): the download runs in the main thread, perhaps in a system call


def _teller() -> Callable[[PullEvent], None]:
    encode = msgspec.json.Encoder().encode

    def tell(event: PullEvent) -> None:
        sys.stdout.buffer.write(encode(event) + b"\n")
        sys.stdout.buffer.flush()

    return tell


if __name__ == "__main__":
    main()
