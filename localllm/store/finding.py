"""Where other tools keep GGUF files, and which of them make a model. Looks; opens no file and changes nothing.

    LM Studio   ~/.lmstudio/models/PUBLISHER/REPO/*.gguf            (~/.cache/lm-studio/models of old)
    llama.cpp   $LLAMA_CACHE/OWNER_REPO_FILE.gguf, and manifest=OWNER=REPO=TAG.json which says where the parts of
                such a name end                                     (~/.cache/llama.cpp)
    hf          $HF_HUB_CACHE/models--OWNER--REPO/snapshots/COMMIT/**/*.gguf, links to blobs
    DIR         any folder, with what lies in its folders
    ollama      finding_ollama.py

A model's name is that of its file in lower case, its tag the quant: Qwen3-8B-Q4_K_M.gguf is qwen3-8b:q4_k_m.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from localllm.errors import ModelFileError
from localllm.paths import readable
from localllm.store.finding_ollama import ollama_folders, ollama_models
from localllm.store.found import Finding, Found, Unusable
from localllm.store.hub_folder import hub_cache
from localllm.store.names import DEFAULT_TAG, name_from_file
from localllm.store.quants import as_quant, piece_of, read_path
from localllm.store.repository import HubFile, Variant, variants_of

TOOLS = ("ollama", "lmstudio", "llama.cpp", "hf")
_DEEPEST = 8


def find(
    where: str, environment: Mapping[str, str], home: Path, root: Path = Path("/")
) -> tuple[list[Path], list[Finding]]:
    """The folders of the tool `where`, or of the path `where`, that are there, and what was found in them.

    Raises ModelFileError when there is none.
    """
    if where in TOOLS:
        look, folders = _tool(where, environment, home, root)
        there = [folder for folder in folders if folder.is_dir()]
        if not there:
            looked = f"{' and '.join(map(str, folders))} {'are' if len(folders) > 1 else 'is'} not there"
            raise ModelFileError(
                f"there are no models of {where}: {looked}",
                hint="if they lie elsewhere, name that folder: localllm import DIR",
            )
    else:
        look, there = folder_models, [Path(where).expanduser().absolute()]
        if not there[0].is_dir():
            raise ModelFileError(
                f"{where} is not a folder",
                hint=f"name a folder, or one of {', '.join(TOOLS)}; one file: localllm create NAME --from FILE.gguf",
            )
    return there, [finding for folder in there for finding in look(folder)]


Look = Callable[[Path], Iterable[Finding]]


def _tool(name: str, environment: Mapping[str, str], home: Path, root: Path) -> tuple[Look, list[Path]]:
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    match name:
        case "ollama":
            return ollama_models, ollama_folders(environment, home, root)
        case "lmstudio":
            return folder_models, [home / ".lmstudio" / "models", cache / "lm-studio" / "models"]
        case "llama.cpp":
            own = environment.get("LLAMA_CACHE")
            return llama_cpp_models, [Path(own)] if own else [cache / "llama.cpp", home / "Library/Caches/llama.cpp"]
    return hub_models, [hub_cache(environment, home)]


def folder_models(folder: Path) -> Iterator[Finding]:
    """The models in a folder and the folders in it; those of one folder belong together with its projector."""
    for place, names in _gguf_files(folder):
        yield from _models_of(place, {name: name for name in names if not piece_of(name)})
        for whole in sorted({piece_of(name) for name in names} - {""}):
            yield Unusable(readable(place / whole), "it is in pieces, which have to be joined with `cat`")


def hub_models(folder: Path) -> Iterator[Finding]:
    """The models in the cache of Hugging Face's hub, of every repository's newest snapshot that has them."""
    for repository in sorted(folder.glob("models--*--*")):
        for snapshot in _snapshots(repository):
            yield from folder_models(snapshot)


def llama_cpp_models(folder: Path) -> Iterator[Finding]:
    """The models that llama.cpp downloaded for `-hf`, into one folder under names that hold the repository's."""
    names = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith(".gguf") and path.is_file())
    prefixes = _prefixes(folder)
    by_repository: dict[str, dict[str, str]] = {}
    for name in names:
        prefix = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default="")
        by_repository.setdefault(prefix, {})[name] = name.removeprefix(prefix)
    for _, group in sorted(by_repository.items()):
        yield from _models_of(folder, group)


def _prefixes(folder: Path) -> set[str]:
    """OWNER_REPO_ of every repository that llama.cpp left a manifest of."""
    parts = [path.name.split("=") for path in folder.glob("manifest=*=*=*.json")]
    return {f"{part[1]}_{part[2]}_" for part in parts if len(part) == 4}


def _snapshots(repository: Path) -> list[Path]:
    """The snapshots of a repository, that of its main branch first, then the newest."""
    try:
        snapshots = [path for path in (repository / "snapshots").iterdir() if path.is_dir()]
    except OSError:  # nothing was downloaded of it, or it is being removed
        return []
    try:
        main = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    return sorted(snapshots, key=lambda path: (path.name != main, -path.stat().st_mtime, path.name))


def _gguf_files(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder with GGUF files or pieces of them, and their names.

    Links to folders are not followed: they could go in circles.
    """
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < _DEEPEST)
        found = sorted(name for name in names if _is_gguf(name) and not name.startswith("."))
        if found:
            yield Path(place), found


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf") or bool(piece_of(name))


def _models_of(place: Path, called: Mapping[str, str]) -> Iterator[Finding]:
    """The models among the files of one folder, by what each file is `called` for people."""
    files = [HubFile(shown, _size(place / name), name) for name, shown in called.items()]
    projectors = sorted((file for file in files if "mmproj" in file.name.lower()), key=_projector_rank)
    for variant in variants_of(files):
        yield _model(place, variant, place / projectors[0].oid if projectors else None)


def _model(place: Path, variant: Variant, projector: Path | None) -> Finding:
    paths = tuple(place / file.oid for file in variant.files)
    if not variant.is_whole:
        return Unusable(readable(paths[0]), f"{len(paths)} of its {variant.parts} parts are there")
    return Found(model_name(variant), readable(paths[0]), paths, projector)


def model_name(variant: Variant) -> str:
    """NAME:TAG of a model, from its file's name without the number of a part."""
    name = read_path(variant.files[0].path)
    stem = name.stem.rpartition("/")[2]
    if name.quant and name.model and as_quant(stem[len(name.model) :].lstrip("-_. ")) == name.quant:
        return f"{name_from_file(Path(f'{name.model}.gguf'))}:{name.quant.lower()}"
    return f"{name_from_file(Path(f'{stem}.gguf'))}:{DEFAULT_TAG}"


def _projector_rank(file: HubFile) -> tuple[bool, str]:
    return "f16" not in file.name.lower(), file.name


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to a blob that was removed: reading it will say so
        return 0
