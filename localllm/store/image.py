"""What the manifest of a model in Ollama's registry says: which layers make the model, and what the small ones mean.

    {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:…", "size": …}, …]}

    model (several: the parts in order) · adapter · projector   files, downloaded
    template · system · params · messages · license             texts of a few kilobytes, read into the manifest
    everything else                                             left out, which is said

Pure: bytes in, data out; nothing here asks anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from localllm.errors import HubError, InvalidOptionError, NotOnHubError
from localllm.generation import Message, Options, parse_options
from localllm.pulling import PulledSettings
from localllm.store.repository import HubFile, Repository

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MAX_MANIFEST_BYTES = 2**20
MAX_TEXT_BYTES = 2**20  # of all texts of a model: they travel as one line of JSON
_MAX_LAYERS = 1000
_PREFIX = "application/vnd.ollama.image."
_TEXTS = frozenset(("template", "prompt", "system", "params", "messages", "license"))
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_FILE_BYTES = 2**50
_NO_MANIFEST = "check that LOCALLLM_REGISTRY names such a registry, and that no page asks for a login to the network"


class _Layer(msgspec.Struct):
    mediaType: str  # noqa: N815 - the manifest's word
    digest: str
    size: int


class _Manifest(msgspec.Struct):
    layers: list[_Layer] | None = None
    manifests: list[object] | None = None


class _Turn(msgspec.Struct):
    role: str
    content: str = ""


_manifests = msgspec.json.Decoder(_Manifest)
_turns = msgspec.json.Decoder(list[_Turn])


@dataclass(frozen=True, slots=True)
class Text:
    """A small layer: what it is ("template"), and which blob holds it."""

    kind: str
    file: HubFile


@dataclass(frozen=True, slots=True)
class Image:
    """A model of the registry. `repository.id` is "library/llama3.2"; `remarks` say what is left out."""

    repository: Repository
    files: tuple[HubFile, ...]
    projector: HubFile | None
    texts: tuple[Text, ...]
    remarks: tuple[str, ...]
    adapters: tuple[HubFile, ...] = ()


def image_of(repository_id: str, tag: str, manifest_digest: str, data: bytes) -> Image:
    """Read a manifest's bytes. Raises HubError for what is none, and what names no model that can be run here."""
    name, title = f"{repository_id}:{tag}", f"{repository_id.rpartition('/')[2]}:{tag}"
    texts, others = _texts_and_files(name, data)
    models = _named(others.pop("model", []), title)
    projectors = _named(others.pop("projector", []), f"{title} projector")
    if not models:
        raise _no_model(name, others)
    adapters = _named(others.pop("adapter", []), f"{title} adapter")
    remarks = [f"left out: a layer that this version does not know ({kind[:60]!a})" for kind in sorted(others)]
    if projectors:
        remarks.insert(0, "with its projector, which is kept: this version reads no images yet")
    remarks += [f"left out: {projector.name}" for projector in projectors[1:]]
    repository = Repository(repository_id, manifest_digest, models)
    return Image(repository, models, next(iter(projectors), None), texts, tuple(remarks), adapters)


def _texts_and_files(name: str, data: bytes) -> tuple[tuple[Text, ...], dict[str, list[HubFile]]]:
    """The small layers, and the others by their kind. Raises HubError."""
    texts: list[Text] = []
    others: dict[str, list[HubFile]] = {}
    for kind, oid, size in _layers(name, data):
        if kind in _TEXTS:
            texts.append(Text(kind, HubFile(f"the {kind} of {name}", size, oid)))
        else:
            others.setdefault(kind, []).append(HubFile(kind, size, oid))
    if (text_bytes := sum(text.file.size_bytes for text in texts)) > MAX_TEXT_BYTES:
        raise HubError(f"the texts of {name} have {text_bytes} bytes together, and {MAX_TEXT_BYTES} is the limit")
    return tuple(texts), others


def _layers(name: str, data: bytes) -> Iterable[tuple[str, str, int]]:
    try:
        manifest = _manifests.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HubError(f"the registry's manifest of {name} cannot be read: {error}", hint=_NO_MANIFEST) from error
    if manifest.manifests is not None and not manifest.layers:
        message = f"the registry has several manifests of {name}, for several machines, and which to take is not known"
        raise NotOnHubError(message, hint="choose another tag of it")
    if (layers := manifest.layers) is None:
        raise HubError(f"the registry's manifest of {name} names no layers", hint=_NO_MANIFEST)
    if len(layers) > _MAX_LAYERS:
        raise HubError(f"the registry's manifest of {name} has {len(layers)} layers, and {_MAX_LAYERS} is the limit")
    for layer in layers:
        kind = layer.mediaType.removeprefix(_PREFIX)
        digest = _DIGEST.fullmatch(layer.digest)  # it becomes part of a path
        least_bytes = 0 if kind in _TEXTS else 1
        if digest is None or not least_bytes <= layer.size <= _MAX_FILE_BYTES:
            raise HubError(f"the registry's manifest of {name} has a layer that cannot be: {layer.digest[:80]!a}")
        yield kind, digest[1], layer.size


def _named(files: list[HubFile], name: str) -> tuple[HubFile, ...]:
    """The files with names for people: a layer has none of its own."""
    if len(files) < 2:
        return tuple(HubFile(name, file.size_bytes, file.oid) for file in files)
    count = len(files)
    return tuple(HubFile(f"{name} {n} of {count}", file.size_bytes, file.oid) for n, file in enumerate(files, 1))


def _no_model(name: str, kinds: Mapping[str, list[HubFile]]) -> NotOnHubError:
    if "tensor" in kinds:
        return NotOnHubError(
            f"{name} is not a GGUF model: it is made of tensors for another engine", hint="choose another tag of it"
        )
    return NotOnHubError(
        f"{name} holds no model: it runs on other people's machines, or is an adapter alone",
        hint="choose another tag; the registry's page of the model lists them",
    )


def settings_of(texts: Iterable[tuple[str, bytes]]) -> tuple[PulledSettings, tuple[str, ...]]:
    """What the texts of an image say, and remarks on what of it has no effect. Raises HubError for what is no text."""
    found: dict[str, list[str]] = {}
    for kind, data in texts:
        try:
            found.setdefault("template" if kind == "prompt" else kind, []).append(data.decode())
        except UnicodeDecodeError as error:
            raise HubError(f"the {kind} of the model is not UTF-8 text: {error}") from error
    options, remarks = _options(found["params"][-1]) if "params" in found else (Options(), ())
    return PulledSettings(
        options=options,
        template=_last(found, "template"),
        system=_last(found, "system"),
        license="\n\n".join(found["license"]) if "license" in found else None,
        messages=_messages(found["messages"][-1]) if "messages" in found else (),
    ), remarks


def _last(found: Mapping[str, list[str]], kind: str) -> str | None:
    return found[kind][-1] if kind in found else None


def _options(text: str) -> tuple[Options, tuple[str, ...]]:
    try:
        values = msgspec.json.decode(text, type=dict[str, object])
        options, unknown = parse_options(values)
    except (msgspec.MsgspecError, InvalidOptionError, RecursionError) as error:
        raise HubError(f"the parameters of the model cannot be used: {error}") from error
    return options, tuple(f"the parameter {name[:60]} has no effect here" for name in unknown)


def _messages(text: str) -> tuple[Message, ...]:
    try:
        turns = _turns.decode(text)
        return tuple(msgspec.convert({"role": turn.role, "content": turn.content}, Message) for turn in turns)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise HubError(f"the messages of the model cannot be used: {error}") from error


def license_name(license_text: str | None) -> str | None:
    """The first line of a licence that has words: what is worth telling during a pull."""
    lines = (line.strip() for line in (license_text or "").splitlines())
    return next((line[:80] for line in lines if line), None)
