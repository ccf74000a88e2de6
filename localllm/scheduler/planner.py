"""Plans loads: looks at the machine, reads headers, remembers what was learnt. Decides nothing that plan.py does not.

survey(model)   what the model needs to run as fast as it can here, and what all models together may take
plan(model)     how it will lie, within a budget
learn(…)        what a load took beyond its plan; the next plans count on it

Reckoning takes up to 0.1 s and is done in a thread: the daemon's event loop has other requests' tokens to send.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from localllm.config import Settings
from localllm.gguf import Header
from localllm.placement.arrange import CPU
from localllm.placement.budgets import budgets_of, process_bytes, room_of, table_bytes, with_moved
from localllm.placement.choose import Room
from localllm.placement.demand import demands
from localllm.placement.devices import Machine
from localllm.placement.draft import place_draft, with_draft
from localllm.placement.estimate import Estimate, estimate
from localllm.placement.learned import Learned
from localllm.placement.overrides import overridden, with_weights
from localllm.placement.plan import DraftPlan, Plan, plan, plan_unseen
from localllm.placement.wishes import Wishes, wishes_from
from localllm.scheduler.state import NO_DEMAND, Demand, DeviceBytes
from localllm.store.model import Model

LOAD_BYTES_PER_SECOND = 1e9  # about what a disk, or its cache, gives: only compared with itself

log = logging.getLogger(__name__)

LookAtMachine = Callable[[], Awaitable[Machine]]
ReadHeader = Callable[[Model], Awaitable[Header | None]]


@dataclass(frozen=True, slots=True)
class Reckoned:
    """A model, bytes by device of what of it was told to lie there, and its draft model."""

    estimated: Estimate
    moved: Mapping[str, int]
    draft: Estimate | None = None

    @property
    def process_bytes(self) -> int:
        """What the runner takes of the host beside llama.cpp's buffers."""
        return process_bytes(self.estimated.vocabulary) + (table_bytes(self.draft.vocabulary) if self.draft else 0)

    def placed(self, room: Room, wishes: Wishes) -> tuple[DraftPlan | None, Room]:
        """Where the draft model lies, and the room for the model itself. Raises ImpossibleWishError."""
        room = with_moved(room, self.moved)
        return place_draft(self.estimated, self.draft, room, wishes) if self.draft else (None, room)

    def plan(self, room: Room, wishes: Wishes) -> Plan:
        """Lay both out. Raises what placement.plan does."""
        placed, left = self.placed(room, wishes)
        made = with_weights(plan(self.estimated, left, wishes), self.moved)
        return with_draft(made, placed) if self.draft else made

    def demands(self, room: Room, wishes: Wishes) -> tuple[dict[str, int], ...]:
        """What a scheduler makes room for. Raises what placement.demand does."""
        return demands(self.estimated, self.placed(room, wishes)[1], wishes)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a model demands, and what the machine has for all models together."""

    demand: Demand
    capacity: DeviceBytes


async def no_header(model: Model) -> Header | None:
    """For models that are no files, in tests."""
    return None


class Planner:
    """One per fleet. `without_gpu` says why a GPU that is there cannot be used; `read_draft` reads the header of a
    model's draft model, None where it has none."""

    def __init__(
        self,
        settings: Settings,
        look_at_machine: LookAtMachine,
        read_header: ReadHeader,
        learned: Learned,
        without_gpu: Callable[[Machine], str] = lambda machine: "",
        read_draft: ReadHeader = no_header,
    ) -> None:
        self._settings = settings
        self._look_at_machine = look_at_machine
        self._read_header = read_header
        self._read_draft = read_draft
        self._learned = learned
        self._without_gpu = without_gpu
        self._reckoned: dict[str, Reckoned] = {}

    async def survey(self, model: Model, held: DeviceBytes) -> Survey:
        """Look at the machine, on which models that are loaded hold `held`. Raises DoesNotFitError for a model that
        nothing here would hold, were it alone."""
        reckoned = await self._reckon(model)
        if reckoned is None:
            return Survey(NO_DEMAND, {})
        machine, wishes = await self._look_at_machine(), self._wishes(model)
        capacity = budgets_of(machine, wishes)
        if not machine.is_replaced:
            capacity = {device: free + held.get(device, 0) for device, free in capacity.items()}
        room = self._room(machine, reckoned.estimated, wishes, capacity)
        choices = await asyncio.to_thread(reckoned.demands, room, wishes)
        return Survey(Demand(choices, reckoned.estimated.weight_bytes / LOAD_BYTES_PER_SECOND), capacity)

    async def plan(
        self,
        model: Model,
        budget: DeviceBytes | None,
        *,
        use_extra_buffers: bool,
        short: Mapping[str, int] | None = None,
    ) -> Plan:
        """How the model will lie within `budget`, or within what is free now; on each device less what was `short`."""
        machine, reckoned = await self._look_at_machine(), await self._reckon(model)
        wishes = replace(self._wishes(model), use_extra_buffers=use_extra_buffers)
        if reckoned is None:
            return plan_unseen(machine.host, wishes, model.size_bytes)
        budgets = budgets_of(machine, wishes)
        if budget is not None:
            # Other programs may have taken memory since the machine was surveyed.
            free = budget if machine.is_replaced else budgets
            budgets = {device: min(size, free.get(device, size)) for device, size in budget.items()}
        for device, missing in (short or {}).items():
            budgets[device] = max(0, budgets.get(device, 0) - missing)
        room = self._room(machine, reckoned.estimated, wishes, budgets)
        return await asyncio.to_thread(reckoned.plan, room, wishes)

    async def room(self, estimated: Estimate, wishes: Wishes, machine: Machine | None = None) -> Room:
        """What a model may take of this machine now, or of another one."""
        if machine is None:
            there = await self._look_at_machine()
            return self._room(there, estimated, wishes, budgets_of(there, wishes))
        return room_of(machine, estimated.vocabulary, wishes)

    async def gpu_bytes(self, process_id: int) -> dict[str, int]:
        """What a process holds of each GPU, its context counted, where the driver tells."""
        machine = await self._look_at_machine()
        held = {gpu.name: sum(one.bytes for one in gpu.processes if one.pid == process_id) for gpu in machine.gpus}
        return {device: size for device, size in held.items() if size}

    def learn(self, model: Model, made: Plan, measured: Mapping[str, int]) -> None:
        """Remember by how much a load took more, or less, than was reckoned."""
        if (reckoned := self._reckoned.get(model.key)) is None:
            return
        for share in made.shares:
            if share.device in measured and share.total:
                process = reckoned.process_bytes if share.device == CPU else 0
                self._learned.note(share.device, share.total - share.overhead + process, measured[share.device])

    def _wishes(self, model: Model) -> Wishes:
        return wishes_from(self._settings, model.options, model.load, embeds="embedding" in model.capabilities)

    def _room(self, machine: Machine, estimated: Estimate, wishes: Wishes, budgets: DeviceBytes) -> Room:
        learned, why = self._learned.overheads(), self._without_gpu(machine)
        return room_of(machine, estimated.vocabulary, wishes, budgets, learned, why)

    async def _reckon(self, model: Model) -> Reckoned | None:
        known = self._reckoned.get(model.key)
        if known is None:
            header = await self._read_header(model)
            if header is None:
                return None
            draft = await self._read_draft(model)
            known = await asyncio.to_thread(reckoned_from, header, draft, self._wishes(model))
            self._reckoned[model.key] = known
        return known


def reckoned_from(header: Header, draft: Header | None, wishes: Wishes) -> Reckoned:
    """What is known of a model by its header and that of its draft model. Raises what estimate does."""
    estimated, moved = overridden(estimate(header), header, wishes.overrides)
    is_used = draft is not None and wishes.guesses
    return Reckoned(estimated, moved, estimate(draft) if draft is not None and is_used else None)


def free_of_pages(made: Plan) -> dict[str, int]:
    """Of what a plan takes, what the machine's own figure of free memory lacks once it is loaded.

    Weights that are mapped from a file are pages that the system gives back when somebody needs them.
    """
    taken = made.bytes_by_device()
    host = next((share for share in made.shares if share.device == CPU), None)
    if host is not None and made.layout.use_mmap:
        unmapped = made.adapter_bytes if made.tier == "cpu" else 0
        unmapped += made.draft.on(CPU).weights if made.draft else 0
        taken[CPU] = host.total - host.weights + unmapped
    return taken
