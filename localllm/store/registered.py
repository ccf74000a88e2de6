"""A manifest as the model it stands for; the manifests and bundled models that were read before. Owned by one Store.

A manifest is only ever replaced by a rename, so that another inode, size or time of change is another manifest; one
that is the same is not read, decoded and hashed again when 500 names are listed. Whether its model's file is still the
one that was registered is looked at each time. A bundled model is read again when its Modelfile or its file is another.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from localllm.modelfile import Modelfile, load_parameters, write
from localllm.store import manifest as manifests
from localllm.store.bundled import bundled_manifest, bundled_modelfile
from localllm.store.checks import files_of, refuse_changed
from localllm.store.headers import Fingerprint, Headers, fingerprint
from localllm.store.layers import has_file_of, with_file_of
from localllm.store.manifest import Manifest, Part
from localllm.store.model import Model, capabilities_of
from localllm.store.names import Name
from localllm.store.remembered import Mark, mark_of

_KEPT = 2048
# Those of Options that shape what is loaded; the others are each request's own.
_LOAD_TIME_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")


class Registered:
    """A manifest and the model it describes. `data` are the bytes of the manifest's file."""

    def __init__(self, manifest: Manifest, data: bytes, *, is_bundled: bool = False) -> None:
        self.manifest = manifest
        self.is_bundled = is_bundled
        self._digest = hashlib.sha256(data).hexdigest()

    def with_file_of(self, base: Manifest) -> Registered:
        """The same name on the file that `base` has."""
        moved = copy.copy(self)
        moved.__dict__.pop("model", None)
        moved.manifest = with_file_of(self.manifest, base)
        return moved

    @cached_property
    def model(self) -> Model:
        """The model, made when it is first asked for."""
        return _model(self.manifest, self._digest, self.is_bundled)


class ReadManifests:
    """The manifests read so far, by path. `bundled` gives the manifest of a model of localllm's own, by its name."""

    def __init__(self, bundled: Callable[[str], Manifest | None] = lambda name: None) -> None:
        self._bundled = bundled
        self._known: dict[Path, tuple[Mark, Registered]] = {}

    def find(self, path: Path) -> Registered | None:
        """What the manifest at `path` says; None when there is none.

        Raises ModelFileError when it is damaged, and when its model's file is gone or not the one that was registered.
        """
        mark = mark_of(path)
        known = self._known.get(path)
        if mark is None or known is None or known[0] != mark:
            found = _read(path)
            self._keep(path, mark, found)
        else:
            found = known[1]
        if found is None:
            return None
        base = self._bundled(found.manifest.bundled) if found.manifest.bundled else None
        if base is not None and not has_file_of(found.manifest, base):
            found = found.with_file_of(base)
        refuse_changed(found.manifest)
        return found

    def _keep(self, path: Path, mark: Mark | None, found: Registered | None) -> None:
        self._known.pop(path, None)
        if mark is not None and found is not None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[path] = (mark, found)


class ReadBundled:
    """The bundled models in `folder` that were read so far, by the path of their Modelfile."""

    def __init__(self, folder: Path, headers: Headers) -> None:
        self._folder = folder
        self._headers = headers
        self._known: dict[Path, tuple[Mark, Registered]] = {}

    def find(self, name: Name) -> Registered | None:
        """The bundled model of that name; None when there is none. Raises as bundled_manifest does."""
        path = bundled_modelfile(self._folder, name)
        if path is None:
            return None
        mark = mark_of(path)
        known = self._known.pop(path, None)
        if known is None or known[0] != mark or not _has_its_file(known[1].manifest):
            manifest = bundled_manifest(path, self._headers)
            if mark is None or manifest is None:
                return None
            known = mark, Registered(manifest, manifests.encode(manifest), is_bundled=True)
        self._known[path] = known
        return known[1]


def _has_its_file(manifest: Manifest) -> bool:
    path = Path(manifest.file)
    return fingerprint(path) == Fingerprint(path, manifest.size_bytes, manifest.modified_ns)


def _read(path: Path) -> Registered | None:
    data = manifests.read(path)
    return None if data is None else Registered(manifests.decode(data, path), data)


def _model(manifest: Manifest, digest: str, is_bundled: bool) -> Model:
    """The model a manifest, whose file has that sha256, describes."""
    template = manifest.template if manifest.template is not None else manifest.facts.chat_template
    return Model(
        name=manifest.name,
        key=_key(manifest),
        file=Path(manifest.file),
        size_bytes=sum(part.size_bytes for part in files_of(manifest)),
        digest=digest,
        modified_at=manifest.created_at,
        options=manifest.options,
        system=manifest.system,
        template=manifest.template,
        license=manifest.license,
        messages=manifest.messages,
        facts=manifest.facts,
        capabilities=capabilities_of(manifest.facts, template),
        modelfile=_modelfile_text(manifest),
        is_bundled=is_bundled,
        parts=tuple(Path(part.file) for part in manifest.parts),
        projector=Path(manifest.projector.file) if manifest.projector else None,
        load=manifest.load,
        parent=manifest.parent,
        requires=manifest.requires,
        adapters=tuple(Path(adapter.file) for adapter in manifest.adapters),
        draft=manifest.draft,
        draft_model=Path(manifest.draft_model.file) if manifest.draft_model else None,
    )


def _key(manifest: Manifest) -> str:
    """What a runner has loaded: the files behind all links, which state of them, how, and the template in its place."""
    override = ""
    if manifest.template is not None:
        override = f" template {hashlib.sha256(manifest.template.encode()).hexdigest()[:16]}"
    said = [(name, getattr(manifest.options, name)) for name in _LOAD_TIME_OPTIONS] + [*load_parameters(manifest.load)]
    shape = "".join(f" {name} {value}" for name, value in said if value is not None)
    files = (Part(manifest.file, manifest.size_bytes, manifest.modified_ns), *manifest.adapters)
    draft = f" draft {_state(manifest.draft_model)}" if manifest.draft_model else ""
    return f"{' adapter '.join(map(_state, files))}{draft}{override}{shape}"


def _state(part: Part) -> str:
    return f"{os.path.realpath(part.file)} size {part.size_bytes} modified {part.modified_ns}"


def _modelfile_text(manifest: Manifest) -> str:
    text = write(
        Modelfile(
            bases=(manifest.file,),
            adapters=tuple(adapter.file for adapter in manifest.adapters),
            draft=manifest.draft_model.file if manifest.draft_model else manifest.draft,
            options=manifest.options,
            load=manifest.load,
            requires=manifest.requires,
            template=manifest.template,
            system=manifest.system,
            licenses=(manifest.license,) if manifest.license is not None else (),
            messages=manifest.messages,
        )
    )
    return (
        '# Modelfile generated by "localllm show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {manifest.name}\n\n{text}"
    )
