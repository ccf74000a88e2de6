"""The scheduler over real processes: loads, leases, evictions, deaths by real signals, and the end."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
import uvloop
from stand_in_fleet import stand_in_model, stand_in_runner_fleet, stand_in_scheduler

from localllm.errors import LoadError, ModelFileError, QueueFullError, ShuttingDownError
from localllm.generation import ContentDelta, Failed, Finished, GenerationRequest, Usage
from localllm.scheduler.loop import Scheduler
from localllm.scheduler.planner import Survey
from localllm.scheduler.state import Demand, Limits

ANSWERS = stand_in_model("answers")
WAITS = stand_in_model("waits")
ONE_MODEL = Limits(max_loaded_models=1, max_queue=4, keep_alive_seconds=300)


def run(coroutine) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(60):
            await coroutine

    # The daemon's own loop; the other tests of this folder run on asyncio's.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(with_deadline())


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():
            await asyncio.sleep(0.01)


async def ask(scheduler: Scheduler, name: str, prompt: str = "a b", keep_alive: float | None = None) -> list:
    async with scheduler.lease(stand_in_model(name), keep_alive) as lease:
        return [event async for event in lease.runner.generate(GenerationRequest(model=name, prompt=prompt))]


async def stream(scheduler: Scheduler, name: str, prompt: str = "a") -> AsyncIterator:
    async with scheduler.lease(stand_in_model(name), None) as lease:
        async for event in lease.runner.generate(GenerationRequest(model=name, prompt=prompt)):
            yield event


def states(scheduler: Scheduler) -> dict[str, str]:
    return {running.model.name.partition(":")[0]: running.state for running in scheduler.running()}


def test_a_model_loads_once_for_all_who_ask_and_stays(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            answers = await asyncio.gather(*(ask(scheduler, "answers", "x") for _ in range(4)))
            assert [[ContentDelta("x"), Finished("stop", Usage(1, 0, 1))]] * 4 == answers
            assert 1 == len(process_ids())
            (running,) = scheduler.running()
            assert ("ready", 0, 0, 1.0) == (running.state, running.active, running.waiting, running.progress)
            assert running.expires_at is not None
            assert abs(running.expires_at - datetime.now(UTC) - timedelta(seconds=300)) < timedelta(seconds=10)
        assert [] == process_ids()

    run(talk())


def test_a_lease_tells_the_load_from_the_wait_for_a_turn(tmp_path):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            async with scheduler.lease(ANSWERS, math.inf) as first:
                assert first.load_seconds > 0.01
                assert first.queue_seconds < first.load_seconds
                assert 2 == first.loaded.parallel
                assert scheduler.running()[0].expires_at is None
            async with scheduler.lease(ANSWERS, None) as second:
                assert second.load_seconds == 0
                assert second.queue_seconds < 1

    run(talk())


def test_a_runner_killed_mid_stream_ends_the_request_with_an_error_and_the_next_one_loads_anew(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            events = stream(scheduler, "waits")
            assert ContentDelta("a") == await anext(events)
            (process_id,) = process_ids()
            os.kill(process_id, signal.SIGKILL)
            failed = await anext(events)
            assert ("runner_crashed", "the model's process died (SIGKILL)") == (failed.code, failed.message)
            again = stream(scheduler, "waits")
            assert ContentDelta("a") == await anext(again)
            assert [process_id] != process_ids()
            await events.aclose()
            await again.aclose()

    run(talk())


def test_a_runner_that_dies_idle_is_not_handed_out_again(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            await ask(scheduler, "answers")
            os.kill(process_ids()[0], signal.SIGSEGV)
            await until(lambda: scheduler.running() == ())
            assert isinstance((await ask(scheduler, "answers"))[-1], Finished)

    run(talk())


def test_those_who_wait_for_a_runner_that_dies_get_another(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            streams = [stream(scheduler, "waits") for _ in range(2)]
            for events in streams:
                await anext(events)
            third = asyncio.create_task(anext(stream(scheduler, "waits", "later")))
            await until(lambda: scheduler.running()[0].waiting == 1)
            os.kill(process_ids()[0], signal.SIGABRT)
            for events in streams:
                assert isinstance(await anext(events), Failed)
                await events.aclose()
            assert ContentDelta("later") == await third

    run(talk())


def test_a_template_that_never_returns_costs_one_runner_while_another_models_goes_on(tmp_path):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path, render_timeout_seconds=1.0) as scheduler:
            await ask(scheduler, "answers")
            started = time.monotonic()
            hanging = asyncio.create_task(ask(scheduler, "hangs_in_render", "hang"))
            served = 0
            while not hanging.done():
                assert isinstance((await ask(scheduler, "answers"))[-1], Finished)
                served += 1
            (failed,) = await hanging
            assert "runner_timeout" == failed.code
            assert "chat template" in failed.message
            assert time.monotonic() - started < 10
            assert served > 10
            assert ContentDelta("fine") == await anext(stream(scheduler, "hangs_in_render", "fine"))

    run(talk())


def test_the_least_recently_used_idle_model_makes_room(tmp_path, process_ids):
    async def talk() -> None:
        limits = Limits(max_loaded_models=2, max_queue=4, keep_alive_seconds=300)
        async with stand_in_scheduler(tmp_path, limits) as scheduler:
            for name in ("answers-1", "answers-2", "answers-1", "answers-3"):
                await ask(scheduler, name, keep_alive=math.inf)
                assert len(process_ids()) <= 2
            assert {"answers-1": "ready", "answers-3": "ready"} == states(scheduler)

    run(talk())


def test_a_busy_model_is_not_evicted_and_room_comes_when_it_idles(tmp_path):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path, ONE_MODEL) as scheduler:
            events = stream(scheduler, "waits")
            await anext(events)
            other = asyncio.create_task(ask(scheduler, "answers"))
            await until(lambda: len(scheduler._state.waiting) == 1)
            assert {"waits": "ready"} == states(scheduler)
            await events.aclose()
            assert isinstance((await other)[-1], Finished)
            assert {"answers": "ready"} == states(scheduler)

    run(talk())


def test_a_model_that_waits_for_room_is_not_starved_by_a_busy_ones_new_requests(tmp_path):
    async def talk() -> None:
        limits = Limits(1, 4, 300, patience_seconds=0.5)
        async with stand_in_scheduler(tmp_path, limits) as scheduler:
            events = stream(scheduler, "waits")
            await anext(events)
            other = asyncio.create_task(ask(scheduler, "answers"))
            await until(lambda: scheduler._state.slots[0].yields_to is not None)
            late = asyncio.create_task(anext(stream(scheduler, "waits", "late")))
            await until(lambda: scheduler.running()[0].waiting == 1)
            await events.aclose()
            assert isinstance((await other)[-1], Finished)
            assert ContentDelta("late") == await late

    run(talk())


def test_keep_alive_zero_unloads_when_the_request_ends_and_a_short_one_a_little_later(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            await ask(scheduler, "answers", keep_alive=0)
            await until(lambda: scheduler.running() == ())
            await ask(scheduler, "answers", keep_alive=0.3)
            assert {"answers": "ready"} == states(scheduler)
            await until(lambda: scheduler.running() == ())
            assert [] == process_ids()

    run(talk())


def test_unload_waits_for_the_process_of_an_idle_model_and_not_for_the_requests_of_a_busy_one(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            assert await scheduler.unload(ANSWERS) is False
            await ask(scheduler, "answers")
            assert await scheduler.unload(ANSWERS) is True
            assert [] == process_ids()
            events = stream(scheduler, "waits")
            await anext(events)
            assert await scheduler.unload(WAITS) is True
            assert {"waits": "ready"} == states(scheduler)
            await events.aclose()
            await until(lambda: scheduler.running() == ())

    run(talk())


def test_a_client_that_leaves_while_its_model_loads_aborts_no_load(tmp_path):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            leaver = asyncio.create_task(ask(scheduler, "crawls"))
            stayer = asyncio.create_task(ask(scheduler, "crawls"))
            await until(lambda: scheduler.running() != () and scheduler.running()[0].progress > 0)
            leaver.cancel()
            assert isinstance((await stayer)[-1], Finished)
            lonely = asyncio.create_task(ask(scheduler, "crawls-2"))
            await until(lambda: "crawls-2" in states(scheduler))
            lonely.cancel()
            await until(lambda: states(scheduler).get("crawls-2") == "ready")

    run(talk())


@pytest.mark.parametrize(
    ("name", "error"), [("refuses_loading", ModelFileError), ("dies_loading", LoadError), ("old", LoadError)]
)
def test_a_load_that_fails_fails_all_who_wait_and_leaves_nothing(tmp_path, process_ids, name, error):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            results = await asyncio.gather(*(ask(scheduler, name) for _ in range(3)), return_exceptions=True)
            assert [error] * 3 == [type(result) for result in results]
            assert () == scheduler.running()
            assert [] == process_ids()

    run(talk())


def test_a_full_queue_refuses_and_the_rest_are_served(tmp_path):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            results = await asyncio.gather(*(ask(scheduler, "answers") for _ in range(6)), return_exceptions=True)
            assert [QueueFullError] * 2 == [type(result) for result in results if isinstance(result, Exception)]
            assert 4 == sum(isinstance(result, list) for result in results)

    run(talk())


def test_a_shutdown_lets_a_running_request_finish_within_the_grace(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            events = stream(scheduler, "waits")
            await anext(events)
            ending = asyncio.create_task(scheduler.shutdown(30))
            await asyncio.sleep(0)
            with pytest.raises(ShuttingDownError):
                await ask(scheduler, "answers")
            assert not ending.done()
            await events.aclose()
            await ending
            assert [] == process_ids()

    run(talk())


def test_a_shutdown_ends_what_still_runs_after_the_grace_with_a_clear_error(tmp_path, process_ids):
    async def talk() -> None:
        async with stand_in_scheduler(tmp_path) as scheduler:
            events = stream(scheduler, "waits")
            await anext(events)
            loading = asyncio.create_task(ask(scheduler, "holds_back"))
            await until(lambda: len(process_ids()) == 2)
            await scheduler.shutdown(0.1)
            failed = await anext(events)
            assert ("shutting_down", 503) == (failed.code, failed.status)
            with pytest.raises(ShuttingDownError):
                await loading
            assert [] == process_ids()

    run(talk())


def test_a_fault_in_starting_a_runner_is_an_error_for_who_waits_and_not_a_hang(tmp_path):
    class BrokenFleet:
        async def survey(self, model, held):
            return Survey(Demand(), {})

        async def start(self, model, budget, on_planned, on_progress):
            raise KeyError("a bug")

        async def close(self) -> None:
            pass

    async def talk() -> None:
        scheduler = Scheduler(ONE_MODEL, BrokenFleet())
        scheduler.start()
        with pytest.raises(LoadError, match="because of a fault in localllm"):
            await ask(scheduler, "answers")
        await scheduler.shutdown(0)

    run(talk())


def test_a_survey_during_which_a_model_was_loaded_does_not_count(tmp_path, caplog):
    class SlowSurvey:
        """The stand-ins' fleet, whose survey of one model takes until it is told to end."""

        def __init__(self, fleet) -> None:
            self.fleet, self.may_end, self.has_begun = fleet, asyncio.Event(), asyncio.Event()

        async def survey(self, model, held):
            if model.name != WAITS.name:
                return Survey(Demand(), {})
            self.has_begun.set()
            await self.may_end.wait()
            return Survey(Demand(), {"CPU": 12345})

        async def start(self, *load):
            return await self.fleet.start(*load)

        async def close(self) -> None:
            await self.fleet.close()

    async def talk() -> None:
        fleet = SlowSurvey(stand_in_runner_fleet(tmp_path))
        scheduler = Scheduler(Limits(max_loaded_models=3, max_queue=4, keep_alive_seconds=300), fleet)
        scheduler.start()
        slow = asyncio.create_task(ask(scheduler, "waits"))
        await fleet.has_begun.wait()
        await ask(scheduler, "answers")
        fleet.may_end.set()
        await until(lambda: "waits" in states(scheduler))
        slow.cancel()
        await scheduler.shutdown(0)

    with caplog.at_level("INFO"):
        run(talk())
    assert "waits:latest: loading" in caplog.text
    assert "12345" not in caplog.text
