"""The child's main thread for an embedding model: requests in, vectors out, inputs of several in shared batches.

    inbox ─▶ jobs ──next inputs of each in turn──▶ batch ─▶ embedder ─▶ vectors ──last one──▶ Embedded

A long job does not hold up a short one: each batch takes the oldest job's next input first and then those of all jobs
in turn. The runner's other messages are answered as far as an embedding model can.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.embedding import Embeddings, EmbedRequest
from localllm.engine.backend import EngineError
from localllm.engine.embedding import (
    Embedder,
    Input,
    Tokenized,
    Vector,
    check_input,
    finished,
    float64_rows,
    next_batch,
    no_vectors,
    tokenize_input,
    tokenize_pair_input,
)
from localllm.errors import BadRequestError, LocalllmError, UnsupportedError
from localllm.failures import failed_from
from localllm.generation import Failed, GenerationRequest
from localllm.runner import protocol
from localllm.runner.conversation import Prepared, Rejection

EMBEDDING_CACHE_BYTES = 2**31  # where no plan bounds it
# Of each job so many inputs are looked at for the next batch, per input that it may hold.
_LOOKED_AT = 4

Inbox = queue.SimpleQueue[Prepared | Rejection | protocol.Embed | protocol.Cancel | protocol.AskStats]


def open_embedder(load: protocol.Load, on_progress: Callable[[float], None]) -> Embedder:
    """The embedding model that `load` names. Raises ModelLoadError."""
    # Imported here: tests of this module need no llama.cpp, which aborts on misuse.
    from localllm.engine.llama_embedding import LlamaEmbedder, LlamaEmbedderConfig

    config = LlamaEmbedderConfig(
        model_path=Path(load.model_path),
        threads=load.threads,
        kv_bytes_limit=load.pool_bytes_limit or EMBEDDING_CACHE_BYTES,
        weights=load.layout,
        adapters=tuple(map(Path, load.adapters)),
    )
    return LlamaEmbedder(config, on_progress)


def describe_embedder(embedder: Embedder, parallel: int, load_seconds: float, resident_bytes: int) -> protocol.Loaded:
    """What the daemon is told about an embedding model that is ready; `parallel` requests are taken at once."""
    facts = embedder.facts
    return protocol.Loaded(
        trained_context_tokens=facts.trained_context_tokens,
        pool_tokens=facts.input_tokens,
        parallel=parallel,
        weight_bytes=facts.weight_bytes,
        kv_bytes=facts.kv_bytes,
        gpu_bytes=facts.gpu_bytes,
        layers=facts.layers,
        gpu_layers=facts.gpu_layers,
        load_seconds=load_seconds,
        buffers=facts.buffers,
        resident_bytes=resident_bytes,
    )


class EmbeddingTexts:
    """Stands where a generating model has its conversations: this one has none."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def prepare(self, request_id: int, request: GenerationRequest) -> Prepared:
        """Raises UnsupportedError."""
        raise UnsupportedError(f'"{request.model}" does not support generate')

    def render(self, request: GenerationRequest) -> tuple[str, list[int]]:
        """Raises UnsupportedError."""
        raise UnsupportedError(f'"{request.model}" does not support chat')

    def detokenize(self, tokens: Sequence[int]) -> list[bytes]:
        """Raises UnsupportedError: an embedding model's tokens say nothing of the blanks between them."""
        raise UnsupportedError("the tokens of an embedding model cannot be turned into text")

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of any text."""
        return self._embedder.tokenize(text, add_special=add_special, parse_special=parse_special)


@dataclass(slots=True)
class _Job:
    """A request that is being computed: `waiting` are the places and tokens of the inputs without a vector."""

    id: int
    request: EmbedRequest
    waiting: list[tuple[int, Input]]
    vectors: Vector
    prompt_tokens: int
    truncated_inputs: int


class EmbeddingWorker:
    """One embedder and its jobs; `send` writes a message to the daemon."""

    def __init__(
        self,
        embedder: Embedder,
        inbox: Inbox,
        send: Callable[[protocol.FromRunner], None],
        resident_bytes: Callable[[], int],
    ) -> None:
        self._resident_bytes = resident_bytes
        self._embedder = embedder
        self._inbox = inbox
        self._send = send
        self._jobs: dict[int, _Job] = {}  # oldest first
        self._steps = 0
        self._prompt_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether there is something to compute."""
        return bool(self._jobs)

    def run(self) -> None:
        """Serve until the process ends."""
        while True:
            self.step()

    def step(self) -> None:
        """Take what arrived, waiting for it when there is nothing to compute, and compute one batch."""
        self._take_inbox(block=not self.has_work)
        if self.has_work:
            self._compute()

    def _take_inbox(self, *, block: bool) -> None:
        while True:
            try:
                message = self._inbox.get(block=block)
            except queue.Empty:
                return
            block = False
            match message:
                case protocol.Embed():
                    self._start(message)
                case protocol.Cancel():
                    self._jobs.pop(message.id, None)
                case protocol.AskStats():
                    self._send(self._stats(message.id))
                case Rejection():
                    self._send(protocol.Step(((message.id, message.error),)))

    def _start(self, message: protocol.Embed) -> None:
        try:
            job = self._job(message.id, message.request)
        except LocalllmError as error:
            self._send(protocol.Rejected(message.id, failed_from(error)))
            return
        self._jobs[job.id] = job
        self._finish_if_done(job)

    def _job(self, job_id: int, request: EmbedRequest) -> _Job:
        facts = self._embedder.facts
        if facts.is_reranker and request.query is None:
            raise UnsupportedError(f'"{request.model}" ranks documents and does not support embedding')
        if request.query is not None and not facts.is_reranker:
            raise UnsupportedError(f'"{request.model}" does not rank documents', hint="use a reranker")
        if request.dimensions is not None and request.dimensions > facts.dimensions:
            raise BadRequestError(f"dimensions is {request.dimensions}, but the model has {facts.dimensions}")
        inputs = [self._input(one, request) for one in request.inputs]
        return _Job(
            job_id,
            request,
            waiting=[(place, one.tokens) for place, one in enumerate(inputs)],
            vectors=no_vectors(len(inputs), facts.dimensions),
            prompt_tokens=sum(len(one.tokens) for one in inputs),
            truncated_inputs=sum(one.is_truncated for one in inputs),
        )

    def _input(self, one: str | tuple[int, ...], request: EmbedRequest) -> Tokenized:
        if isinstance(one, str) and request.query is not None:
            pair = (request.query, one)
            return tokenize_pair_input(self._embedder, *pair, request.num_ctx, truncates=request.truncates)
        if isinstance(one, str):
            return tokenize_input(self._embedder, one, request.num_ctx, truncates=request.truncates)
        return check_input(self._embedder, one, request.num_ctx, truncates=request.truncates)

    def _compute(self) -> None:
        facts = self._embedder.facts
        candidates = self._in_turn(_LOOKED_AT * facts.sequences)
        lengths = [len(tokens) for _, _, tokens in candidates]
        chosen = [candidates[index] for index in next_batch(lengths, facts.batch_rows, facts.sequences)]
        try:
            vectors = self._embedder.embed_batch([tokens for _, _, tokens in chosen])
        except EngineError as error:
            for job in {job.id: job for job, _, _ in chosen}.values():
                self._reject(job, Failed("engine_error", 500, str(error)))
            return
        self._steps += 1
        self._prompt_tokens += sum(lengths)
        for (job, place, _), vector in zip(chosen, vectors, strict=True):
            job.vectors[place] = vector
        for job in {job.id: job for job, _, _ in chosen}.values():
            done = {place for one, place, _ in chosen if one is job}
            job.waiting = [entry for entry in job.waiting if entry[0] not in done]
            self._finish_if_done(job)

    def _in_turn(self, most: int) -> list[tuple[_Job, int, Input]]:
        """The next inputs: the first of each job, oldest job first, then the second of each."""
        jobs = list(self._jobs.values())
        rounds = range(max(len(job.waiting) for job in jobs))
        turns = ((job, *job.waiting[turn]) for turn in rounds for job in jobs if turn < len(job.waiting))
        return [entry for entry, _ in zip(turns, range(most), strict=False)]

    def _finish_if_done(self, job: _Job) -> None:
        if job.waiting:
            return
        try:
            vectors = finished(job.vectors, job.request.dimensions, normalises=job.request.normalises)
        except LocalllmError as error:
            self._reject(job, failed_from(error))
            return
        del self._jobs[job.id]
        answer = Embeddings(float64_rows(vectors), job.prompt_tokens, job.truncated_inputs)
        self._send(protocol.Embedded(job.id, answer))

    def _reject(self, job: _Job, error: Failed) -> None:
        del self._jobs[job.id]
        self._send(protocol.Rejected(job.id, error))

    def _stats(self, question_id: int) -> protocol.Stats:
        return protocol.Stats(
            id=question_id,
            running=len(self._jobs),
            waiting=0,
            used_cells=0,
            pool_tokens=self._embedder.facts.input_tokens,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=0,
            resident_bytes=self._resident_bytes(),
        )
