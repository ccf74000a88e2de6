"""A fake model: the next token is a function of the sequence so far, so that every mix-up of sequences shows.

Its vocabulary is the 256 bytes and an end token. It keeps real cells per slot, each with a number of its own, so that
sharing and counting can be checked; it refuses what llama.cpp would abort on, and can behave like any kind of memory.
A prompt chooses the answer: text after "echo:" is repeated and the turn ends; anything else gives an endless stream of
letters that depends on every token before. Used by tests, and by benches of everything around the engine.
"""

from __future__ import annotations

import functools
import itertools
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from localllm.answer_rules import AnswerRules
from localllm.engine.backend import (
    NO_BOUND,
    BackendFacts,
    Batch,
    Constraint,
    DecodeStatus,
    EngineError,
    InfillTokens,
    MemoryTraits,
    Sampler,
    State,
)
from localllm.engine.constrained import ConstrainedSampler, HeldAnswer, hold
from localllm.engine.grammar import Grammars, Vocabulary, byte_tokenizer
from localllm.generation import Sampling
from localllm.placement.shape import OUTPUTS_PER_SEQUENCE, outputs_for

END_TOKEN = 256
MARK_TOKEN = ord("<")  # begins a message in TEMPLATE
ECHO = b"echo:"
ECHO_END = b"\n"
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the pool: its number, the token it stands for, and the position it was computed at."""

    number: int
    token: int


class FakeBackend:
    """See the module. `pool_tokens` cells are shared by `slots` slots, of which `max_sequences` run at once.

    `marks` are tokens of its own besides the bytes.
    """

    def __init__(
        self,
        pool_tokens: int = 4096,
        max_sequences: int = 8,
        batch_tokens: int = 512,
        slots: int | None = None,
        memory: MemoryTraits | None = None,
        *,
        can_change_layout: bool = False,
        mixed_rows_most: int = NO_BOUND,
        infill: InfillTokens | None = None,
        marks: Sequence[str] = (),
    ) -> None:
        self._marks = {text: END_TOKEN + 1 + index for index, text in enumerate(marks)}
        self._tokens = [*(bytes([byte]) for byte in range(END_TOKEN)), b"", *(text.encode() for text in marks)]
        self.facts = BackendFacts(
            vocabulary_size=len(self._tokens),
            trained_context_tokens=pool_tokens,
            pool_tokens=pool_tokens,
            batch_tokens=batch_tokens,
            parallel=max_sequences,
            slots=max_sequences if slots is None else slots,
            memory=memory or MemoryTraits(),
            can_change_layout=can_change_layout,
            mixed_rows_most=mixed_rows_most,
            outputs_per_sequence=OUTPUTS_PER_SEQUENCE,
            outputs_most=outputs_for(max_sequences if slots is None else slots),
            kv_bytes_per_token=1024,
            chat_template=TEMPLATE,
            infill=infill,
        )
        self._numbers = itertools.count()
        self.cells: list[list[Cell]] = [[] for _ in range(self.facts.slots)]
        self._rows: dict[int, npt.NDArray[np.float32]] = {}  # logits that somebody asked for
        self.outputs: dict[int, tuple[int, int]] = {}  # row → slot and length there, of the last batch
        self.decodes = 0
        self.computed_rows = 0
        self.unknown_cells = 0  # cells taken behind the engine's back, as windowed caches round up
        self.interrupts_next = False
        self.change_fails = False

    @property
    def used_cells(self) -> int:
        """Cells in use, as the backend itself counts them: the union over the slots."""
        return len({cell.number for cells in self.cells for cell in cells})

    def text(self, slot: int) -> bytes:
        """What a slot holds."""
        return bytes(cell.token for cell in self.cells[slot] if cell.token != END_TOKEN)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The UTF-8 bytes."""
        return list(text.encode())

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """The byte itself, or the mark."""
        return self._tokens[token] if special or token < END_TOKEN else b""

    def is_end_of_generation(self, token: int) -> bool:
        """True for the end token."""
        return token == END_TOKEN

    def is_control(self, token: int) -> bool:
        """True for what begins a message."""
        return token == MARK_TOKEN

    def special_token(self, text: str) -> int | None:
        """One of its marks."""
        return self._marks.get(text)

    def prepare_constraints(self) -> None:
        """Nothing takes long here."""

    def new_constraint(self, rules: AnswerRules) -> Constraint:
        """The grammars are real ones, over bytes."""
        return hold(rules, self._grammars)

    @functools.cached_property
    def _grammars(self) -> Grammars:
        vocabulary = Vocabulary(
            tokenizer=byte_tokenizer(self._tokens, END_TOKEN),
            token_bytes=self._tokens.__getitem__,
            tokens_of=lambda text: [self._marks[text]] if text in self._marks else list(text.encode()),
            ends=frozenset([END_TOKEN]),
        )
        return Grammars(vocabulary)

    def new_sampler(
        self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], constraint: Constraint | None
    ) -> Sampler:
        """A sampler that mixes the seed into the choice unless the temperature is 0."""
        sampler = FakeSampler(self, 0 if sampling.temperature == 0.0 else seed)
        if not isinstance(constraint, HeldAnswer):
            return sampler
        return ConstrainedSampler(ChanceSampler(sampler, self.logits), constraint, self.logits)

    def decode(self, batch: Batch) -> DecodeStatus:
        """Append each row to its slot's cells; refuses gaps, unknown tokens and slots, and an over-full batch."""
        rows = list(zip(batch.tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True))
        if not 0 < len(rows) <= self.facts.batch_tokens:
            raise EngineError(f"a batch of {len(rows)} rows")
        if int(batch.outputs.sum()) > self.facts.outputs_most:
            raise EngineError("more rows of logits than there is room for")
        if not self._has_room([slot for _, _, slot in rows]):
            return "no_room"
        done = len(rows) // 2 if self.interrupts_next else len(rows)
        for token, position, slot in rows[:done]:
            if not 0 <= token < self.facts.vocabulary_size or position != len(self.cells[slot]):
                raise EngineError(f"token {token} at {position} of slot {slot}, which holds {len(self.cells[slot])}")
            self.cells[slot].append(Cell(next(self._numbers), token))
        if self.interrupts_next:
            self.interrupts_next = False
            return "interrupted"
        self.outputs = {row: (rows[row][2], rows[row][1] + 1) for row in range(len(rows)) if batch.outputs[row]}
        self._rows = {}
        self.decodes += 1
        self.computed_rows += len(rows)
        return "done"

    def _has_room(self, slots: list[int]) -> bool:
        if self.facts.memory.layout == "streams":
            return all(len(self.cells[slot]) + slots.count(slot) <= self.facts.sequence_tokens for slot in set(slots))
        return self.used_cells + self.unknown_cells + len(slots) <= self.facts.pool_tokens

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """What a temperature of 0 takes stands out, and behind it the token after that."""
        if row in self._rows:
            return self._rows[row]
        slot, length = self.outputs[row]
        token = next_token([cell.token for cell in self.cells[slot][:length]])
        logits = np.zeros(self.facts.vocabulary_size, dtype=np.float32)
        logits[[token, (token + 1) % self.facts.vocabulary_size]] = 8.0, 4.0
        self._rows[row] = logits
        return logits

    def use_threads(self, count: int) -> None:
        """It has but one."""

    def interrupt(self) -> None:
        """Half of the next batch is computed, and then no more."""
        self.interrupts_next = True

    def forget(self, slot: int) -> None:
        """Empty a slot."""
        self.cells[slot] = []

    def copy(self, source: int, target: int, length: int) -> None:
        """Share cells in a unified pool, copy them in streams."""
        if self.cells[target]:
            raise EngineError(f"slot {target} is not empty")
        if length > len(self.cells[source]) or (
            self.facts.memory.kind != "attention" and length < len(self.cells[source])
        ):
            raise EngineError(f"{length} of {len(self.cells[source])} cells cannot be copied")
        cells = self.cells[source][:length]
        is_copy = self.facts.memory.layout == "streams"
        self.cells[target] = [Cell(next(self._numbers), cell.token) for cell in cells] if is_copy else list(cells)

    def rewind(self, slot: int, length: int, checkpoint: State | None = None) -> bool:
        """As the kind of memory allows; a checkpoint must be of the same tokens."""
        held = len(self.cells[slot])
        if length > held:
            raise EngineError(f"slot {slot} holds {held}, not {length}")
        if checkpoint is not None:
            if json.loads(bytes(checkpoint)) != [cell.token for cell in self.cells[slot][:length]]:
                raise EngineError("a checkpoint of another sequence")
        elif length < held and not self._can_trim(slot, length):
            return False
        del self.cells[slot][length:]
        return True

    def _can_trim(self, slot: int, length: int) -> bool:
        match self.facts.memory.kind:
            case "attention":
                return True
            case "window":
                return length == 0 or self.lowest_position(slot) <= max(0, length - self.facts.memory.window_tokens)
            case "recurrent":
                return length == 0

    def lowest_position(self, slot: int) -> int:
        """A window keeps twice what it looks back."""
        if self.facts.memory.kind != "window":
            return 0
        return max(0, len(self.cells[slot]) - 2 * self.facts.memory.window_tokens)

    def save_checkpoint(self, slot: int) -> State:
        """The tokens themselves, so that a checkpoint used for another sequence shows."""
        return json.dumps([cell.token for cell in self.cells[slot]]).encode()

    def save(self, slot: int) -> State:
        """The tokens."""
        return self.save_checkpoint(slot)

    def restore(self, slot: int, state: State) -> bool:
        """New cells with the saved tokens."""
        tokens = json.loads(bytes(state))
        if self.cells[slot]:
            raise EngineError(f"slot {slot} is not empty")
        if not self._has_room([slot] * len(tokens)):
            return False
        self.cells[slot] = [Cell(next(self._numbers), token) for token in tokens]
        return True

    def shift(self, slot: int, keep: int, drop: int) -> None:
        """Take cells out of the middle; a shared cell would move for the others too."""
        mine = {cell.number for cell in self.cells[slot][keep:]}
        others = (cell.number for at, cells in enumerate(self.cells) if at != slot for cell in cells)
        if mine.intersection(others):
            raise EngineError("a shared cell cannot be shifted")
        del self.cells[slot][keep : keep + drop]

    def change_layout(self) -> None:
        """The other layout, with twice the slots in one pool; fails when told to."""
        if not self.facts.can_change_layout:
            raise EngineError("the layout cannot be changed")
        self.cells = [[] for _ in self.cells]
        if self.change_fails:
            raise EngineError("no memory for another layout")
        is_unified = self.facts.memory.layout == "unified"
        memory = replace(self.facts.memory, layout="streams" if is_unified else "unified")
        slots = self.facts.parallel * (1 if is_unified else 2)
        self.facts = replace(self.facts, memory=memory, slots=slots)
        self.cells = [[] for _ in range(slots)]

    def close(self) -> None:
        """Nothing to free."""


class FakeSampler:
    """The function from a sequence to its next token."""

    def __init__(self, backend: FakeBackend, seed: int) -> None:
        self._backend = backend
        self._seed = seed
        self.is_closed = False

    def sample(self, row: int) -> int:
        """The next token of the slot whose row this is."""
        slot, length = self._backend.outputs[row]
        return next_token([cell.token for cell in self._backend.cells[slot][:length]], self._seed)

    def close(self) -> None:
        """Remember it, for tests of leaks."""
        self.is_closed = True


class ChanceSampler:
    """The sampler inside a constraint: what the model would say if that may follow, else any token that may."""

    def __init__(self, sampler: FakeSampler, logits: Callable[[int], npt.NDArray[np.float32]]) -> None:
        self._sampler = sampler
        self._logits = logits
        self._count = 0

    def sample(self, row: int) -> int:
        """The same for the same sequence and the same number of tries."""
        token = self._sampler.sample(row)
        possible = np.flatnonzero(np.isfinite(self._logits(row)))
        if token in possible:
            return token
        self._count += 1
        return int(possible[zlib.crc32(b"%d %d" % (token, self._count)) % len(possible)])

    def close(self) -> None:
        """Close the sampler."""
        self._sampler.close()


def next_token(tokens: Sequence[int], seed: int = 0) -> int:
    """What the fake model says after these tokens."""
    text = bytes(token for token in tokens if token != END_TOKEN)
    if ECHO in text:
        answer, _, rest = text.rpartition(ECHO)[2].partition(ECHO_END)
        said = rest.partition(b">")[2] if rest.startswith(b"<") else rest
        return answer[len(said)] if len(said) < len(answer) else END_TOKEN
    return ord("a") + zlib.crc32(text, seed) % 26
