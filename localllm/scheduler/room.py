"""Room for one more model: whether its bytes and a place are there, and whose end would make them. Pure.

A model's bytes are taken from the moment its load starts until its process is gone. What an older wish waits for is
claimed: a younger one does not take it away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from localllm.scheduler.state import Demand, DeviceBytes, Slot, State


@dataclass(slots=True)
class Claims:
    """What models that wait for room have been promised."""

    places: int = 0
    bytes: Counter[str] = field(default_factory=Counter)

    def add(self, choice: DeviceBytes) -> None:
        """One more place, and these bytes."""
        self.places += 1
        self.bytes.update(choice)


@dataclass(frozen=True, slots=True)
class Room:
    """Places and bytes that are free; a device that is not in `bytes` has enough for everything."""

    places: int
    bytes: DeviceBytes

    def holds(self, choice: DeviceBytes) -> bool:
        """Whether a model that takes these bytes could load."""
        return self.places > 0 and all(size <= self.bytes.get(device, size) for device, size in choice.items())


def free_room(state: State, claims: Claims, without: Iterable[Slot] = ()) -> Room:
    """What is free, or would be if the slots `without` were gone."""
    gone = {slot.load_id for slot in without}
    kept = [slot for slot in state.slots if slot.load_id not in gone]
    free = {
        device: size - claims.bytes[device] - sum(slot.taken.get(device, 0) for slot in kept)
        for device, size in state.capacity.items()
    }
    return Room(state.limits.max_loaded_models - len(kept) - claims.places, free)


def choices_within(demand: Demand, capacity: DeviceBytes) -> tuple[DeviceBytes, ...]:
    """The choices, none larger than all there is: who needs more than that will be told when it loads."""
    return tuple(
        {device: min(size, capacity.get(device, size)) for device, size in choice.items()} for choice in demand.choices
    )


def first_that_fits(choices: Sequence[DeviceBytes], room: Room) -> DeviceBytes | None:
    """The first choice that the room holds."""
    return next((choice for choice in choices if room.holds(choice)), None)


def victims_for(
    state: State, claims: Claims, choices: Sequence[DeviceBytes], leaving: Sequence[Slot], idle: Sequence[Slot]
) -> tuple[Slot, ...] | None:
    """The idle slots whose end makes room, besides those that leave anyway: none longer unused, none in vain.

    Of equally long unused ones the cheapest to load again goes first. None when even all of them are not enough.
    """
    chosen: list[Slot] = []
    for slot in sorted(idle, key=lambda slot: (slot.last_used, slot.reload_seconds, slot.load_id)):
        chosen.append(slot)
        if first_that_fits(choices, free_room(state, claims, (*leaving, *chosen))) is not None:
            return _needed(state, claims, choices, leaving, chosen)
    return None


def _needed(
    state: State, claims: Claims, choices: Sequence[DeviceBytes], leaving: Sequence[Slot], chosen: list[Slot]
) -> tuple[Slot, ...]:
    """Without those that are not needed once the last one goes; the ones used last are spared first."""
    for slot in reversed(chosen[:-1]):
        others = [one for one in chosen if one is not slot]
        if first_that_fits(choices, free_room(state, claims, (*leaving, *others))) is not None:
            chosen = others
    return tuple(chosen)


def is_in_the_way(state: State, choices: Sequence[DeviceBytes], slot: Slot) -> bool:
    """Whether the end of this slot would help: places are short, or it holds bytes of a device that is wanted."""
    if len(state.slots) >= state.limits.max_loaded_models:
        return True
    return any(slot.taken.get(device, 0) for choice in choices for device, size in choice.items() if size)
