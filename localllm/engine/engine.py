"""The batching engine: `add` and `cancel` requests, `step` until none is left. Token ids in, text out.

One step is one decode of the backend: admit what fits, plan the batch, compute, sample, turn tokens into text. The
engine owns the slots and the accounting of KV cells, which llama.cpp does not tell. It knows nothing of chats,
templates or HTTP, starts no thread and must be driven by one.

Not here: which prefix could be shared and where preempted cells could be kept; `batch` decides, this file acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from localllm.engine.backend import Backend, Batch, EngineError
from localllm.engine.batch import Load, Share, may_admit, plan_batch
from localllm.engine.sequence import Finish, FinishReason, Sequence, SequenceOutput, SequenceRequest
from localllm.errors import PromptTooLongError


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine holds now and has done so far."""

    running: int
    waiting: int
    used_cells: int
    steps: int
    prompt_tokens: int
    completion_tokens: int


class Engine:
    """Generates for many sequences at once on one backend. `clock` gives seconds that only go forward."""

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._clock = clock
        self._waiting: list[Sequence] = []  # oldest first
        self._active: list[Sequence] = []  # oldest first; each has a slot
        self._is_admitting = True  # False from "no room" until a sequence ends: else the same batch would fail again
        self._free_slots = list(range(backend.facts.max_sequences - 1, -1, -1))
        self._steps = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(self._waiting or self._active)

    def add(self, request: SequenceRequest) -> None:
        """Queue a request. Raises PromptTooLongError when prompt and one token exceed its limit or the pool."""
        limit = min(request.limit_tokens, self._backend.facts.pool_tokens)
        if len(request.prompt) >= limit:
            raise PromptTooLongError(len(request.prompt), limit)
        if not request.prompt:
            raise EngineError("a prompt needs at least one token")
        window = request.prompt[-request.limit_tokens :]
        sampler = self._backend.new_sampler(request.sampling, request.seed, window, request.constraint)
        self._waiting.append(Sequence(request, sampler, self._clock()))

    def cancel(self, request_id: int) -> bool:
        """Forget a request and free its cells at once; False when it is not (or no longer) here."""
        for sequence in (*self._active, *self._waiting):
            if sequence.request.id == request_id:
                self._remove(sequence)
                return True
        return False

    def step(self) -> list[SequenceOutput]:
        """Run one decode; return what each sequence in it got. Nothing to do returns an empty list."""
        self._admit()
        if not self._active:
            return []
        active = tuple(self._active)
        loads = [Load(sequence.to_compute, sequence.computed) for sequence in active]
        plan = plan_batch(loads, self._backend.facts.batch_tokens, self._free_cells())
        for index in plan.preempt:
            self._preempt(active[index])
        if not plan.shares:
            raise EngineError("nothing fits the pool")  # unreachable: `add` bounds every sequence by the pool
        return self._compute([(active[share.index], share) for share in plan.shares])

    def stats(self) -> EngineStats:
        """Counters and what is held now."""
        return EngineStats(
            running=len(self._active),
            waiting=len(self._waiting),
            used_cells=sum(sequence.computed for sequence in self._active),
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )

    def _free_cells(self) -> int:
        return self._backend.facts.pool_tokens - sum(sequence.computed for sequence in self._active)

    def _admit(self) -> None:
        while self._is_admitting and self._waiting and self._free_slots:
            loads = [Load(sequence.to_compute, sequence.computed) for sequence in self._active]
            sequence = self._waiting[0]
            if not may_admit(loads, sequence.to_compute, self._free_cells()):
                return
            self._waiting.pop(0)
            sequence.slot = self._free_slots.pop()
            sequence.admitted_at = sequence.admitted_at or self._clock()
            self._active.append(sequence)
            self._active.sort(key=lambda one: one.arrived_at)

    def _preempt(self, sequence: Sequence) -> None:
        self._active = [one for one in self._active if one is not sequence]
        self._release_slot(sequence)
        self._waiting.append(sequence)
        self._waiting.sort(key=lambda one: one.arrived_at)

    def _remove(self, sequence: Sequence) -> None:
        self._active = [one for one in self._active if one is not sequence]
        self._waiting = [one for one in self._waiting if one is not sequence]
        self._release_slot(sequence)
        self._is_admitting = True
        sequence.sampler.close()

    def _release_slot(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._backend.forget(sequence.slot)
            self._free_slots.append(sequence.slot)
            sequence.slot = None
        sequence.computed = 0

    def _compute(self, shares: list[tuple[Sequence, Share]]) -> list[SequenceOutput]:
        try:
            status = self._backend.decode(_batch(shares))
        except EngineError as error:
            return [self._fail(sequence, str(error)) for sequence, _ in shares]
        self._steps += 1
        if status == "no_room":
            return self._make_room(shares)
        outputs: list[SequenceOutput] = []
        row = -1
        for sequence, share in shares:
            row += share.count
            outputs.append(self._advance(sequence, share.count, row))
        return outputs

    def _make_room(self, shares: list[tuple[Sequence, Share]]) -> list[SequenceOutput]:
        """The backend found fewer free cells than we count (windowed caches round up): the newest makes room."""
        if len(self._active) > 1:
            self._preempt(self._active[-1])
            self._is_admitting = False
            return []
        return [self._fail(sequence, "the KV pool has no room for this sequence") for sequence, _ in shares]

    def _advance(self, sequence: Sequence, count: int, last_row: int) -> SequenceOutput:
        was_prefilling = sequence.first_token_at is None
        sequence.computed += count
        if was_prefilling:
            self._prompt_tokens += count
        if sequence.to_compute:
            return SequenceOutput(sequence.request.id, prompt_processed=min(sequence.computed, sequence.prompt_length))
        if was_prefilling:
            sequence.first_token_at = self._clock()
        if sequence.is_at_limit:  # asked for no token at all
            return self._finish(sequence, "length")
        try:
            token = sequence.sampler.sample(last_row)
        except EngineError as error:
            return self._fail(sequence, str(error))
        return self._take(sequence, token)

    def _take(self, sequence: Sequence, token: int) -> SequenceOutput:
        self._completion_tokens += 1
        sequence.tokens.append(token)
        if self._backend.is_end_of_generation(token):
            return self._finish(sequence, "stop")
        data = self._backend.token_bytes(token, special=token in sequence.request.preserved_tokens)
        piece = sequence.detokenizer.feed(data)
        if piece.stop is not None:
            return self._finish(sequence, "stop", piece.text, is_stopped=True)
        if sequence.is_at_limit:
            return self._finish(sequence, "length", piece.text)
        return SequenceOutput(sequence.request.id, text=piece.text)

    def _finish(
        self, sequence: Sequence, reason: FinishReason, text: str = "", *, is_stopped: bool = False
    ) -> SequenceOutput:
        if not is_stopped:
            text += sequence.detokenizer.flush().text
        self._remove(sequence)
        return SequenceOutput(sequence.request.id, text, finish=Finish(reason, sequence.stats(self._clock())))

    def _fail(self, sequence: Sequence, message: str) -> SequenceOutput:
        self._remove(sequence)
        return SequenceOutput(sequence.request.id, error=message)


def _batch(shares: list[tuple[Sequence, Share]]) -> Batch:
    """The arrays of one decode: each share's next tokens, logits wanted at the row that completes a sequence."""
    size = sum(share.count for _, share in shares)
    tokens, positions, slots = (np.empty(size, dtype=np.int32) for _ in range(3))
    outputs = np.zeros(size, dtype=np.int8)
    start = 0
    for sequence, share in shares:
        end = start + share.count
        first = sequence.computed
        tokens[start:end] = sequence.tokens[first : first + share.count]
        positions[start:end] = range(first, first + share.count)
        slots[start:end] = -1 if sequence.slot is None else sequence.slot
        outputs[end - 1] = share.count == sequence.to_compute
        start = end
    return Batch(tokens, positions, slots, outputs)
