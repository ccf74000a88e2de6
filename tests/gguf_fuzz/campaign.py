"""Many broken files against our reader and, those that it accepts, against llama.cpp in child processes.

    for number in numbers:  seed model ── mutated(…, Random(number)) ──▶ file ── Store.base ─▶ refused
                                                                                └─ accepted ─▶ loader_child

A child takes file after file; one that dies of a file, or does not answer in time, is replaced and the file blamed.
The same number makes the same file in every run.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gguf_fuzz.document import Document, parse, render
from gguf_fuzz.mutations import mutated
from gguf_fuzz.seeds import split

from localllm.creating import Creation
from localllm.errors import ModelFileError
from localllm.modelfile import Modelfile
from localllm.store.store import Store

LONGEST_CHECK_SECONDS = 1.0
LONGEST_LOAD_SECONDS = 60.0
ENDING_SECONDS = 2.0
MOST_MEMORY_MIB = 2048
_TESTS = Path(__file__).resolve().parents[1]


@dataclass
class Finding:
    """What went wrong with one file."""

    number: int
    seed: str
    change: str
    what: str


@dataclass
class Report:
    """The account of a campaign. `deaths` are those of children: a signal, or no answer in time."""

    files: int = 0
    refused: int = 0
    accepted: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    wrong_exceptions: list[Finding] = field(default_factory=list)
    slow: list[Finding] = field(default_factory=list)
    deaths: list[Finding] = field(default_factory=list)
    raised: list[Finding] = field(default_factory=list)
    hungry: list[Finding] = field(default_factory=list)
    slowest_check_seconds: float = 0.0

    def add(self, other: Report) -> None:
        """Count another share of the same campaign too."""
        for name in ("files", "refused", "accepted"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.answers += other.answers
        for mine, theirs in zip(self._findings(), other._findings(), strict=True):
            mine.extend(theirs)
        self.slowest_check_seconds = max(self.slowest_check_seconds, other.slowest_check_seconds)

    @property
    def harm(self) -> list[Finding]:
        """Whatever must not be: all findings."""
        return [finding for findings in self._findings() for finding in findings]

    def _findings(self) -> tuple[list[Finding], ...]:
        return self.deaths, self.wrong_exceptions, self.raised, self.slow, self.hungry

    def summary(self) -> str:
        """The figures, a line each, and what the deaths have in common."""
        lines = [
            f"{self.files} files, {self.refused} refused, {self.accepted} accepted",
            f"children: {dict(sorted(self.answers.items()))}",
            f"deaths: {len(self.deaths)}, other exceptions of ours: {len(self.wrong_exceptions)},"
            f" of the engine: {len(self.raised)}, slow: {len(self.slow)},"
            f" over {MOST_MEMORY_MIB} MiB: {len(self.hungry)}",
            f"slowest check: {self.slowest_check_seconds * 1000:.0f} ms",
        ]
        for findings in self._findings():
            for what, count in Counter(finding.what for finding in findings).most_common():
                examples = [finding for finding in findings if finding.what == what][:3]
                lines.append(f"{count:6}  {what}")
                lines += [f"            {one.number} {one.seed}: {one.change[:160]}" for one in examples]
        return "\n".join(lines)


def accept(paths: Sequence[Path]) -> None:
    """What files must pass before a name may stand for them. Raises ModelFileError."""
    # A new store each time: it remembers headers by path, size and time, and here one path is written again and again.
    store = Store(paths[0].parent, paths[0].parent)
    store.base(Creation("broken", Modelfile(bases=()), files=tuple(map(str, paths))))


class Loader:
    """One child at a time; a new one after a death. A context manager: afterwards there is none."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (as long as the loader)

    def load(self, path: Path, *adapters: Path) -> dict[str, object]:
        """The child's answer; {"died": …} when it has none to give."""
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        self._errors.seek(0)
        self._errors.truncate()
        child.stdin.write("\t".join(map(str, (path, *adapters))) + "\n")
        child.stdin.flush()
        ready, _, _ = select.select([child.stdout], [], [], LONGEST_LOAD_SECONDS)
        line = child.stdout.readline() if ready else ""
        if line:
            answer: dict[str, object] = json.loads(line)
            if int(str(answer["peak_mib"])) > MOST_MEMORY_MIB:
                self._end()  # the next file is to be blamed for its own
            return answer
        code = self._end()
        return {"died": f"no answer in {LONGEST_LOAD_SECONDS:g} s" if not ready else self._cause(code)}

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": f"{_TESTS}:{_TESTS.parent}"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "gguf_fuzz.loader_child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment,
        )  # fmt: skip
        return self._child

    def _cause(self, code: int) -> str:
        self._errors.seek(0)
        said = self._errors.read()
        if code >= 0:  # no signal: it could not even begin, and that says nothing about the file
            raise RuntimeError(f"the child that loads files ended with {code}: {said[-2000:]}")
        name = signal.Signals(-code).name
        where = re.search(r"([\w-]+\.(?:cpp|c|h):\d+): (.*)", said)
        thrown = re.search(r"terminate called after throwing an instance of '(.*)'|what\(\):\s*(.*)", said)
        frame = re.search(r'File "[^"]*/(\w+\.py)", line (\d+) in (\w+)', said)
        return " ".join(
            [name, *(found[0][:150] for found in (where, thrown) if found), f"in {frame[3]}" if frame else ""]
        )

    def _end(self) -> int:
        """End the child, if it has not ended; its exit status."""
        child, self._child = self._child, None
        if child is None:
            return 0
        with child:  # closes its pipes
            if child.stdin is not None:
                child.stdin.close()
            try:
                return child.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                return child.wait()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._errors.close()


@dataclass
class Campaign:
    """Seeds by path, and a folder for the one file at a time. Without `loads` no file meets llama.cpp."""

    seeds: Sequence[Path]
    folder: Path
    loads: bool = True

    def run(self, numbers: Iterable[int]) -> Report:
        """Make, check and load the files of these numbers."""
        report = Report()
        sources = [(path.stem, path.read_bytes()) for path in self.seeds]
        documents = [(name, data, parse(data)) for name, data in sources]
        with Loader() as loader:
            for number in numbers:
                self._one(number, documents[number % len(documents)], loader, report)
        return report

    def write(self, number: int, seed: tuple[str, bytes, Document]) -> tuple[list[Path], str]:
        """Write file `number`: every tenth is a model in two parts, one of which is broken."""
        _, data, document = seed
        random = Random(number)
        for old in self.folder.glob("*.gguf"):
            old.unlink()
        if number % 10:
            changed, what = mutated(document, data, random)
            path = self.folder / "model.gguf"
            path.write_bytes(changed)
            return [path], what
        parts = list(split(document))
        paths = [self.folder / f"model-{part:05}-of-00002.gguf" for part in (1, 2)]
        broken = random.randrange(2)
        what = ""
        for index, (part, path) in enumerate(zip(parts, paths, strict=True)):
            whole = render(part)
            if index == broken:
                whole, what = mutated(part, whole, random)
            path.write_bytes(whole)
        return paths, f"part {broken + 1}: {what}"

    def _one(self, number: int, seed: tuple[str, bytes, Document], loader: Loader, report: Report) -> None:
        paths, change = self.write(number, seed)
        report.files += 1

        def found(what: str) -> Finding:
            return Finding(number, seed[0], change, what)

        started = time.process_time()
        try:
            self.accept(paths, seed[0])
            accepted = True
        except ModelFileError:
            accepted = False
        except Exception:  # noqa: BLE001 - this is what the campaign looks for
            accepted = False
            report.wrong_exceptions.append(found(traceback.format_exc(limit=-3)))
        spent = time.process_time() - started
        report.slowest_check_seconds = max(report.slowest_check_seconds, spent)
        if spent > LONGEST_CHECK_SECONDS:
            report.slow.append(found(f"{spent:.2f} s"))
        if not accepted:
            report.refused += 1
            return
        report.accepted += 1
        if self.loads:
            self._note(self.load(paths, seed[0], loader), report, found)

    def accept(self, paths: Sequence[Path], seed: str) -> None:
        """What a file made of that seed must pass. Raises ModelFileError."""
        accept(paths)

    def load(self, paths: Sequence[Path], seed: str, loader: Loader) -> dict[str, object]:
        """The child's answer to a file that was accepted."""
        return loader.load(paths[0])

    def _note(self, answer: dict[str, object], report: Report, found: Callable[[str], Finding]) -> None:
        if "died" in answer:
            report.deaths.append(found(str(answer["died"])))
            report.answers["died"] += 1
            return
        said = str(answer["said"])
        report.answers[f"{answer['stage']}: {said.partition(':')[0]}"] += 1
        if said.startswith("raised"):
            report.raised.append(found(said))
        if int(str(answer["peak_mib"])) > MOST_MEMORY_MIB:
            report.hungry.append(found(f"{answer['peak_mib']} MiB"))
