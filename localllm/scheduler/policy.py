"""Which models are loaded, who waits and who makes room: `decide(state, event, now) -> (state, actions)`, no effects.

An event changes the state in its own way (`_apply`); then the state is settled, whatever the event was:

    1. grants    a ready model takes waiting tickets in the order of fairness, as many as it serves at once
    2. stops     a ready model without work stops when its keep-alive is over or it was asked to
    3. room      models that wait and take up no room get it in order of their oldest ticket. Room is a place and bytes
                 of devices (room.py): what is free, what is being vacated, what the idle models have that were used
                 longest ago (whatever their keep-alive: a client cannot pin a model against everyone else), or, once
                 patience is over, of a busy one, which from then on serves only what came before the one that waits
    4. wake      the next moment at which time alone changes something

Loading, ready and stopping models all take up room: memory is free only when a process is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec.structs import replace

from localllm.errors import LocalllmError, QueueFullError, RunnerCrashedError, ShuttingDownError
from localllm.scheduler.fairness import (
    ASSUMED_SERVICE_SECONDS,
    has_place,
    in_turn,
    is_better,
    whom_to_refuse,
    with_arrival,
    with_charge,
)
from localllm.scheduler.room import (
    Claims,
    Room,
    choices_within,
    first_that_fits,
    free_room,
    is_in_the_way,
    victims_for,
)
from localllm.scheduler.state import (
    Accounts,
    Action,
    Active,
    DeviceBytes,
    Event,
    GraceEnded,
    Grant,
    Left,
    LoadFailed,
    LoadId,
    LoadPlanned,
    LoadSucceeded,
    ModelKey,
    Refuse,
    Requested,
    RunnerDoomed,
    RunnerEvent,
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

LONGEST_RETRY_AFTER_SECONDS = 600
_NEWEST_WEIGHT = 0.2  # of a service time in the moving mean

Decision = tuple[State, tuple[Action, ...]]


def decide(state: State, event: Event, now: float) -> Decision:
    """The state after `event`, and what to do now, in order. Events about unknown tickets or old loads are ignored."""
    actions: list[Action] = []
    state = _apply(state, event, now, actions)
    for step in (_grant, _stop_finished, _make_room, _close_accounts):
        state = step(state, now, actions)
    wake_at = _next_wake(state, now)
    if wake_at < math.inf:
        actions.append(WakeAt(wake_at))
    return state, tuple(actions)


def _apply(state: State, event: Event, now: float, actions: list[Action]) -> State:
    match event:
        case Requested(ticket):
            return _enqueue(state, ticket, actions)
        case Left(ticket_id):
            return _forget(state, ticket_id, now)
        case UnloadRequested(key):
            return _ask_to_stop(state, state.slot(key))
        case ShutdownBegan():
            state = _refuse(replace(state, is_shutting_down=True), state.waiting, ShuttingDownError(), actions)
            return _stop_all(state, (slot for slot in state.slots if not slot.active), actions)
        case GraceEnded():
            return _stop_all(state, state.slots, actions)
        case Surveyed(capacity):
            return replace(state, capacity=capacity)
        case Woke():
            return state
        case _:
            slot = state.slot(event.key)
            is_current = slot is not None and slot.load_id == event.load_id
            return _apply_news(state, slot, event, now, actions) if slot is not None and is_current else state


def _apply_news(state: State, slot: Slot, event: RunnerEvent, now: float, actions: list[Action]) -> State:
    """What became of the load or runner in `slot`."""
    match event:
        case LoadPlanned(taken=taken):
            return _with(state, replace(slot, taken=taken))
        case LoadSucceeded(parallel=parallel, taken=taken):
            if slot.phase != "loading":  # given up while its last message was on the way
                return state
            ready = replace(slot, phase="ready", parallel=max(1, parallel), last_used=now)
            return _with(state, ready if taken is None else replace(ready, taken=taken))
        case LoadFailed(error=error):
            state = _without(state, slot)
            if slot.phase == "stopping":  # given up on purpose: whoever came since gets a new load
                return state
            return _refuse(state, state.waiting_for(slot.key), error, actions)
        case RunnerDoomed():
            return _lose(state, slot, actions)
        case RunnerGone():
            return _without(_lose(state, slot, actions), slot)


def _enqueue(state: State, ticket: Ticket, actions: list[Action]) -> State:
    if state.is_shutting_down:
        actions.append(Refuse(ticket.id, ShuttingDownError()))
        return state
    waiting, limit = state.waiting_for(ticket.key), state.limits.max_queue
    slot = state.slot(ticket.key)
    present = {one.flow for one in waiting} | {one.flow for one in (slot.active if slot is not None else ())}
    state = _with_accounts(state, ticket.key, with_arrival(_accounts(state, ticket.key), ticket.flow, present))
    if len(waiting) >= limit:
        refused = whom_to_refuse(waiting, ticket)
        seconds = _retry_after_seconds(state, ticket.key, len(waiting))
        actions.append(Refuse(refused.id, QueueFullError(ticket.name, len(waiting), limit, seconds)))
        if refused is ticket:
            return state
        state = _drop(state, (refused,))
    return replace(state, waiting=(*state.waiting, ticket))


def _retry_after_seconds(state: State, key: ModelKey, waiting: int) -> int:
    slot = state.slot(key)
    at_once = slot.parallel if slot is not None and slot.parallel else 1
    seconds = waiting * state.mean_service_seconds.get(key, ASSUMED_SERVICE_SECONDS) / at_once
    return max(1, min(LONGEST_RETRY_AFTER_SECONDS, math.ceil(seconds)))


def _forget(state: State, ticket_id: TicketId, now: float) -> State:
    for slot in state.slots:
        for active in slot.active:
            if active.id == ticket_id:
                rest = tuple(other for other in slot.active if other.id != ticket_id)
                state = _with(state, replace(slot, active=rest, last_used=now))
                seconds = now - active.granted_at
                settled = with_charge(_accounts(state, slot.key), active.flow, seconds - active.charged_seconds, now)
                return _with_service_time(_with_accounts(state, slot.key, settled), slot.key, seconds)
    return replace(state, waiting=tuple(ticket for ticket in state.waiting if ticket.id != ticket_id))


def _with_service_time(state: State, key: ModelKey, seconds: float) -> State:
    mean = state.mean_service_seconds.get(key, seconds)
    means = {**state.mean_service_seconds, key: mean + _NEWEST_WEIGHT * (seconds - mean)}
    return replace(state, mean_service_seconds=means)


def _lose(state: State, slot: Slot, actions: list[Action]) -> State:
    """A runner is of no use any more: those who wait for it get another, a limited number of times."""
    if slot.phase == "stopping":
        return state
    state = _with(state, replace(slot, phase="stopping", active=()))
    waiting = tuple(
        replace(ticket, lost_runners=ticket.lost_runners + 1) if ticket.key == slot.key else ticket
        for ticket in state.waiting
    )
    state = replace(state, waiting=waiting)
    unlucky = tuple(ticket for ticket in waiting if ticket.lost_runners >= state.limits.lost_runners)
    error = RunnerCrashedError("the model's process died again and again while the request waited for it")
    return _refuse(state, unlucky, error, actions)


def _ask_to_stop(state: State, slot: Slot | None) -> State:
    if slot is None or slot.phase == "stopping":
        return state
    waiting = state.waiting_for(slot.key)
    last = waiting[-1].id if waiting else TicketId(-1)
    if slot.last_ticket is not None:
        last = min(last, slot.last_ticket)
    return _with(state, replace(slot, last_ticket=last, yields_to=None))


def _grant(state: State, now: float, actions: list[Action]) -> State:
    state = _withdraw_idle_wishes(state)
    for slot in state.slots:
        if slot.phase == "ready" and has_place(0, slot.active, slot.parallel):
            state = _grant_places(state, slot, now, actions)
    return state


def _grant_places(state: State, slot: Slot, now: float, actions: list[Action]) -> State:
    accounts = _accounts(state, slot.key)
    cost = state.mean_service_seconds.get(slot.key, ASSUMED_SERVICE_SECONDS)
    chosen: list[Ticket] = []
    for ticket, rank in in_turn(_servable(state, slot), slot.active, accounts, cost, now):
        if not has_place(rank, slot.active, slot.parallel):
            break
        keep_alive = slot.keep_alive_seconds if ticket.keep_alive_seconds is None else ticket.keep_alive_seconds
        active = (*slot.active, Active(ticket.id, now, ticket.flow, rank, cost))
        slot = replace(slot, active=active, keep_alive_seconds=keep_alive, last_used=now)
        accounts = with_charge(accounts, ticket.flow, cost, now)
        chosen.append(ticket)
        actions.append(Grant(ticket.id, slot.key, slot.load_id))
    if not chosen:
        return state
    return _with_accounts(_with(_drop(state, tuple(chosen)), slot), slot.key, accounts)


def _withdraw_idle_wishes(state: State) -> State:
    """A busy model need not yield any more once the model it yields to has a place or nobody wants it."""
    yielding = [slot for slot in state.slots if slot.phase == "ready" and slot.yields_to is not None]
    wanting = {ticket.key for ticket in _oldest_without_place(state)} if yielding else ()
    for slot in yielding:
        if slot.yields_to not in wanting:
            state = _with(state, replace(slot, last_ticket=None, yields_to=None))
    return state


def _stop_finished(state: State, now: float, actions: list[Action]) -> State:
    finished = (
        slot
        for slot in state.slots
        if _is_idle(state, slot) and (slot.last_ticket is not None or slot.expires_at <= now or state.is_shutting_down)
    )
    return _stop_all(state, finished, actions)


def _make_room(state: State, now: float, actions: list[Action]) -> State:
    claims = Claims()
    for ticket in _oldest_without_place(state):
        choices = choices_within(ticket.demand, state.capacity)
        room = free_room(state, claims)
        if first_that_fits(choices, room) is not None:
            state = _start_load(state, ticket, room, now, actions)
            continue
        leaving = [slot for slot in state.slots if slot.phase == "stopping"]
        if (choice := first_that_fits(choices, free_room(state, claims, leaving))) is None:
            idle = [slot for slot in state.slots if _is_idle(state, slot)]
            victims = victims_for(state, claims, choices, leaving, idle)
            if victims is not None:
                state = _stop_all(state, victims, actions)
                choice = first_that_fits(choices, free_room(state, claims, (*leaving, *victims)))
            elif now >= ticket.arrived_at + state.limits.patience_seconds:
                state = _ask_to_yield(state, ticket, claims, choices)
        claims.add(choice or choices[0])
    return state


def _start_load(state: State, ticket: Ticket, room: Room, now: float, actions: list[Action]) -> State:
    load_id = LoadId(state.next_load_id)
    keep_alive = state.limits.keep_alive_seconds if ticket.keep_alive_seconds is None else ticket.keep_alive_seconds
    # All that is free is its own until its plan says how much of that it takes: another load waits for so long.
    budget = room.bytes if room.bytes else None
    slot = Slot(
        ticket.key,
        load_id,
        "loading",
        keep_alive,
        last_used=now,
        taken=budget or {},
        reload_seconds=ticket.demand.reload_seconds,
    )
    actions.append(StartLoad(ticket.key, load_id, budget))
    return replace(state, slots=(*state.slots, slot), next_load_id=load_id + 1)


def _ask_to_yield(state: State, ticket: Ticket, claims: Claims, choices: tuple[DeviceBytes, ...]) -> State:
    """The busy model that came first serves what is older than `ticket`, then makes room for it.

    Not one that is busy with somebody of a better class; and none as long as those that end already are enough.
    """
    ending = [slot for slot in state.slots if slot.phase == "stopping" or slot.last_ticket is not None]
    idle = [slot for slot in state.slots if _is_idle(state, slot)]
    if first_that_fits(choices, free_room(state, claims, (*ending, *idle))) is not None:
        return state
    busy = [
        slot
        for slot in state.slots
        if slot.phase == "ready"
        and slot.last_ticket is None
        and slot.active
        and not any(is_better(active.flow[1], ticket.priority) for active in slot.active)
        and is_in_the_way(state, choices, slot)
    ]
    if not busy:
        return state
    victim = min(busy, key=lambda slot: slot.load_id)
    return _with(state, replace(victim, last_ticket=ticket.id, yields_to=ticket.key))


def _close_accounts(state: State, now: float, actions: list[Action]) -> State:
    """A model for which nobody runs or waits owes nobody anything."""
    used = {ticket.key for ticket in state.waiting} | {slot.key for slot in state.slots if slot.active}
    if used.issuperset(state.accounts):
        return state
    return replace(state, accounts={key: accounts for key, accounts in state.accounts.items() if key in used})


def _next_wake(state: State, now: float) -> float:
    """The next expiry or end of patience; infinity when only events can change anything."""
    expiries = [slot.expires_at for slot in state.slots if _is_idle(state, slot)]
    patience = [ticket.arrived_at + state.limits.patience_seconds for ticket in _oldest_without_place(state)]
    return min((when for when in (*expiries, *patience) if when > now), default=math.inf)


def _is_idle(state: State, slot: Slot) -> bool:
    return slot.phase == "ready" and not slot.active and not _servable(state, slot)


def _servable(state: State, slot: Slot) -> tuple[Ticket, ...]:
    """The waiting tickets this runner is to serve, oldest first."""
    waiting = state.waiting_for(slot.key)
    last = slot.last_ticket
    return waiting if last is None else tuple(ticket for ticket in waiting if ticket.id <= last)


def _oldest_without_place(state: State) -> tuple[Ticket, ...]:
    """The oldest ticket of each model that is wanted and takes up no room, in order of arrival."""
    if not state.waiting:
        return ()
    placed = {slot.key for slot in state.slots}
    oldest: dict[ModelKey, Ticket] = {}
    for ticket in state.waiting:
        if ticket.key not in placed:
            oldest.setdefault(ticket.key, ticket)
    return tuple(oldest.values())


def _stop_all(state: State, slots: Iterable[Slot], actions: list[Action]) -> State:
    for slot in tuple(slots):
        if slot.phase != "stopping":
            actions.append(StopRunner(slot.key, slot.load_id))
            state = _with(state, replace(slot, phase="stopping", active=()))
    return state


def _refuse(state: State, tickets: tuple[Ticket, ...], error: LocalllmError, actions: list[Action]) -> State:
    actions.extend(Refuse(ticket.id, error) for ticket in tickets)
    return _drop(state, tickets)


def _drop(state: State, tickets: tuple[Ticket, ...]) -> State:
    ids = {ticket.id for ticket in tickets}
    return replace(state, waiting=tuple(ticket for ticket in state.waiting if ticket.id not in ids))


def _accounts(state: State, key: ModelKey) -> Accounts:
    return state.accounts.get(key, {})


def _with_accounts(state: State, key: ModelKey, accounts: Accounts) -> State:
    return replace(state, accounts={**state.accounts, key: accounts})


def _with(state: State, changed: Slot) -> State:
    return replace(state, slots=tuple(changed if slot.key == changed.key else slot for slot in state.slots))


def _without(state: State, gone: Slot) -> State:
    return replace(state, slots=tuple(slot for slot in state.slots if slot.key != gone.key))
