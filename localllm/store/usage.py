"""Who uses what of the disk, and what no name uses any more of what localllm brought here. Looks; removes nothing.

    names      manifests and bundled models ─▶ files, each counted once however many names share it
    leftovers  in the hub's cache   files that we downloaded (ledger.py), and beginnings of them (our lock lies beside)
               in our blobs         everything that no manifest names

Files are compared by device and inode, since a name knows a link and the cache a blob. A file of another tool is never
a leftover.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localllm.store import ledger
from localllm.store import manifest as manifests
from localllm.store.blobs import PARTIAL_SUFFIX
from localllm.store.model import Model
from localllm.store.store import Store

Kind = Literal["download", "partial", "blob"]
INCOMPLETE_SUFFIX = ".incomplete"
_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """One name. `shared_bytes` of `size_bytes` are in files that other names stand for too."""

    name: str
    size_bytes: int
    shared_bytes: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that no name uses: a whole one we downloaded, the beginning of one, or a blob of ours."""

    kind: Kind
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """`used_bytes` counts every file of every name once. `problems` are names whose model cannot be used, and why.

    With `is_certain` False a manifest cannot be read, and any leftover may be what it names.
    """

    models: tuple[ModelUsage, ...]
    used_bytes: int
    leftovers: tuple[Leftover, ...]
    problems: tuple[str, ...]
    is_certain: bool


def usage(store: Store, models_dir: Path, hub_cache: Path) -> Usage:
    """Look at every name, at our blobs and at the hub's cache. Raises ModelFileError for a folder without access."""
    models = store.list()
    owners = Counter(identity for model in models for identity in {*map(_identity, _files(model))})
    sizes = {_identity(path): _size(path) for model in models for path in _files(model)}
    named = manifests.referenced_files(models_dir / "localllm" / "manifests")
    used = {_identity(path) for path in (*map(Path, named or ()), *(path for one in models for path in _files(one)))}
    leftovers = [*_of_hub(hub_cache, used), *_of_blobs(store.blobs_dir, used)]
    return Usage(
        models=tuple(_usage_of(model, owners) for model in models),
        used_bytes=sum(sizes.values()),
        leftovers=tuple(sorted(leftovers, key=lambda one: (-one.size_bytes, one.path))),
        problems=tuple(problem.message for problem in store.problems()),
        is_certain=named is not None,
    )


def _usage_of(model: Model, owners: Counter[_Identity | None]) -> ModelUsage:
    files = _files(model)
    shared = [path for path in files if owners[_identity(path)] > 1]
    return ModelUsage(model.name, sum(map(_size, files)), sum(map(_size, shared)), tuple(map(str, files)))


def _files(model: Model) -> tuple[Path, ...]:
    alone = (model.projector, model.draft_model)
    return (model.file, *model.parts, *model.adapters, *(path for path in alone if path is not None))


def _of_hub(cache: Path, used: set[_Identity | None]) -> Iterator[Leftover]:
    for blob in sorted(cache.glob("models--*/blobs/*")):
        if blob.name.endswith(INCOMPLETE_SUFFIX):
            if lock_of(cache, blob).exists():
                yield Leftover("partial", str(blob), _size(blob))
        elif ledger.is_ours(cache, blob) and _identity(blob) not in used:
            yield Leftover("download", str(blob), _size(blob))


def lock_of(cache: Path, partial: Path) -> Path:
    """What our downloads lock while they write to `partial`, and leave; the hub's own library has other locks."""
    return cache / ".locks" / partial.parents[1].name / f"{partial.name}.lock"


def _of_blobs(folder: Path, used: set[_Identity | None]) -> Iterator[Leftover]:
    for path in sorted(folder.glob("*")) + sorted(folder.glob(f".*{PARTIAL_SUFFIX}")):
        if not path.is_file():
            continue
        if path.name.endswith((INCOMPLETE_SUFFIX, PARTIAL_SUFFIX)):
            yield Leftover("partial", str(path), _size(path))
        elif path.name.startswith("sha256-") and _identity(path) not in used:
            yield Leftover("blob", str(path), _size(path))


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:  # a name whose file is gone uses nothing
        return None
    return status.st_dev, status.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
