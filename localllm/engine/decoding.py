"""One decode: the rows of a step as arrays, the backend's answer, and what was sampled from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from localllm.engine.backend import NOT_FINITE, Backend, Batch, EngineError
from localllm.engine.logprobs import token_logprob
from localllm.engine.sequence import Sequence
from localllm.engine.tokens import Tokens
from localllm.generation import TokenLogprob

_NO_TOKENS: Tokens = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Work:
    """The next `count` tokens of a sequence go into the batch, and behind them guesses of what follows."""

    sequence: Sequence
    count: int
    draft: Tokens = field(default_factory=lambda: _NO_TOKENS)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.count if self.draft is _NO_TOKENS else self.count + len(self.draft)

    @property
    def is_last_chunk(self) -> bool:
        """Whether its tokens are all computed then, so that the next one is sampled."""
        return self.count == self.sequence.to_compute


def batches(works: list[Work], mixed_rows_most: int) -> list[list[Work]]:
    """What is computed together, by slot: llama.cpp batches streams only in that order.

    More than `mixed_rows_most` rows are parted into those that go on and the prompts.
    """
    works = sorted(works, key=lambda work: _slot(work.sequence))
    if sum(work.rows for work in works) <= mixed_rows_most:
        return [works]
    parts = [work for work in works if work.count == 1], [work for work in works if work.count > 1]
    return [part for part in parts if part]


def _slot(sequence: Sequence) -> int:
    assert sequence.resident is not None  # active sequences have one
    return sequence.resident.slot


def build_batch(works: list[Work]) -> Batch:
    """The arrays of one decode: logits are wanted at the row that completes a sequence, and at its guesses; of a prompt
    whose logprobs were asked for at every row."""
    # Lists: most works are one row, and writing one into each of four arrays costs more than the arrays.
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    outputs: list[int] = []
    for work in works:
        sequence, rows = work.sequence, work.rows
        first = sequence.computed
        tokens += sequence.tokens.view(first, first + work.count).tolist()
        if rows > work.count:
            tokens += work.draft.tolist()
        positions += range(first, first + rows)
        slots += [_slot(sequence)] * rows
        scored = int(sequence.scores_next)
        output = int(work.is_last_chunk) or scored
        outputs += [scored] * (work.count - 1) + [output] * (rows - work.count + 1)
    return Batch(
        np.array(tokens, dtype=np.int32),
        np.array(positions, dtype=np.int32),
        np.array(slots, dtype=np.int32),
        np.array(outputs, dtype=np.int8),
    )


def sample(backend: Backend, work: Work, first_row: int) -> list[int]:
    """The tokens the model chooses after `work`, whose first row in the batch is `first_row`: one, and one more for
    each guess that was right. Raises EngineError for non-finite logits."""
    chosen: list[int] = []
    recorder = work.sequence.logprobs
    row = first_row + work.count - 1
    for guess in (*work.draft.tolist(), None):
        if recorder is not None:
            recorder.look(backend.logits(row))
        token = work.sequence.sampler.sample(row)
        chosen.append(token)
        if recorder is not None:
            recorder.note(token)
        if token != guess or backend.is_end_of_generation(token):
            return chosen
        row += 1
    return chosen


def score(backend: Backend, work: Work, first_row: int) -> tuple[TokenLogprob, ...]:
    """The logprobs of the prompt's tokens that the rows of `work` tell, before its cells are counted: each row that of
    the token behind it. The prompt's first has none. Raises EngineError for non-finite logits."""
    sequence = work.sequence
    top = sequence.request.prompt_logprobs
    if top is None or not sequence.scores_next:
        return ()

    def token_bytes(token: int) -> bytes:
        return backend.token_bytes(token, special=True)

    tokens, first = sequence.tokens, sequence.computed
    scores = [] if sequence.scored else [TokenLogprob(token_bytes(int(tokens[0])), None)]
    for place in range(first + 1, min(first + work.count + 1, sequence.prompt_length)):
        logits = backend.logits(first_row + place - first - 1)
        one = token_logprob(logits, int(tokens[place]), top, token_bytes)
        if one.logprob is None or math.isnan(one.logprob):
            raise EngineError(NOT_FINITE)
        scores.append(one)
    sequence.scored += len(scores)
    return tuple(scores)
