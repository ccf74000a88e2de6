"""Everything that proving placement on another machine needs, in one folder: under 60 MB, no network there.

CMake is expected there, as the compiler and CUDA's toolkit are; `--with-cmake` packs it too, which is 30 MB more.

.cache/gpu_check/engine.tar.gz    the engine's source, less what no build of ours reads
.cache/gpu_check/wheels/          what pip installs there, for its Python (--python 3.12, if it is not ours)
.cache/gpu_check/tree.tar.gz      this tree, as git knows it
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path, PurePosixPath

from bench.inputs import ENGINE, ROOT, ensure_source_archive

FOLDER = ROOT / ".cache" / "gpu_check"
MOST_BYTES = 60 * 10**6
# Of the engine's archive, below its one folder; the rest is tests, tools, documents and web pages.
KEPT = (
    "CMakeLists.txt pyproject.toml README.md LICENSE.md PKG-INFO llama_cpp "
    "vendor/llama.cpp/CMakeLists.txt vendor/llama.cpp/cmake vendor/llama.cpp/common vendor/llama.cpp/ggml "
    "vendor/llama.cpp/include vendor/llama.cpp/src vendor/llama.cpp/tools/mtmd vendor/llama.cpp/vendor "
    "vendor/llama.cpp/licenses vendor/llama.cpp/LICENSE vendor/llama.cpp/scripts/build-info.cmake"
).split()
BUILDERS = ("scikit-build-core[pyproject]>=0.9.2", "ninja", "hatchling")
CMAKE = "cmake>=3.21"  # 30 MB: a machine with a CUDA toolkit has it, as a rule
NOT_THERE = (ENGINE,)  # it comes as source


def is_kept(name: str) -> bool:
    """Whether a build needs the file; `name` is below the archive's folder."""
    return any(name == kept or name.startswith(f"{kept}/") for kept in KEPT)


def prune(archive: Path, target: Path) -> None:
    """Write the engine's archive anew with what a build needs."""
    with tarfile.open(archive) as source, tarfile.open(target, "w:gz", compresslevel=9) as out:
        for member in source:
            below = str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))
            if member.isfile() and is_kept(below):
                out.addfile(member, source.extractfile(member))


def requirements() -> list[str]:
    """What localllm depends on, without the engine, and what its check needs beside it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [one for one in project["dependencies"] if not one.startswith(NOT_THERE)]


def download_wheels(target: Path, python: str, *, with_cmake: bool) -> None:
    """Wheels of everything, for that version of Python on this kind of machine."""
    wanted = [*requirements(), *BUILDERS, *([CMAKE] if with_cmake else [])]
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--only-binary", ":all:", "--python-version", python]
    subprocess.run([*pip, "--dest", str(target), *wanted], check=True)


def pack_tree(target: Path) -> None:
    """The files that git tracks, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tarfile.open(target, "w:gz") as out:
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                out.add(ROOT / name, arcname=name)


def main() -> int:
    """Pack; exit 1 when it is too large to carry."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check pack")
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", metavar="VERSION")
    parser.add_argument("--with-cmake", action="store_true")
    chosen = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    prune(ensure_source_archive(), FOLDER / "engine.tar.gz")
    download_wheels(FOLDER / "wheels", chosen.python, with_cmake=chosen.with_cmake)
    pack_tree(FOLDER / "tree.tar.gz")
    files = [FOLDER / "engine.tar.gz", FOLDER / "tree.tar.gz", *(FOLDER / "wheels").iterdir()]
    size = sum(file.stat().st_size for file in files)
    print(f"{FOLDER}: {size / 10**6:.1f} MB in {len(files)} files")
    if size > MOST_BYTES and not chosen.with_cmake:
        print(f"gpu_check: more than {MOST_BYTES // 10**6} MB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
