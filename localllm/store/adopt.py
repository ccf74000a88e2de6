"""Names for models that other tools already hold, where they lie: nothing is copied, moved or overwritten.

    finding.py ── Found ──▶ adopt() ── Adopted ──▶ the CLI's table
                              ├─ "named"    a name now stands for the model (or would, in a dry run)
                              ├─ "known"    a name already stands for that file, with the settings that it has there
                              └─ "skipped"  it is not usable here; the note says why

One file is one file under any path: links and second snapshots are seen by device and inode. A name that stands for
something else is left alone, and the new one gets a number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from localllm.creating import Creation
from localllm.errors import LocalllmError, ModelFileError, ModelNotFoundError
from localllm.generation import Message, Options
from localllm.modelfile import Modelfile
from localllm.paths import readable
from localllm.pulling import PulledSettings
from localllm.store.checks import refuse_no_projector
from localllm.store.finding_ollama import is_blob
from localllm.store.found import Finding, Found, Unusable
from localllm.store.headers import Headers
from localllm.store.manifest import Manifest, Part
from localllm.store.model import Model
from localllm.store.names import MAX_PART_LENGTH, parse_name
from localllm.store.store import Store

Status = Literal["named", "known", "skipped"]
_Identity = tuple[tuple[int, int], ...]
_Settings = tuple[Options, str | None, str | None, tuple[Message, ...]]
_Known = dict[_Identity, dict[str, _Settings]]  # of each file the names that stand for it


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of one model. `name` is "" for what was skipped; `what` is its file, or the tool's name for it."""

    status: Status
    name: str
    what: str
    size_bytes: int
    files: tuple[str, ...] = ()
    note: str = ""


def adopt(store: Store, findings: Iterable[Finding], *, dry_run: bool) -> Iterator[Adopted]:
    """Give each model a name in `store`; with `dry_run` only say which. Raises nothing but for a store out of order."""
    known = _known_files(store)
    taken: set[str] = set()
    for finding in findings:
        if isinstance(finding, Unusable):
            yield Adopted("skipped", "", finding.what, 0, note=finding.reason)
            continue
        identity = _identity(finding.files[0], finding.adapters)
        names = known.setdefault(identity, {}) if identity is not None else {}
        if name := _known_as(names, finding):
            yield _adopted("known", name, finding)
            continue
        done = _adopt_one(store, finding, taken, dry_run=dry_run)
        if done.status == "named":
            taken.add(done.name.lower())
            names[done.name] = _settings_of(finding.settings or PulledSettings())
        yield done


def _known_as(names: Mapping[str, _Settings], found: Found) -> str:
    """The one of `names`, which all stand for its file, that is this model; "" for none.

    Where a tool keeps settings beside the files, several models share one file; a plain file has whatever name it has.
    A name like the tool's may have been given other settings here since.
    """
    if found.settings is None:
        return next(iter(names), "")
    wanted = _settings_of(found.settings)
    alike = (name for name, settings in names.items() if settings == wanted or name.lower() == found.name.lower())
    return next(alike, "")


def _settings_of(said: PulledSettings | Model) -> _Settings:
    return said.options, said.template or None, said.system or None, said.messages


def _adopt_one(store: Store, found: Found, taken: set[str], *, dry_run: bool) -> Adopted:
    settings = _as_modelfile(str(found.files[0]), found.settings or PulledSettings())
    try:
        name = _free_name(store, found.name, taken)
        base = store.base(Creation(name, settings, files=tuple(map(str, found.files))))
        base, left_out = store.with_adapters(base, [str(path) for path in found.adapters])
        base, said = _with_projector(base, found.projector)
        if not dry_run:
            store.create(base, settings)
    except LocalllmError as error:
        return _adopted("skipped", "", found, error.message)
    notes = [] if name == found.name else [f"'{found.name}' is another model"]
    return _adopted("named", name, found, "; ".join([*notes, *said, *left_out, *found.remarks]))


def _adopted(status: Status, name: str, found: Found, note: str = "") -> Adopted:
    sizes = [path.stat().st_size for path in found.files if path.is_file()]
    return Adopted(status, name, found.what, sum(sizes), tuple(map(readable, found.files)), note)


def _with_projector(base: Manifest, projector: Path | None) -> tuple[Manifest, list[str]]:
    """`base` with its projector, which it can do without when that is broken."""
    if projector is None:
        return base, []
    try:
        seen, header = Headers().read(projector)
        refuse_no_projector(header, projector)
    except ModelFileError as error:
        return base, [f"without its projector: {error.message}"]
    part = Part(str(seen.path), seen.size_bytes, seen.modified_ns)
    # A blob's name says nothing; that it comes along is said where it was found.
    return msgspec.structs.replace(base, projector=part), [] if is_blob(projector) else [f"with {projector.name}"]


def _as_modelfile(file: str, said: PulledSettings) -> Modelfile:
    return Modelfile(
        bases=(file,),
        options=said.options,
        template=said.template,
        system=said.system,
        licenses=(said.license,) if said.license else (),
        messages=said.messages,
    )


def _free_name(store: Store, wanted: str, taken: set[str]) -> str:
    """`wanted`, or with a number before its tag when that stands for another model. Raises InvalidNameError."""
    name = parse_name(wanted)
    models = (name.model if n == 1 else f"{name.model[: MAX_PART_LENGTH - 8]}-{n}" for n in itertools.count(1))
    names = (f"{model}:{name.tag}" for model in models)
    return next(text for text in names if text.lower() not in taken and _is_free(store, text))


def _is_free(store: Store, name: str) -> bool:
    try:
        store.find(name)
    except ModelNotFoundError:
        return True
    except LocalllmError:  # it is there, and broken: that is for its owner to mend or delete
        return False
    return False


def _known_files(store: Store) -> _Known:
    known: _Known = {}
    for model in store.list():
        identity = _identity(model.file, model.adapters)
        if identity is not None:
            known.setdefault(identity, {})[model.name] = _settings_of(model)
    return known


def _identity(path: Path, adapters: Sequence[Path]) -> _Identity | None:
    """Of a model's first file and its adapters: one file makes another model with each."""
    try:
        status = [one.stat() for one in (path, *adapters)]
    except OSError:  # reading its header will say what is wrong with it
        return None
    return tuple((one.st_dev, one.st_ino) for one in status)
