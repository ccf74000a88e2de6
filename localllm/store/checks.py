"""What may stand behind a name: refusals of files that are no model, or no longer the one that was registered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from localllm.errors import ModelFileError
from localllm.gguf import Header
from localllm.paths import readable
from localllm.store.headers import fingerprint
from localllm.store.manifest import Manifest, Part

_NOT_MODELS = {
    "adapter": "an adapter",
    "mmproj": "a projector",
    "imatrix": "an importance matrix",
    "vocab": "a vocabulary",
}


def refuse_changed(manifest: Manifest) -> None:
    """Raises ModelFileError when a file of `manifest` is gone, or is not the one that was registered."""
    again = f"localllm create {manifest.name} --from FILE.gguf"
    if (manifest.adapters or manifest.draft_model) and manifest.source is None:
        again = f"localllm create {manifest.name} -f MODELFILE"
    elif manifest.parent is not None:
        again = f"localllm create {manifest.name} --from {manifest.parent}"
    elif manifest.source is not None:
        again = f"localllm pull {manifest.name}"
    for part in files_of(manifest):
        path, what = Path(part.file), _what(part, manifest)
        try:
            seen = fingerprint(path)
        except ModelFileError as error:
            message = f"the {what} of model '{manifest.name}' is gone: {error}"
            raise ModelFileError(message, hint=f"put it back, or register it where it is now: {again}") from error
        if (seen.size_bytes, seen.modified_ns) != (part.size_bytes, part.modified_ns):
            message = (
                f"the {what} of model '{manifest.name}' is not the one that was registered: {path} had "
                f"{part.size_bytes} bytes and has {seen.size_bytes}, or was written again"
            )
            raise ModelFileError(message, hint=f"if that was meant, register it again: {again}")


def _what(part: Part, manifest: Manifest) -> str:
    if part is manifest.draft_model:
        return "draft model"
    return "adapter" if part in manifest.adapters else "file"


def files_of(manifest: Manifest) -> tuple[Part, ...]:
    """The files that a model is loaded from, as they were registered."""
    first = Part(manifest.file, manifest.size_bytes, manifest.modified_ns)
    return (first, *manifest.parts, *manifest.adapters, *((manifest.draft_model,) if manifest.draft_model else ()))


def circle_hint(names: Sequence[str]) -> str:
    """What to do about models that are made FROM one another, none of which has its file any more."""
    chain = " FROM ".join((*names, names[0]))
    return (
        f"{chain} is a circle, and none of these can be made of the other again: make one of them of a file or another "
        f"model, localllm create {names[0]} --from FILE.gguf, and then the rest of it"
    )


def refuse_unwritable_path(path: Path) -> None:
    """Raises ModelFileError for a path that no manifest can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ModelFileError(f"{readable(path)} is not a UTF-8 path", hint="rename the file or folder") from None


def refuse_unusable(header: Header, path: Path, files: int) -> None:
    """A GGUF can be whole and yet no model, or one of more parts than the `files` there are. Raises ModelFileError."""
    kind = header.text("general.type") or ("mmproj" if header.architecture == "clip" else "model")
    if kind in _NOT_MODELS:
        raise ModelFileError(f"{path} is {_NOT_MODELS[kind]}, not a model", hint="name the file with the model itself")
    parts = header.integer("split.count") or 1
    if parts > files:
        message = f"{path} is one of {parts} parts of a model, and only a pulled model may have parts"
        raise ModelFileError(message, hint="join them: llama-gguf-split --merge FIRST_PART OUTPUT.gguf")
    if header.integer("split.no"):
        return  # the first part has the metadata
    if not header.architecture:
        raise ModelFileError(f"{path} does not say its architecture (general.architecture)")
    if not header.tensors and files == 1:
        raise ModelFileError(f"{path} holds no weights, only metadata", hint="download the whole model")
    _ = header.sampling  # refused now rather than when a runner loads it


def refuse_no_projector(header: Header, path: Path) -> None:
    """Raises ModelFileError for a file that came as a model's projector and is none."""
    if header.architecture != "clip":
        what = header.architecture or "nothing it names"
        raise ModelFileError(f"{path} should be a projector (clip), and is {what}", hint="tell its publisher")
