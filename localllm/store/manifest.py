"""A manifest: the JSON file that makes a name stand for a GGUF file. Reads and writes it; decides nothing about models.

    <models_dir>/localllm/
    ├── manifests/<model>/               lower case
    │   ├── <tag>.json                   one name; read whole, replaced whole
    │   └── .<tag>.json.<random>         a manifest that is being written, or was when the power failed; never read
    ├── hub/<owner>/<repository>/        the same for names of Hugging Face's hub
    └── registry/<user>/<model>/         the same for names of Ollama's registry

A manifest is written to a temporary file in its folder, flushed to the disk, and renamed over the old one: whoever
reads sees the old one or the new one, and of two who write at once the last wins, whole.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from localllm.errors import InvalidNameError, ModelFileError
from localllm.generation import Message, Options
from localllm.load_options import LoadOptions
from localllm.store.model import Facts
from localllm.store.names import (
    HUB_HOST,
    REGISTRY_HOST,
    hub_manifests,
    manifest_path,
    parse_name,
    registry_manifests,
)
from localllm.store.writable import try_writing

SCHEMA = 1
MAX_MANIFEST_BYTES = 16 * 2**20
_ATTEMPTS = 20


class Part(msgspec.Struct, frozen=True):
    """A further file of a model: what Manifest says of the first."""

    file: str
    size_bytes: int
    modified_ns: int


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of one name. The file's `size_bytes` and `modified_ns` tell whether it is still the file it was.

    Of a pulled model, `source` is OWNER/REPO@COMMIT and `digests` the hub's hash of each file; it was verified. Of a
    created one, `parent` is what it was made FROM, and `requires` the Ollama version its Modelfile asks for;
    `bundled` is the model of localllm's own whose file it has, which another version may bring anew. `adapters` are
    applied to the weights, in that order. `draft_model` guesses for the model; `draft` is what DRAFT named. A manifest
    that was written while localllm had no draft models has the name alone.
    """

    schema: int
    name: str
    file: str
    size_bytes: int
    modified_ns: int
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    facts: Facts
    options: Options = Options()
    system: str | None = None
    template: str | None = None
    license: str | None = None
    messages: tuple[Message, ...] = ()
    parts: tuple[Part, ...] = ()
    source: str | None = None
    digests: tuple[str, ...] = ()
    projector: Part | None = None
    load: LoadOptions = LoadOptions()
    parent: str | None = None
    requires: str | None = None
    bundled: str | None = None
    adapters: tuple[Part, ...] = ()
    draft: str | None = None
    draft_model: Part | None = None


_decoder = msgspec.json.Decoder(Manifest)


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest's file: indented JSON that ends with a newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes, path: Path) -> Manifest:
    """The manifest in the bytes of the file at `path`. Raises ModelFileError when they are not one of this schema."""
    hint = f"delete {path} and register the model again"
    try:
        manifest = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ModelFileError(f"the manifest {path} is damaged: {error}", hint=hint) from error
    if manifest.schema != SCHEMA:
        message = f"the manifest {path} has schema {manifest.schema}, and this version reads {SCHEMA}"
        raise ModelFileError(message, hint=f"update localllm, or {hint}")
    place = f"{path.parent.name}:{path.stem}"
    beyond = f"{path.parent.parent.name}/{place}"
    if manifest.name.lower() not in (place, f"{HUB_HOST}/{beyond}", f"{REGISTRY_HOST}/{beyond}"):
        raise ModelFileError(f"the manifest {path} is damaged: it says it is of '{manifest.name}'", hint=hint)
    return manifest


def read(path: Path) -> bytes | None:
    """The bytes of a manifest's file, None when there is none. Raises ModelFileError when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelFileError(f"the manifest {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelFileError(f"the manifest {path} is larger than {MAX_MANIFEST_BYTES} bytes")
    return data


def manifest_files(folder: Path) -> list[Path]:
    """Every manifest of local names, in order, then of the hub's and of the registry's.

    Raises ModelFileError for a folder without access.
    """
    places = (hub_manifests(folder), registry_manifests(folder))
    repositories = [entry for place in places for owner in _entries(place) for entry in _entries(owner)]
    return [path for model in (*_entries(folder), *repositories) for path in _entries(model) if path.suffix == ".json"]


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden, as a manifest that is being written is."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):  # nothing was registered yet, or its last name was just deleted
        return []
    except OSError as error:
        raise ModelFileError(f"{folder} cannot be listed: {error.strerror}") from error


def tags_beside(path: Path) -> tuple[str, ...]:
    """The tags in order that have a manifest in the folder of the one at `path`, which need not be there."""
    return tuple(entry.stem for entry in _entries(path.parent) if entry.suffix == ".json")


def files_of(path: Path) -> tuple[str, ...]:
    """The files that the manifest at `path` names; none for one that is not there or cannot be read."""
    try:
        data = read(path)
        manifest = decode(data, path) if data is not None else None
    except ModelFileError:
        return ()
    if manifest is None:
        return ()
    alone = (manifest.projector, manifest.draft_model)
    further = (*manifest.parts, *manifest.adapters, *(part for part in alone if part is not None))
    return (manifest.file, *(part.file for part in further))


def circle_of(folder: Path, path: Path) -> tuple[str, ...]:
    """The names that are made FROM one another and lead from the manifest at `path` back to it; () when none do.

    `folder` is that of local names. Such a circle is harmless, since each name has its file, until that is gone.
    """
    names: dict[Path, str] = {}
    while path not in names:
        try:
            data = read(path)
            manifest = decode(data, path) if data is not None else None
            parent = parse_name(manifest.parent) if manifest is not None and manifest.parent else None
        except (ModelFileError, InvalidNameError):
            return ()
        if manifest is None or parent is None or not parent.is_local:
            return ()
        names[path] = manifest.name
        path = manifest_path(folder, parent)
    return tuple(names.values()) if path == next(iter(names)) else ()


def referenced_files(folder: Path) -> frozenset[str] | None:
    """Every file that a manifest names; None when one of them cannot be read, which may name any."""
    files: set[str] = set()
    for path in manifest_files(folder):
        named = files_of(path)
        if not named and path.exists():
            return None
        files.update(named)
    return frozenset(files)


def refuse_unwritable(path: Path) -> None:
    """Raises ModelFileError when no manifest could be written at `path`."""
    try:
        try_writing(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def write(path: Path, data: bytes) -> None:
    """Replace the manifest at `path`, or make it, in one step. Raises ModelFileError when the disk refuses."""
    try:
        temporary = _written_beside(path, data)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    _flush_folder(path.parent)


def _written_beside(path: Path, data: bytes) -> Path:
    """A flushed temporary file with `data` in the folder of `path`. Leaves nothing when it fails."""
    descriptor, text = _temporary_file(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(text).unlink(missing_ok=True)
        raise
    return Path(text)


def _temporary_file(path: Path) -> tuple[int, str]:
    for _ in range(_ATTEMPTS - 1):
        # remove() may take the empty folder away between the two calls, or while mkdir() looks at it.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)


def _unwritable(path: Path, error: OSError) -> ModelFileError:
    hint = "make room or check the permissions, or point LOCALLLM_MODELS at another folder"
    return ModelFileError(f"the manifest {path} cannot be written: {error.strerror}", hint=hint)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power failure. Windows and some network disks cannot, and need not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> bool:
    """Delete the manifest and, when it was the last, its folder. False when there was none."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        hint = "check the permissions of its folder; if the disk is read-only, no name on it can go"
        raise ModelFileError(f"the manifest {path} cannot be deleted: {error.strerror}", hint=hint) from error
    with contextlib.suppress(OSError):  # other tags are there, or one is being written
        path.parent.rmdir()
    return True
