"""Names for models that other tools already hold, where they lie: nothing is copied, moved or overwritten.

    finding.py ── Found ──▶ adopt() ── Adopted ──▶ the CLI's table
                              ├─ "named"    a name now stands for the model (or would, in a dry run)
                              ├─ "known"    a name already stands for that file
                              └─ "skipped"  it is not usable here; the note says why

One file is one file under any path: links and second snapshots are seen by device and inode. A name that stands for
something else is left alone, and the new one gets a number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from localllm.creating import Creation
from localllm.errors import LocalllmError, ModelFileError, ModelNotFoundError
from localllm.modelfile import Modelfile
from localllm.paths import readable
from localllm.pulling import PulledSettings
from localllm.store.checks import refuse_no_projector
from localllm.store.found import Finding, Found, Unusable
from localllm.store.headers import Headers
from localllm.store.manifest import Manifest, Part
from localllm.store.names import MAX_PART_LENGTH, parse_name
from localllm.store.store import Store

Status = Literal["named", "known", "skipped"]
_Identity = tuple[tuple[int, int], ...]


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
    known = dict(_known_files(store))
    taken: set[str] = set()
    for finding in findings:
        if isinstance(finding, Unusable):
            yield Adopted("skipped", "", finding.what, 0, note=finding.reason)
            continue
        identity = _identity(finding.files[0], finding.adapters)
        if identity is not None and identity in known:
            yield _adopted("known", known[identity], finding)
            continue
        done = _adopt_one(store, finding, taken, dry_run=dry_run)
        if done.status == "named":
            taken.add(done.name.lower())
            if identity is not None:
                known[identity] = done.name
        yield done


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
    return msgspec.structs.replace(base, projector=part), [f"with {projector.name}"]


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


def _known_files(store: Store) -> Iterator[tuple[_Identity, str]]:
    for model in store.list():
        identity = _identity(model.file, model.adapters)
        if identity is not None:
            yield identity, model.name


def _identity(path: Path, adapters: Sequence[Path]) -> _Identity | None:
    """Of a model's first file and its adapters: one file makes another model with each."""
    try:
        status = [one.stat() for one in (path, *adapters)]
    except OSError:  # reading its header will say what is wrong with it
        return None
    return tuple((one.st_dev, one.st_ino) for one in status)
