"""Make `.venv` with localllm and its engine, compiled for this machine. Started by scripts/setup; no dependencies.

PyPI holds the engine (llama-cpp-python) as source, so installing it compiles it. What it is compiled for decides
whether it runs: a native build dies on a CPU that lacks an instruction it uses. So the build is written down, and
looked at again at every start. The wheel is kept, so that a second clone on the same machine need not compile.

    .venv/localllm-engine-build.json    what the engine in .venv was compiled for (the engine's probe reads it too)
    .venv/localllm-install.json         which pyproject.toml and extras are installed
    .venv/localllm-engine-build.log     the compiler's words
    ~/.cache/localllm/engine/KEY/*.whl  compiled engines; KEY says version, flags, compiler and CPU features
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "llama-cpp-python"
HEARTBEAT_SECONDS = 30

# Instruction sets that ggml's CPU kernels are compiled for, under the names of /proc/cpuinfo (x86, then Arm).
_FEATURE_NAMES = """
    sse4_2 avx avx2 fma f16c bmi2 gfni avx_vnni amx_tile amx_int8 amx_bf16 amx_fp16
    avx512f avx512cd avx512bw avx512dq avx512vl avx512_vnni avx512vbmi avx512_vbmi2 avx512_bf16 avx512_fp16 avx512ifma
    avx512_vpopcntdq avx512_bitalg
    asimd asimddp asimdhp fphp i8mm bf16 sve sve2 svei8mm svebf16 sme sme2
"""
FEATURES = frozenset(_FEATURE_NAMES.split())
# GCC's dead-store elimination drops the stores that fill llama.cpp's AMX tile configuration; the first matrix
# multiplication then dies with SIGSEGV (llama.cpp issue 20824).
GCC_FLAGS = "-fno-dse -fno-tree-dse"


class SetupError(Exception):
    """What is missing or went wrong, in one sentence; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Machine:
    """What of this machine matters to a build. `compiler` is the first line of its --version, "" when there is none."""

    cpu_model: str
    cpu_features: tuple[str, ...]
    compiler: str
    is_gcc: bool
    cuda: bool


@dataclass(frozen=True)
class Build:
    """What an engine was compiled for: the content of localllm-engine-build.json."""

    cpu_features: tuple[str, ...]
    cpu_model: str
    flags: str
    engine_version: str
    cuda: bool


def parse_cpu_information(text: str) -> tuple[str, tuple[str, ...]]:
    """The model's name and the features that matter, from the text of /proc/cpuinfo."""
    rows = [line.partition(":") for line in text.splitlines()]
    values = {key.strip().lower(): value.strip() for key, _, value in reversed(rows)}
    words = values.get("flags", values.get("features", "")).split()
    return values.get("model name", platform.machine()), tuple(sorted(FEATURES.intersection(words)))


def build_environment(machine: Machine, environment: Mapping[str, str]) -> dict[str, str]:
    """CMAKE_ARGS, CFLAGS and CXXFLAGS for the compile: ours, then the user's, who has the last word."""
    cmake = ["-DGGML_RPC=ON", *(["-DGGML_CUDA=on"] if machine.cuda else [])]
    added = {"CMAKE_ARGS": " ".join(cmake)}
    if machine.is_gcc:
        added |= {"CFLAGS": GCC_FLAGS, "CXXFLAGS": GCC_FLAGS}
    return {name: " ".join(filter(None, [text, environment.get(name, "")])) for name, text in added.items()}


def rebuild_reason(installed: str | None, build: Build | None, machine: Machine, pin: str) -> str | None:
    """Why the engine in .venv (version `installed`, None for none) must be compiled anew; None when it is right."""
    if installed is None:
        return "the engine is not installed yet"
    if installed != pin:
        return f"the engine is version {installed}, and localllm needs {pin}"
    if build is None or build.engine_version != installed:
        return "it is not known which CPU the installed engine was compiled for"
    if lacking := sorted(set(build.cpu_features) - set(machine.cpu_features)):
        return f"the engine was compiled for a CPU with {', '.join(lacking)}, which this one lacks"
    if machine.cuda and not build.cuda:
        return "a CUDA GPU is there, and the engine was compiled without CUDA"
    return None


def wheel_key(build: Build, compiler: str) -> str:
    """The name of the folder of a compiled engine: the same key means the same binary."""
    text = json.dumps([asdict(build), compiler, platform.machine(), platform.libc_ver()], sort_keys=True)
    return f"{build.engine_version}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def look_at_machine(environment: Mapping[str, str]) -> Machine:
    """Ask the kernel, the compiler and the GPU driver."""
    model, features = parse_cpu_information(_cpu_information())
    compiler = _compiler(environment)
    return Machine(model, features, compiler, "Free Software Foundation" in compiler or "GCC" in compiler, _has_cuda())


def _cpu_information() -> str:
    file = Path("/proc/cpuinfo")
    if file.is_file():
        return file.read_text(errors="replace")
    # macOS: no such file. Its builds are only ever used on the machine that made them or on a newer one.
    return f"model name : {_output(['sysctl', '-n', 'machdep.cpu.brand_string']).strip() or platform.processor()}\n"


def _compiler(environment: Mapping[str, str]) -> str:
    """What CMake would take for C++, as it describes itself."""
    for name in filter(None, [environment.get("CXX"), "c++", "g++", "clang++"]):
        if text := _output([*name.split(), "--version"]):
            return " ".join(text.split("\n")[:2])
    return ""


def _has_cuda() -> bool:
    """Whether CUDA code can be compiled and a GPU would run it: the toolkit alone is no reason to build for CUDA."""
    if not (os.environ.get("CUDACXX") or shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()):
        return False
    return "GPU " in _output(["nvidia-smi", "-L"])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no such program, or one that hangs: it tells nothing
        return ""
    return done.stdout if done.returncode == 0 else ""


def say(text: str) -> None:
    """Progress is for people: stderr, at once."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def read_json(path: Path) -> dict[str, object]:
    """The object in a file of ours; empty when it is not there or not ours."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never written, or cut short: the same as unknown
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


@dataclass(frozen=True)
class Installation:
    """One checkout and its `.venv`."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def build_file(self) -> Path:
        return self.venv / "localllm-engine-build.json"

    @property
    def stamp_file(self) -> Path:
        return self.venv / "localllm-install.json"

    def pin(self) -> str:
        """The engine's version that pyproject.toml names."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for requirement in project["dependencies"]:
            name, _, version = requirement.partition("==")
            if name.strip() == ENGINE:
                return str(version).strip()
        raise SetupError(f"pyproject.toml does not pin {ENGINE} with ==")

    def installed_engine(self) -> str | None:
        """The version in .venv, read from the folder pip leaves; None for none."""
        for folder in self.venv.glob("lib/python*/site-packages/llama_cpp_python-*.dist-info"):
            return folder.name.removeprefix("llama_cpp_python-").removesuffix(".dist-info")
        return None

    def build(self) -> Build | None:
        """What the engine in .venv was compiled for; None when nobody wrote it down."""
        value = read_json(self.build_file)
        try:
            return Build(**{**value, "cpu_features": tuple(value["cpu_features"])})  # type: ignore[arg-type]
        except (KeyError, TypeError):  # fields of another version of this script: unknown
            return None

    def ensure_venv(self) -> None:
        """Make .venv, or make it anew when it was copied here or its Python is gone: it holds absolute paths."""
        stamp = read_json(self.stamp_file)
        if self.python.exists() and stamp.get("venv", str(self.venv)) == str(self.venv):
            return
        say(f"making {self.venv} with Python {platform.python_version()}")
        done = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(self.venv)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(self.venv, ignore_errors=True)
            raise SetupError(
                f"{sys.executable} cannot make a virtual environment: {(done.stdout + done.stderr).strip()}",
                "install its venv module (Debian, Ubuntu: apt install python3-venv), then run scripts/setup again",
            )

    def pip(self, *arguments: str) -> None:
        """Run the environment's pip, quietly unless it fails."""
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
        if subprocess.run(command, cwd=self.root, check=False).returncode != 0:
            raise SetupError(
                f"pip could not install what localllm needs ({' '.join(arguments)})",
                "pip's words stand above; without a network, set PIP_INDEX_URL or PIP_FIND_LINKS to a mirror",
            )

    def ensure_engine(self, machine: Machine, *, rebuild: bool) -> None:
        """Leave .venv with an engine that fits this machine, compiling it if need be."""
        pin = self.pin()
        reason = "you asked for it" if rebuild else rebuild_reason(self.installed_engine(), self.build(), machine, pin)
        if reason is None and machine.cuda is False and (build := self.build()) and build.cuda:
            reason = self._unusable_without_gpu()
        if reason is None:
            return
        variables = build_environment(machine, os.environ)
        flags = " ".join(f"{name}={value!r}" for name, value in sorted(variables.items()))
        build = Build(machine.cpu_features, machine.cpu_model, flags, pin, "-DGGML_CUDA=on" in variables["CMAKE_ARGS"])
        shelf = _cache_folder() / wheel_key(build, machine.compiler)
        wheel = next(shelf.glob("*.whl"), None)
        if wheel is None or rebuild:
            say(f"the engine has to be compiled: {reason}")
            wheel = self._compile(machine, build, variables, shelf)
        else:
            say(f"installing the engine that was compiled for this machine before ({wheel})")
        self.build_file.unlink(missing_ok=True)
        self.pip("install", "--no-deps", "--force-reinstall", str(wheel))
        write_json(self.build_file, asdict(build))

    def _unusable_without_gpu(self) -> str | None:
        """A CUDA engine works without a GPU where the driver's library is there, and only then."""
        if _output([str(self.python), "-c", "import llama_cpp; print('works')"]):
            return None
        return "the engine was compiled for CUDA, and no CUDA driver is here"

    def _compile(self, machine: Machine, build: Build, variables: dict[str, str], shelf: Path) -> Path:
        """Compile a wheel and put it on its shelf."""
        _require_compiler(machine)
        log = self.venv / "localllm-engine-build.log"
        length = "20 to 60 minutes (CUDA)" if machine.cuda else "about 5 minutes on two cores"
        say(f"compiling the engine ({ENGINE} {build.engine_version}), {length}; log at {log}")
        say(f"flags: {build.flags}")
        draft = self.venv / "engine-wheel"
        shutil.rmtree(draft, ignore_errors=True)
        # pip's own wheel cache does not know the flags or the CPU: --no-cache-dir, or it hands back another's build.
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--verbose", "wheel", "--no-cache-dir"]
        command += ["--no-deps", "--no-binary", ENGINE, "--wheel-dir", str(draft), f"{ENGINE}=={build.engine_version}"]
        _run_with_heartbeat(command, {**os.environ, **variables}, log)
        wheel = next(draft.glob("*.whl"))
        shelf.mkdir(parents=True, exist_ok=True)
        kept = shelf / wheel.name
        partial = kept.with_suffix(".partial")
        shutil.copyfile(wheel, partial)
        partial.replace(kept)
        shutil.rmtree(draft)
        return kept

    def ensure_package(self, *, with_tests: bool) -> None:
        """Install localllm in place and its dependencies, unless exactly that was done before."""
        digest = hashlib.sha256()
        for name in ("pyproject.toml", "localllm/version.py"):
            digest.update((self.root / name).read_bytes())
        wanted = {"sources": digest.hexdigest(), "venv": str(self.venv)}
        stamp = read_json(self.stamp_file)
        had_tests = stamp.get("test") is True
        if {name: stamp.get(name) for name in wanted} == wanted and (had_tests or not with_tests):
            return
        # Once the test tools are there they stay, and follow pyproject.toml.
        with_tests = with_tests or had_tests
        say("installing localllm and its dependencies" + (" and test tools" if with_tests else ""))
        self.pip("install", "--editable", f"{self.root}[test]" if with_tests else str(self.root))
        write_json(self.stamp_file, {**wanted, "test": with_tests})


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "localllm" / "engine"


def _require_compiler(machine: Machine) -> None:
    if not machine.compiler:
        raise SetupError(
            "no C++ compiler is here, and the engine has to be compiled",
            "install one (Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc-c++; "
            "macOS: xcode-select --install), then run scripts/setup again",
        )


def _run_with_heartbeat(command: list[str], environment: dict[str, str], log: Path) -> None:
    """Run a long command into a log, with a line of life every half minute."""
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        while (code := _exit_code(process, HEARTBEAT_SECONDS)) is None:
            say(f"still compiling after {_minutes(started)}{progress(log.read_text(errors='replace'))}")
    finally:
        process.terminate()  # does nothing once it ended
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        print(tail, file=sys.stderr)
        raise SetupError(f"the engine could not be compiled; the end of {log} stands above", failure_hint(tail))
    say(f"compiled in {_minutes(started)}")


def _exit_code(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:  # still at work
        return None


def _minutes(started: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    return f"{minutes} min {seconds} s"


def progress(log: str) -> str:
    """How far ninja is, from its last "[12/345]"; "" before the first."""
    steps = re.findall(r"^\s*\[(\d+)/(\d+)\]", log, re.MULTILINE)
    return f", step {steps[-1][0]} of {steps[-1][1]}" if steps else ""


def failure_hint(tail: str) -> str:
    """What to do about a failed compile, from the last lines of its log."""
    if re.search(r"No space left|Killed|cannot allocate memory", tail, re.IGNORECASE):
        return (
            "memory or disk ran out: free some, or compile with fewer jobs (CMAKE_BUILD_PARALLEL_LEVEL=1 scripts/setup)"
        )
    if re.search(r"Could not find a version|Connection|Temporary failure|No matching distribution", tail):
        return "the package index could not be reached: check the network, or set PIP_INDEX_URL or PIP_FIND_LINKS"
    return "the log shows the compiler's first error; CMAKE_ARGS, CC and CXX are honoured"


def main() -> int:
    """Parse, act, and turn what went wrong into two lines."""
    parser = argparse.ArgumentParser(prog="scripts/setup", description="Make .venv with localllm and its engine.")
    parser.add_argument("--test", action="store_true", help="also install the test tools")
    parser.add_argument("--rebuild", action="store_true", help="compile the engine again")
    arguments = parser.parse_args()
    installation = Installation(ROOT)
    try:
        installation.ensure_venv()
        machine = look_at_machine(os.environ)
        installation.ensure_engine(machine, rebuild=arguments.rebuild)
        installation.ensure_package(with_tests=arguments.test)
    except SetupError as error:
        print(f"setup: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 1
    except OSError as error:  # no permission, no space, a file where a folder should be
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("stopped; run scripts/setup again to go on")
        return 130
    say(f"ready: {installation.venv}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
