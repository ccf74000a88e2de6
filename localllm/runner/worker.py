"""The child: ties chat and engine together behind the pipe.

    python -m localllm.runner.worker --read-fd N --write-fd M

Four threads, each with one job. The reader takes frames off the pipe and ends the process when the pipe closes,
whatever the others do. The preparer runs the model's template and tokenizer, which must not hold up a decode. The main
thread owns the engine: llama.cpp wants all its calls from one thread. The speaker says what came of each step.

    pipe ─▶ reader ─▶ preparer ─▶ inbox ─▶ main (engine steps) ─▶ speaker ─▶ pipe
                ├──────────────────▲ Cancel, AskStats
                └─ a decode that is mostly for a cancelled request is broken off ─▶ engine.interrupt
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from random import Random

from localllm.chat.tools import call_ids
from localllm.engine.backend import Backend, BackendFacts, ModelLoadError
from localllm.engine.draft_model import LEAST_PROBABILITY, DraftModel
from localllm.engine.engine import Engine
from localllm.engine.policy import EnginePolicy
from localllm.engine.sequence import SequenceOutput
from localllm.engine.speculation import MOST_DRAFTED
from localllm.errors import LocalllmError, UnsupportedError
from localllm.failures import failed_from
from localllm.generation import Failed
from localllm.logs import set_up_logging
from localllm.placement.cell_layout import LayoutChoice
from localllm.runner import protocol
from localllm.runner.answer import Stream
from localllm.runner.conversation import Conversations, Prepared, Rejection, Sources
from localllm.runner.embedding import EmbeddingTexts, EmbeddingWorker, Inbox, describe_embedder, open_embedder
from localllm.runner.preparer import Pipe, Preparer, Work
from localllm.runner.speaker import Speaker, Spoken

try:
    import resource
except ImportError:  # Windows does not tell: threads are not tuned there
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


class Worker:
    """The main thread: one engine, its requests, and what is said about them."""

    def __init__(
        self, pipe: Pipe, engine: Engine, facts: BackendFacts, inbox: Inbox, preparing: dict[int, float]
    ) -> None:
        self._pipe = pipe
        self._engine = engine
        self._pool_tokens = facts.pool_tokens
        self._inbox = inbox
        self._streams: dict[int, Stream] = {}
        self._preparing = preparing  # between reader and engine: when each came
        self._cancelled: set[int] = set()  # those of them whose client left
        self._speaker = Speaker(pipe.send, overlaps=2 * facts.gpu_layers > facts.layers)

    def run(self) -> None:
        """Serve until the process ends."""
        self._speaker.start()
        while True:
            self._speaker.say(self._take_inbox(block=not self._engine.has_work))
            self._speaker.say([self._spoken(output) for output in self._engine.step()])

    def _take_inbox(self, *, block: bool) -> list[Spoken]:
        """Handle everything that arrived; wait for something first when there is nothing to compute."""
        spoken: list[Spoken] = []
        while True:
            try:
                message = self._inbox.get(block=block)
            except queue.Empty:
                return spoken
            block = False
            match message:
                case Prepared():
                    spoken += self._start(message)
                case Rejection():
                    if not self._forget_cancelled(message.id):
                        spoken.append(Spoken(message.id, event=message.error))
                case protocol.Cancel():
                    self._cancel(message.id)
                case protocol.AskStats():
                    self._pipe.send(self._stats(message.id))
                case protocol.Embed():
                    error = UnsupportedError(f'"{message.request.model}" does not support embedding')
                    self._pipe.send(protocol.Rejected(message.id, failed_from(error)))

    def _start(self, prepared: Prepared) -> list[Spoken]:
        request_id = prepared.sequence.id
        # Not when it is taken: it may have come while a step ran, and waited for that.
        came_at = self._preparing.get(request_id)
        if self._forget_cancelled(request_id):
            return []
        try:
            self._engine.add(prepared.sequence, came_at)
        except LocalllmError as error:
            return [Spoken(request_id, event=failed_from(error))]
        self._streams[request_id] = stream = Stream(prepared)
        return [Spoken(request_id, event=stream.started())]

    def _cancel(self, request_id: int) -> None:
        if self._streams.pop(request_id, None) is not None:
            self._engine.cancel(request_id)
        elif request_id in self._preparing:
            self._cancelled.add(request_id)

    def _forget_cancelled(self, request_id: int) -> bool:
        self._preparing.pop(request_id, None)
        was_cancelled = request_id in self._cancelled
        self._cancelled.discard(request_id)
        return was_cancelled

    def _spoken(self, output: SequenceOutput) -> Spoken:
        stream = self._streams[output.id]
        if output.finish is not None or output.error is not None:
            del self._streams[output.id]
        return Spoken(output.id, stream, output)

    def _stats(self, question_id: int) -> protocol.Stats:
        stats = self._engine.stats()
        return protocol.Stats(
            id=question_id,
            running=stats.running,
            waiting=stats.waiting,
            used_cells=stats.used_cells,
            pool_tokens=self._pool_tokens,
            steps=stats.steps,
            prompt_tokens=stats.prompt_tokens,
            completion_tokens=stats.completion_tokens,
            resident_bytes=_resident_bytes(),
            cached_tokens=stats.cached_tokens,
            idle_prefixes=stats.idle_prefixes,
            preemptions=stats.preemptions,
            drafted_tokens=stats.drafted_tokens,
            accepted_tokens=stats.accepted_tokens,
        )


class Reader:
    """Takes frames off the pipe, for ever; the end of the pipe is the end of the process."""

    def __init__(
        self, pipe: Pipe, loads: queue.SimpleQueue[protocol.Load], inbox: Inbox, preparing: dict[int, float]
    ) -> None:
        self._pipe = pipe
        self._loads = loads
        self._inbox = inbox
        self.preparing = preparing
        self.interrupt: Callable[[int], None] = lambda request_id: None
        self.work: queue.SimpleQueue[Work] = queue.SimpleQueue()

    def start(self) -> None:
        """In a thread of its own."""
        threading.Thread(target=self.run, name="reader", daemon=True).start()

    def run(self) -> None:
        """Until the daemon closes its end or sends what is no frame."""
        try:
            while (message := self._pipe.receive()) is not None:
                self._route(message)
        except protocol.FrameError as error:
            logger.error("the daemon sent what cannot be read: %s", error)
            os._exit(1)
        os._exit(0)

    def _route(self, message: protocol.ToRunner) -> None:
        match message:
            case protocol.Load():
                self._loads.put(message)
            case protocol.Generate():
                self.preparing[message.id] = time.monotonic()
                self.work.put(message)
            case protocol.Tokenize() | protocol.Detokenize() | protocol.Render():
                self.work.put(message)
            case protocol.Cancel():
                self._inbox.put(message)
                self.interrupt(message.id)
            case protocol.Embed() | protocol.AskStats():
                self._inbox.put(message)


def open_backend(load: protocol.Load, on_progress: Callable[[float], None]) -> Backend:
    """The backend that `load` names. Raises ModelLoadError."""
    # Imported here: the fake needs no llama.cpp, and loading its libraries takes a tenth of a second.
    if load.backend == "fake":
        from localllm.engine.fake import FakeBackend

        return FakeBackend(load.shape.cells or 4096, load.parallel, load.shape.batch_tokens)
    from localllm.engine.llama import LlamaBackend, LlamaConfig

    config = LlamaConfig(
        model_path=Path(load.model_path),
        max_sequences=load.parallel,
        batch_tokens=load.shape.batch_tokens,
        threads=load.threads,
        pool_tokens=load.shape.cells,
        pool_bytes_limit=load.pool_bytes_limit,
        layout=load.kv_layout,
        weights=load.layout,
        cells=load.cells,
        k_type=load.shape.k_type,
        v_type=load.shape.v_type,
        flash_attention=load.shape.flash_attention,
        adapters=tuple(map(Path, load.adapters)),
    )
    return LlamaBackend(config, on_progress)


def open_draft_model(load: protocol.LoadDraft, facts: BackendFacts, backend: str) -> tuple[DraftModel, BackendFacts]:
    """The model that guesses for the one with `facts`, and its own. Raises ModelLoadError."""
    cells = LayoutChoice("unified", 1, load.shape.keeps_whole_window, "one sequence")
    alone = protocol.Load(load.model_path, load.layout, load.shape, 1, load.threads, cells=cells, backend=backend)
    try:
        opened = open_backend(alone, lambda fraction: None)
    except ModelLoadError as error:
        raise ModelLoadError(f"its draft model: {error}", error.refused, error.hint) from error
    least = LEAST_PROBABILITY if load.least_probability is None else load.least_probability
    most = MOST_DRAFTED if load.tokens_most is None else load.tokens_most
    return DraftModel(opened, facts.vocabulary_size, time.monotonic, least, most), opened.facts


def describe(facts: BackendFacts, draft: BackendFacts | None, load_seconds: float) -> protocol.Loaded:
    """What the daemon is told about a model that is ready, and its draft model."""
    both = (facts,) if draft is None else (facts, draft)
    return protocol.Loaded(
        trained_context_tokens=facts.trained_context_tokens,
        pool_tokens=facts.pool_tokens,
        parallel=facts.parallel,
        weight_bytes=sum(one.weight_bytes for one in both),
        kv_bytes=sum(one.kv_bytes for one in both),
        gpu_bytes=sum(one.gpu_bytes for one in both),
        layers=facts.layers,
        gpu_layers=facts.gpu_layers,
        load_seconds=load_seconds,
        kv_layout=facts.memory.layout,
        kv_layout_reason=facts.layout_reason,
        buffers=tuple(buffer for one in both for buffer in one.buffers),
        resident_bytes=_resident_bytes(),
    )


def serve(pipe: Pipe) -> int:
    """Say hello, load what is asked, and serve it; returns only when the load failed."""
    inbox: Inbox = queue.SimpleQueue()
    loads: queue.SimpleQueue[protocol.Load] = queue.SimpleQueue()
    preparing: dict[int, float] = {}
    reader = Reader(pipe, loads, inbox, preparing)
    pipe.send(protocol.Hello(protocol.PROTOCOL_VERSION, os.getpid()))
    reader.start()
    load = loads.get()
    try:
        if load.purpose == "embed":
            serve_embeddings(pipe, load, inbox, reader.work)
        else:
            serve_answers(pipe, load, inbox, reader)
    except ModelLoadError as error:
        failed = Failed("load_failed", 500, f"the model could not be loaded: {error}", error.hint)
        pipe.send(protocol.LoadFailed(failed, _shortfall(error)))
    return 1


def _shortfall(error: ModelLoadError) -> protocol.Shortfall | None:
    if error.refused is None:
        return None
    device, wanted_bytes = error.refused
    return protocol.Shortfall(device, wanted_bytes, _free_bytes(device))


def _free_bytes(device: str) -> int | None:
    """What a GPU has left; None for host memory, of which llama.cpp knows nothing."""
    if device == "CPU":
        return None
    # Imported here: without a failed load of a real model nobody asks.
    from localllm.engine.llama_backends import devices

    return next((known.free_bytes for known in devices() if known.name == device), None)


def serve_embeddings(pipe: Pipe, load: protocol.Load, inbox: Inbox, work: queue.SimpleQueue[Work]) -> None:
    """Load an embedding model and serve it for ever. Raises ModelLoadError."""
    started = time.monotonic()
    embedder = open_embedder(load, lambda fraction: pipe.send(protocol.LoadProgress(fraction)))
    Preparer(pipe, EmbeddingTexts(embedder), inbox, work).start()
    pipe.send(describe_embedder(embedder, load.parallel, time.monotonic() - started, _resident_bytes()))
    EmbeddingWorker(embedder, inbox, pipe.send, _resident_bytes).run()


def serve_answers(pipe: Pipe, load: protocol.Load, inbox: Inbox, reader: Reader) -> None:
    """Load a model that generates and serve it for ever. Raises ModelLoadError."""
    started = time.monotonic()
    backend = open_backend(load, lambda fraction: pipe.send(protocol.LoadProgress(fraction)))
    draft_model, draft_facts = open_draft_model(load.draft, backend.facts, load.backend) if load.draft else (None, None)
    sources = Sources(
        new_seed=lambda: int.from_bytes(os.urandom(4), "little"), new_call_id=call_ids(Random()), now=datetime.now
    )
    conversations = Conversations(backend, load.template, sources)
    Preparer(pipe, conversations, inbox, reader.work, backend.prepare_constraints).start()
    policy = EnginePolicy(stretch=load.stream_slowdown)
    engine = Engine(backend, time.monotonic, policy, _forced_off, draft_model)
    reader.interrupt = engine.interrupt
    gc.freeze()  # what is loaded stays: looking through it for garbage would hold up a token of every stream
    pipe.send(describe(backend.facts, draft_facts, time.monotonic() - started))
    Worker(pipe, engine, backend.facts, inbox, reader.preparing).run()


def _forced_off() -> int:
    """How often a thread of this process had to give up its core before it was done."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def _resident_bytes() -> int:
    """This process's resident memory; 0 where /proc does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except FileNotFoundError:  # not Linux
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str]) -> int:
    """The entry point of the child."""
    parser = argparse.ArgumentParser(prog="python -m localllm.runner.worker")
    parser.add_argument("--read-fd", type=int, required=True)
    parser.add_argument("--write-fd", type=int, required=True)
    chosen = parser.parse_args(arguments)
    set_up_logging("INFO")
    return serve(Pipe(chosen.read_fd, chosen.write_fd))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
