"""Life and death of a real child process, and what is said about it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from stand_in_runner import stand_in_command

from localllm.errors import LoadError
from localllm.generation import GenerationRequest
from localllm.placement.layout import Layout
from localllm.placement.shape import ContextShape
from localllm.runner import protocol
from localllm.runner.death import Death, death_from, died_while
from localllm.runner.process import RunnerProcess, start_process


@contextlib.asynccontextmanager
async def child(behaviour: str, hello_timeout_seconds: float = 30) -> AsyncIterator[RunnerProcess]:
    process = await start_process(stand_in_command(behaviour), os.environ, behaviour, hello_timeout_seconds)
    try:
        yield process
    finally:
        process.kill()
        await process.dead()


def is_alive(process_id: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, 0)
        return True
    return False


def collect(process: RunnerProcess) -> asyncio.Queue:
    messages: asyncio.Queue = asyncio.Queue()
    process.listen(messages.put_nowait, messages.put_nowait)
    return messages


LOAD = protocol.Load("/models/x.gguf", Layout(), ContextShape(0, 2), parallel=2, threads=2)


def run(coroutine) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(40):
            await coroutine

    asyncio.run(with_deadline())


def test_frames_go_both_ways_and_a_closed_pipe_ends_the_child():
    async def talk() -> None:
        async with child("answers") as process:
            messages = collect(process)
            process.send(LOAD)
            assert protocol.LoadProgress(0.5) == await messages.get()
            assert isinstance(await messages.get(), protocol.Loaded)
            process.send(protocol.Tokenize(1, "ab"))
            assert protocol.Tokenized(1, (97, 98)) == await messages.get()
            process_id = process.process_id
            death = await process.stop()
            assert (0, None) == (death.exit_code, death.signal_name)
            assert not is_alive(process_id)

    run(talk())


def test_a_large_frame_and_many_small_ones_arrive_whole_and_in_order():
    async def talk() -> None:
        async with child("answers") as process:
            messages = collect(process)
            text = "x" * 3_000_000
            process.send(protocol.Tokenize(1, text))
            for number in range(2, 500):
                process.send(protocol.Tokenize(number, "a"))
            await process.drain()
            assert protocol.Tokenized(1, (120,) * 3_000_000) == await messages.get()
            assert list(range(2, 500)) == [(await messages.get()).id for _ in range(2, 500)]

    run(talk())


def test_what_a_child_prints_is_logged_and_kept_without_control_characters(caplog):
    caplog.set_level(logging.INFO)

    async def load() -> None:
        async with child("dies_loading") as process:
            messages = collect(process)
            process.send(LOAD)
            while not isinstance(death := await messages.get(), Death):
                pass
            assert "SIGABRT" == death.signal_name
            assert (
                "llama_model_loader: loading /models/x.gguf",
                "ggml.c: error loading model: \ufffd[31mmissing tensor in /home/somebody/models/x.gguf",
            ) == death.last_lines
            assert "missing tensor in x.gguf" in died_while("loading", death)
            assert "/home" not in died_while("loading", death)

    run(load())
    assert "dies_loading: llama_model_loader: loading /models/x.gguf" in caplog.messages


@pytest.mark.parametrize(
    ("behaviour", "seconds", "message"),
    [
        ("silent", 0.5, "the model's process did not start within 0.5 s"),
        (
            "old",
            30,
            f"the model's process speaks protocol {protocol.PROTOCOL_VERSION + 1},"
            f" and this daemon speaks protocol {protocol.PROTOCOL_VERSION}",
        ),
        (
            "dies_at_once",
            30,
            "the model's process died while starting (exit code 7): ImportError: libgomp.so cannot be found",
        ),
    ],
)
def test_a_child_that_does_not_greet_as_it_should_is_ended_and_named(process_ids, behaviour, seconds, message):
    async def start() -> None:
        with pytest.raises(LoadError) as caught:
            async with child(behaviour, seconds):
                pytest.fail("it came up")
        assert message == str(caught.value)
        assert [] == process_ids()

    run(start())


def test_a_program_that_is_not_there_is_a_load_error(tmp_path):
    async def start() -> None:
        with pytest.raises(LoadError, match="cannot be started: No such file or directory"):
            await start_process((str(tmp_path / "nothing"),), os.environ, "nothing")

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    run(start())
    assert before == len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_start_that_is_cancelled_leaves_no_child(process_ids):
    async def start() -> None:
        starting = asyncio.create_task(start_process(stand_in_command("silent"), os.environ, "silent"))
        while not process_ids():
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert [] == process_ids()

    run(start())


def test_a_child_that_sends_no_frames_is_ended():
    async def talk() -> None:
        async with child("babbles") as process:
            assert "SIGKILL" == (await process.dead()).signal_name

    run(talk())


def test_a_child_that_ignores_its_closed_pipe_and_sigterm_is_killed():
    async def stop() -> None:
        async with child("deaf") as process:
            started = time.monotonic()
            assert "SIGKILL" == (await process.stop()).signal_name
            assert time.monotonic() - started < 10

    run(stop())


@pytest.mark.parametrize("behaviour", ["segv", "ill", "kill"])
def test_a_death_carries_the_signals_name(behaviour):
    async def die() -> None:
        async with child(behaviour) as process:
            process.send(protocol.Generate(1, GenerationRequest(model="m", prompt="a b")))
            assert f"SIG{behaviour.upper()}" == (await process.dead()).signal_name

    run(die())


def test_no_child_remains_when_the_daemon_is_killed(tmp_path):
    """Two runners, so that neither may hold the other's pipe open."""
    program = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from localllm.runner.process import start_process
from stand_in_runner import stand_in_command

async def main():
    runners = [await start_process(stand_in_command("answers"), os.environ, "x") for _ in range(2)]
    print(*(runner.process_id for runner in runners), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    daemon = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with daemon:
        process_ids = [int(word) for word in daemon.stdout.readline().split()]
        assert 2 == len(process_ids)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    deadline = time.monotonic() + 2
    while any(is_running(process_id) for process_id in process_ids):
        assert time.monotonic() < deadline, "a runner outlived its daemon by two seconds"
        time.sleep(0.01)


def is_running(process_id: int) -> bool:
    """Whether it runs; a zombie that nobody has reaped yet does not."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("death", "cause", "line"),
    [
        (death_from(-11), "SIGSEGV", None),
        (death_from(3, ("all well",)), "exit code 3", None),
        (death_from(-40, ("error: first", "/tmp/build/llama.cpp:12: GGML_ASSERT(n > 0) failed", "bye")), "signal 40",
         "llama.cpp:12: GGML_ASSERT(n > 0) failed"),
        (death_from(1, ("error " + "x" * 1000,)), "exit code 1", ("error " + "x" * 1000)[:300]),
    ],
)  # fmt: skip
def test_a_death_says_its_cause_and_the_line_that_tells_why(death, cause, line):
    assert (cause, line) == (death.cause, death.error_line)
