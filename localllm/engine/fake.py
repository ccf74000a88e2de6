"""A fake model: the next token is a function of the sequence so far, so that every mix-up of sequences shows.

Its vocabulary is the 256 bytes and an end token; it keeps real cells per slot, refuses what llama.cpp would abort on,
and counts its pool. A prompt chooses the answer: text after "echo:" is repeated and the turn ends; anything else gives
an endless stream of letters that depends on every token before. Used by tests, and by benches of everything around the
engine.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from localllm.engine.backend import BackendFacts, Batch, Constraint, DecodeStatus, EngineError
from localllm.errors import UnsupportedError
from localllm.generation import ResponseFormat, Sampling

END_TOKEN = 256
ECHO = b"echo:"
ECHO_END = b"\n"
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class FakeBackend:
    """See the module. `pool_tokens` cells are shared by `max_sequences` slots."""

    def __init__(self, pool_tokens: int = 4096, max_sequences: int = 8, batch_tokens: int = 512) -> None:
        self.facts = BackendFacts(
            vocabulary_size=END_TOKEN + 1,
            trained_context_tokens=pool_tokens,
            pool_tokens=pool_tokens,
            batch_tokens=batch_tokens,
            max_sequences=max_sequences,
            chat_template=TEMPLATE,
        )
        self.cells: list[list[int]] = [[] for _ in range(max_sequences)]
        self.outputs: dict[int, int] = {}  # row → slot of the last batch
        self.decodes = 0

    @property
    def used_cells(self) -> int:
        """Cells in use, as the backend itself counts them."""
        return sum(len(cells) for cells in self.cells)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The UTF-8 bytes."""
        return list(text.encode())

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """The byte itself."""
        return b"" if token == END_TOKEN else bytes([token])

    def is_end_of_generation(self, token: int) -> bool:
        """True for the end token."""
        return token == END_TOKEN

    def new_constraint(self, response_format: ResponseFormat) -> Constraint:
        """The fake model keeps to no grammar."""
        raise UnsupportedError("the fake model has no structured output")

    def new_sampler(
        self, sampling: Sampling, seed: int, recent_tokens: Sequence[int], constraint: Constraint | None
    ) -> FakeSampler:
        """A sampler that mixes the seed into the choice unless the temperature is 0."""
        return FakeSampler(self, 0 if sampling.temperature == 0.0 else seed)

    def decode(self, batch: Batch) -> DecodeStatus:
        """Append each row to its slot's cells; refuses gaps, unknown tokens and slots, and an over-full batch."""
        rows = list(zip(batch.tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True))
        if not 0 < len(rows) <= self.facts.batch_tokens:
            raise EngineError(f"a batch of {len(rows)} rows")
        if self.used_cells + len(rows) > self.facts.pool_tokens:
            return "no_room"
        for token, position, slot in rows:
            if not 0 <= token < self.facts.vocabulary_size or position != len(self.cells[slot]):
                raise EngineError(f"token {token} at {position} of slot {slot}, which holds {len(self.cells[slot])}")
            self.cells[slot].append(token)
        self.outputs = {row: rows[row][2] for row in range(len(rows)) if batch.outputs[row]}
        self.decodes += 1
        return "done"

    def forget(self, slot: int) -> None:
        """Empty a slot."""
        self.cells[slot] = []

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
        return next_token(self._backend.cells[self._backend.outputs[row]], self._seed)

    def close(self) -> None:
        """Remember it, for tests of leaks."""
        self.is_closed = True


def next_token(tokens: Sequence[int], seed: int = 0) -> int:
    """What the fake model says after these tokens."""
    text = bytes(token for token in tokens if token != END_TOKEN)
    if ECHO in text:
        answer, _, rest = text.rpartition(ECHO)[2].partition(ECHO_END)
        said = rest.partition(b">")[2] if rest.startswith(b"<") else rest
        return answer[len(said)] if len(said) < len(answer) else END_TOKEN
    return ord("a") + zlib.crc32(text, seed) % 26
