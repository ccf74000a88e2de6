"""The models there are: finds, lists, registers and forgets names. Owns the manifests; never writes to a model's file.

    <models_dir>/localllm/manifests/<model>/<tag>.json     registered (see manifest.py): the GGUF is used where it lies
    <models_dir>/localllm/hub/<owner>/<repo>/<tag>.json    the same, for names of Hugging Face's hub
    <models_dir>/localllm/registry/<user>/<model>/…        the same, for names of Ollama's registry
    <models_dir>/localllm/blobs/sha256-<hex>               files of our own (see blobs.py)
    <bundled_dir>/<model>/Modelfile                        bundled (see bundled.py): read-only, always :latest
    <bundled_dir>/<model>/<tag>.Modelfile                  can be pulled (see catalogue.py)

A registered name hides a bundled one; deleting it shows the bundled one again. Finding and listing read manifests only.
Every method touches the disk for a moment; none keeps state but for headers and manifests already read.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from localllm.creating import Creation
from localllm.errors import BadRequestError, LocalllmError, ModelFileError, ModelNotFoundError
from localllm.gguf import Header, TensorInfo
from localllm.gguf_adapters import AdapterFacts
from localllm.gguf_rules import check_model
from localllm.modelfile import Modelfile
from localllm.pulling import Pulled, PulledFile, PullRequest, RegistryPlace
from localllm.store import manifest as manifests
from localllm.store.adapters import read_adapter, with_adapters
from localllm.store.blobs import blobs_dir
from localllm.store.bundled import bundled_modelfile, bundled_names
from localllm.store.catalogue import Entry, entries, find_entry
from localllm.store.checks import (
    circle_hint,
    files_of,
    refuse_changed,
    refuse_no_projector,
    refuse_unusable,
    refuse_unwritable_path,
)
from localllm.store.drafts import with_draft
from localllm.store.headers import Headers
from localllm.store.layers import layered, with_file_of, with_settings
from localllm.store.manifest import SCHEMA, Manifest, Part
from localllm.store.model import Model, facts_from
from localllm.store.names import (
    MAX_PART_LENGTH,
    Name,
    manifest_path,
    name_from_file,
    parse_local_name,
    parse_name,
    same_name,
)
from localllm.store.pulled import DEFAULT_REGISTRY, described, refuse_unpullable, request_for, spelled
from localllm.store.registered import ReadBundled, ReadManifests, Registered
from localllm.store.remembered import Remembered, mark_of

_OTHER_HOST = (
    "models come from hf.co/OWNER/REPO and ollama.com/library/NAME; or download a GGUF and run "
    "`localllm create NAME --from FILE.gguf`"
)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """All models under `models_dir` and `bundled_dir`; either may be missing. `now` dates what is registered.

    `registry_url` is where names of Ollama's registry are pulled from.
    """

    def __init__(
        self,
        models_dir: Path,
        bundled_dir: Path,
        now: Callable[[], datetime] = _utc_now,
        registry_url: str = DEFAULT_REGISTRY,
    ) -> None:
        self.blobs_dir = blobs_dir(models_dir)
        self._manifests_dir = models_dir / "localllm" / "manifests"
        self._bundled_dir = bundled_dir
        self._now = now
        self._headers = Headers()
        self._known = ReadManifests(self._bundled_base)
        self._bundled = ReadBundled(bundled_dir, self._headers)
        self._remembered = Remembered()
        self._registry = RegistryPlace(registry_url, str(models_dir / "localllm" / "blobs"))

    def find(self, name: str) -> Model:
        """The model of that name; the tag is "latest" when unsaid, case does not matter.

        Raises InvalidNameError, ModelNotFoundError, and ModelFileError when its manifest is damaged or its file is gone
        or no longer the one that was registered.
        """
        marks = [(path, mark_of(path)) for path in self._places(parse_name(name))]
        found = self._found(name)
        if base := found.manifest.bundled:
            marks += [(path, mark_of(path)) for path in self._places(parse_name(base))]
            found = self._found(name)  # the base may have changed before it was marked
        self._remembered.keep(name, found.model, marks, files_of(found.manifest))
        return found.model

    def unchanged(self, name: str) -> Model | None:
        """What `find` would answer, if nothing it looked at has changed since; else None. Any thread may ask."""
        return self._remembered.unchanged(name)

    def _places(self, name: Name) -> list[Path]:
        """The files that may say what a name is; those that are not there could come."""
        names = (name, name.local) if name.is_known else ()
        paths = [manifest_path(self._manifests_dir, known) for known in names]
        return paths + [path for known in names if (path := bundled_modelfile(self._bundled_dir, known)) is not None]

    def _found(self, name: str) -> Registered:
        parsed = parse_name(name)
        for known in (parsed, parsed.local) if parsed.is_known else ():
            path = manifest_path(self._manifests_dir, known)
            try:
                found = self._known.find(path) or self._bundled.find(known)
            except ModelFileError as error:
                if circle := manifests.circle_of(self._manifests_dir, path):
                    error.hint = circle_hint(circle)
                raise
            if found is not None:
                return found
        raise self._not_found(name, parsed)

    def _not_found(self, name: str, parsed: Name) -> ModelNotFoundError:
        error = ModelNotFoundError(name)
        if parsed.is_hub or parsed.is_registry or (parsed.is_local and find_entry(self._bundled_dir, parsed)):
            error.hint = f"`localllm pull {name}` downloads it"
        elif not parsed.is_local:
            error.hint = _OTHER_HOST
        elif others := self._other_tags(parsed):
            error.hint = f"there is {others}"
        return error

    def _other_tags(self, name: Name) -> str:
        """The names there are of the same model, when `name` is one of this machine."""
        tags = manifests.tags_beside(manifest_path(self._manifests_dir, name)) if name.is_local else ()
        return ", ".join(f"{name.model}:{tag}" for tag in tags)

    def list(self) -> tuple[Model, ...]:
        """Every model that can be used, newest first. What cannot be is told by problems()."""
        return self._scan()[0]

    def problems(self) -> tuple[LocalllmError, ...]:
        """Why each model that is there but cannot be used is not in list()."""
        return self._scan()[1]

    def header(self, model: Model) -> Header:
        """The model's whole header, read once while the files stay the same; of parts the first one's with all tensors.
        Raises ModelFileError."""
        return _joined([self._headers.read(path)[1] for path in (model.file, *model.parts)])

    def loaded_header(self, model: Model) -> Header:
        """The header with the tensors of the model's adapters too: all that is loaded. Raises ModelFileError."""
        return _joined([self.header(model), *(self._headers.read(path)[1] for path in model.adapters)])

    def draft_header(self, model: Model) -> Header | None:
        """The header of the model's draft model, None without one. Raises ModelFileError."""
        return self._headers.read(model.draft_model)[1] if model.draft_model is not None else None

    def adapters(self, model: Model) -> Sequence[tuple[Path, AdapterFacts]]:
        """The adapters of a model, and what they are. Raises ModelFileError."""
        base = self.header(model)
        return [(path, read_adapter(self._headers, str(path), base)[1]) for path in model.adapters]

    def create_from_file(self, name: str, file: Path) -> Model:
        """Let `name` stand for the GGUF `file` where it lies, instead of whatever it stood for before.

        Raises InvalidNameError, and ModelFileError when the file is not a whole model that localllm can run.
        """
        # Not resolve(), which would follow links to a blob's nameless path.
        return self._write(self._of_files(parse_local_name(name), [Path(os.path.abspath(file))]))  # noqa: PTH100

    def base(self, creation: Creation) -> Manifest:
        """What `creation` starts from, under its new name and without what it lays over that.

        Raises InvalidNameError, ModelNotFoundError and ModelFileError.
        """
        name = parse_local_name(creation.name)
        if creation.files:
            return self._of_files(name, [Path(file) for file in creation.files])
        assert creation.base is not None
        try:
            return self._renamed(self._found(creation.base), name)
        except ModelNotFoundError as missing:
            if same_name(creation.base, creation.name) and not self._is_pullable(creation.base):
                missing.hint = "FROM names the very model that is to be made; name the one it is made of"
            raise

    def _is_pullable(self, name: str) -> bool:
        try:
            return self.pull_request(name) is not None
        except ModelNotFoundError:
            return False

    def create(self, base: Manifest, settings: Modelfile) -> Model:
        """Let the name of `base` stand for it with `settings` laid over it, instead of whatever it stood for before.

        Raises ModelFileError when the base's file has gone or changed since base() looked at it.
        """
        refuse_changed(base)
        return self._write(layered(base, settings))

    def with_adapters(self, base: Manifest, files: Sequence[str]) -> tuple[Manifest, tuple[str, ...]]:
        """`base` with the adapters in `files` too, and remarks on what of them is left out.

        Raises ModelFileError for a file that is no adapter of this model, UnsupportedError for too many.
        """
        whole = self._header_of(base) if files else None
        read = [read_adapter(self._headers, file, whole) for file in files] if whole else []
        remarks = tuple(remark for _, facts in read for remark in facts.remarks)
        return with_adapters(base, [part for part, _ in read]), remarks

    def with_draft(self, base: Manifest, file: str) -> Manifest:
        """`base` with the draft model in `file`. Raises ModelFileError for one that cannot guess."""
        return with_draft(self._headers, base, Path(file))

    def tensors(self, base: Manifest) -> Sequence[TensorInfo]:
        """The tensors of all files of `base`."""
        return self._header_of(base).tensors

    def _header_of(self, manifest: Manifest) -> Header:
        files = (manifest.file, *(part.file for part in manifest.parts))
        return _joined([self._headers.read(Path(file))[1] for file in files])

    def with_file(self, base: Manifest, file: Path) -> Manifest:
        """`base` with the GGUF `file` in place of its own. Raises ModelFileError when that is no model."""
        made = self._of_files(parse_name(base.name), [file])
        return msgspec.structs.replace(with_file_of(base, made), bundled=None)

    def copy(self, source: str, destination: str) -> Model:
        """Let `destination` stand for what `source` stands for. Raises InvalidNameError and what find() raises."""
        name = parse_local_name(destination)
        return self._write(self._renamed(self._found(source), name))

    def _renamed(self, found: Registered, name: Name) -> Manifest:
        manifest = found.manifest
        bundled = manifest.name if found.is_bundled else manifest.bundled
        return msgspec.structs.replace(manifest, name=str(name), created_at=self._now(), bundled=bundled)

    def _of_files(self, name: Name, paths: Sequence[Path]) -> Manifest:
        for path in paths:
            refuse_unwritable_path(path)
        read = [self._headers.read(path) for path in paths]
        for (_, header), path in zip(read, paths, strict=True):
            refuse_unusable(header, path, len(paths))
        seen = read[0][0]
        whole = _joined([header for _, header in read])
        check_model(whole, seen.path)
        return Manifest(
            schema=SCHEMA,
            name=str(name),
            file=str(seen.path),
            size_bytes=seen.size_bytes,
            modified_ns=seen.modified_ns,
            created_at=self._now(),
            facts=facts_from(whole),
            parts=tuple(Part(str(seen.path), seen.size_bytes, seen.modified_ns) for seen, _ in read[1:]),
        )

    def catalogue(self) -> tuple[Entry, ...]:
        """Every short name that can be pulled."""
        return tuple(entries(self._bundled_dir))

    def pull_request(self, name: str, quant: str = "") -> PullRequest | None:
        """What to download for `name`, in the `quant` asked for; None for a model that is here and comes from nowhere.

        Raises InvalidNameError, InvalidFieldError, and ModelNotFoundError for a name that stands for nothing anywhere.
        """
        parsed = parse_name(name)
        entry = find_entry(self._bundled_dir, parsed) if parsed.is_local else None
        request = request_for(parsed, entry, quant, self._registry)
        if request is None:
            refuse_unpullable(name, parsed, quant, self._other_tags(parsed), is_here=self._is_here(name))
        return request

    def _is_here(self, name: str) -> bool:
        try:
            self.find(name)
        except ModelNotFoundError:
            return False
        return True

    def refuse_unwritable(self, name: str) -> None:
        """Raises ModelFileError when nothing could be registered under `name`: known before it is made, or pulled."""
        manifests.refuse_unwritable(manifest_path(self._manifests_dir, parse_name(name)))

    def register_pulled(self, name: str, pulled: Pulled) -> Model:
        """Let `name` stand for files that were downloaded for it. Raises ModelFileError for what is no whole model."""
        parsed = spelled(parse_name(name), pulled.repository)
        entry = find_entry(self._bundled_dir, parsed) if parsed.is_local else None
        made = self._of_files(parsed, [Path(file.path) for file in pulled.files])
        manifest = described(made, parsed, pulled, self._projector(pulled.projector) if pulled.projector else None)
        manifest, _ = self.with_adapters(manifest, [file.path for file in pulled.adapters])
        return self._write(with_settings(manifest, entry.settings) if entry else manifest)

    def _projector(self, file: PulledFile) -> Part:
        seen, header = self._headers.read(Path(file.path))
        refuse_no_projector(header, seen.path)
        return Part(str(seen.path), seen.size_bytes, seen.modified_ns)

    def _write(self, manifest: Manifest) -> Model:
        data = manifests.encode(manifest)
        path = manifest_path(self._manifests_dir, parse_name(manifest.name))
        replaced = manifests.files_of(path)
        manifests.write(path, data)
        self.drop_blobs(replaced)
        return Registered(manifest, data).model

    def name_for(self, file: Path) -> str:
        """A name for `file` that create_from_file can be given without taking it from another model.

        Made from the file's name; the same as before for a file that is registered under it, else with a number when
        the name is taken.
        """
        path = os.path.abspath(file)  # noqa: PTH100
        base = name_from_file(file)
        names = (base if number == 1 else f"{base[: MAX_PART_LENGTH - 8]}-{number}" for number in itertools.count(1))
        return next(name for name in names if self._stands_for(name) in (None, path))

    def _stands_for(self, name: str) -> str | None:
        """The path a name has, None if the name is free; "" if it is taken but cannot be read."""
        try:
            return str(self.find(name).file)
        except ModelNotFoundError:
            return None
        except LocalllmError:
            return self._registered_path(name)

    def _registered_path(self, name: str) -> str:
        path = manifest_path(self._manifests_dir, parse_name(name))
        try:
            return manifests.decode(manifests.read(path) or b"", path).file
        except ModelFileError:
            return ""

    def delete(self, name: str) -> None:
        """Forget a registered name, also one whose manifest is damaged.

        The GGUF stays, but for a blob of ours that no other name needs. Raises InvalidNameError, ModelNotFoundError,
        and BadRequestError for a bundled model.
        """
        parsed = parse_name(name)
        if parsed.is_known:
            path = manifest_path(self._manifests_dir, parsed)
            files = manifests.files_of(path)
            if manifests.remove(path):
                self.drop_blobs(files)
                return
        if parsed.is_local and self._bundled.find(parsed) is not None:
            raise BadRequestError(f"model '{parsed}' comes with localllm and cannot be deleted")
        raise ModelNotFoundError(name)

    def drop_blobs(self, files: Sequence[str]) -> None:
        """Delete those of `files` that are blobs of ours and that no name needs."""
        blobs = [Path(file) for file in files if Path(file).parent == self.blobs_dir]
        needed = manifests.referenced_files(self._manifests_dir) if blobs else frozenset()
        if needed is not None:
            for blob in blobs:
                if str(blob) not in needed:
                    blob.unlink(missing_ok=True)

    def _bundled_base(self, name: str) -> Manifest | None:
        found = self._bundled.find(parse_name(name))
        return found.manifest if found else None

    def _scan(self) -> tuple[tuple[Model, ...], tuple[LocalllmError, ...]]:
        models: dict[str, Model] = {}
        problems: list[LocalllmError] = []
        # Bundled models first: a registered one of the same name takes the place.
        looks: list[Callable[[], Registered | None]]
        looks = [partial(self._bundled.find, name) for name in bundled_names(self._bundled_dir)]
        looks += [partial(self._known.find, path) for path in manifests.manifest_files(self._manifests_dir)]
        for look in looks:
            try:
                found = look()
            except LocalllmError as error:
                problems.append(error)
            else:
                if found is not None:
                    models[found.manifest.name.lower()] = found.model
        newest_first = sorted(models.values(), key=lambda model: (-model.modified_at.timestamp(), model.name))
        return tuple(newest_first), tuple(problems)


def _joined(headers: Sequence[Header]) -> Header:
    """The first of `headers` with the tensors of all."""
    if len(headers) == 1:
        return headers[0]
    return dataclasses.replace(headers[0], tensors=tuple(tensor for header in headers for tensor in header.tensors))
