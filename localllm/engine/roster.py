"""Who runs: from the waiting room into a slot, out of it to make room, and out of the engine.

The one owner of the lists of waiting and active sequences. A sequence is admitted when the pool holds its prompt beside
what the active ones still need; it takes over the longest prefix there is, or waits for one that is being computed.
Whoever must give way keeps its state in host memory where copying it is cheaper than computing it again.
"""

from __future__ import annotations

from collections.abc import Callable

from localllm.engine.backend import Backend, BackendFacts
from localllm.engine.batch import SECONDS_PER_CLASS, Load, may_admit, newest_of_lowest_class
from localllm.engine.layout import better_layout
from localllm.engine.memory import CHECKPOINT_DISTANCE_TOKENS, checkpoint_lengths, needs_checkpoints
from localllm.engine.policy import EnginePolicy
from localllm.engine.pool import Pool
from localllm.engine.prefix_cache import Source
from localllm.engine.queue import WaitingRoom
from localllm.engine.sequence import Sequence
from localllm.generation import CacheMiss
from localllm.placement.cell_layout import CellLayout

COPY_BYTES_PER_SECOND = 1e9  # of a state to host memory or back; measured 1.4e9 on a virtual machine
SAVED_TOKENS_LEAST = 64  # below that computing again is the simpler way
COMPARED_SEQUENCES = 16  # each with each, to find what they share
GROWTH_TOKENS = 256  # that a sequence of streams should have room for


class Roster:
    """See the module."""

    def __init__(self, backend: Backend, clock: Callable[[], float], policy: EnginePolicy) -> None:
        self._backend = backend
        self._clock = clock
        self._policy = policy
        self.pool = Pool(backend, policy)
        self.waiting = WaitingRoom()
        self.active: list[Sequence] = []  # oldest first; each has a slot
        self.preemptions = 0
        self.cached_tokens = 0
        self.prompt_token_seconds: float | None = None  # what computing one again costs
        self._is_layout_due = False  # somebody came since it was looked at
        self._is_blocked = False  # the next in line found no room; True until cells are given back
        self._saved_bytes = 0

    @property
    def _facts(self) -> BackendFacts:
        return self._backend.facts

    def wanted_layout(self, *, may_change: bool) -> CellLayout:
        """The layout that suits those who run or come next: the present one, unless another is clearly better.

        Unless it `may_change`, only for somebody who needs more than a stream holds.
        """
        facts = self._facts
        present = facts.memory.layout
        if not facts.can_change_layout:
            return present
        stream_tokens = facts.pool_tokens // facts.parallel
        if self.outgrown(stream_tokens):
            return "unified"
        # A GPU gains nothing from shared cells, and only states of one kind can be restored in another layout.
        if not may_change or not self._is_layout_due or facts.gpu_layers or facts.memory.kind != "attention":
            return present
        self._is_layout_due = False
        if present == "unified" and self.outgrown(stream_tokens - GROWTH_TOKENS):
            return present
        everyone = (*self.active, *self.waiting.in_order(self._clock()))
        looked_at = everyone[: min(facts.parallel, COMPARED_SEQUENCES)]
        return better_layout(present, [one.tokens.view() for one in looked_at])

    def outgrown(self, most: int) -> list[Sequence]:
        """Who has more tokens than `most`."""
        return [one for one in (*self.active, *self.waiting.sequences) if len(one.tokens) > most]

    def change_layout(self) -> None:
        """Everybody is saved, the cells are laid out anew, and everybody goes on. Raises EngineError."""
        for sequence in self.active:
            self.preempt(sequence)
        for sequence in self.waiting.sequences:
            sequence.pending = None
        self.pool.shelve_all()
        try:
            self._backend.change_layout()
        finally:
            self.pool = Pool(self._backend, self._policy, self.pool.shelf)
            self._is_blocked = False

    def find(self, request_id: int) -> Sequence | None:
        """The sequence of a request, wherever it is."""
        everyone = (*self.active, *self.waiting.sequences)
        return next((one for one in everyone if one.request.id == request_id), None)

    def add(self, sequence: Sequence) -> None:
        """Someone new."""
        self.waiting.add(sequence)
        self._is_blocked = False
        self._is_layout_due = True

    def preempt_newest(self) -> None:
        """The newest sequence of the lowest class gives way, and nobody is admitted until somebody ends."""
        self.preempt(self._newest_of_lowest_class())
        self._is_blocked = True

    def _newest_of_lowest_class(self) -> Sequence:
        loads = [Load(1, 0, one.claim(0.0, 0.0)) for one in self.active]
        return self.active[newest_of_lowest_class(range(len(loads)), loads)]

    def admit(self) -> None:
        """Start whoever can start, in the order of service; then nobody is to look past idle prefixes."""
        before = len(self.active)
        self._admit()
        if len(self.active) > before:
            self.pool.shelve_idle()

    def _admit(self) -> None:
        while len(self.waiting) and not self._is_blocked and self._has_place():
            for sequence in self.waiting.in_order(self._clock()):
                if sequence.pending is None or sequence.pending.is_ready:
                    break
            else:
                return
            if len(self.active) == self._facts.parallel:
                if not self._outranks(sequence):
                    return
                if sequence.saved is None and self._waits_for_prefix(
                    sequence, self.pool.source_for(sequence.tokens.view())
                ):
                    continue  # nobody gives way to one that cannot start yet
                self.preempt(self._newest_of_lowest_class(), keeps_cells=True)
            if not self._start(sequence):
                self._is_blocked = True

    def remove(self, sequence: Sequence) -> None:
        """It ended, or its client left: its slot becomes an idle prefix."""
        self.active = [one for one in self.active if one is not sequence]
        self.waiting.remove(sequence)
        self._drop_saved(sequence)
        if sequence.resident is not None:
            self.pool.retire(sequence.resident)
            sequence.resident = None
        self.waiting.forget_clients({one.request.client for one in self.active})
        self._is_blocked = False
        sequence.sampler.close()

    def preempt(self, sequence: Sequence, *, keeps_cells: bool = False) -> None:
        """Take its place; what it has computed is kept in host memory if copying is cheaper than computing.

        With `keeps_cells` nobody needs them now: they stay as an idle prefix besides, from which it may go on.
        """
        resident = sequence.resident
        assert resident is not None
        if self._is_worth_saving(resident.computed):
            sequence.saved, sequence.saved_length = self.pool.save(resident), resident.computed
            self._saved_bytes += len(sequence.saved)
        if keeps_cells:
            self.pool.retire(resident)
        else:
            self.pool.release(resident)
        sequence.resident = None
        sequence.preemptions += 1
        self.preemptions += 1
        self.active = [one for one in self.active if one is not sequence]
        self.waiting.add(sequence)

    def loads(self, active: tuple[Sequence, ...]) -> list[Load]:
        """The active sequences as the planner sees them."""
        now = self._clock()
        flowing = [one for one in active if one.to_compute == 1 and one.first_token_at is not None]
        first = min(flowing, key=_began_at, default=None)
        is_tight = self.pool.cells.free < len(active)
        scorers = sum(one.has_to_score for one in active)
        loads = []
        for sequence in active:
            assert sequence.resident is not None
            to_compute = sequence.to_compute
            loads.append(
                Load(
                    to_compute=to_compute,
                    cells=self.pool.cells.own(sequence.resident.slot) if is_tight else 0,
                    claim=sequence.claim(now, self.waiting.served(sequence)),
                    most=self._most_in_one_step(sequence, len(active), scorers) if to_compute > 1 else 0,
                    is_late=first is not None and sequence.first_token_at is None and _is_late(sequence, first),
                )
            )
        return loads

    def _most_in_one_step(self, sequence: Sequence, active: int, scorers: int) -> int:
        """Of `active` sequences each may want a row of logits; what there is beyond that is for the `scorers`."""
        most = sequence.most_in_one_step
        if not sequence.scores_next:
            return most
        rows = (self._facts.outputs_most - active) // scorers + 1
        return min(most, rows) if most else rows

    def _has_place(self) -> bool:
        return len(self.active) < self._facts.parallel or self.waiting.best_priority < self._worst_priority()

    def _worst_priority(self) -> int:
        return max(sequence.priority for sequence in self.active)

    def _outranks(self, sequence: Sequence) -> bool:
        return sequence.priority < self._worst_priority()

    def _start(self, sequence: Sequence) -> bool:
        """Give it a slot, or let it wait for a prefix that is being computed; False when there is no room."""
        tokens = sequence.tokens.view()
        # Whose logprobs are wanted, those tokens are computed: cells that are there do not tell them.
        source = Source() if sequence.has_to_score else self.pool.source_for(tokens)
        if source.length >= sequence.saved_length:
            self._drop_saved(sequence)
        if sequence.saved is not None:
            source = Source()
        elif self._waits_for_prefix(sequence, source):
            return True
        needed = len(tokens) - source.length
        available = self.pool.available(source.kept)
        if not may_admit([Load(one.to_compute, 0) for one in self.active], needed, available):
            return False
        self.pool.make_room(min(needed, available), source.kept)
        if not self._place(sequence, source):
            return False
        self.waiting.remove(sequence)
        # The class it came to by waiting is its own now: else better ones would take its place again before it moves.
        aged = int((self._clock() - sequence.arrived_at) / SECONDS_PER_CLASS)
        sequence.priority = min(sequence.priority, max(0, sequence.request.priority - aged))
        self.active.append(sequence)
        self.active.sort(key=lambda one: one.arrived_at)
        return True

    def _waits_for_prefix(self, sequence: Sequence, source: Source) -> bool:
        if not self._policy.keeps_prefixes or sequence.has_to_score:
            return False
        pending = self.pool.pending_for(sequence.tokens.view(), source.length)
        if pending is None:
            return False
        sequence.pending = pending
        holder = next(one for one in self.active if one.resident is pending.resident)
        holder.priority = min(holder.priority, sequence.priority)  # whoever waits for it must not wait for lower ones
        if needs_checkpoints(self._facts.memory):
            holder.stops_at.add(pending.length)
        return True

    def _place(self, sequence: Sequence, source: Source) -> bool:
        request_id = sequence.request.id
        miss = self._explain(sequence, source)  # before its evidence is overwritten
        if sequence.saved is not None:
            length = sequence.saved_length
            sequence.resident = self.pool.restore(sequence.tokens, request_id, sequence.saved, length)
            self._drop_saved(sequence)
        if sequence.resident is not None:
            sequence.resident.is_shifted = sequence.dropped_tokens > 0
        else:
            sequence.resident = self.pool.place(sequence.tokens, request_id, source)
        if sequence.resident is None:
            return False
        sequence.pending = None
        if sequence.admitted_at is None:
            sequence.admitted_at = self._clock()
            sequence.cached_tokens = sequence.computed
            sequence.cache_miss = miss
            self.cached_tokens += sequence.cached_tokens
        if needs_checkpoints(self._facts.memory):
            # Where it parted from another prompt, a third may part too.
            parted = {source.matched} if source.matched >= CHECKPOINT_DISTANCE_TOKENS else set()
            sequence.stops_at |= parted | checkpoint_lengths(sequence.request.message_starts, sequence.prompt_length)
        return True

    def _explain(self, sequence: Sequence, source: Source) -> CacheMiss | None:
        """Where the prompt parted from the nearest earlier one; None if it did not, or resembles none."""
        nearest, at = source.nearest, source.matched
        if nearest is None or at >= min(nearest.computed, sequence.prompt_length - 1):
            return None
        return CacheMiss(
            position=at,
            shared_text=self._text(sequence.tokens[at - 1]) if at else "",
            cached_text=self._text(nearest.tokens[at]),
            prompt_text=self._text(sequence.tokens[at]),
            request_id=nearest.request_id,
        )

    def _text(self, token: int) -> str:
        return self._backend.token_bytes(token, special=True).decode("utf-8", "replace")

    def _is_worth_saving(self, tokens: int) -> bool:
        bytes_per_token = self._facts.kv_bytes_per_token
        if tokens < SAVED_TOKENS_LEAST or self._saved_bytes + tokens * bytes_per_token > self._policy.saved_bytes_most:
            return False
        compute_seconds = self.prompt_token_seconds or 0.0
        return compute_seconds > 2 * bytes_per_token / COPY_BYTES_PER_SECOND

    def _drop_saved(self, sequence: Sequence) -> None:
        self._saved_bytes -= len(sequence.saved or b"")
        sequence.saved, sequence.saved_length = None, 0


def _began_at(stream: Sequence) -> float:
    assert stream.first_token_at is not None
    return stream.first_token_at


def _is_late(sequence: Sequence, first: Sequence) -> bool:
    """Whether a prompt came when streams flowed, of which `first` has flowed longest.

    Of a burst, one may be computed before the others are taken. They came with it: one step, before its second token,
    is theirs as if nobody flowed. Not if they are of a lower class.
    """
    began_at = _began_at(first)
    is_equal = sequence.priority <= first.priority
    came_with_it = is_equal and sequence.arrived_at <= began_at and first.generated == 1
    return began_at < sequence.added_at and not came_with_it
