"""Adapters of a model: which file ADAPTER names, and the manifest of a base with them.

ADAPTER ./lora.gguf            a file, or a folder with one; a relative path starts at the Modelfile
ADAPTER ./trained              a folder with one in safetensors (peft.py), which is converted
ADAPTER @sha256:<64 hex>       a blob of ours, sent to /api/blobs before
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from localllm.errors import ModelFileError, UnsupportedError
from localllm.gguf import Header
from localllm.gguf_adapters import MOST_ADAPTERS, AdapterFacts, check_adapter
from localllm.store.blobs import find_blob
from localllm.store.checks import refuse_unwritable_path
from localllm.store.headers import Fingerprint, Headers, fingerprint
from localllm.store.manifest import Manifest, Part
from localllm.store.peft import CONFIG, WEIGHTS, is_adapter_folder
from localllm.store.safetensors import PICKLES

_BLOB = "@sha256:"
_OTHER_WEIGHTS = (".safetensors", *PICKLES)
_CONVERT = f"name a GGUF, or the folder of an adapter in safetensors, with its {CONFIG} and {WEIGHTS}"


def adapter_file(said: str, folder: Path, blobs: Path) -> Path:
    """The GGUF that ADAPTER names, or the folder of one in safetensors; a relative path starts from `folder`.

    Raises ModelFileError when there is none or more than one, BadRequestError for a blob that is not there, and
    UnsupportedError for weights that are no GGUF.
    """
    if said.startswith(_BLOB):
        return find_blob(blobs, said.removeprefix("@"))
    try:
        path = Path(os.path.abspath(folder / Path(said).expanduser()))  # noqa: PTH100  # resolve() would follow links
    except RuntimeError as error:  # ~somebody who is not there
        raise ModelFileError(f"{said} cannot be found: {error}") from error
    if path.name == WEIGHTS and is_adapter_folder(path.parent):
        return path.parent
    if path.is_dir():
        path = _the_one_of(path)
        if path.is_dir():
            return path
    refuse_unconverted(path)
    return fingerprint(path).path


def refuse_unconverted(path: Path) -> None:
    """Raises UnsupportedError for an adapter that is no GGUF by its name."""
    if path.name.lower().endswith(_OTHER_WEIGHTS):
        raise UnsupportedError(f"the adapter {path} is no GGUF, and no adapter that can be converted", hint=_CONVERT)


def _the_one_of(folder: Path) -> Path:
    """The only adapter in a folder, or the folder, when it is in safetensors."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    adapters = [name for name in names if name.lower().endswith(".gguf")]
    if len(adapters) == 1:
        return folder / adapters[0]
    if adapters:
        raise ModelFileError(f"{folder} holds several GGUF files: {', '.join(adapters)}", hint="name one of them")
    if is_adapter_folder(folder):
        return folder
    for name in names:
        refuse_unconverted(folder / name)
    raise ModelFileError(f"{folder} holds no GGUF file", hint="name the adapter's .gguf file or a folder with it")


def read_adapter(headers: Headers, file: str, base: Header) -> tuple[Part, AdapterFacts]:
    """The adapter in `file`, checked against the header of all of its base. Raises ModelFileError."""
    path = Path(file)
    refuse_unwritable_path(path)
    seen, header = headers.read(path)
    return _part(seen), check_adapter(header, base, path)


def with_adapters(base: Manifest, adapters: Sequence[Part]) -> Manifest:
    """`base` with these adapters behind its own; one that it has already is not applied twice.

    Raises UnsupportedError for more than can be applied. A bundled model's file may change with localllm, for which the
    adapters were not made: the model stays with the file there is.
    """
    if not adapters:
        return base
    every = {os.path.realpath(one.file): one for one in (*base.adapters, *adapters)}
    if len(every) > MOST_ADAPTERS:
        raise UnsupportedError(
            f"{len(every)} adapters are for one model, and {MOST_ADAPTERS} is the limit",
            hint="merge some of them into the model with llama.cpp's llama-export-lora",
        )
    return msgspec.structs.replace(base, adapters=tuple(every.values()), bundled=None)


def _part(seen: Fingerprint) -> Part:
    return Part(str(seen.path), seen.size_bytes, seen.modified_ns)
