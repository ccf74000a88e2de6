"""The one owner of the scheduler's state: hands it events, performs the actions the policy answers with.

Callers lease a runner and give it back; everything else (loads, runners' ends, time) comes in as events too. Nothing
here decides: see policy. No lock is needed, since each event is handled in one go on the daemon's event loop.

    lease() · unload() · loads · runners · timer ──event──▶ decide ──actions──▶ load and stop tasks · futures · timer
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar

from msgspec import structs

from localllm.errors import LoadError, LocalllmError, ShuttingDownError
from localllm.runner.protocol import Stats
from localllm.scheduler.fairness import queue_places
from localllm.scheduler.fleet import LoadedRunner
from localllm.scheduler.policy import decide
from localllm.scheduler.running import Fleet, Lease, Runner, RunningModel
from localllm.scheduler.state import (
    Action,
    Counts,
    Demand,
    DeviceBytes,
    Event,
    GraceEnded,
    Grant,
    Left,
    Limits,
    LoadFailed,
    LoadId,
    LoadPlanned,
    LoadSucceeded,
    ModelKey,
    QueuePlace,
    Refuse,
    Requested,
    Requester,
    RunnerDoomed,
    RunnerGone,
    ShutdownBegan,
    Slot,
    StartLoad,
    State,
    StopRunner,
    Surveyed,
    Ticket,
    TicketId,
    UnloadRequested,
    WakeAt,
    Woke,
)
from localllm.store.model import Model

LONGEST_SLEEP_SECONDS = 3600.0
LONGEST_EXPIRY_SECONDS = 100 * 365 * 86400.0  # later than this is "never": a datetime ends at the year 9999

ANYONE = Requester()

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Turn(contextlib.AbstractAsyncContextManager[Lease]):
    """One request's way to a runner: entering it waits in the queue, leaving it gives the place back. Use it once."""

    def __init__(self, scheduler: Scheduler, model: Model, keep_alive_seconds: float | None, who: Requester) -> None:
        self._scheduler = scheduler
        self._model = model
        self._keep_alive_seconds = keep_alive_seconds
        self._who = who
        self._ticket: Ticket | None = None

    async def __aenter__(self) -> Lease:
        ticket = self._scheduler._new_ticket(self._model, self._keep_alive_seconds, self._who)
        self._ticket = structs.replace(ticket, demand=await self._scheduler._demand(self._model))
        return await self._scheduler._enter(self._model, self._ticket)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._ticket is not None
        self._scheduler._leave(self._ticket)

    def place(self) -> QueuePlace | None:
        """Where it stands in the queue; None before it was entered, and once it has its turn."""
        return self._scheduler._place_of(self._ticket) if self._ticket is not None else None


class Scheduler:
    """Leases runners of models. `start` before the first lease, `shutdown` at the end."""

    def __init__(self, limits: Limits, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> None:
        # Not the loop's time: uvloop's stands still within an iteration, and then "used last" has no answer.
        self._now = clock
        self._fleet = fleet
        self._state = State(limits)
        self._ticket_ids = itertools.count(1)
        self._models: dict[ModelKey, Model] = {}
        self._demands: dict[ModelKey, Demand] = {}
        self._told_parts: tuple[DeviceBytes, ...] = ()
        self._told_memory: dict[str, tuple[int, int]] = {}
        self._runners: dict[LoadId, Runner] = {}
        self._waiters: dict[TicketId, asyncio.Future[Runner]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf
        self._empty = asyncio.Event()
        self.counts = Counts()

    def start(self) -> None:
        """Take requests from now on; call it on the event loop that serves them."""
        self._loop = asyncio.get_running_loop()
        self._empty.set()

    def lease(self, model: Model, keep_alive_seconds: float | None, who: Requester = ANYONE) -> Turn:
        """A loaded runner of `model`, for one request; `keep_alive_seconds` None leaves the model's as it is.

        Entering it waits for a load, for room, and for its turn. Raises QueueFullError, ShuttingDownError, LoadError,
        EngineMismatchError or what else the load failed with. Leaving the waiting (cancellation) aborts no load.
        """
        return Turn(self, model, keep_alive_seconds, who)

    def _new_ticket(self, model: Model, keep_alive_seconds: float | None, who: Requester) -> Ticket:
        return Ticket(
            TicketId(next(self._ticket_ids)),
            ModelKey(model.key),
            model.name,
            keep_alive_seconds,
            self._now(),
            client=who.client,
            priority=who.priority,
        )

    async def _demand(self, model: Model) -> Demand:
        """What the model needs to load. The machine is looked at unless the model is loaded, and was looked at then."""
        key = ModelKey(model.key)
        if key in self._demands and (self._state.slot(key) is not None or self._state.is_shutting_down):
            return self._demands[key]
        before = self._settled_loads()
        survey = await self._fleet.survey(model, self._held())
        self._demands[key] = survey.demand
        if before is not None and before == self._settled_loads() and survey.capacity:
            # While a model comes or goes, what is free belongs half to it: the last look counts.
            self._post(Surveyed(survey.capacity))
        return survey.demand

    def _settled_loads(self) -> set[LoadId] | None:
        """The models that are loaded; None while one comes or goes."""
        slots = self._state.slots
        return {slot.load_id for slot in slots} if all(slot.phase == "ready" for slot in slots) else None

    def _held(self) -> DeviceBytes:
        """What the loaded models hold of the machine's memory."""
        held: Counter[str] = Counter()
        for runner in self._runners.values():
            if runner.ready is not None:
                held.update(runner.ready.held)
        return held

    def _place_of(self, ticket: Ticket) -> QueuePlace | None:
        places = queue_places(self._state, ticket.key, self._now())
        return next((place for place in places if place.ticket_id == ticket.id), None)

    async def _enter(self, model: Model, ticket: Ticket) -> Lease:
        """Wait for the turn of `ticket`; it has left again when this raises."""
        arrived_at = ticket.arrived_at
        self._models[ticket.key] = model
        waiter = self._waiters[ticket.id] = self._loop.create_future()
        try:
            self._post(Requested(ticket))
            runner = await waiter
        except BaseException:
            self._leave(ticket)
            raise
        assert runner.ready is not None
        waited = self._now() - arrived_at
        load = max(0.0, min(runner.ready_at, arrived_at + waited) - max(runner.started_at, arrived_at))
        ready = runner.ready
        return Lease(ready.handle, ready.loaded, load, max(0.0, waited - load), ready.plan.fallback)

    def _leave(self, ticket: Ticket) -> None:
        del self._waiters[ticket.id]
        self._post(Left(ticket.id))

    async def unload(self, model: Model) -> bool:
        """Stop `model` once the requests that came before are done; False when it is not loaded.

        Returns when the process is gone if nothing used it, and at once if its end must wait for requests.
        """
        key = ModelKey(model.key)
        if self._state.slot(key) is None:
            return False
        self._post(UnloadRequested(key))
        slot = self._state.slot(key)
        if slot is not None and slot.phase == "stopping":
            await self._runners[slot.load_id].gone.wait()
        return True

    def running(self) -> tuple[RunningModel, ...]:
        """Every model that takes up room, the one used last first."""
        slots = sorted(self._state.slots, key=lambda slot: slot.last_used, reverse=True)
        return tuple(self._snapshot(slot) for slot in slots)

    def queue(self) -> tuple[QueuePlace, ...]:
        """Every request that waits, model by model and there in the order of service."""
        keys = dict.fromkeys(ticket.key for ticket in self._state.waiting)
        return tuple(place for key in keys for place in queue_places(self._state, key, self._now()))

    async def stats(self) -> dict[str, Stats]:
        """What the engines of the loaded models hold, by name; without those that do not answer soon."""
        runners = tuple(self._runners.values())
        answers = await asyncio.gather(*(runner.stats() for runner in runners))
        return {one.model.name: stats for one, stats in zip(runners, answers, strict=True) if stats is not None}

    async def shutdown(self, grace_seconds: float) -> None:
        """Refuse new and waiting requests, let running ones go on for `grace_seconds`, then end every process."""
        self._post(ShutdownBegan())
        with contextlib.suppress(TimeoutError):  # requests that still run are told by their runner's end
            await asyncio.wait_for(self._empty.wait(), grace_seconds)
        self._post(GraceEnded())
        await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()
        await self._fleet.close()

    def _snapshot(self, slot: Slot) -> RunningModel:
        runner = self._runners[slot.load_id]
        now = self._now()
        left = slot.keep_alive_seconds if slot.active else slot.expires_at - now
        never = left > LONGEST_EXPIRY_SECONDS
        return RunningModel(
            model=runner.model,
            loaded=runner.ready.loaded if runner.ready else None,
            state=slot.phase,
            active=len(slot.active),
            waiting=len(self._state.waiting_for(slot.key)),
            expires_at=None if never else datetime.now(UTC) + timedelta(seconds=max(0.0, left)),
            progress=1.0 if runner.ready else runner.progress,
            plan=runner.ready.plan if runner.ready else None,
            measured=runner.ready.measured if runner.ready else {},
        )

    def _post(self, event: Event) -> None:
        self._state, actions = decide(self._state, event, self._now())
        self._tell_memory()
        for action in actions:
            self._perform(action)
        if self._state.slots:
            self._empty.clear()
        else:
            self._empty.set()
        if isinstance(event, Left | RunnerGone | LoadFailed):
            self._forget_unused_models()

    def _tell_memory(self) -> None:
        """One line for each change of what all models together may have taken, and of what there is."""
        parts = (self._state.capacity, *(slot.taken for slot in self._state.slots))
        if parts == self._told_parts:  # as after almost every request
            return
        self._told_parts = parts
        taken: Counter[str] = Counter()
        for part in parts[1:]:
            taken.update(part)
        now = {device: (taken[device], size) for device, size in self._state.capacity.items()}
        if now != self._told_memory:
            self._told_memory = now
            rows = (f"{device} {held} of {size} bytes" for device, (held, size) in now.items())
            log.info("memory of models: %s", ", ".join(rows))

    def _forget_unused_models(self) -> None:
        used = {slot.key for slot in self._state.slots} | {ticket.key for ticket in self._state.waiting}
        self._models = {key: model for key, model in self._models.items() if key in used}

    def _perform(self, action: Action) -> None:
        match action:
            case StartLoad(key, load_id, budget):
                self._start_load(key, load_id, budget)
            case StopRunner(key, load_id):
                self._stop_runner(key, load_id)
            case Grant(ticket_id, _, load_id):
                waiter = self._waiters[ticket_id]
                if not waiter.done():  # its owner was cancelled this very moment: Left comes next
                    waiter.set_result(self._runners[load_id])
            case Refuse(ticket_id, error):
                waiter = self._waiters[ticket_id]
                if not waiter.done():
                    waiter.set_exception(error)
            case WakeAt(when):
                self._wake_at(when)

    def _wake_at(self, when: float) -> None:
        now = self._now()
        when = min(max(now, when), now + LONGEST_SLEEP_SECONDS)
        if self._timer is not None:
            if self._wakes_at <= when:  # as every request puts off the end of its model: too early only asks again
                return
            self._timer.cancel()
        self._wakes_at = when
        self._timer = self._loop.call_later(when - now, self._woke)

    def _woke(self) -> None:
        self._timer = None
        self._post(Woke())

    def _start_load(self, key: ModelKey, load_id: LoadId, budget: DeviceBytes | None) -> None:
        runner = self._runners[load_id] = Runner(self._models[key], self._now())

        def on_progress(fraction: float) -> None:
            runner.progress = fraction

        def on_planned(taken: DeviceBytes) -> None:
            self._post(LoadPlanned(key, load_id, taken))

        log.info("%s: loading", runner.model.name)
        runner.load_task = self._spawn(self._fleet.start(runner.model, budget, on_planned, on_progress))
        runner.load_task.add_done_callback(lambda task: self._load_ended(key, load_id, task))

    def _load_ended(self, key: ModelKey, load_id: LoadId, task: asyncio.Task[LoadedRunner]) -> None:
        runner = self._runners[load_id]
        if task.cancelled():
            self._gone(key, load_id)
            return
        error = task.exception()
        if error is not None:
            self._load_failed(key, load_id, error)
            return
        runner.ready, runner.ready_at = task.result(), self._now()
        self.counts = replace(self.counts, loads=self.counts.loads + 1)
        loaded = runner.ready.loaded
        log.info("%s: loaded in %.2f s", runner.model.name, runner.ready_at - runner.started_at)
        log.info(
            "%s: %d cells (%s: %s)", runner.model.name, loaded.pool_tokens, loaded.kv_layout, loaded.kv_layout_reason
        )
        self._post(LoadSucceeded(key, load_id, loaded.parallel, runner.ready.taken or None))
        runner.ready.handle.watch(
            lambda: self._post(RunnerDoomed(key, load_id)),
            lambda: self._gone(key, load_id),
        )
        slot = self._state.slot(key)
        if slot is not None and slot.load_id == load_id and slot.phase == "stopping":
            # Stopped while its last message was on the way: cancelling the load's task came too late.
            self._stop_runner(key, load_id)

    def _load_failed(self, key: ModelKey, load_id: LoadId, error: BaseException) -> None:
        runner = self._runners.pop(load_id)
        if isinstance(error, LocalllmError):
            log.error("%s: cannot be loaded: %s", runner.model.name, error)
            failure = error
        else:
            log.error("%s: loading broke", runner.model.name, exc_info=error)
            failure = LoadError(
                "the model could not be loaded because of a fault in localllm", hint="see the daemon's log"
            )
        self._post(LoadFailed(key, load_id, failure))
        runner.gone.set()

    def _stop_runner(self, key: ModelKey, load_id: LoadId) -> None:
        runner = self._runners[load_id]
        if runner.ready is None:
            if runner.load_task is not None:
                runner.load_task.cancel()
        elif runner.stop_task is None:
            log.info("%s: unloading", runner.model.name)
            is_eviction = any(self._state.slot(ticket.key) is None for ticket in self._state.waiting)
            self.counts = replace(
                self.counts, unloads=self.counts.unloads + 1, evictions=self.counts.evictions + is_eviction
            )
            error = ShuttingDownError("the server shut down while the request ran")
            reason = error if self._state.is_shutting_down else None
            runner.stop_task = self._spawn(runner.ready.handle.stop(reason))

    def _gone(self, key: ModelKey, load_id: LoadId) -> None:
        runner = self._runners.pop(load_id)
        if runner.ready is not None and runner.stop_task is None:
            self.counts = replace(self.counts, deaths=self.counts.deaths + 1)
        self._post(RunnerGone(key, load_id))
        runner.gone.set()

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
