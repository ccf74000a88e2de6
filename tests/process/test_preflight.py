"""Whether the engine runs on this machine: children that really die, and what is remembered of them."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.errors import EngineMismatchError
from localllm.placement.devices import Cpu
from localllm.runner.preflight import EngineBuild, Machine, Preflight, look_at_machine

PROBE = Path(__file__).parent / "dying_probe.py"
BUILD = EngineBuild(("avx2", "avx512f", "amx_int8"), "Intel Xeon 6", "", "0.3.36")
MACHINE = Machine(Cpu("AMD Ryzen 5", frozenset({"avx2", "fma"})), "0.3.36 of Monday", BUILD)


def preflight(
    folder: Path, with_extra: str, without_extra: str = "ok", machine: Machine = MACHINE, seconds: float = 60
) -> Preflight:
    model = folder / "small.gguf"
    model.touch()
    command = (sys.executable, str(PROBE), str(folder / "starts"), with_extra, without_extra)
    return Preflight(machine, folder / "state", model, {}, command=command, timeout_seconds=seconds)


def starts(folder: Path) -> list[str]:
    file = folder / "starts"
    return file.read_text().splitlines() if file.exists() else []


def test_an_engine_that_works_uses_its_extra_buffers(tmp_path, caplog):
    assert asyncio.run(preflight(tmp_path, "ok").use_extra_buffers()) is True
    assert [""] == starts(tmp_path)
    assert "do not work" not in caplog.text


@pytest.mark.parametrize(("behaviour", "said"), [("segv", "SIGSEGV"), ("ill", "SIGILL"), ("nan", "not finite")])
def test_an_engine_that_only_works_without_extra_buffers_falls_back_and_says_so(tmp_path, caplog, behaviour, said):
    assert asyncio.run(preflight(tmp_path, behaviour).use_extra_buffers()) is False
    assert ["", "--no-extra-buffers"] == starts(tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said in warning
    assert "scripts/setup --rebuild" in warning


@pytest.mark.parametrize("behaviour", ["ok", "segv"])
def test_the_verdict_is_remembered_and_no_second_child_is_started(tmp_path, behaviour):
    first = asyncio.run(preflight(tmp_path, behaviour).use_extra_buffers())
    count = len(starts(tmp_path))
    assert first == asyncio.run(preflight(tmp_path, behaviour).use_extra_buffers())
    assert count == len(starts(tmp_path))


@pytest.mark.parametrize(
    "other",
    [
        replace(MACHINE, engine_id="0.3.36 of Tuesday"),
        replace(MACHINE, cpu=Cpu("AMD Ryzen 5", frozenset({"avx2"}))),
        replace(MACHINE, cpu=Cpu("AMD Ryzen 9", MACHINE.cpu.flags)),
    ],
)
def test_another_cpu_or_build_is_probed_anew(tmp_path, other):
    asyncio.run(preflight(tmp_path, "ok").use_extra_buffers())
    asyncio.run(preflight(tmp_path, "ok", machine=other).use_extra_buffers())
    assert ["", ""] == starts(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": 1}', b"\xff\xfe"])
def test_a_verdict_file_that_cannot_be_read_is_replaced(tmp_path, content):
    file = tmp_path / "state" / "engine-verdict.json"
    file.parent.mkdir()
    file.write_bytes(content)
    assert asyncio.run(preflight(tmp_path, "segv").use_extra_buffers()) is False
    assert asyncio.run(preflight(tmp_path, "ok").use_extra_buffers()) is False
    assert [file] == list(file.parent.iterdir())


def test_an_engine_that_dies_both_ways_names_what_it_was_built_for_and_what_is_missing(tmp_path):
    with pytest.raises(EngineMismatchError) as caught:
        asyncio.run(preflight(tmp_path, "ill", "segv").use_extra_buffers())
    assert (
        "the engine does not work on this machine: its probe died (SIGILL), and without extra buffers it died"
        " (SIGSEGV); it was compiled for Intel Xeon 6, and this CPU (AMD Ryzen 5) lacks amx_int8, avx512f"
    ) == str(caught.value)
    assert "`scripts/setup --rebuild` compiles the engine for this machine" == caught.value.hint
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("build", "ending"),
    [
        (EngineBuild(), "it is not known what it was compiled for"),
        (EngineBuild(("avx2",), "AMD Ryzen 3"), "it was compiled for AMD Ryzen 3, whose features this CPU has"),
    ],
)
def test_a_mismatch_that_cannot_be_named_says_what_is_known(tmp_path, build, ending):
    with pytest.raises(EngineMismatchError) as caught:
        asyncio.run(preflight(tmp_path, "ill", "ill", replace(MACHINE, build=build)).use_extra_buffers())
    assert str(caught.value).endswith(f"; {ending}")


def test_a_failure_is_asked_again_at_the_next_load(tmp_path):
    async def ask_twice() -> None:
        asker = preflight(tmp_path, "ill", "ill")
        for _ in range(2):
            with pytest.raises(EngineMismatchError):
                await asker.use_extra_buffers()

    asyncio.run(ask_twice())
    assert 4 == len(starts(tmp_path))


def test_all_who_ask_at_once_share_one_probe(tmp_path):
    async def ask_together() -> list[bool]:
        asker = preflight(tmp_path, "segv")
        return await asyncio.gather(*(asker.use_extra_buffers() for _ in range(5)))

    assert [False] * 5 == asyncio.run(ask_together())
    assert 2 == len(starts(tmp_path))


def test_a_probe_that_hangs_is_ended_and_counts_as_a_failure(tmp_path, caplog):
    assert asyncio.run(preflight(tmp_path, "hang", "ok", seconds=1.0).use_extra_buffers()) is False
    assert "did not end within 1 s" in caplog.text


def test_an_engine_that_is_not_installed_names_setup(tmp_path):
    with pytest.raises(EngineMismatchError, match="not installed") as caught:
        asyncio.run(preflight(tmp_path, "ok", machine=replace(MACHINE, engine_id=None)).use_extra_buffers())
    assert "`scripts/setup` compiles and installs it" == caught.value.hint
    assert [] == starts(tmp_path)


def test_closing_ends_a_probe_that_runs(tmp_path):
    async def close_early() -> None:
        asker = preflight(tmp_path, "hang")
        waiter = asyncio.create_task(asker.use_extra_buffers())
        async with asyncio.timeout(30):
            while not starts(tmp_path):
                await asyncio.sleep(0.01)
            await asker.close()
            with pytest.raises(asyncio.CancelledError):
                await waiter

    asyncio.run(close_early())


def test_a_missing_probe_model_is_said_and_nothing_is_remembered(tmp_path, caplog):
    asker = preflight(tmp_path, "segv")
    (tmp_path / "small.gguf").unlink()
    assert asyncio.run(asker.use_extra_buffers()) is True
    assert "small.gguf is missing" in caplog.text
    assert not (tmp_path / "state").exists()


def test_the_machine_is_read_without_loading_the_engine(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nmodel name\t: Some CPU\n"
    )
    (tmp_path / "localllm-engine-build.json").write_text(
        '{"cpu_features": ["avx2"], "cpu_model": "X", "flags": "-f", "engine_version": "1", "cuda": false}'
    )
    machine = look_at_machine(tmp_path, tmp_path)
    assert Cpu("Some CPU", frozenset({"fpu", "avx2"})) == machine.cpu
    assert EngineBuild(("avx2",), "X", "-f", "1") == machine.build
    assert machine.engine_id is not None
    assert "libllama" in machine.engine_id
    assert "llama_cpp" not in sys.modules
