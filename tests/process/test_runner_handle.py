"""Requests on a real child: each ends with Finished or Failed, whatever becomes of the process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

import pytest
from stand_in_runner import stand_in_command

from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import (
    BadRequestError,
    InputTooLongError,
    LoadError,
    ModelFileError,
    PromptTooLongError,
    RunnerCrashedError,
    RunnerError,
    RunnerTimeoutError,
    ShuttingDownError,
)
from localllm.failures import error_from, failed_from
from localllm.generation import ContentDelta, Failed, Finished, GenerationRequest, Usage
from localllm.placement.layout import Layout
from localllm.placement.shape import ContextShape
from localllm.runner import protocol
from localllm.runner.handle import Deadlines, RunnerHandle
from localllm.runner.process import start_process

LOAD = protocol.Load("/models/x.gguf", Layout(), ContextShape(0, 2), parallel=2, threads=2)
DIED = "the next request starts a new one"


@contextlib.asynccontextmanager
async def runner(behaviour: str, load_silence: float = 30, render: float = 30) -> AsyncIterator[RunnerHandle]:
    process = await start_process(stand_in_command(behaviour), os.environ, behaviour)
    handle = RunnerHandle(process, Deadlines(load_silence, render))
    try:
        yield handle
    finally:
        await handle.discard()


def ask(prompt: str) -> GenerationRequest:
    return GenerationRequest(model="m", prompt=prompt)


async def events_of(handle: RunnerHandle, prompt: str) -> list:
    return [event async for event in handle.generate(ask(prompt))]


def run(coroutine) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(40):
            await coroutine

    asyncio.run(with_deadline())


def test_a_load_reports_progress_and_requests_stream_side_by_side():
    async def talk() -> None:
        async with runner("answers") as handle:
            progress: list[float] = []
            loaded = await handle.load(LOAD, progress.append)
            assert (2, 4096, [0.5]) == (loaded.parallel, loaded.pool_tokens, progress)
            first, second = await asyncio.gather(events_of(handle, "a b"), events_of(handle, "c"))
            assert [ContentDelta("a"), ContentDelta("b"), Finished("stop", Usage(2, 0, 2))] == first
            assert [ContentDelta("c"), Finished("stop", Usage(1, 0, 1))] == second

    run(talk())


def test_questions_are_answered_or_refused_by_the_runner():
    async def talk() -> None:
        async with runner("answers") as handle:
            assert (104, 105) == await handle.tokenize("hi")
            assert ("hello", tuple(b"hello")) == await handle.prompt(ask("hello"))
            assert tuple(b"hello") == await handle.prompt_tokens(ask("hello"))
            assert (b"h", b"i") == await handle.detokenize((104, 105))
            assert 4096 == (await handle.stats()).pool_tokens
            with pytest.raises(BadRequestError, match="nothing to tokenize"):
                await handle.tokenize("")

    run(talk())


def test_closing_a_stream_cancels_the_request_in_the_runner_and_a_finished_one_is_not_cancelled():
    async def talk() -> None:
        async with runner("waits") as handle:
            stream = handle.generate(ask("one two"))
            assert ContentDelta("one") == await anext(stream)
            await stream.aclose()
            assert 1 == (await handle.stats()).running
        async with runner("answers") as handle:
            await events_of(handle, "a")
            assert 0 == (await handle.stats()).running

    run(talk())


def test_a_reader_that_is_cancelled_cancels_its_request():
    async def talk() -> None:
        async with runner("waits") as handle:
            reader = asyncio.create_task(events_of(handle, "one"))
            async with asyncio.timeout(10):
                while not handle._streams:
                    await asyncio.sleep(0.01)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert 1 == (await handle.stats()).running

    run(talk())


def test_embeddings_come_as_one_answer_and_one_that_is_not_waited_for_is_cancelled():
    request = EmbedRequest("m", ("a", "b"))

    async def talk() -> None:
        async with runner("answers") as handle:
            await handle.load(LOAD, lambda fraction: None)
            assert Embeddings((b"vector", b"vector"), 7) == await handle.embed(request)
        async with runner("waits") as handle:
            await handle.load(LOAD, lambda fraction: None)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await handle.embed(request)
            assert 1 == (await handle.stats()).running
            waiting = asyncio.create_task(handle.embed(request))
            await asyncio.sleep(0)
            await handle.stop()
            with pytest.raises(RunnerCrashedError):
                await waiting

    run(talk())


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [("kill", "SIGKILL"), ("segv", "SIGSEGV"), ("ill", "SIGILL"), ("abort", "SIGABRT"), ("exits", "exit code 3")],
)
def test_a_runner_that_dies_mid_stream_ends_its_requests_with_an_error_event(behaviour, cause):
    failed = Failed("runner_crashed", 500, f"the model's process died ({cause})", DIED)

    async def talk() -> None:
        async with runner(behaviour) as handle:
            news: list[str] = []
            handle.watch(lambda: news.append("doomed"), lambda: news.append("gone"))
            assert [ContentDelta("a"), failed] == await events_of(handle, "a b")
            assert ["doomed", "gone"] == news
            assert [failed] == await events_of(handle, "again")
            with pytest.raises(RunnerCrashedError, match=cause):
                await handle.tokenize("x")

    run(talk())


def test_every_request_of_a_dead_runner_and_every_question_fails():
    async def talk() -> None:
        async with runner("hangs_in_render") as handle:
            first = asyncio.create_task(events_of(handle, "one"))
            second = asyncio.create_task(events_of(handle, "hang"))
            async with asyncio.timeout(10):
                while len(handle._streams) < 2:
                    await asyncio.sleep(0.01)
            question = asyncio.create_task(handle.stats())
            await asyncio.sleep(0)
            handle._process.kill()
            assert isinstance((await first)[-1], Failed)
            assert isinstance((await second)[-1], Failed)
            with pytest.raises(RunnerCrashedError):
                await question

    run(talk())


def test_a_template_that_never_returns_costs_its_runner_and_names_the_template():
    async def talk() -> None:
        async with runner("hangs_in_render", render=0.5) as handle:
            other = handle.generate(ask("one"))
            assert ContentDelta("one") == await anext(other)
            started = time.monotonic()
            (failed,) = await events_of(handle, "hang")
            assert time.monotonic() - started < 5
            assert ("runner_timeout", 500) == (failed.code, failed.status)
            assert "chat template did not finish within 0.5 s" in failed.message
            (replaced,) = [event async for event in other]
            assert "runner_crashed" == replaced.code
            assert "was replaced" in replaced.message
            assert "SIGKILL" == (await handle._process.dead()).signal_name

    run(talk())


def test_a_template_that_hangs_is_ended_also_when_its_client_has_left():
    async def talk() -> None:
        async with runner("hangs_in_render", render=0.5) as handle:
            reader = asyncio.create_task(events_of(handle, "hang"))
            async with asyncio.timeout(10):
                while not handle._render_timers:
                    await asyncio.sleep(0.01)
            reader.cancel()
            assert "SIGKILL" == (await handle._process.dead()).signal_name

    run(talk())


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        (
            "dies_loading",
            LoadError,
            "the model's process died while loading (SIGABRT):"
            " ggml.c: error loading model: \ufffd[31mmissing tensor in x.gguf",
        ),
        ("exits_loading", LoadError, "the model's process died while loading (exit code 1)"),
        ("refuses_loading", ModelFileError, "the file is not a GGUF"),
        ("holds_back", LoadError, "the model made no progress loading for 0.5 s"),
    ],
)
def test_a_load_that_fails_says_why(behaviour, error, message):
    async def talk() -> None:
        async with runner(behaviour, load_silence=0.5) as handle:
            with pytest.raises(error) as caught:
                await handle.load(LOAD, lambda fraction: None)
            assert message == str(caught.value)

    run(talk())


def test_a_slow_load_that_makes_progress_is_not_given_up():
    async def talk() -> None:
        async with runner("crawls", load_silence=1.0) as handle:
            progress: list[float] = []
            await handle.load(LOAD, progress.append)
            assert 21 == len(progress)

    run(talk())


def test_a_stop_tells_running_requests_the_reason():
    async def talk() -> None:
        async with runner("waits") as handle:
            stream = handle.generate(ask("one"))
            await anext(stream)
            await handle.stop(ShuttingDownError("the server shut down while the request ran"))
            (failed,) = [event async for event in stream]
            assert ("shutting_down", 503) == (failed.code, failed.status)

    run(talk())


@pytest.mark.parametrize(
    "error",
    [LoadError("no", hint="do"), ModelFileError("bad"), RunnerTimeoutError("late")],
)
def test_an_error_survives_the_way_through_a_failed_event(error):
    again = error_from(failed_from(error))
    assert (error.code, error.status, error.message) == (again.code, again.status, again.message)


def test_an_error_of_no_class_of_its_own_becomes_the_nearest_general_one():
    assert BadRequestError is type(error_from(failed_from(PromptTooLongError(10, 5))))
    assert RunnerError is type(error_from(Failed("news_to_me", 500, "no")))


@pytest.mark.parametrize("failed", [failed_from(InputTooLongError(10, 5)), Failed("news_to_me", 500, "no")])
def test_an_error_of_no_class_of_its_own_keeps_its_code(failed):
    assert failed == failed_from(error_from(failed))
