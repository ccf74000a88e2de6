"""Whose turn it is: literal queues first, then clients that flood, in simulated time, and anything at all."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import QueueFullError
from localllm.generation import Priority
from localllm.scheduler.fairness import MOST_ACCOUNTS, SECONDS_PER_CLASS, queue_places
from localllm.scheduler.policy import decide
from localllm.scheduler.state import (
    Event,
    Grant,
    Left,
    Limits,
    LoadId,
    LoadSucceeded,
    ModelKey,
    Refuse,
    Requested,
    State,
    Ticket,
    TicketId,
)

M = ModelKey("m")


@dataclass
class Line:
    """The queue of one loaded model. Events go in at `now`; who was granted and refused is kept, in order."""

    parallel: int = 1
    max_queue: int = 1000
    now: float = 0.0
    granted: list[int] = field(default_factory=list)
    refused: dict[int, Exception] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.state = State(Limits(1, self.max_queue, math.inf))
        self.ask(-1, "warm-up")
        self.send(LoadSucceeded(M, LoadId(1), self.parallel))
        self.end(-1)
        self.granted.clear()

    def send(self, event: Event) -> None:
        self.state, actions = decide(self.state, event, self.now)
        for action in actions:
            if isinstance(action, Grant):
                self.granted.append(action.ticket_id)
            elif isinstance(action, Refuse):
                self.refused[action.ticket_id] = action.error

    def ask(self, number: int, client: str, priority: Priority = "interactive") -> None:
        self.send(Requested(Ticket(TicketId(number), M, "m", None, self.now, client=client, priority=priority)))

    def end(self, number: int) -> None:
        self.ended.add(number)
        self.send(Left(TicketId(number)))

    def serve_all(self, seconds: float = 1.0) -> list[int]:
        """End the oldest active one every `seconds` until nobody is left; the order of service."""
        while running := [number for number in self.granted if number not in self.ended]:
            self.now += seconds
            self.end(running[0])
        return self.granted


def test_one_client_is_served_in_order_of_arrival():
    line = Line()
    for number in range(1, 6):
        line.ask(number, "a")
    assert [1, 2, 3, 4, 5] == line.serve_all()


def test_clients_take_turns_whatever_each_has_sent():
    line = Line()
    for number in (1, 2, 3, 4):
        line.ask(number, "flood")
    line.ask(5, "a")
    line.ask(6, "b")
    line.ask(7, "a")
    assert [1, 5, 6, 2, 7, 3, 4] == line.serve_all()


def test_who_asks_for_long_answers_gets_fewer_of_them():
    line = Line()
    for number in range(1, 9):
        line.ask(number, "long" if number % 2 else "short")
    served = []
    while len(served) < 8:
        number = line.granted[len(served)]
        line.now += 9 if number % 2 else 3
        line.end(number)
        served.append(number)
    assert [1, 2, 4, 6, 3, 8, 5, 7] == served


def test_a_client_that_was_away_has_no_claim_on_the_time_it_did_not_use():
    line = Line()
    line.ask(1, "early")
    for number in range(2, 8):
        line.ask(number, "steady")
    for number in (1, 2, 3, 4):
        line.now += 1
        line.end(number)
    for number in (8, 9, 10):
        line.ask(number, "early")
    assert [8, 6, 9, 7, 10] == line.serve_all()[5:]


def test_a_better_class_goes_first_and_a_worse_one_when_there_is_nobody_else():
    line = Line()
    line.ask(1, "x")
    line.ask(2, "a", "batch")
    line.ask(3, "b", "agent")
    line.ask(4, "c", "interactive")
    line.ask(5, "b", "agent")
    assert [1, 4, 3, 5, 2] == line.serve_all()


def test_a_class_becomes_better_with_each_half_minute_without_service():
    line = Line()
    line.ask(1, "x")
    line.ask(2, "a", "batch")
    line.now = 2 * SECONDS_PER_CLASS
    line.ask(3, "b", "agent")
    line.end(1)
    assert [1, 2] == line.granted


def test_an_urgent_request_starts_beside_less_urgent_ones_but_each_class_keeps_to_the_limit():
    line = Line(parallel=2)
    for number in (1, 2, 3):
        line.ask(number, "night", "batch")
    assert [1, 2] == line.granted
    for number in (4, 5, 6):
        line.ask(number, "person")
    assert [1, 2, 4, 5] == line.granted
    line.end(1)
    assert [1, 2, 4, 5] == line.granted
    line.end(4)
    assert [1, 2, 4, 5, 6] == line.granted


def test_places_tell_the_order_of_service_and_when_it_is_likely_to_be_ones_turn():
    line = Line(parallel=2)
    line.ask(1, "a")
    line.now += 4
    line.end(1)
    line.ask(2, "a")
    line.ask(3, "a")
    line.ask(4, "a")
    line.ask(5, "a", "batch")
    line.ask(6, "b")
    mean = line.state.mean_service_seconds[M]
    line.now += 1
    told = [(place.ticket_id, place.position, place.eta_seconds) for place in queue_places(line.state, M, line.now)]
    assert [(6, 1, mean / 2), (4, 2, mean), (5, 3, mean * 3 / 2)] == told
    assert [1.0, 1.0, 1.0] == [place.waited_seconds for place in queue_places(line.state, M, line.now)]


def test_nobody_is_told_a_time_before_the_model_is_loaded():
    line = Line()
    state, _ = decide(State(Limits(1, 10, 300)), Requested(Ticket(TicketId(1), M, "m", None, 0)), 0)
    assert [None] == [place.eta_seconds for place in queue_places(state, M, 5)]
    line.ask(1, "a")
    line.ask(2, "a")
    assert [0.0] == [place.eta_seconds for place in queue_places(line.state, M, 5)]  # the warm-up took no time


def test_when_the_queue_is_full_the_newest_of_the_client_that_fills_it_goes():
    line = Line(max_queue=3)
    for number in range(1, 5):
        line.ask(number, "flood")
    line.ask(5, "a")
    assert [4] == list(line.refused)
    error = line.refused[4]
    assert isinstance(error, QueueFullError)
    assert (3, 3) == (error.waiting, error.limit)
    line.ask(6, "flood")
    line.ask(7, "a")
    assert [4, 6, 7] == list(line.refused)  # two each: nobody has more than the one who comes
    assert [1, 5, 2, 3] == line.serve_all()


def test_when_the_queue_is_full_a_worse_class_goes_before_a_better_one():
    line = Line(max_queue=2)
    line.ask(1, "x")
    line.ask(2, "a", "batch")
    line.ask(3, "b", "agent")
    line.ask(4, "c")
    line.ask(5, "d", "batch")
    assert [2, 5] == list(line.refused)


@dataclass(frozen=True)
class Job:
    """One request of a simulation: who, when it is sent (or how long after the client's last one ended), how long."""

    client: str
    seconds: float
    at: float | None = None
    after_own_last: float = 0.0


def simulate(jobs: list[Job], parallel: int) -> dict[int, tuple[float, float]]:
    """(arrived, started) of each job, by its index. Jobs without a time follow the end of their client's last one."""
    line = Line(parallel)
    arrived: dict[int, float] = {}
    started: dict[int, float] = {}
    ids: dict[int, int] = {}
    followers: dict[str, Iterator[int]] = {}
    for client in {job.client for job in jobs}:
        followers[client] = iter([i for i, job in enumerate(jobs) if job.client == client and job.at is None])
    events = [(job.at, 0, index) for index, job in enumerate(jobs) if job.at is not None]
    events += [(0.0, 0, first) for one in followers.values() if (first := next(one, None)) is not None]
    heapq.heapify(events)
    while events:
        line.now, kind, index = heapq.heappop(events)
        before = len(line.granted)
        if kind == 0:
            number = len(ids) + 1
            ids[number], arrived[index] = index, line.now
            line.ask(number, jobs[index].client)
        else:
            line.end(next(number for number, one in ids.items() if one == index))
            follower = next(followers[jobs[index].client], None) if jobs[index].at is None else None
            if follower is not None:
                heapq.heappush(events, (line.now + jobs[follower].after_own_last, 0, follower))
        for number in line.granted[before:]:
            one = ids[number]
            assert one not in started
            started[one] = line.now
            heapq.heappush(events, (line.now + jobs[one].seconds, 1, one))
    assert {} == line.refused
    assert len(jobs) == len(started)
    return {index: (arrived[index], started[index]) for index in started}


def longest_wait(jobs: list[Job], parallel: int) -> float:
    """Of the clients that do not flood."""
    times = simulate(jobs, parallel)
    return max(times[index][1] - times[index][0] for index, job in enumerate(jobs) if job.client != "flood")


def flood(seconds: list[float], count: int = 80) -> list[Job]:
    return [Job("flood", seconds[index % len(seconds)], at=0.0) for index in range(count)]


def test_two_hundred_requests_of_one_client_delay_others_by_two_requests_at_most():
    others = [Job(client, 1.0, after_own_last=pause) for client, pause in (("a", 0.3), ("b", 0.7)) for _ in range(30)]
    assert longest_wait(flood([1.0], 200) + others, parallel=1) <= 2.0
    assert longest_wait(flood([1.0], 200) + others, parallel=4) <= 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=15), st.lists(st.floats(0, 5), min_size=1, max_size=15))
def test_however_others_come_a_flood_delays_them_by_two_requests_at_most(pauses_of_a, pauses_of_b):
    others = [Job("a", 1.0, after_own_last=pause) for pause in pauses_of_a]
    others += [Job("b", 1.0, after_own_last=pause) for pause in pauses_of_b]
    assert longest_wait(flood([1.0]) + others, parallel=1) <= 2.0 + 1e-6


SECONDS = st.lists(st.floats(0.2, 3), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(SECONDS, SECONDS, SECONDS, st.integers(1, 4))
def test_with_requests_of_any_length_a_flood_delays_others_by_three_of_the_longest_at_most(long, a, b, parallel):
    others = [Job("a", seconds, after_own_last=0.1) for seconds in a] + [Job("b", seconds) for seconds in b]
    longest = max(*long, *a, *b)
    assert longest_wait(flood(long) + others, parallel) <= 3 * longest + 1e-6


PRIORITIES = st.sampled_from(["interactive", "agent", "batch"])


@settings(max_examples=40, deadline=None)
@given(PRIORITIES, st.integers(1, 3), st.integers(1, 4), st.floats(0.5, 5))
def test_nobody_starves_however_many_new_clients_come(priority, parallel, crowd, seconds):
    line = Line(parallel)
    number, ended = 1000, 0
    for _ in range(parallel + crowd):
        number += 1
        line.ask(number, f"new-{number}")
    line.ask(1, "patient", priority)
    while 1 not in line.granted:
        assert line.now < 3 * SECONDS_PER_CLASS + (crowd + 2) * seconds
        line.now += seconds
        for _ in range(parallel):
            line.end(line.granted[ended])
            ended += 1
            number += 1
            line.ask(number, f"new-{number}")


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from("abc"), PRIORITIES),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.floats(0, 50)),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.lists(STEPS, max_size=60))
def test_whatever_clients_do_no_limit_is_broken_and_each_request_is_served_or_refused_once(parallel, queue, steps):
    line = Line(parallel, queue)
    asked = 0
    for name, *arguments in steps:
        active = [number for number in line.granted if number not in line.ended]
        waiting = [ticket.id for ticket in line.state.waiting]
        match name, *arguments:
            case "ask", client, priority:
                asked += 1
                line.ask(asked, client, priority)
            case "wait", seconds:
                line.now += seconds
            case "end" | "leave", index:
                chosen = active if name == "end" else waiting
                if chosen:
                    line.end(chosen[index % len(chosen)])
        (slot,) = line.state.slots
        for rank in (0, 1, 2):
            assert sum(one.rank == rank for one in slot.active) <= parallel
        assert len(line.state.waiting) <= queue
        assert not (line.state.waiting and len(slot.active) < parallel)
    line.serve_all()
    assert set(range(1, asked + 1)) == (line.ended | set(line.refused)) - {-1}
    assert len(line.granted) == len(set(line.granted))
    assert not set(line.granted) & set(line.refused)
    assert {} == line.state.accounts


def test_the_account_of_a_model_that_is_never_idle_stays_small():
    line = Line()
    for number in range(1, MOST_ACCOUNTS + 100):
        line.ask(number, f"new-{number}")
        if number > 1:
            line.now += 1
            line.end(number - 1)
    assert len(line.state.accounts[M]) <= MOST_ACCOUNTS
