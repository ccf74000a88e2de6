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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from localllm.errand import read_request, tell
from localllm.errors import DiskFullError, LocalllmError
from localllm.failures import failed_from
from localllm.pulling import LOOKING, Pulled, PulledFile, PulledSettings, PullRequest, PullStatus
from localllm.sizes import size_text
from localllm.store.download import Effects, disk_error, download, partial_bytes
from localllm.store.hub import Hub
from localllm.store.hub_folder import hub_cache
from localllm.store.image import license_name, settings_of
from localllm.store.registry import Registry
from localllm.store.repository import HubFile, Repository, choose
from localllm.store.source import Source, patiently
from localllm.store.writable import try_writing

T = TypeVar("T")
# What is written besides the file itself, and room for others to go on.
_SPARE_BYTES = 64 * 2**20


def pull(hub: Hub, request: PullRequest, effects: Effects) -> Pulled:
    """Look into the hub's repository, choose, check the room, download every file. Raises LocalllmErrors."""
    effects.tell(LOOKING)
    repository = _patiently(lambda: hub.look_up(request.repository), effects)
    if repository.id.lower() != request.repository.lower():
        effects.tell(PullStatus(f"{request.repository} is called {repository.id} now"))
    choice = choose(repository, request.choice)
    for remark in choice.remarks:
        effects.tell(PullStatus(remark))
    files = _patiently(lambda: hub.known(repository, choice.files), effects)
    pulled = _download(hub, repository, files, request, effects)
    return _pulled(repository, pulled, len(choice.variant.files))


def pull_image(registry: Registry, request: PullRequest, effects: Effects) -> Pulled:
    """Look into the registry, read what it says of the model, check the room, download. Raises LocalllmErrors."""
    effects.tell(LOOKING)
    image = _patiently(lambda: registry.look_up(request.repository, request.choice), effects)
    texts = [(text.kind, _patiently(partial(registry.read, image, text), effects)) for text in image.texts]
    settings, remarks = settings_of(texts)
    for remark in (*image.remarks, *remarks):
        effects.tell(PullStatus(remark))
    if name := license_name(settings.license):
        effects.tell(PullStatus(f"license: {name}"))
    projectors = (image.projector,) if image.projector else ()
    files = (*image.files, *image.adapters, *projectors)
    pulled = _download(registry, image.repository, files, request, effects)
    count, behind = len(image.files), len(image.files) + len(image.adapters)
    made = _pulled(image.repository, (*pulled[:count], *pulled[behind:]), count, settings)
    return msgspec.structs.replace(made, adapters=pulled[count:behind])


def _patiently(ask: Callable[[], T], effects: Effects) -> T:
    return patiently(ask, effects.sleep, lambda text: effects.tell(PullStatus(text)))


def _pulled(
    repository: Repository, files: tuple[PulledFile, ...], count: int, settings: PulledSettings | None = None
) -> Pulled:
    """The first `count` of `files` are the model's; what follows is its projector."""
    projector = files[count] if len(files) > count else None
    return Pulled(repository.id, repository.commit, files[:count], projector, settings)


def _download(
    source: Source, repository: Repository, files: tuple[HubFile, ...], request: PullRequest, effects: Effects
) -> tuple[PulledFile, ...]:
    _check_writable(source, repository, files)
    check_room(source, repository, files, _free_bytes(source.cache_dir))
    paths = [download(source, repository, file, request.limit_bytes_per_second, effects) for file in files]
    effects.tell(PullStatus("verifying sha256 digest"))  # it was, byte by byte; clients wait for the words
    return tuple(PulledFile(str(path), file.oid) for path, file in zip(paths, files, strict=True))


def _check_writable(source: Source, repository: Repository, files: tuple[HubFile, ...]) -> None:
    """Raises OSError when a file that is still to come could not be written."""
    missing = [file for file in files if source.find(repository, file) is None]
    folders = {source.blob(repository, file).parent for file in missing}
    for folder in (source.cache_dir, *folders) if missing else ():
        try_writing(folder)


def check_room(source: Source, repository: Repository, files: tuple[HubFile, ...], free_bytes: int) -> None:
    """Raises DiskFullError, with the figures, when what is still to come does not fit."""
    missing = [file for file in files if source.find(repository, file) is None]
    needed = sum(max(0, file.size_bytes - partial_bytes(source, repository, file)) for file in missing)
    if missing and needed + _SPARE_BYTES > free_bytes:
        raise DiskFullError(
            f"{repository.id} needs {size_text(needed)} more, and {size_text(_SPARE_BYTES)} that stay free; "
            f"{size_text(free_bytes)} are free where the cache is, in {source.cache_dir}",
            hint=f"make room, choose a smaller quant, or set {source.moved_by} to a larger disk and start the daemon "
            "again",
        )


def _free_bytes(folder: Path) -> int:
    """The room where `folder` is, or will be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def main() -> None:
    """Run the one request of this process."""
    request = read_request(PullRequest)
    try:
        tell(_run(request, Effects(tell, time.sleep, time.monotonic)))
    except LocalllmError as error:
        tell(failed_from(error, tells_folders=True))


def _run(request: PullRequest, effects: Effects) -> Pulled:
    if request.registry is None:
        hub = Hub(hub_cache(os.environ, Path.home()))
        with _disk_errors(hub):
            return pull(hub, request, effects)
    place = request.registry
    with Registry(place.url, Path(place.blobs_dir)) as registry, _disk_errors(registry):
        return pull_image(registry, request, effects)


@contextmanager
def _disk_errors(source: Source) -> Iterator[None]:
    """Say what a disk that refuses means, whichever step met it."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, source) from error


if __name__ == "__main__":
    main()
