"""The server we measure ourselves against: llama-server and llama-bench, of the same source and flags as our engine.

    scripts/bench/peer            build them if need be; print where llama-server is

The source is the llama.cpp inside the engine's source distribution. The compile takes the flags that scripts/install
wrote down for the engine in .venv, so that both sides run the same kernels, and the result is kept in
.cache/bench/peer under a key of version, flags, compiler and CPU. An interrupted compile goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench.inputs import CACHE, ENGINE, ROOT, ensure_source_archive, say
from install import Build, Installation, build_environment, look_at_machine, wheel_key

SHELF = CACHE / "peer"
TARGETS = ("llama-server", "llama-bench")
JOBS = 2
# Without HTTPS, web page and the programs that are no peer: nothing of it takes part in what is measured, and the page
# would be downloaded.
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


@dataclass(frozen=True)
class Peer:
    """The two programs."""

    server: Path
    bench: Path


def flags_of_engine(flags: str) -> dict[str, str]:
    """The environment variables in a Build's `flags`, such as "CFLAGS='-O1' CMAKE_ARGS='-DGGML_RPC=ON'"."""
    pairs = (word.partition("=") for word in shlex.split(flags))
    return {name: value for name, _, value in pairs}


def build_of_engine() -> tuple[Build, str]:
    """What the engine in .venv was compiled for, or would be, and the compiler."""
    machine = look_at_machine(os.environ)
    build = Installation(ROOT).build()
    if build is None:
        variables = build_environment(machine, os.environ)
        flags = " ".join(f"{name}={value!r}" for name, value in sorted(variables.items()))
        build = Build(machine.cpu_features, machine.cpu_model, flags, metadata.version(ENGINE), machine.cuda)
    return build, machine.compiler


def extract_source(folder: Path) -> Path:
    """llama.cpp alone out of the archive; its folder."""
    source = folder / "llama.cpp"
    if source.exists():
        return source
    draft = folder / "source.partial"
    shutil.rmtree(draft, ignore_errors=True)
    with tarfile.open(ensure_source_archive()) as archive:
        members = [member for member in archive if "/vendor/llama.cpp/" in member.name]
        archive.extractall(draft, members, filter="data")
    next(draft.glob("*/vendor/llama.cpp")).replace(source)
    shutil.rmtree(draft)
    return source


def run_logged(command: list[str], environment: dict[str, str], log: Path) -> None:
    """A step of the build; its words go to the log, the last of them to the person when it fails."""
    with log.open("a", encoding="utf-8") as stream:
        done = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SystemExit(f"{tail}\nbench: the peer could not be built; all words are in {log}")


def compile_peer(shelf: Path, build: Build) -> None:
    """Configure and compile in the shelf, then keep only the programs and their libraries."""
    cmake = shutil.which("cmake")
    if cmake is None:
        raise SystemExit("bench: building the peer needs cmake (Debian, Ubuntu: apt install cmake)")
    shelf.mkdir(parents=True, exist_ok=True)
    work, log = shelf / "work", shelf / "build.log"
    work.mkdir(exist_ok=True)
    say(f"building {' and '.join(TARGETS)} with {build.flags} (10 minutes on two free cores, once; log at {log})")
    variables = flags_of_engine(build.flags)
    environment = {**os.environ, **variables}
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    arguments = [*generator, *OPTIONS, *shlex.split(variables.get("CMAKE_ARGS", ""))]
    folder, source = work / "build", extract_source(work)
    polite = ["nice", "-n", "5", cmake]
    run_logged([*polite, "-S", str(source), "-B", str(folder), *arguments], environment, log)
    run_logged([*polite, "--build", str(folder), "-j", str(JOBS), "--target", *TARGETS], environment, log)
    (folder / "bin").replace(shelf / "bin")
    shutil.rmtree(work)


def ensure_peer() -> Peer:
    """The programs, built the first time."""
    build, compiler = build_of_engine()
    shelf = SHELF / wheel_key(build, compiler)
    peer = Peer(shelf / "bin" / TARGETS[0], shelf / "bin" / TARGETS[1])
    if not peer.server.exists():
        compile_peer(shelf, build)
    return peer


def main() -> None:
    """Build and tell."""
    argparse.ArgumentParser(prog="scripts/bench/peer", description="Build llama-server and llama-bench.").parse_args()
    print(ensure_peer().server)


if __name__ == "__main__":
    main()
