"""Who makes room when bytes are short: literal models on devices in, orders out; then anything, by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.scheduler.policy import decide
from localllm.scheduler.state import (
    Action,
    Demand,
    Event,
    Grant,
    Left,
    Limits,
    LoadId,
    LoadPlanned,
    LoadSucceeded,
    ModelKey,
    Requested,
    RunnerGone,
    StartLoad,
    State,
    StopRunner,
    Surveyed,
    Ticket,
    TicketId,
    WakeAt,
    Woke,
)

LIMITS = Limits(max_loaded_models=8, max_queue=64, keep_alive_seconds=1e9, patience_seconds=30)


def asked(number: int, key: str, now: float = 0, priority="interactive", reload=1.0, **bytes_: int) -> Requested:
    """A request for a model that takes these bytes of these devices."""
    demand = Demand((bytes_,), reload)
    return Requested(Ticket(TicketId(number), ModelKey(key), key, None, now, priority=priority, demand=demand))


def either(number: int, key: str, *choices: dict[str, int], now: float = 0) -> Requested:
    return Requested(Ticket(TicketId(number), ModelKey(key), key, None, now, demand=Demand(choices)))


def left(number: int) -> Left:
    return Left(TicketId(number))


def after(state: State, *events: tuple[float, Event]) -> tuple[State, list[Action]]:
    actions: tuple[Action, ...] = ()
    for now, event in events:
        state, actions = decide(state, event, now)
    return state, [action for action in actions if not isinstance(action, WakeAt)]


def loaded(capacity: dict[str, int], *models: tuple[str, float, dict[str, int]], reload: float = 1.0) -> State:
    """Models that are loaded, idle since a time, and take these bytes."""
    state, _ = after(State(LIMITS), (0, Surveyed(capacity)))
    for number, (key, since, taken) in enumerate(models, start=1):
        state, _ = after(
            state,
            (since, asked(-number, key, since, reload=reload, **taken)),
            (since, LoadPlanned(ModelKey(key), LoadId(number), taken)),
            (since, LoadSucceeded(ModelKey(key), LoadId(number), 1)),
            (since, left(-number)),
        )
    return state


def test_two_models_that_fit_together_stay_together():
    state = loaded({"CUDA0": 100}, ("a", 1, {"CUDA0": 60}))
    _, actions = after(state, (2, asked(1, "b", CUDA0=40)))
    assert [StartLoad(ModelKey("b"), LoadId(2), {"CUDA0": 40})] == actions


def test_a_model_that_does_not_fit_takes_the_place_of_the_one_used_longest_ago():
    state = loaded({"CUDA0": 100}, ("a", 1, {"CUDA0": 50}), ("b", 2, {"CUDA0": 50}))
    state, actions = after(state, (3, asked(1, "c", CUDA0=40)))
    assert [StopRunner(ModelKey("a"), LoadId(1))] == actions
    _, actions = after(state, (4, RunnerGone(ModelKey("a"), LoadId(1))))
    assert [StartLoad(ModelKey("c"), LoadId(3), {"CUDA0": 50})] == actions


def test_no_model_is_evicted_in_vain():
    state = loaded({"CUDA0": 100}, ("small", 1, {"CUDA0": 10}), ("large", 2, {"CUDA0": 80}))
    _, actions = after(state, (3, asked(1, "c", CUDA0=70)))
    assert [StopRunner(ModelKey("large"), LoadId(2))] == actions
    _, actions = after(state, (3, asked(1, "d", CUDA0=95)))
    assert {StopRunner(ModelKey("small"), LoadId(1)), StopRunner(ModelKey("large"), LoadId(2))} == set(actions)


def test_a_model_of_another_device_is_left_alone():
    state = loaded({"CUDA0": 100, "CPU": 100}, ("host", 1, {"CPU": 90}), ("gpu", 2, {"CUDA0": 90}))
    _, actions = after(state, (3, asked(1, "c", CUDA0=50, CPU=5)))
    assert [StopRunner(ModelKey("gpu"), LoadId(2))] == actions


def test_of_models_unused_for_equally_long_the_cheapest_to_load_again_goes():
    state, _ = after(State(LIMITS), (0, Surveyed({"CPU": 100})))
    for number, (key, reload) in enumerate((("dear", 9.0), ("cheap", 1.0)), start=1):
        state, _ = after(
            state,
            (1, asked(-number, key, reload=reload, CPU=40)),
            (1, LoadPlanned(ModelKey(key), LoadId(number), {"CPU": 40})),
            (1, LoadSucceeded(ModelKey(key), LoadId(number), 1)),
            (1, left(-number)),
        )
    _, actions = after(state, (2, asked(1, "c", CPU=50)))
    assert [StopRunner(ModelKey("cheap"), LoadId(2))] == actions


def test_a_model_that_may_lie_on_one_of_two_gpus_takes_the_one_with_room():
    state = loaded({"CUDA0": 100, "CUDA1": 100}, ("a", 1, {"CUDA0": 90}))
    _, actions = after(state, (2, either(1, "b", {"CUDA0": 50}, {"CUDA1": 50})))
    assert [StartLoad(ModelKey("b"), LoadId(2), {"CUDA0": 10, "CUDA1": 100})] == actions


def test_a_load_has_all_that_is_free_to_itself_until_it_is_planned():
    state, actions = after(State(LIMITS), (0, Surveyed({"CPU": 100})), (0, asked(1, "a", CPU=30)))
    assert [StartLoad(ModelKey("a"), LoadId(1), {"CPU": 100})] == actions
    state, actions = after(state, (0, asked(2, "b", CPU=30)))
    assert [] == actions
    state, actions = after(state, (1, LoadPlanned(ModelKey("a"), LoadId(1), {"CPU": 60})))
    assert [StartLoad(ModelKey("b"), LoadId(2), {"CPU": 40})] == actions
    state, _ = after(state, (2, LoadPlanned(ModelKey("b"), LoadId(2), {"CPU": 30})))
    state, _ = after(state, (3, LoadSucceeded(ModelKey("a"), LoadId(1), 1, {"CPU": 65})))
    assert [65, 30] == [slot.taken["CPU"] for slot in state.slots]


def test_a_load_waits_for_a_busy_model_and_an_older_wish_keeps_its_claim():
    state = loaded({"CPU": 100}, ("a", 1, {"CPU": 80}))
    state, _ = after(state, (2, asked(1, "a", CPU=80)))
    state, actions = after(state, (3, asked(2, "large", 3, CPU=90)), (4, asked(3, "small", 4, CPU=20)))
    assert [] == actions  # the small one would fit now, but the large one came first
    state, actions = after(state, (5, left(1)))
    assert [StopRunner(ModelKey("a"), LoadId(1))] == actions
    state, actions = after(state, (6, RunnerGone(ModelKey("a"), LoadId(1))))
    assert [StartLoad(ModelKey("large"), LoadId(2), {"CPU": 100})] == actions


def test_a_busy_model_never_makes_room_for_a_request_of_a_lower_class():
    state = loaded({"CPU": 100}, ("a", 1, {"CPU": 80}))
    state, _ = after(state, (2, asked(1, "a", 2, CPU=80)), (3, asked(2, "b", 3, "batch", CPU=80)))
    state, _ = after(state, (40, Woke()), (41, asked(3, "a", 41, CPU=80)))
    _, actions = after(state, (42, left(1)))
    assert [Grant(TicketId(3), ModelKey("a"), LoadId(1))] == actions


def test_a_busy_model_makes_room_for_a_request_of_its_own_class_that_waited_too_long():
    state = loaded({"CPU": 100}, ("a", 1, {"CPU": 80}))
    state, _ = after(state, (2, asked(1, "a", 2, CPU=80)), (3, asked(2, "b", 3, CPU=80)))
    state, _ = after(state, (40, Woke()), (41, asked(3, "a", 41, CPU=80)))
    _, actions = after(state, (42, left(1)))
    assert [StopRunner(ModelKey("a"), LoadId(1))] == actions


def test_only_a_busy_model_that_is_in_the_way_is_asked_to_yield():
    state = loaded({"CPU": 100, "CUDA0": 100}, ("host", 1, {"CPU": 80}), ("gpu", 2, {"CUDA0": 80}))
    state, _ = after(state, (3, asked(1, "host", 3, CPU=80)), (3, asked(2, "gpu", 3, CUDA0=80)))
    state, _ = after(state, (4, asked(3, "c", 4, CUDA0=50)), (40, Woke()))
    assert [("host", None), ("gpu", "c")] == [(slot.key, slot.yields_to) for slot in state.slots]


def test_a_model_larger_than_everything_loads_alone_and_is_told_then():
    state = loaded({"CPU": 100}, ("a", 1, {"CPU": 50}))
    state, actions = after(state, (2, asked(1, "huge", CPU=1000)))
    assert [StopRunner(ModelKey("a"), LoadId(1))] == actions
    _, actions = after(state, (3, RunnerGone(ModelKey("a"), LoadId(1))))
    assert [StartLoad(ModelKey("huge"), LoadId(2), {"CPU": 100})] == actions


@dataclass
class World:
    """Obeys the policy's orders, and checks at each step that no device is over its capacity."""

    sizes: dict[str, dict[str, int]]
    state: State = field(default_factory=lambda: State(LIMITS))
    now: float = 0.0
    tickets: int = 0
    budgets: dict[int, tuple[str, dict[str, int]]] = field(default_factory=dict)
    held: dict[int, tuple[str, dict[str, int]]] = field(default_factory=dict)
    gone: list[tuple[str, int]] = field(default_factory=list)
    active: list[int] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)

    def send(self, event: Event) -> None:
        self.now += 0.1
        self.state, actions = decide(self.state, event, self.now)
        for action in actions:
            self.perform(action)
        for device, capacity in self.state.capacity.items():
            assert sum(taken.get(device, 0) for _, taken in self.held.values()) <= capacity
            assert sum(slot.taken.get(device, 0) for slot in self.state.slots) <= capacity

    def perform(self, action: Action) -> None:
        match action:
            case StartLoad(key, load_id, budget):
                assert budget is not None
                need = {d: min(size, self.state.capacity[d]) for d, size in self.sizes[key].items()}
                assert all(size <= budget[device] for device, size in need.items())
                self.budgets[load_id] = (key, dict(budget))
                self.held[load_id] = (key, need)
            case StopRunner(key, load_id):
                self.budgets.pop(load_id, None)
                self.gone.append((key, load_id))
            case Grant(ticket_id):
                self.waiting.discard(ticket_id)
                self.active.append(ticket_id)

    def request(self, key: str) -> None:
        self.tickets += 1
        self.waiting.add(self.tickets)
        self.send(asked(self.tickets, key, self.now, **self.sizes[key]))

    def settle(self, grows: int = 0) -> None:
        """Loads end, growing into what they may take; ended processes are gone; requests end."""
        for load_id, (key, budget) in list(self.budgets.items()):
            if self.budgets.pop(load_id, None) is None:
                continue
            need = self.held[load_id][1]
            taken = {d: min(budget[d], size + grows) for d, size in need.items()}
            self.held[load_id] = (key, taken)
            self.send(LoadPlanned(ModelKey(key), LoadId(load_id), taken))
            self.send(LoadSucceeded(ModelKey(key), LoadId(load_id), 2, taken))
        for key, load_id in self.gone[:]:
            self.gone.remove((key, load_id))
            self.held.pop(load_id, None)
            self.send(RunnerGone(ModelKey(key), LoadId(load_id)))
        for ticket in self.active[:]:
            self.active.remove(ticket)
            self.send(left(ticket))


SIZES = st.fixed_dictionaries({"CPU": st.integers(1, 120)}, optional={"CUDA0": st.integers(1, 120)})
STEPS = st.lists(st.one_of(st.sampled_from("abcd"), st.integers(0, 40)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys("abcd", SIZES)), STEPS)
def test_whatever_is_asked_no_device_is_ever_over_its_capacity_and_everyone_is_served(sizes, steps):
    world = World(sizes)
    world.send(Surveyed({"CPU": 100, "CUDA0": 100}))
    for step in steps:
        if isinstance(step, str):
            world.request(step)
        else:
            world.settle(step)
    for _ in range(3 * world.tickets + 10):
        world.settle()
    assert set() == world.waiting
