"""The scheduler's decisions: literal state and event in, state and actions out; then anything at all, by hypothesis."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import LoadError, QueueFullError, RunnerCrashedError, ShuttingDownError
from localllm.scheduler.policy import decide
from localllm.scheduler.state import (
    Action,
    Event,
    GraceEnded,
    Grant,
    Left,
    Limits,
    LoadFailed,
    LoadId,
    LoadSucceeded,
    ModelKey,
    Refuse,
    Requested,
    RunnerDoomed,
    RunnerGone,
    ShutdownBegan,
    StartLoad,
    State,
    StopRunner,
    Ticket,
    TicketId,
    UnloadRequested,
    WakeAt,
    Woke,
)

LIMITS = Limits(max_loaded_models=2, max_queue=3, keep_alive_seconds=300, patience_seconds=30)
A, B, C = ModelKey("a"), ModelKey("b"), ModelKey("c")


def asked(number: int, key: str, now: float = 0, keep_alive: float | None = None) -> Requested:
    return Requested(Ticket(TicketId(number), ModelKey(key), key, keep_alive, now))


def left(number: int) -> Left:
    return Left(TicketId(number))


def after(state: State, *events: tuple[float, Event]) -> tuple[State, list[Action]]:
    """The state after these events at these times, and what the last one led to, wishes to be woken left out."""
    actions: tuple[Action, ...] = ()
    for now, event in events:
        state, actions = decide(state, event, now)
    return state, [action for action in actions if not isinstance(action, WakeAt)]


def loaded(limits: Limits = LIMITS, parallel: int = 1, **idle_since: float) -> State:
    """A state in which these models are loaded and idle since the given times; load ids count from 1."""
    state = State(limits)
    for number, (key, since) in enumerate(idle_since.items(), start=1):
        ticket = -number
        state, _ = after(
            state,
            (since, asked(ticket, key, since)),
            (since, LoadSucceeded(ModelKey(key), LoadId(number), parallel)),
            (since, left(ticket)),
        )
    return state


def refusals(actions: list[Action]) -> list[tuple[int, type]]:
    return [(action.ticket_id, type(action.error)) for action in actions if isinstance(action, Refuse)]


def test_the_first_request_loads_the_model_and_all_who_wait_share_the_load():
    state, actions = after(State(LIMITS), (0, asked(1, "a")))
    assert [StartLoad(A, 1)] == actions
    state, actions = after(state, (1, asked(2, "a")))
    assert [] == actions
    _, actions = after(state, (2, LoadSucceeded(A, 1, 8)))
    assert [Grant(1, A, 1), Grant(2, A, 1)] == actions


def test_different_models_load_at_the_same_time():
    state, _ = after(State(LIMITS), (0, asked(1, "a")))
    _, actions = after(state, (0, asked(2, "b")))
    assert [StartLoad(B, 2)] == actions


def test_a_model_serves_as_many_as_it_can_and_the_rest_in_order_of_arrival():
    state = loaded(a=0, parallel=2)
    state, actions = after(state, (1, asked(1, "a")), (1, asked(2, "a")), (1, asked(3, "a")), (1, asked(4, "a")))
    assert [] == actions
    state, actions = after(state, (2, left(2)))
    assert [Grant(3, A, 1)] == actions
    _, actions = after(state, (3, left(1)))
    assert [Grant(4, A, 1)] == actions


def test_a_full_queue_refuses_with_the_number_the_limit_and_a_time_to_retry():
    state = loaded(a=0)
    state, _ = after(state, (10, asked(1, "a")), (30, left(1)))  # a service time of 20 s; the mean is now 4 s
    state, actions = after(state, *((40, asked(number, "a")) for number in range(2, 7)))
    (refuse,) = actions
    assert isinstance(refuse, Refuse)
    assert isinstance(refuse.error, QueueFullError)
    assert (6, 3, 3, 12) == (
        refuse.ticket_id,
        refuse.error.waiting,
        refuse.error.limit,
        refuse.error.retry_after_seconds,
    )


def test_a_full_queue_of_one_model_does_not_refuse_requests_for_another():
    state = loaded(a=0, b=0)
    state, _ = after(state, *((1, asked(number, "a")) for number in range(1, 5)))
    _, actions = after(state, (1, asked(5, "b")))
    assert [Grant(5, B, 2)] == actions


def test_the_least_recently_used_idle_model_is_evicted_and_its_place_is_free_when_its_process_is_gone():
    state, actions = after(loaded(a=1, b=2), (3, asked(1, "c", 3)))
    assert [StopRunner(A, 1)] == actions
    _, actions = after(state, (4, RunnerGone(A, LoadId(1))))
    assert [StartLoad(C, 3)] == actions


def test_a_place_that_is_being_vacated_is_enough_for_one_model_that_waits():
    state, _ = after(loaded(a=1, b=2), (3, asked(1, "c", 3)))
    state, actions = after(state, (4, Woke()), (5, asked(2, "c", 5)))
    assert [] == actions
    _, actions = after(state, (6, asked(3, "d", 6)))
    assert [StopRunner(B, 2)] == actions


def test_an_infinite_keep_alive_does_not_pin_an_idle_model_against_others():
    state, _ = after(
        loaded(a=1, b=2), (3, asked(1, "a", 3, math.inf)), (4, asked(2, "b", 4)), (5, left(1)), (6, left(2))
    )
    _, actions = after(state, (7, asked(3, "c", 7)))
    assert [StopRunner(A, 1)] == actions


def test_a_model_waits_for_room_until_one_becomes_idle():
    state, _ = after(loaded(a=0, b=0), (1, asked(1, "a")), (1, asked(2, "b")))
    state, actions = after(state, (2, asked(3, "c", 2)))
    assert [] == actions
    _, actions = after(state, (3, left(2)))
    assert [StopRunner(B, 2)] == actions


def test_two_models_that_wait_for_room_get_it_in_order_of_arrival():
    state, _ = after(loaded(a=0, b=0), (1, asked(1, "a")), (1, asked(2, "b")))
    state, _ = after(state, (2, asked(3, "c", 2)), (3, asked(4, "d", 3)), (4, left(2)))
    state, actions = after(state, (5, RunnerGone(B, LoadId(2))))
    assert [StartLoad(C, 3)] == actions
    state, _ = after(state, (6, left(1)))
    _, actions = after(state, (7, RunnerGone(A, LoadId(1))))
    assert [StartLoad(ModelKey("d"), 4)] == actions


def test_a_busy_model_serves_only_older_requests_once_another_has_waited_too_long():
    state, _ = after(loaded(replace(LIMITS, max_loaded_models=1), a=0), (1, asked(1, "a", 1)), (2, asked(2, "a", 2)))
    state, actions = after(state, (3, asked(3, "c", 3)), (4, asked(4, "a", 4)))
    assert [] == actions
    state, actions = after(state, (33, Woke()), (34, left(1)))
    assert [Grant(2, A, 1)] == actions  # it came before the request that waits for room
    state, actions = after(state, (35, left(2)))
    assert [StopRunner(A, 1)] == actions  # request 4 came after it, and waits
    state, actions = after(state, (36, RunnerGone(A, LoadId(1))))
    assert [StartLoad(C, 2)] == actions
    state, _ = after(state, (37, LoadSucceeded(C, LoadId(2), 1)))
    _, actions = after(state, (38, left(3)))
    assert [StopRunner(C, 2)] == actions  # and request 4's model gets its place back


def test_a_model_that_yields_goes_on_when_nobody_waits_for_its_room_any_more():
    state, _ = after(loaded(replace(LIMITS, max_loaded_models=1), a=0), (1, asked(1, "a", 1)), (2, asked(2, "c", 2)))
    state, _ = after(state, (3, asked(3, "a", 3)), (32, Woke()), (33, left(2)))
    _, actions = after(state, (34, left(1)))
    assert [Grant(3, A, 1)] == actions


def test_waiting_for_room_asks_to_be_woken_when_patience_is_over():
    state, _ = after(loaded(replace(LIMITS, max_loaded_models=1), a=0), (1, asked(1, "a", 1)))
    _, actions = decide(state, asked(2, "c", 2), 2)
    assert (WakeAt(32),) == actions


def test_an_idle_model_is_unloaded_when_its_keep_alive_is_over_and_not_before():
    state, actions = decide(loaded(a=0), Woke(), 299)
    assert (WakeAt(300),) == actions
    _, actions = decide(state, Woke(), 300)
    assert (StopRunner(A, 1),) == actions


def test_a_requests_keep_alive_becomes_the_models_and_zero_unloads_at_the_last_requests_end():
    state, _ = after(loaded(a=0, parallel=2), (1, asked(1, "a", 1, 0)), (1, asked(2, "a", 1)))
    state, actions = after(state, (2, left(1)))
    assert [] == actions
    _, actions = after(state, (3, left(2)))
    assert [StopRunner(A, 1)] == actions


def test_an_infinite_keep_alive_asks_for_no_wake():
    state, _ = after(loaded(a=0), (1, asked(1, "a", 1, math.inf)))
    _, actions = decide(state, left(1), 2)
    assert () == actions


def test_a_client_that_leaves_does_not_abort_the_load_and_the_model_idles_afterwards():
    state, _ = after(State(LIMITS), (0, asked(1, "a")))
    state, actions = after(state, (1, left(1)))
    assert [] == actions
    state, actions = decide(state, LoadSucceeded(A, LoadId(1), 1), 5)
    assert (WakeAt(305),) == actions
    _, actions = after(state, (6, asked(2, "a", 6)))
    assert [Grant(2, A, 1)] == actions


def test_a_load_that_fails_fails_all_who_wait_for_it_and_the_next_request_tries_again():
    error = LoadError("no room")
    state, actions = after(State(LIMITS), (0, asked(1, "a")), (0, asked(2, "a")), (1, LoadFailed(A, LoadId(1), error)))
    assert [Refuse(1, error), Refuse(2, error)] == actions
    _, actions = after(state, (2, asked(3, "a", 2)))
    assert [StartLoad(A, 2)] == actions


def test_a_runner_that_dies_is_replaced_for_those_who_wait():
    state, _ = after(loaded(a=0), (1, asked(1, "a")), (1, asked(2, "a")))
    state, actions = after(state, (2, RunnerDoomed(A, LoadId(1))))
    assert [] == actions
    state, actions = after(state, (3, RunnerGone(A, LoadId(1))))
    assert [StartLoad(A, 2)] == actions
    state, actions = after(state, (4, left(1)))  # it was told by its stream's end
    assert [] == actions
    _, actions = after(state, (5, LoadSucceeded(A, LoadId(2), 1)))
    assert [Grant(2, A, 2)] == actions


def test_a_request_that_loses_two_runners_while_it_waits_fails():
    state, _ = after(loaded(a=0), (1, asked(1, "a")), (1, asked(2, "a")), (1, asked(3, "a")))
    state, _ = after(state, (2, RunnerGone(A, LoadId(1))), (3, LoadSucceeded(A, LoadId(2), 1)))  # 2 runs, 3 waits
    state, actions = after(state, (4, RunnerGone(A, LoadId(2))))
    assert [(3, RunnerCrashedError)] == refusals(actions)
    assert () == state.slots


def test_news_of_an_earlier_runner_do_not_touch_the_present_one():
    state, _ = after(
        loaded(a=0), (1, RunnerGone(A, LoadId(1))), (2, asked(1, "a")), (3, LoadSucceeded(A, LoadId(2), 1))
    )
    for event in (RunnerGone(A, LoadId(1)), RunnerDoomed(A, LoadId(1)), LoadFailed(A, LoadId(1), LoadError("x"))):
        assert (state, []) == after(state, (4, event))


def test_an_unload_lets_earlier_requests_finish_and_later_ones_load_anew():
    state, _ = after(loaded(a=0), (1, asked(1, "a")), (1, asked(2, "a")))
    state, actions = after(state, (2, UnloadRequested(A)), (3, asked(3, "a", 3)))
    assert [] == actions
    state, actions = after(state, (4, left(1)))
    assert [Grant(2, A, 1)] == actions
    state, actions = after(state, (5, left(2)))
    assert [StopRunner(A, 1)] == actions
    _, actions = after(state, (6, RunnerGone(A, LoadId(1))))
    assert [StartLoad(A, 2)] == actions


def test_an_unload_of_an_idle_model_stops_it_at_once_and_of_an_unknown_one_does_nothing():
    _, actions = after(loaded(a=0), (1, UnloadRequested(A)))
    assert [StopRunner(A, 1)] == actions
    _, actions = after(loaded(a=0), (1, UnloadRequested(B)))
    assert [] == actions


def test_a_shutdown_refuses_who_waits_and_who_comes_and_lets_who_runs_go_on_until_the_grace_ends():
    state, _ = after(loaded(a=0, b=0), (1, asked(1, "a")), (1, asked(2, "a")))
    state, actions = after(state, (2, ShutdownBegan()))
    assert [(2, ShuttingDownError)] == refusals(actions)
    assert StopRunner(B, 2) in actions
    assert StopRunner(A, 1) not in actions
    state, actions = after(state, (3, asked(3, "a")))
    assert [(3, ShuttingDownError)] == refusals(actions)
    _, ended = after(state, (4, GraceEnded()))
    assert [StopRunner(A, 1)] == ended
    _, finished = after(state, (4, left(1)))
    assert [StopRunner(A, 1)] == finished


def test_a_shutdown_gives_up_a_load():
    _, actions = after(State(LIMITS), (0, asked(1, "a")), (1, ShutdownBegan()))
    assert [(1, ShuttingDownError)] == refusals(actions)
    assert StopRunner(A, 1) in actions


@dataclass
class World:
    """What the policy's orders lead to, with everything that may not happen checked at each step."""

    state: State
    now: float = 0.0
    next_ticket: int = 1
    waiting: set[int] = field(default_factory=set)
    active: dict[int, int] = field(default_factory=dict)  # ticket: load id
    loads: dict[int, ModelKey] = field(default_factory=dict)
    ready: dict[int, ModelKey] = field(default_factory=dict)
    stopping: dict[int, ModelKey] = field(default_factory=dict)
    parallel: int = 2

    def send(self, event: Event) -> None:
        self.state, actions = decide(self.state, event, self.now)
        for action in actions:
            self.perform(action)
        taken = [*self.loads.values(), *self.ready.values(), *self.stopping.values()]
        assert len(taken) <= self.state.limits.max_loaded_models
        assert len(set(taken)) == len(taken)
        assert {ticket.id for ticket in self.state.waiting} == self.waiting
        for load_id in self.ready:
            assert sum(used == load_id for used in self.active.values()) <= self.parallel

    def perform(self, action: Action) -> None:
        match action:
            case StartLoad(key, load_id):
                self.loads[load_id] = key
            case StopRunner(key, load_id):
                assert load_id not in self.stopping
                self.loads.pop(load_id, None)
                self.ready.pop(load_id, None)
                self.stopping[load_id] = key
            case Grant(ticket_id, key, load_id):
                self.waiting.remove(ticket_id)
                assert ticket_id not in self.active
                assert key == self.ready[load_id]
                self.active[ticket_id] = load_id
            case Refuse(ticket_id):
                self.waiting.remove(ticket_id)
            case WakeAt(when):
                assert when > self.now

    def request(self, key: str, keep_alive: float | None) -> None:
        number, self.next_ticket = self.next_ticket, self.next_ticket + 1
        self.waiting.add(number)
        self.send(asked(number, key, self.now, keep_alive))

    def leave(self, index: int) -> None:
        tickets = sorted(self.waiting | set(self.active))
        if tickets:
            ticket = tickets[index % len(tickets)]
            self.waiting.discard(ticket)
            self.active.pop(ticket, None)
            self.send(left(ticket))

    def finish_load(self, index: int, succeeds: bool) -> None:
        if self.loads:
            load_id = sorted(self.loads)[index % len(self.loads)]
            key = self.loads.pop(load_id)
            if succeeds:
                self.ready[load_id] = key
                self.send(LoadSucceeded(key, LoadId(load_id), self.parallel))
            else:
                self.send(LoadFailed(key, LoadId(load_id), LoadError("no")))

    def die(self, index: int) -> None:
        if self.ready:
            load_id = sorted(self.ready)[index % len(self.ready)]
            self.stopping[load_id] = self.ready.pop(load_id)
            self.active = {ticket: used for ticket, used in self.active.items() if used != load_id}
            self.send(RunnerDoomed(self.stopping[load_id], LoadId(load_id)))

    def end_process(self, index: int) -> None:
        if self.stopping:
            load_id = sorted(self.stopping)[index % len(self.stopping)]
            key = self.stopping.pop(load_id)
            self.send(RunnerGone(key, LoadId(load_id)))


KEYS = st.sampled_from("abcd")
INDEX = st.integers(0, 10)
STEPS = st.one_of(
    st.tuples(st.just("request"), KEYS, st.sampled_from([None, 0.0, 5.0, math.inf])),
    st.tuples(st.just("leave"), INDEX),
    st.tuples(st.just("finish_load"), INDEX, st.booleans()),
    st.tuples(st.just("die"), INDEX),
    st.tuples(st.just("end_process"), INDEX),
    st.tuples(st.just("unload"), KEYS),
    st.tuples(st.just("wait"), st.floats(0, 40)),
)


def play(world: World, step: tuple) -> None:
    match step:
        case ("unload", key):
            world.send(UnloadRequested(ModelKey(key)))
        case ("wait", seconds):
            world.now += seconds
            world.send(Woke())
        case (name, *arguments):
            getattr(world, name)(*arguments)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.lists(STEPS, max_size=60))
def test_whatever_happens_no_limit_is_broken_and_every_ticket_ends_when_the_others_do(models, queue, steps):
    world = World(State(Limits(models, queue, 20.0)))
    for step in steps:
        play(world, step)
    for _ in range(len(world.waiting) * 8 + 20):
        world.now += 1
        world.send(Woke())
        world.end_process(0)
        world.finish_load(0, succeeds=True)
        for ticket in sorted(world.active):
            del world.active[ticket]
            world.send(left(ticket))
    assert set() == world.waiting
    assert {} == world.loads


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.lists(STEPS, max_size=40))
def test_whatever_happened_a_shutdown_ends_every_process(models, steps):
    world = World(State(Limits(models, 4, 20.0)))
    for step in steps:
        play(world, step)
    world.send(ShutdownBegan())
    assert set() == world.waiting
    world.active.clear()
    world.send(GraceEnded())
    while world.stopping:
        world.end_process(0)
    assert ((), {}, {}) == (world.state.slots, world.loads, world.ready)
    world.request("a", None)
    assert set() == world.waiting
