"""The models in Ollama's own store: its manifests name blobs, some of them weights, some of them settings. Reads only.

$OLLAMA_MODELS (~/.ollama/models, or where its Linux service has its home)
├── manifests/<host>/<namespace>/<model>/<tag>      JSON, read by image.py
└── blobs/sha256-<hex>                             sha256:<hex> where an early version wrote it
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from localllm.errors import HubError, LocalllmError
from localllm.paths import readable
from localllm.store.found import Finding, Found, Unusable
from localllm.store.image import MAX_MANIFEST_BYTES, MAX_TEXT_BYTES, Image, image_of, settings_of
from localllm.store.names import name_from_file
from localllm.store.repository import HubFile

_REGISTRY, _LIBRARY = "registry.ollama.ai", "library"
_SERVICE_HOME = "usr/share/ollama"


def ollama_folders(environment: Mapping[str, str], home: Path, root: Path) -> list[Path]:
    """Where Ollama's models may lie: where it is told to keep them, or in the homes it runs with."""
    said = environment.get("OLLAMA_MODELS")
    homes = (home, root / _SERVICE_HOME)
    return [Path(said).expanduser()] if said else [one / ".ollama" / "models" for one in homes]


def ollama_models(folder: Path) -> Iterator[Finding]:
    """Every model that a manifest names, with its template, parameters, system message, licence and messages."""
    for path in sorted((folder / "manifests").glob("*/*/*/*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield _model(folder, path)


def _model(folder: Path, path: Path) -> Finding:
    host, namespace, model, tag = path.parts[-4:]
    parts = (host if host != _REGISTRY else "", namespace if namespace != _LIBRARY else "", f"{model}:{tag}")
    shown = f"Ollama's {readable(Path(*parts))}"
    try:
        data = _read(path, MAX_MANIFEST_BYTES)
        image = image_of(f"{namespace}/{model}", tag, hashlib.sha256(data).hexdigest(), data)
        texts = [(text.kind, _read(_blob(folder, text.file), MAX_TEXT_BYTES)) for text in image.texts]
        settings, remarks = settings_of(texts)
    except LocalllmError as error:
        return Unusable(shown, error.message)
    return Found(
        name=_name(host, namespace, model, tag),
        what=shown,
        files=tuple(_blob(folder, file) for file in image.files),
        projector=_blob(folder, image.projector) if image.projector else None,
        settings=settings,
        remarks=(*_without_names(image), *remarks),
        adapters=tuple(_blob(folder, file) for file in image.adapters),
    )


def _without_names(image: Image) -> tuple[str, ...]:
    return tuple(remark for remark in image.remarks if not remark.startswith("license"))


def _name(host: str, namespace: str, model: str, tag: str) -> str:
    """A local name: a library model keeps its own, a user's model gets the user in front, the hub's loses "-GGUF"."""
    if namespace != _LIBRARY and host == _REGISTRY:
        model = f"{namespace}-{model}"
    base = name_from_file(Path(f"{model}.gguf"))
    return f"{base.removesuffix('-gguf') if host != _REGISTRY else base}:{tag.lower()}"


def _blob(folder: Path, file: HubFile) -> Path:
    early, usual = (folder / "blobs" / f"sha256{sign}{file.oid}" for sign in ":-")
    return early if early.exists() and not usual.exists() else usual


def is_blob(path: Path) -> bool:
    """Whether a file is called by its hash."""
    return path.name.startswith(("sha256-", "sha256:"))


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise HubError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise HubError(f"{path} is larger than {most} bytes")
    return data
