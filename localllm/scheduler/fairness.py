"""Whose turn it is among those who wait for one model, and who must go when too many do: pure.

    class, one better for each 30 s without service  >  the client that was given least  >  the one served longest ago

What one client waits for in one class is a flow: its requests start in order of arrival, and between flows places are
shared by the seconds they are held. A flow that is away earns nothing, and starts level with the least served of those
present. Only a flow of which nothing runs grows older: a client that floods is served all the time, so age never
carries its requests past others. A new client therefore waits for the request that runs and for those of other new
clients, however many one client has sent.

A place is refused only by as many as the model serves at once of the same class or a better one. So an urgent request
starts beside less urgent ones, and the engine has one of those pause; each class alone keeps to the limit.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from typing import get_args

from localllm.generation import Priority
from localllm.scheduler.state import Account, Accounts, Active, Flow, ModelKey, QueuePlace, State, Ticket

SECONDS_PER_CLASS = 30.0
ASSUMED_SERVICE_SECONDS = 5.0  # of a model's first requests, until one has ended
MOST_ACCOUNTS = 256  # of one model; names of clients are free, memory is not

_CLASS = {priority: number for number, priority in enumerate(get_args(Priority))}


def in_turn(
    waiting: Collection[Ticket], active: Collection[Active], accounts: Accounts, service_seconds: float, now: float
) -> Iterator[tuple[Ticket, int]]:
    """The waiting tickets of one model in the order of service, each with the class it counts as (0 is the best).

    Each is charged `service_seconds` before the next is chosen, as a grant would. `waiting` is in order of arrival.
    """
    flows: dict[Flow, deque[Ticket]] = {}
    for ticket in waiting:
        flows.setdefault(ticket.flow, deque()).append(ticket)
    running = {one.flow for one in active}
    given = {flow: accounts.get(flow, Account()) for flow in flows}

    def order(flow: Flow) -> tuple[int, float, float, int]:
        first, account = flows[flow][0], given[flow]
        waited = 0.0 if flow in running else now - max(first.arrived_at, account.last_at)
        age = int(waited / SECONDS_PER_CLASS)
        return _CLASS[first.priority] - age, account.served_seconds, account.last_at, first.id

    while flows:
        flow = min(flows, key=order)
        rank = max(0, order(flow)[0])
        yield flows[flow].popleft(), rank
        if not flows[flow]:
            del flows[flow]
        given[flow] = Account(given[flow].served_seconds + service_seconds, now)
        running.add(flow)


def is_better(one: Priority, other: Priority) -> bool:
    """Whether the first class goes before the second."""
    return _CLASS[one] < _CLASS[other]


def has_place(rank: int, active: Collection[Active], parallel: int) -> bool:
    """Whether one that counts as this class may start beside the active ones."""
    return sum(one.rank <= rank for one in active) < parallel


def queue_places(state: State, key: ModelKey, now: float) -> tuple[QueuePlace, ...]:
    """Everyone who waits for a model, next first."""
    slot = state.slot(key)
    active = slot.active if slot is not None else ()
    mean = state.mean_service_seconds.get(key)
    is_ready = slot is not None and slot.phase == "ready" and slot.last_ticket is None
    accounts = state.accounts.get(key, {})
    order = in_turn(state.waiting_for(key), active, accounts, mean or ASSUMED_SERVICE_SECONDS, now)
    return tuple(
        QueuePlace(
            ticket_id=ticket.id,
            model=ticket.name,
            position=position,
            client=ticket.client,
            priority=ticket.priority,
            waited_seconds=now - ticket.arrived_at,
            eta_seconds=mean * position / slot.parallel if slot is not None and mean is not None and is_ready else None,
        )
        for position, (ticket, _) in enumerate(order, start=1)
    )


def whom_to_refuse(waiting: Sequence[Ticket], newcomer: Ticket) -> Ticket:
    """Who goes when one too many waits for a model: the newest of the largest flow of the worst class.

    That is the newcomer itself, unless its class is better than another's or another flow is longer than its own.
    """
    everyone = (*waiting, newcomer)
    sizes = Counter(ticket.flow for ticket in everyone)
    worst = max(sizes, key=lambda flow: (_CLASS[flow[1]], sizes[flow], flow == newcomer.flow))
    return next(ticket for ticket in reversed(everyone) if ticket.flow == worst)


def with_arrival(accounts: Accounts, flow: Flow, present: Collection[Flow]) -> Accounts:
    """The accounts once a ticket of `flow` waits beside those that wait or run already."""
    if flow in present:
        return accounts
    level = min((accounts[one].served_seconds for one in present if one in accounts), default=0.0)
    own = accounts.get(flow, Account())
    opened = {**accounts, flow: Account(max(own.served_seconds, level), own.last_at)}
    return _without_the_oldest(opened, {*present, flow})


def with_charge(accounts: Accounts, flow: Flow, seconds: float, now: float) -> Accounts:
    """The accounts once a place is given, or given back, at `now`; `seconds` is what that adds to the flow's share."""
    own = accounts.get(flow, Account())
    return {**accounts, flow: Account(own.served_seconds + seconds, now)}


def _without_the_oldest(accounts: Accounts, present: Collection[Flow]) -> Accounts:
    excess = len(accounts) - MOST_ACCOUNTS
    if excess <= 0:
        return accounts
    absent = sorted((flow for flow in accounts if flow not in present), key=lambda flow: accounts[flow].last_at)
    gone = set(absent[:excess])
    return {flow: account for flow, account in accounts.items() if flow not in gone}
