"""Does the engine run on this machine? Asked once per CPU and engine build, of a child that decodes a small model.

A build made for another CPU dies by SIGILL; one whose extra weight layouts (AMX, repacking) are broken dies by SIGSEGV
or computes nonsense. The daemon must not, so engine/probe does it in a process of its own:

    probe ──ok──────────────────────────────────────▶ True   (extra buffers may be used)
      └─died, failed─▶ probe --no-extra-buffers ──ok─▶ False  (and a warning)
                          └─died, failed─────────────▶ EngineMismatchError (not remembered: the build will be mended)

The verdict is kept in `<state_dir>/engine-verdict.json`, {"key": …, "use_extra_buffers": …}; the key is a hash of the
CPU and of the engine's files. scripts/setup writes what the engine was built for to
`<prefix>/localllm-engine-build.json`; it is only read to explain a mismatch. Nothing here imports the engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from localllm.errors import EngineMismatchError
from localllm.paths import without_folders
from localllm.placement.devices import Cpu, cpu
from localllm.runner.child import answer_in, run_child
from localllm.runner.death import death_from

PROBE_TIMEOUT_SECONDS = 120.0
VERDICT_FILE = "engine-verdict.json"
BUILD_FILE = "localllm-engine-build.json"
MEND = "`scripts/setup --rebuild` compiles the engine for this machine"
_LIBRARY_SUFFIXES = (".so", ".dylib", ".dll")

log = logging.getLogger(__name__)


class EngineBuild(msgspec.Struct, frozen=True):
    """What scripts/setup wrote about the engine it compiled; empty when somebody else installed it."""

    cpu_features: tuple[str, ...] = ()
    cpu_model: str = ""
    flags: str = ""
    engine_version: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the verdict depends on. `engine_id` changes with the engine's version and files; None: not installed."""

    cpu: Cpu
    engine_id: str | None
    build: EngineBuild

    @property
    def identity(self) -> tuple[str, ...]:
        """All that a measurement of this machine depends on."""
        return (*sorted(self.cpu.flags), self.engine_id or "")


class _Verdict(msgspec.Struct, frozen=True):
    key: str
    use_extra_buffers: bool


class _Report(msgspec.Struct, frozen=True):
    """The probe's line of JSON; it has more fields that nobody here needs."""

    ok: bool = False
    error: str = ""


def probe_command() -> tuple[str, ...]:
    """The program that tries the engine; the model's path follows."""
    return (sys.executable, "-P", "-m", "localllm.engine.probe")


def look_at_machine(root: Path = Path("/"), prefix: Path = Path(sys.prefix)) -> Machine:
    """Read the CPU, the engine's files and the note of scripts/setup. `root` is where /proc is."""
    return Machine(cpu(root), _engine_id(), _read_build(prefix / BUILD_FILE))


class Preflight:
    """Asks once and remembers. One per daemon; `probe_model` is a small GGUF, `environment` that of the children."""

    def __init__(
        self,
        machine: Machine,
        state_dir: Path,
        probe_model: Path,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = (),
        timeout_seconds: float = PROBE_TIMEOUT_SECONDS,
    ) -> None:
        self._machine = machine
        self._verdict_file = state_dir / VERDICT_FILE
        self._probe_model = probe_model
        self._environment = environment
        self._command = tuple(command) or probe_command()
        self._timeout_seconds = timeout_seconds
        self._asking: asyncio.Task[bool] | None = None

    async def use_extra_buffers(self) -> bool:
        """Whether the engine's extra weight layouts work here. Raises EngineMismatchError when nothing does.

        All who ask at the same time share one probe; a failure is not kept, so that the next load asks again.
        """
        if self._asking is None or (self._asking.done() and (self._asking.cancelled() or self._asking.exception())):
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def close(self) -> None:
        """End a probe that still runs."""
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            await asyncio.wait((self._asking,))

    async def _ask(self) -> bool:
        if self._machine.engine_id is None:
            raise EngineMismatchError("the engine is not installed", hint="`scripts/setup` compiles and installs it")
        key = _verdict_key(self._machine)
        known = _read_verdict(self._verdict_file, key)
        if known is not None:
            return known
        if not self._probe_model.is_file():
            log.warning("the engine cannot be tried on this machine: %s is missing", self._probe_model)
            return True
        works = await self._probe()
        _write_verdict(self._verdict_file, _Verdict(key, works))
        return works

    async def _probe(self) -> bool:
        log.info("trying the engine on this machine, once")
        failure = await self._run_probe()
        if failure is None:
            return True
        plain_failure = await self._run_probe("--no-extra-buffers")
        if plain_failure is None:
            log.warning(
                "the engine's extra weight layouts (AMX, repacking) do not work on this CPU: the probe %s;"
                " they stay off, which makes prompts slower; %s",
                failure,
                MEND,
            )
            return False
        raise EngineMismatchError(_mismatch(self._machine, failure, plain_failure), hint=MEND)

    async def _run_probe(self, *flags: str) -> str | None:
        """None when the engine works; else what became of the probe, as a phrase that follows "the probe"."""
        command = (*self._command, str(self._probe_model), *flags)
        try:
            return_code, output = await run_child(command, self._environment, self._timeout_seconds)
        except TimeoutError:
            return f"did not end within {self._timeout_seconds:g} s"
        except OSError as error:
            return f"could not be started ({error.strerror})"
        return _failure(return_code, output)


def _failure(return_code: int, output: bytes) -> str | None:
    death = death_from(return_code, tuple(output.decode("utf-8", "replace").splitlines()))
    if death.signal_name is not None:
        return f"died ({death.signal_name})"
    report = answer_in(output, _Report)
    if death.exit_code == 0 and report is not None and report.ok:
        return None
    reason = without_folders(report.error) if report is not None and report.error else death.error_line
    return f"failed ({reason or death.cause})"


def _mismatch(machine: Machine, failure: str, plain_failure: str) -> str:
    outcome = (
        f"the engine does not work on this machine: its probe {failure}, and without extra buffers it {plain_failure}"
    )
    lacking = sorted(set(machine.build.cpu_features) - machine.cpu.flags)
    if lacking:
        made_for = machine.build.cpu_model or "another CPU"
        return (
            f"{outcome}; it was compiled for {made_for}, and this CPU ({machine.cpu.model}) lacks {', '.join(lacking)}"
        )
    if machine.build.cpu_features:
        made_for = machine.build.cpu_model or "this kind of CPU"
        return f"{outcome}; it was compiled for {made_for}, whose features this CPU has"
    return f"{outcome}; it is not known what it was compiled for"


def _verdict_key(machine: Machine) -> str:
    parts = (machine.cpu.model, *sorted(machine.cpu.flags), machine.engine_id or "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_verdict(file: Path, key: str) -> bool | None:
    try:
        verdict = msgspec.json.decode(file.read_bytes(), type=_Verdict)
    except (OSError, msgspec.MsgspecError):  # not asked yet, or a file that was cut short: asking again mends it
        return None
    return verdict.use_extra_buffers if verdict.key == key else None


def _write_verdict(file: Path, verdict: _Verdict) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(verdict))
        temporary.replace(file)
    except OSError as error:  # a verdict that cannot be kept is only asked for again at the next start
        log.warning("the engine's verdict cannot be written to %s: %s", file, error)


def _read_build(file: Path) -> EngineBuild:
    try:
        return msgspec.json.decode(file.read_bytes(), type=EngineBuild)
    except (OSError, msgspec.MsgspecError):  # installed by other means: then nothing is known
        return EngineBuild()


def _engine_id() -> str | None:
    """Version, and size and time of each library, found without importing the package; None when it is missing."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    try:
        version = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:  # a source tree on the path
        version = "unknown"
    libraries = sorted(
        file for file in Path(spec.origin).parent.rglob("*") if ".so." in file.name or file.suffix in _LIBRARY_SUFFIXES
    )
    facts = [(file.name, status.st_size, status.st_mtime_ns) for file in libraries if (status := file.stat())]
    return repr((version, facts))
