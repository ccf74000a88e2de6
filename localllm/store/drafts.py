"""Draft models: which file DRAFT names, and the manifest of a base with it.

DRAFT ./small.gguf             a file, or a folder with one; a relative path starts at the Modelfile
DRAFT qwen3:0.6b               a model there is, by its name
DRAFT @sha256:<64 hex>         a blob of ours, sent to /api/blobs before

Whether it can guess for the model, llama.cpp is asked (engine/llama_draft).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from localllm.errors import ModelFileError
from localllm.store.blobs import find_blob
from localllm.store.checks import refuse_unusable, refuse_unwritable_path
from localllm.store.files import is_path, model_files
from localllm.store.headers import Headers, fingerprint
from localllm.store.manifest import Manifest, Part
from localllm.store.model import Model

_BLOB = "@sha256:"
_OTHER = "name a small model of the same family"


def draft_file(said: str, folder: Path, blobs: Path, find: Callable[[str], Model]) -> Path:
    """The GGUF that DRAFT names; a relative path starts from `folder`, and `find` knows the models there are.

    Raises ModelFileError for a path without one, or in several parts, ModelNotFoundError for a name that is not there,
    BadRequestError for a blob that is not there, and UnsupportedError for weights that are no GGUF.
    """
    if said.startswith(_BLOB):
        return find_blob(blobs, said.removeprefix("@"))
    if is_path(said):
        try:
            path = Path(os.path.abspath(folder / Path(said).expanduser()))  # noqa: PTH100  # not through links
        except RuntimeError as error:  # ~somebody who is not there
            raise ModelFileError(f"{said} cannot be found: {error}") from error
        files = model_files(path)
    else:
        model = find(said)
        files = (model.file, *model.parts)
    if len(files) > 1:
        raise ModelFileError(f"the draft model {said} is in {len(files)} parts", hint=_OTHER)
    return fingerprint(files[0]).path


def with_draft(headers: Headers, base: Manifest, file: Path) -> Manifest:
    """`base` with the draft model in `file` instead of the one it has. Raises ModelFileError when that cannot guess."""
    refuse_unwritable_path(file)
    if base.facts.is_embedding_model:
        raise ModelFileError("an embedding model writes no text that a draft model could guess", hint="leave DRAFT out")
    seen, header = headers.read(file)
    refuse_unusable(header, file, 1)
    if header.is_embedding_model:
        raise ModelFileError(f"{file} is an embedding model, which guesses nothing", hint=_OTHER)
    part = Part(str(seen.path), seen.size_bytes, seen.modified_ns)
    # A bundled model's file may change with localllm: the model stays with the one it was checked with.
    return msgspec.structs.replace(base, draft_model=part, bundled=None)
