"""Build the packed engine for the GPU that is here, with all cores; what is built is kept, and a second run skips it.

    python3 -m gpu.build FOLDER

    FOLDER/venv/            Python with localllm's dependencies and the engine
    FOLDER/venv/built.json  what it was built for; another GPU or another engine is built anew

Needs nothing but Python, a compiler and the CUDA toolkit; no network.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def key_of(folder: Path) -> str:
    """What decides a build: the engine's source, the GPU's kind, the compiler."""
    source = hashlib.sha256((folder / "engine.tar.gz").read_bytes()).hexdigest()
    return " ".join((source[:16], *_told("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader")[:1],
                     *_told("nvcc", "--version")[-1:]))  # fmt: skip


def _told(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def build(folder: Path) -> None:
    """Make the environment, and compile the engine into it."""
    venv, wheels = folder / "venv", folder / "wheels"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [
        str(python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-index",
        "--find-links",
        str(wheels),
    ]
    packages = [str(wheel) for wheel in wheels.glob("*.whl")]
    subprocess.run([*pip, "--quiet", "--no-deps", *packages], check=True)
    jobs = str(os.cpu_count() or 1)
    environment = {
        **os.environ,
        "CMAKE_ARGS": "-DGGML_CUDA=on -DGGML_RPC=on -DCMAKE_CUDA_ARCHITECTURES=native",
        "CMAKE_BUILD_PARALLEL_LEVEL": jobs,
        "CFLAGS": "-fno-dse -fno-tree-dse",
        "CXXFLAGS": "-fno-dse -fno-tree-dse",
        "CUDACXX": os.environ.get("CUDACXX", "/usr/local/cuda/bin/nvcc"),
    }
    with tempfile.TemporaryDirectory(dir=folder) as source, tarfile.open(folder / "engine.tar.gz") as archive:
        archive.extractall(source, filter="data")
        (engine,) = Path(source).iterdir()
        subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(engine)], env=environment, check=True)


def main() -> int:
    """Build unless it is built."""
    folder = Path(sys.argv[1])
    if not (folder / "engine.tar.gz").exists():
        print(
            f"gpu_check: {folder} is not packed; run `scripts/gpu_check pack` where there is a network", file=sys.stderr
        )
        return 1
    mark, key = folder / "venv" / "built.json", key_of(folder)
    if mark.exists() and json.loads(mark.read_text()) == key:
        return 0
    build(folder)
    mark.write_text(json.dumps(key))
    return 0


if __name__ == "__main__":
    sys.exit(main())
