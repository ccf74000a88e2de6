"""What the scheduler knows, what can happen to it, and what it can order: frozen data only.

A ticket is one request for a model; a slot is a model that takes up room, whatever phase it is in.

    ticket:  Requested ──▶ waiting ──Grant──▶ active ──Left──▶ (gone)
                              └──Left | Refuse──▶ (gone)

    slot:    StartLoad ──▶ loading ──LoadSucceeded──▶ ready ──StopRunner | RunnerDoomed──▶ stopping ──┐
                              └──LoadFailed──▶ (gone)                      (gone) ◀──RunnerGone───────┘

Every load has its own number, so that news of an earlier runner of the same model is told from news of the present one.
Times are seconds of one monotonic clock.

What every request changes is msgspec's structs, which are copied in a tenth of the time that dataclasses take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NewType

import msgspec

from localllm.errors import LocalllmError
from localllm.generation import Priority

ModelKey = NewType("ModelKey", str)
TicketId = NewType("TicketId", int)
LoadId = NewType("LoadId", int)
Phase = Literal["loading", "ready", "stopping"]
DeviceBytes = Mapping[str, int]  # by the name of a device
Flow = tuple[str, Priority]  # what one client wants in one class
NOTHING: DeviceBytes = {}


@dataclass(frozen=True, slots=True)
class Limits:
    """`patience_seconds`: how long a model waits for room before a busy one takes no later requests.

    `lost_runners`: how many runners may be lost under a waiting ticket before it fails.
    """

    max_loaded_models: int
    max_queue: int
    keep_alive_seconds: float
    patience_seconds: float = 30.0
    lost_runners: int = 2


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, and how urgently."""

    client: str = ""
    priority: Priority = "interactive"


@dataclass(frozen=True, slots=True)
class Demand:
    """The least that a model takes where it runs as fast as this machine can: any one of `choices` will do.

    `reload_seconds` is about what loading it again would take.
    """

    choices: tuple[DeviceBytes, ...] = (NOTHING,)
    reload_seconds: float = 0.0


NO_DEMAND = Demand()


class Ticket(msgspec.Struct, frozen=True):
    """One request. Ids grow in order of arrival. `keep_alive_seconds` None leaves the model's as it is."""

    id: TicketId
    key: ModelKey
    name: str
    keep_alive_seconds: float | None
    arrived_at: float
    lost_runners: int = 0
    client: str = ""
    priority: Priority = "interactive"
    demand: Demand = NO_DEMAND

    @property
    def flow(self) -> Flow:
        return self.client, self.priority


class Active(msgspec.Struct, frozen=True):
    """A ticket that uses a runner. `rank` is the class it started as, `charged_seconds` what its flow was charged."""

    id: TicketId
    granted_at: float
    flow: Flow = ("", "interactive")
    rank: int = 0
    charged_seconds: float = 0.0


class Account(msgspec.Struct, frozen=True):
    """What a flow was given by one model: seconds of a place, and when it last got or gave back one."""

    served_seconds: float = 0.0
    last_at: float = -math.inf


Accounts = Mapping[Flow, Account]


@dataclass(frozen=True, slots=True)
class Counts:
    """What happened to models so far. An eviction is an unload while another model waits for room."""

    loads: int = 0
    unloads: int = 0
    evictions: int = 0
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class QueuePlace:
    """Where a waiting ticket stands: `position` 1 is next. `eta_seconds` None: the model has to load first, or is new.

    The estimate takes every request for as long as the model's last ones took.
    """

    ticket_id: TicketId
    model: str
    position: int
    client: str
    priority: Priority
    waited_seconds: float
    eta_seconds: float | None


class Slot(msgspec.Struct, frozen=True):
    """A model that takes up room.

    `last_ticket` is the newest ticket this runner still serves before it stops (None: no end in sight);
    `yields_to` is the model that end makes room for, None when the model itself was asked to unload. `taken` are its
    bytes until its process is gone: what the load may take, then what its plan takes, then what it took.
    """

    key: ModelKey
    load_id: LoadId
    phase: Phase
    keep_alive_seconds: float
    last_used: float
    parallel: int = 0
    active: tuple[Active, ...] = ()
    last_ticket: TicketId | None = None
    yields_to: ModelKey | None = None
    taken: DeviceBytes = msgspec.field(default_factory=dict)
    reload_seconds: float = 0.0

    @property
    def expires_at(self) -> float:
        """When an idle model is unloaded; infinity for never."""
        return self.last_used + self.keep_alive_seconds


class State(msgspec.Struct, frozen=True):
    """Everything. `waiting` is in order of arrival; `mean_service_seconds` is a moving mean per model.

    `accounts` are those of the models that are used or waited for: a model with nothing to do owes nobody anything.
    `capacity` is what all models together may take; of a device that is not in it, nobody knows.
    """

    limits: Limits
    slots: tuple[Slot, ...] = ()
    waiting: tuple[Ticket, ...] = ()
    mean_service_seconds: Mapping[ModelKey, float] = msgspec.field(default_factory=dict)
    accounts: Mapping[ModelKey, Accounts] = msgspec.field(default_factory=dict)
    capacity: DeviceBytes = msgspec.field(default_factory=dict)
    next_load_id: int = 1
    is_shutting_down: bool = False

    def slot(self, key: ModelKey) -> Slot | None:
        return next((slot for slot in self.slots if slot.key == key), None)

    def waiting_for(self, key: ModelKey) -> tuple[Ticket, ...]:
        return tuple(ticket for ticket in self.waiting if ticket.key == key)


@dataclass(frozen=True, slots=True)
class Requested:
    """A request came in."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Left:
    """A ticket's owner is done with it, or gave up waiting."""

    ticket_id: TicketId


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The machine was looked at: so much may all models together take."""

    capacity: DeviceBytes


@dataclass(frozen=True, slots=True)
class LoadPlanned:
    """What the load will take is decided, within its budget."""

    key: ModelKey
    load_id: LoadId
    taken: DeviceBytes


@dataclass(frozen=True, slots=True)
class LoadSucceeded:
    """The model is ready and serves `parallel` requests at once. `taken` is what it took, None what was planned."""

    key: ModelKey
    load_id: LoadId
    parallel: int
    taken: DeviceBytes | None = None


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """No runner came of this load, and none is left."""

    key: ModelKey
    load_id: LoadId
    error: LocalllmError


@dataclass(frozen=True, slots=True)
class RunnerDoomed:
    """The runner takes no more requests; those it had have been told. Its process may still be there."""

    key: ModelKey
    load_id: LoadId


@dataclass(frozen=True, slots=True)
class RunnerGone:
    """The runner's process is reaped."""

    key: ModelKey
    load_id: LoadId


@dataclass(frozen=True, slots=True)
class UnloadRequested:
    """Stop this model once the requests that came before are done."""

    key: ModelKey


@dataclass(frozen=True, slots=True)
class ShutdownBegan:
    """No new requests."""


@dataclass(frozen=True, slots=True)
class GraceEnded:
    """What still runs must end now."""


@dataclass(frozen=True, slots=True)
class Woke:
    """The time a WakeAt named has come."""


RunnerEvent = LoadPlanned | LoadSucceeded | LoadFailed | RunnerDoomed | RunnerGone
Event = Requested | Left | Surveyed | RunnerEvent | UnloadRequested | ShutdownBegan | GraceEnded | Woke


@dataclass(frozen=True, slots=True)
class StartLoad:
    """Load this model under this number, within `budget` (None: nobody knows what there is).

    LoadSucceeded or LoadFailed must follow.
    """

    key: ModelKey
    load_id: LoadId
    budget: DeviceBytes | None = None


@dataclass(frozen=True, slots=True)
class StopRunner:
    """End this runner, or give up this load; RunnerGone must follow."""

    key: ModelKey
    load_id: LoadId


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket may use this runner; Left must follow."""

    ticket_id: TicketId
    key: ModelKey
    load_id: LoadId


@dataclass(frozen=True, slots=True)
class Refuse:
    """The ticket fails with this error and is forgotten."""

    ticket_id: TicketId
    error: LocalllmError


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Woke at this time, of which the last wish counts; an earlier one does no harm, since it asks again."""

    when: float


Action = StartLoad | StopRunner | Grant | Refuse | WakeAt
