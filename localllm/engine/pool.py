"""The slots and cells of one backend: what lies in them, and every change of it.

The one place that tells the backend to copy, rewind, save or forget a slot, and the only owner of the accounts in
`cells`: both always say the same. Which prefix to use and who goes first is decided in `prefix_cache` and `memory`.
"""

from __future__ import annotations

from localllm.engine.backend import Backend, State
from localllm.engine.cells import Cells, StreamCells, UnifiedCells
from localllm.engine.memory import copies_whole
from localllm.engine.policy import EnginePolicy
from localllm.engine.prefix_cache import (
    LEAST_SHARED_TOKENS,
    Pending,
    Resident,
    Source,
    eviction_order,
    find_pending,
    find_source,
    subsumed,
)
from localllm.engine.shelf import Shelf, Shelved
from localllm.engine.tokens import TokenArray, Tokens

CHECKPOINT_BYTES_MOST = 2**30


class Pool:
    """See the module."""

    def __init__(self, backend: Backend, policy: EnginePolicy, shelf: Shelf | None = None) -> None:
        self._backend = backend
        self._policy = policy
        facts = backend.facts
        self._traits = facts.memory
        self._free_slots = list(range(facts.slots - 1, -1, -1))
        self._residents: dict[int, Resident] = {}
        self._admissions = 0
        self._is_unified = facts.memory.layout == "unified"
        # A window's or a recurrent state is kept by its checkpoints.
        self.shelf = shelf or Shelf(policy.shelf_bytes_most if facts.memory.kind == "attention" else 0)
        self.cells: Cells = (UnifiedCells if self._is_unified else StreamCells)(facts.pool_tokens, facts.slots)

    @property
    def idle_prefixes(self) -> int:
        """Slots that hold a prefix nobody runs on."""
        return sum(not resident.is_active for resident in self._residents.values())

    @property
    def checkpoint_bytes(self) -> int:
        """Host memory of all checkpoints."""
        return sum(len(state) for one in self._residents.values() for state in one.checkpoints.values())

    def source_for(self, prompt: Tokens) -> Source:
        """The longest prefix of `prompt` that can be taken over."""
        residents = self._residents.values()
        if self._traits.kind == "window":
            for resident in residents:
                resident.lowest_position = self._backend.lowest_position(resident.slot)
        source = find_source(prompt, residents, self._traits)
        shelved = self.shelf.best(prompt, source.length + LEAST_SHARED_TOKENS)
        if shelved is not None and self._unshelve(shelved, source.kept):
            return find_source(prompt, residents, self._traits)
        return source

    def shelve_idle(self) -> None:
        """Move idle prefixes to host memory while there is room: requests run, and would look past their cells.

        One that mostly shares its cells with others frees too few to be worth a copy; in streams it is in nobody's way.
        """
        if not self._is_unified:
            return
        for resident in eviction_order(self._residents.values()):
            own = self.cells.own(resident.slot)
            is_worth_it = own >= self._policy.shelf_tokens_least and 2 * own >= resident.computed
            if is_worth_it and self.shelf.has_room(self._state_bytes(resident)):
                self._shelve(resident)

    def shelve_all(self) -> None:
        """Move idle prefixes to host memory, the most useful last: it stays if there is no room for all."""
        for resident in eviction_order(self._residents.values()):
            self._shelve(resident)

    def _state_bytes(self, resident: Resident) -> int:
        return resident.computed * self._backend.facts.kv_bytes_per_token

    def _shelve(self, resident: Resident) -> None:
        """Empty an idle slot; its state goes to the shelf if there is room."""
        if resident.computed >= LEAST_SHARED_TOKENS and self.shelf.fits(self._state_bytes(resident)):
            state, tokens = self._backend.save(resident.slot), resident.computed_tokens.copy()
            self.shelf.put(Shelved(tokens, state, resident.request_id, resident.shares))
        self.release(resident)

    def _unshelve(self, shelved: Shelved, keep: Resident | None) -> bool:
        """Put a shelved prefix into a slot again; False when there is no room for it now."""
        length = len(shelved.tokens)
        if length > self._backend.facts.sequence_tokens:  # one pool held it, a stream does not
            return False
        if self.available(keep) < length:
            return False
        self.shelf.take(shelved)  # first: what makes room for it goes to the shelf, and could push it out there
        slot = self._free_slot(keep) if self.make_room(length, keep) else None
        if slot is None:
            self.shelf.put(shelved)
            return False
        resident = self._residents[slot] = Resident(
            slot, TokenArray(shelved.tokens), shelved.request_id, is_active=False, shares=shelved.shares
        )
        resident.last_used = self._admissions
        if not self._backend.restore(slot, shelved.state):
            self.release(resident)
            return False
        self.grow(resident, length)
        return True

    def pending_for(self, prompt: Tokens, have: int) -> Pending | None:
        """The prefix that is worth waiting for, if one is being computed."""
        return find_pending(prompt, self._residents.values(), have)

    def available(self, keep: Resident | None) -> int:
        """Cells that are free or only held by idle prefixes other than `keep`."""
        idle = [one.slot for one in self._residents.values() if not one.is_active and one is not keep]
        return self.cells.free + (self.cells.reclaimable(idle) if idle else 0)

    def make_room(self, cells: int, keep: Resident | None = None) -> bool:
        """Drop idle prefixes, the least useful first, until so many cells are free; False when that is not enough."""
        if self.cells.free >= cells:
            return True
        for resident in eviction_order(self._residents.values()):
            if resident is not keep:
                self._shelve(resident)
            if self.cells.free >= cells:
                return True
        return False

    def place(self, tokens: TokenArray, request_id: int, source: Source) -> Resident | None:
        """A slot for `tokens` that already holds what `source` gives; None when every slot is taken by running ones."""
        self._admissions += 1
        if source.resident is not None and self._residents.get(source.resident.slot) is not source.resident:
            source = Source()  # it had to go
        if source.kept is not None:
            source.kept.last_used = self._admissions
        resident = self._take_over(source) or self._copy(source)
        if resident is not None:
            resident.tokens, resident.request_id, resident.prompt_length = tokens, request_id, len(tokens)
            resident.is_active, resident.last_used = True, self._admissions
        return resident

    def grow(self, resident: Resident, count: int) -> None:
        """The backend has computed `count` more tokens of it."""
        self.cells.extend(resident.slot, count)
        resident.computed += count

    def rewind(self, resident: Resident, length: int, checkpoint: State | None = None) -> bool:
        """Keep the first `length` tokens; False when the memory cannot, and nothing changed."""
        if not self._backend.rewind(resident.slot, length, checkpoint):
            return False
        self.cells.truncate(resident.slot, length)
        resident.computed = length
        resident.checkpoints = {at: state for at, state in resident.checkpoints.items() if at <= length}
        return True

    def resynchronise(self, resident: Resident) -> None:
        """After an interrupted decode: back to what was computed before it, or to nothing."""
        if not self._backend.rewind(resident.slot, resident.computed):
            self._empty(resident)

    def cut_back(self, resident: Resident, length: int) -> None:
        """Keep the first `length` tokens, or where the memory cannot, the way back before them, or nothing."""
        at, checkpoint = max(((at, one) for at, one in resident.checkpoints.items() if at <= length), default=(0, None))
        if not self.rewind(resident, length) and not self.rewind(resident, at, checkpoint):
            self._empty(resident)
        resident.prompt_length = len(resident.tokens)

    def _empty(self, resident: Resident) -> None:
        self._backend.forget(resident.slot)
        self.cells.truncate(resident.slot, 0)
        resident.computed, resident.checkpoints = 0, {}

    def retire(self, resident: Resident) -> None:
        """Its request ended, or gave way: it stays as an idle prefix for as long as there is room."""
        if resident.is_shifted or not resident.computed or not self._policy.keeps_prefixes:
            self.release(resident)
            return
        resident.tokens = TokenArray(resident.computed_tokens)  # its own: the request may go on elsewhere
        resident.is_active = False
        self.shelf.drop_beginnings_of(resident.computed_tokens)
        for other in subsumed(resident, list(self._residents.values())):
            resident.shares += other.shares
            self.release(other)

    def release(self, resident: Resident) -> None:
        """Empty its slot."""
        self._backend.forget(resident.slot)
        self.cells.truncate(resident.slot, 0)
        del self._residents[resident.slot]
        self._free_slots.append(resident.slot)
        self._free_slots.sort(reverse=True)  # the lowest is taken first: streams are batched where they are neighbours
        resident.is_active, resident.computed = False, 0

    def release_idle(self) -> None:
        """Empty every slot that holds an idle prefix, and the shelf."""
        self.shelf.clear()
        for resident in eviction_order(self._residents.values()):
            self.release(resident)

    def checkpoint(self, resident: Resident) -> None:
        """Save the way back to its present length."""
        resident.checkpoints[resident.computed] = self._backend.save_checkpoint(resident.slot)
        excess = self.checkpoint_bytes - CHECKPOINT_BYTES_MOST
        for other in (*eviction_order(self._residents.values()), resident):
            while excess > 0 and other.checkpoints:
                excess -= len(other.checkpoints.pop(min(other.checkpoints)))

    def save(self, resident: Resident) -> State:
        """Its whole state, for host memory."""
        return self._backend.save(resident.slot)

    def restore(self, tokens: TokenArray, request_id: int, state: State, length: int) -> Resident | None:
        """A slot that holds the saved state of the first `length` tokens; None when there is no room."""
        resident = self.place(tokens, request_id, Source())
        if resident is None:
            return None
        if not self._backend.restore(resident.slot, state):
            self.release(resident)
            return None
        self.grow(resident, length)
        return resident

    def shift(self, resident: Resident, keep: int, drop: int) -> bool:
        """Take `drop` tokens behind the first `keep` out; False when it shares those cells and has no room for own."""
        if self.cells.is_shared(resident.slot, keep) and not self._make_own(resident):
            return False
        self._backend.shift(resident.slot, keep, drop)
        self.cells.cut(resident.slot, keep, keep + drop)
        resident.computed -= drop
        resident.is_shifted = True
        resident.checkpoints = {}
        return True

    def _make_own(self, resident: Resident) -> bool:
        """Replace shared cells by copies: a shifted cell would move for everyone."""
        length = resident.computed
        if not self.make_room(length - self.cells.own(resident.slot)):
            return False
        state = self._backend.save(resident.slot)
        self._backend.forget(resident.slot)
        self.cells.truncate(resident.slot, 0)
        resident.computed = 0
        if not self._backend.restore(resident.slot, state):
            return False
        self.grow(resident, length)
        return True

    def _take_over(self, source: Source) -> Resident | None:
        """The idle source itself, when its whole content is wanted or no other slot is left."""
        resident = source.resident
        if resident is None or resident.is_active or not source.length:
            return None
        if source.length < resident.computed and (self._free_slots or self.idle_prefixes > 1):
            return None
        checkpoint = source.usable.checkpoint
        is_there = source.length == resident.computed or self.rewind(resident, source.length, checkpoint)
        return resident if is_there else None

    def _copy(self, source: Source) -> Resident | None:
        slot = self._free_slot(source.kept)
        if slot is None:
            return None
        resident = self._residents[slot] = Resident(slot, TokenArray([]), 0)
        giver = source.resident
        if giver is not None and source.length and self._residents.get(giver.slot) is giver:
            self._share(giver, resident, source)
        return resident

    def _share(self, giver: Resident, taker: Resident, source: Source) -> None:
        length = giver.computed if copies_whole(self._traits) else source.length
        self._backend.copy(giver.slot, taker.slot, length)
        self.cells.share(giver.slot, taker.slot, length)
        taker.computed = length
        taker.checkpoints = {at: state for at, state in giver.checkpoints.items() if at <= source.length}
        giver.shares += source.kept is giver
        if length > source.length and not self.rewind(taker, source.length, source.usable.checkpoint):
            # A copy may keep less of a window than its original: the last checkpoint is a way back all the same.
            at, checkpoint = max(taker.checkpoints.items(), default=(0, None))
            if not self.rewind(taker, at, checkpoint):
                self._empty(taker)

    def _free_slot(self, keep: Resident | None) -> int | None:
        """A slot of nobody, or of the least useful idle prefix."""
        if not self._free_slots:
            order = eviction_order(self._residents.values())
            victims = [one for one in order if one is not keep] or order
            if not victims:
                return None
            self._shelve(victims[0])
        return self._free_slots.pop()
