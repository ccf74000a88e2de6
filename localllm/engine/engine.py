"""The batching engine: `add` and `cancel` requests, `step` until none is left. Token ids in, text out.

One step is one decode of the backend: admit what fits, plan the batch, compute, sample, turn tokens into text. It knows
nothing of chats, templates or HTTP, starts no thread and must be driven by one; only `interrupt` may come from another.

    roster        who runs, and who gives way            queue         who waits, and whose turn it is
    batch, pace   what the next decode computes          prefix_cache  what of a prompt is there already
    decoding      the decode itself, and sampling        pool, cells   slots and cells, and what lies in them
    speculation   guesses that the decode may check      shelf         idle prefixes in host memory
    threads       how many threads compute               memory        what a kind of memory allows

Nothing a request needs is ever refused for lack of room: idle prefixes go first, then the newest sequence of the lowest
class gives way, keeps its state in host memory (or computes it again where that is cheaper) and goes on later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from localllm.engine.backend import Backend, BackendFacts, EngineError
from localllm.engine.batch import OLDEST_FIRST_EVERY, Load, plan_batch
from localllm.engine.decoding import Work, batches, build_batch, sample, score
from localllm.engine.logprobs import LogprobRecorder
from localllm.engine.memory import takes_back
from localllm.engine.pace import Pace
from localllm.engine.policy import EnginePolicy
from localllm.engine.pool import Pool
from localllm.engine.roster import Roster
from localllm.engine.sequence import Finish, FinishReason, Sequence, SequenceOutput, SequenceRequest
from localllm.engine.speculation import DraftGuesser, Speculation, Speculations
from localllm.engine.stats import EngineStats
from localllm.engine.threads import ThreadTuner
from localllm.errors import PromptTooLongError


class Engine:
    """Generates for many sequences at once on one backend. `clock` gives seconds that only go forward.

    `forced_off` counts how often the process was taken off a core so far; without it threads are never tuned. A
    `draft_model` guesses what the prompt does not hold.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float],
        policy: EnginePolicy | None = None,
        forced_off: Callable[[], int] = lambda: 0,
        draft_model: DraftGuesser | None = None,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._policy = policy or EnginePolicy()
        self._roster = Roster(backend, clock, self._policy)
        self._pace = Pace(self._facts.batch_tokens, self._policy.stretch)
        self._forced_off = forced_off
        self._tuner = ThreadTuner(self._facts.threads)
        self._threads = self._facts.threads
        self._draft_model = draft_model
        self._speculations = Speculations(draft_model, self._facts.outputs_per_sequence - 1, clock)
        self._speculating: Speculation | None = None  # in this step, for the one sequence in it
        self._chunk_most = self._facts.batch_tokens  # smaller while the backend has less room than it said
        self._layout_stays = False  # changing it failed
        self._layout_until = -math.inf  # it pays to stay
        self._in_flight: dict[int, int] = {}  # rows of the decode that runs, by request
        self._prompt_steps = 1
        self._counts = dict.fromkeys(("steps", "prompt", "completion", "drafted", "accepted"), 0)

    @property
    def _facts(self) -> BackendFacts:
        return self._backend.facts

    @property
    def _pool(self) -> Pool:
        return self._roster.pool

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(len(self._roster.waiting) or self._roster.active)

    def add(self, request: SequenceRequest, came_at: float | None = None) -> None:
        """Queue a request that came at that time of the clock, or comes now.

        Raises PromptTooLongError when prompt and one token exceed its limit or the pool.
        """
        limit = min(request.limit_tokens, self._most_tokens())
        if len(request.prompt) >= limit:
            raise PromptTooLongError(len(request.prompt), limit)
        if not request.prompt:
            raise EngineError("a prompt needs at least one token")
        sampler = self._backend.new_sampler(request.sampling, request.seed, request.prompt, request.constraint)
        now = self._clock()
        sequence = Sequence(request, sampler, limit, now if came_at is None else came_at, now)
        if request.logprobs is not None:
            token_bytes = self._backend.token_bytes
            sequence.logprobs = LogprobRecorder(request.logprobs, lambda token: token_bytes(token, special=True))
        self._roster.add(sequence)

    def cancel(self, request_id: int) -> bool:
        """Forget a request and give its slot back at once; False when it is not (or no longer) here."""
        sequence = self._roster.find(request_id)
        if sequence is None:
            return False
        self._remove(sequence)
        return True

    def interrupt(self, request_id: int) -> None:
        """Break off the running decode if it is mostly this request's; thread-safe. `cancel` must follow."""
        in_flight = self._in_flight
        if 2 * in_flight.get(request_id, 0) > sum(in_flight.values()):
            self._backend.interrupt()

    def forget_prefixes(self) -> None:
        """Empty every slot that no request runs on."""
        self._pool.release_idle()

    def step(self) -> list[SequenceOutput]:
        """Run one decode, or two if prompts are better computed apart; return what each sequence in it got.

        Nothing to do returns an empty list.
        """
        if failed := self._look_at_layout():
            return failed
        self._roster.prompt_token_seconds = self._pace.prompt_token_seconds
        self._roster.admit()
        active = tuple(self._roster.active)
        if not active:
            return []
        loads = self._roster.loads(active)
        self._pool.make_room(min(sum(load.to_compute for load in loads), self._chunk_most))
        late_tokens, free_cells = self._late_tokens(active, loads), self._pool.cells.free
        oldest_first = self._prompt_steps % OLDEST_FIRST_EVERY == 0
        apart = self._facts.cuts_apart
        plan = plan_batch(loads, self._chunk_most, late_tokens, free_cells, oldest_first=oldest_first, cuts_apart=apart)
        self._prompt_steps += any(share.count > 1 for share in plan.shares)
        for index in plan.preempt:
            self._roster.preempt(active[index])
        works = self._with_draft([Work(active[share.index], share.count) for share in plan.shares])
        outputs: list[SequenceOutput] = []
        for part in batches(works, self._facts.mixed_rows_most):
            # The part before may have found no room, and somebody gave way.
            outputs += self._compute([work for work in part if work.sequence.resident is not None])
        return outputs

    def stats(self) -> EngineStats:
        """Counters and what is held now."""
        counts = self._counts
        return EngineStats(
            running=len(self._roster.active),
            waiting=len(self._roster.waiting),
            used_cells=self._pool.cells.used,
            steps=counts["steps"],
            prompt_tokens=counts["prompt"],
            completion_tokens=counts["completion"],
            cached_tokens=self._roster.cached_tokens,
            idle_prefixes=self._pool.idle_prefixes,
            preemptions=self._roster.preemptions,
            drafted_tokens=counts["drafted"],
            accepted_tokens=counts["accepted"],
        )

    def _late_tokens(self, active: tuple[Sequence, ...], loads: list[Load]) -> int:
        late = [(one, load) for one, load in zip(active, loads, strict=True) if load.is_late]
        if not late:
            return self._chunk_most
        most = self._facts.batch_tokens
        moderate = [load.to_compute for one, load in late if one.prompt_length - one.cached_tokens <= most]
        return self._pace.budget(min(moderate, default=0))

    def _with_draft(self, works: list[Work]) -> list[Work]:
        """Guesses for a sequence that runs alone: with company their rows would slow the others."""
        self._speculating = None
        if len(works) != 1 or len(self._roster.waiting) or not self._policy.speculates:
            return works
        (work,) = works
        sequence = work.sequence
        if work.count != 1 or not work.is_last_chunk or not takes_back(self._facts.memory):
            return works
        self._speculating = speculation = self._speculations.of(sequence.request.id)
        new_tokens = sequence.request.max_new_tokens
        most = self._facts.sequence_tokens
        wanted = most if new_tokens is None else new_tokens - sequence.generated
        room = min(min(sequence.limit_tokens, most) - len(sequence.tokens), wanted) - 1
        most = min(room, self._pool.cells.free - 1, self._chunk_most - 1)
        return [Work(sequence, 1, speculation.propose(sequence.tokens.view(), most))]

    def _most_tokens(self) -> int:
        return self._facts.sequence_tokens if self._layout_stays else self._facts.sequence_tokens_most

    def _look_at_layout(self) -> list[SequenceOutput]:
        """Change the layout of the cells if that is due; whoever needed another one that cannot be had fails.

        A change for speed must have paid before the next one: it waits for a multiple of what the last one took.
        """
        started, most = self._clock(), self._facts.sequence_tokens
        wanted = self._roster.wanted_layout(may_change=started >= self._layout_until)
        if self._layout_stays or wanted == self._facts.memory.layout:
            return []
        try:
            self._roster.change_layout()
        except EngineError as error:
            return self._keep_layout(most, str(error))
        now = self._clock()
        self._layout_until = now + self._policy.layout_change_pays * (now - started)
        return []

    def _keep_layout(self, most: int, message: str) -> list[SequenceOutput]:
        """It cannot be changed: nobody grows beyond `most` tokens from now on."""
        self._layout_stays = True
        for one in self._roster.waiting.sequences:
            one.limit_tokens = min(one.limit_tokens, most)
        return [self._fail(one, message) for one in self._roster.outgrown(most)]

    def _compute(self, works: list[Work]) -> list[SequenceOutput]:
        if not works:
            return []
        self._in_flight = {work.sequence.request.id: work.rows for work in works}
        # A prompt's step is long: its threads meet seldom in comparison, and lose little where a core is shared.
        has_prompt = any(work.count > 1 for work in works)
        self._use_threads(self._facts.threads if has_prompt else self._tuner.threads)
        started, forced_off = self._clock(), self._forced_off()
        try:
            status = self._backend.decode(build_batch(works))
        except EngineError as error:
            return [self._fail(work.sequence, str(error)) for work in works]
        finally:
            self._in_flight = {}
        if status == "no_room":
            return self._make_room(works)
        if status == "interrupted":
            for work in works:
                assert work.sequence.resident is not None
                self._pool.resynchronise(work.sequence.resident)
            return []
        self._chunk_most = self._facts.batch_tokens
        self._counts["steps"] += 1
        return self._collect(works, self._clock() - started, self._forced_off() - forced_off)

    def _use_threads(self, count: int) -> None:
        if count != self._threads:
            self._threads = count
            self._backend.use_threads(count)
            if self._draft_model is not None:
                self._draft_model.use_threads(count)

    def _collect(self, works: list[Work], seconds: float, forced_off: int) -> list[SequenceOutput]:
        prompt_rows = sum(work.count for work in works if work.count > 1)
        self._pace.observe(sum(work.count == 1 for work in works), prompt_rows, seconds)
        if not prompt_rows:
            company = tuple(work.sequence.request.id for work in works)
            self._tuner.observe(sum(work.rows for work in works), company, seconds, forced_off)
        outputs: list[SequenceOutput] = []
        row = 0
        for work in works:
            outputs.append(self._told(work, row, seconds))
            row += work.rows
        return outputs

    def _told(self, work: Work, first_row: int, seconds: float) -> SequenceOutput:
        """What a decode gave one sequence."""
        try:
            scores = score(self._backend, work, first_row)
        except EngineError as error:
            return self._fail(work.sequence, str(error))
        output = self._advance(work, first_row, seconds)
        if not scores:
            return output
        processed = output.prompt_processed or work.sequence.prompt_length  # all of it, where an answer begins
        return replace(output, prompt_processed=processed, prompt_logprobs=scores)

    def _make_room(self, works: list[Work]) -> list[SequenceOutput]:
        """The backend found fewer free cells than we count (windowed caches round up): somebody gives way."""
        if self._pool.idle_prefixes:
            self._pool.make_room(self._pool.cells.free + 1)
        elif len(self._roster.active) > 1:
            self._roster.preempt_newest()
        elif self._chunk_most > 1:
            self._chunk_most //= 2
        else:
            return [self._finish(work.sequence, "length") for work in works]
        return []

    def _advance(self, work: Work, first_row: int, seconds: float) -> SequenceOutput:
        sequence, resident = work.sequence, work.sequence.resident
        assert resident is not None
        was_prefilling = sequence.first_token_at is None
        is_last_chunk = work.is_last_chunk
        self._pool.grow(resident, work.rows)
        self._roster.waiting.note_served(sequence, work.count)
        self._counts["prompt"] += work.count if was_prefilling else 0
        if resident.computed in sequence.stops_at:
            self._pool.checkpoint(resident)
        if not is_last_chunk and sequence.is_out_of_time(self._clock):
            return self._finish(sequence, "length")
        if not is_last_chunk:
            processed = min(resident.computed, sequence.prompt_length)
            cached = sequence.cached_tokens
            return SequenceOutput(sequence.request.id, prompt_processed=processed, prompt_cached=cached)
        if was_prefilling:
            sequence.first_token_at = self._clock()
        if sequence.has_all_it_asked_for:  # for no token at all
            return self._finish(sequence, "length")
        try:
            chosen = sample(self._backend, work, first_row)
        except EngineError as error:
            return self._fail(sequence, str(error))
        self._note_draft(work, len(chosen) - 1, seconds)
        return self._take(sequence, chosen)

    def _note_draft(self, work: Work, accepted: int, seconds: float) -> None:
        sequence, drafted = work.sequence, len(work.draft)
        if self._speculating is not None:
            self._speculating.observe(drafted, accepted, seconds)
        if drafted > accepted:
            assert sequence.resident is not None
            self._pool.cut_back(sequence.resident, sequence.computed - drafted + accepted)
        sequence.drafted_tokens += drafted
        sequence.accepted_tokens += accepted
        self._counts["drafted"] += drafted
        self._counts["accepted"] += accepted

    def _take(self, sequence: Sequence, chosen: list[int]) -> SequenceOutput:
        """Append the chosen tokens until one ends the sequence; the text they give."""
        text, taken = "", []
        reason: FinishReason | None = None
        stop_text: str | None = None
        for token in chosen:
            taken.append(token)
            sequence.tokens.append(token)
            sequence.generated += 1
            if self._backend.is_end_of_generation(token):
                reason = "stop"
                break
            if sequence.logprobs is not None:
                sequence.logprobs.keep(sequence.detokenizer.characters)
            data = self._backend.token_bytes(token, special=token in sequence.request.preserved_tokens)
            piece = sequence.detokenizer.feed(data)
            text += piece.text
            if piece.stop is not None:
                reason, stop_text = "stop", piece.stop
                break
            sequence.has_line = sequence.has_line or b"\n" in data
            if sequence.has_all_it_asked_for or (sequence.is_at_limit and not self._shift(sequence)):
                reason = "length"
                break
        self._counts["completion"] += len(taken)
        if reason is None and sequence.is_out_of_time(self._clock):
            reason = "length"
        if reason is None:
            logprobs = sequence.logprobs.release(text, is_all=False) if sequence.logprobs is not None else ()
            return SequenceOutput(sequence.request.id, text, tuple(taken), logprobs=logprobs)
        return self._finish(sequence, reason, text, tuple(taken), stop_text)

    def _shift(self, sequence: Sequence) -> bool:
        """Drop the older half of what follows the kept tokens, if that was asked for and leaves room for a token."""
        resident = sequence.resident
        keep = min(sequence.request.keep_tokens, sequence.prompt_length - 1)
        drop = (sequence.computed - keep) // 2
        if not sequence.request.shifts or drop < 1 or resident is None:
            return False
        sequence.tokens.cut(keep, keep + drop)
        if not self._facts.memory.can_shift or not self._pool.shift(resident, keep, drop):
            self._pool.cut_back(resident, keep)  # what follows is computed again, at its new place
        sequence.dropped_tokens += drop
        return True

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        text: str = "",
        tokens: tuple[int, ...] = (),
        stop_text: str | None = None,
    ) -> SequenceOutput:
        if stop_text is None:
            text += sequence.detokenizer.flush().text
        resident = sequence.resident
        if resident is not None and resident.computed > len(sequence.tokens):  # guesses behind a stop string
            self._pool.cut_back(resident, len(sequence.tokens))
        stats = sequence.stats(self._clock())
        self._remove(sequence)
        is_all = stop_text is None
        logprobs = sequence.logprobs.release(text, is_all=is_all) if sequence.logprobs is not None else ()
        finish = Finish(reason, stats, stop_text)
        return SequenceOutput(sequence.request.id, text, tokens, logprobs=logprobs, finish=finish)

    def _remove(self, sequence: Sequence) -> None:
        self._speculations.forget(sequence.request.id)
        self._roster.remove(sequence)

    def _fail(self, sequence: Sequence, message: str) -> SequenceOutput:
        if sequence.resident is not None:
            self._pool.release(sequence.resident)  # nobody knows what lies in its cells
            sequence.resident = None
        self._remove(sequence)
        return SequenceOutput(sequence.request.id, error=message)
