"""A loaded model as the daemon sees it: requests in, events out, and a clear end for each of them whatever happens.

Routes the frames of one runner to those who wait for them and watches over the model's own code. It neither starts nor
reaps the process (runner/process) nor decides when a model is loaded (scheduler/).

    new ──load()──▶ loading ──Loaded──▶ ready ──stop()──────────────▶ doomed ──reaped──▶ gone
                       │                  │ crash, overdue template     ▲
                       └── failed, silent ┴─────────────────────────────┘

Doomed: every stream has got its Failed and every question its error, and no new one is taken; the process may still be
there for a moment. Gone: it is reaped, and its memory is free.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import (
    BadRequestError,
    LoadError,
    LocalllmError,
    OutOfMemoryError,
    RunnerCrashedError,
    RunnerTimeoutError,
)
from localllm.failures import error_from, failed_from
from localllm.generation import Event, Failed, Finished, GenerationRequest
from localllm.runner import protocol
from localllm.runner.death import Death, died_while

# Tokenize, Detokenize, Render and AskStats are answered between two engine steps.
QUESTION_TIMEOUT_SECONDS = 30.0

Question = protocol.Tokenize | protocol.Detokenize | protocol.Render | protocol.AskStats | protocol.Embed
Reply = protocol.Tokenized | protocol.Detokenized | protocol.Rendered | protocol.Stats | protocol.Embedded
Answer = TypeVar(
    "Answer", protocol.Tokenized, protocol.Detokenized, protocol.Rendered, protocol.Stats, protocol.Embedded
)


class RunnerConnection(Protocol):
    """What a handle needs of a process; runner/process has the real one."""

    last_activity: float

    def listen(self, on_message: Callable[[protocol.FromRunner], None], on_death: Callable[[Death], None]) -> None: ...
    def send(self, message: protocol.ToRunner) -> None: ...
    async def drain(self) -> None: ...
    def kill(self) -> None: ...
    async def stop(self) -> Death: ...
    async def dead(self) -> Death: ...


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: without any sign of life from a load, and inside the model's own chat template."""

    load_silence_seconds: float
    render_seconds: float


class RunnerHandle:
    """One runner. All methods belong to the daemon's event loop."""

    def __init__(self, process: RunnerConnection, deadlines: Deadlines) -> None:
        self._process = process
        self._deadlines = deadlines
        self._ids = itertools.count(1)
        self._streams: dict[int, asyncio.Queue[Event]] = {}
        self._questions: dict[int, asyncio.Future[Reply]] = {}
        self._render_timers: dict[int, asyncio.TimerHandle] = {}
        self._loading: asyncio.Future[protocol.Loaded] = asyncio.get_running_loop().create_future()
        self._on_progress: Callable[[float], None] = lambda fraction: None
        self._doom: LocalllmError | None = None
        self._is_gone = False
        self._on_doomed: Callable[[], None] = lambda: None
        self._on_gone: Callable[[], None] = lambda: None
        process.listen(self._on_message, self._on_death)

    @property
    def is_doomed(self) -> bool:
        return self._doom is not None

    def watch(self, on_doomed: Callable[[], None], on_gone: Callable[[], None]) -> None:
        """Call `on_doomed` once when no new request is taken any more, `on_gone` once when the process is reaped."""
        self._on_doomed, self._on_gone = on_doomed, on_gone
        if self._doom is not None:
            on_doomed()
        if self._is_gone:
            on_gone()

    async def load(self, load: protocol.Load, on_progress: Callable[[float], None]) -> protocol.Loaded:
        """Load the model; `on_progress` hears the share of the weights that is loaded, 0 to 1.

        Raises the runner's own error, or LoadError when the process dies or gives no sign of life for too long. The
        process is left to the caller.
        """
        self._on_progress = on_progress
        self._process.send(load)
        while not self._loading.done():
            silence = asyncio.get_running_loop().time() - self._process.last_activity
            left = self._deadlines.load_silence_seconds - silence
            if left <= 0:
                raise LoadError(
                    f"the model made no progress loading for {self._deadlines.load_silence_seconds:g} s",
                    hint="LOCALLLM_LOAD_TIMEOUT sets how long a load may go without progress",
                )
            await asyncio.wait((self._loading,), timeout=None if math.isinf(left) else left)
        return self._loading.result()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """The events of a request; the last one is Finished or Failed. Closing the generator cancels the request."""
        if self._doom is not None:
            yield failed_from(self._doom)
            return
        request_id = next(self._ids)
        events = self._streams[request_id] = asyncio.Queue()
        try:
            try:
                self._process.send(protocol.Generate(request_id, request))
            except protocol.FrameError:
                del self._streams[request_id]
                yield failed_from(BadRequestError("the request is too large for the model's process"))
                return
            await self._process.drain()
            is_over = False
            while not is_over:
                event = await events.get()
                is_over = isinstance(event, (Finished, Failed))
                yield event
        finally:
            if self._streams.pop(request_id, None) is not None:
                self._process.send(protocol.Cancel(request_id))

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The vectors of a request's inputs; takes as long as it takes. Being cancelled cancels it in the runner, too.

        Raises InputTooLongError's kind of BadRequestError, UnsupportedError or RunnerError.
        """
        question = protocol.Embed(next(self._ids), request)
        try:
            return (await self._ask(question, protocol.Embedded, timeout_seconds=None)).embeddings
        except protocol.FrameError:
            raise BadRequestError("the request is too large for the model's process") from None
        except asyncio.CancelledError:
            if self._doom is None:
                self._process.send(protocol.Cancel(question.id))
            raise

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> tuple[int, ...]:
        """Token ids of `text`. Raises RunnerError."""
        question = protocol.Tokenize(next(self._ids), text, add_special, parse_special)
        return (await self._ask(question, protocol.Tokenized)).tokens

    async def detokenize(self, tokens: tuple[int, ...]) -> tuple[bytes, ...]:
        """The bytes of each token. Raises BadRequestError for one that the vocabulary does not have, or RunnerError."""
        question = protocol.Detokenize(next(self._ids), tokens)
        return (await self._ask(question, protocol.Detokenized)).pieces

    async def prompt_tokens(self, request: GenerationRequest) -> tuple[int, ...]:
        """The tokens that a request's prompt becomes. Raises TemplateError or RunnerError."""
        return (await self._ask(protocol.Render(next(self._ids), request), protocol.Rendered)).tokens

    async def prompt(self, request: GenerationRequest) -> tuple[str, tuple[int, ...]]:
        """The prompt that a request becomes, as text and as tokens. Raises TemplateError or RunnerError."""
        rendered = await self._ask(protocol.Render(next(self._ids), request), protocol.Rendered)
        return rendered.prompt, rendered.tokens

    async def stats(self) -> protocol.Stats:
        """What the engine holds now. Raises RunnerError."""
        return await self._ask(protocol.AskStats(next(self._ids)), protocol.Stats)

    async def stop(self, reason: LocalllmError | None = None) -> None:
        """End the process in good order; requests that still run fail with `reason`. Returns when it is reaped."""
        self._end_all(reason or RunnerCrashedError("the model was unloaded while the request ran"))
        await self._process.stop()

    async def discard(self) -> None:
        """End the process at once: its load failed or is not wanted any more. Returns when it is reaped."""
        self._end_all(LoadError("the model's load was given up"))
        self._process.kill()
        await self._process.dead()

    async def _ask(
        self, question: Question, kind: type[Answer], timeout_seconds: float | None = QUESTION_TIMEOUT_SECONDS
    ) -> Answer:
        if self._doom is not None:
            raise self._doom
        future = self._questions[question.id] = asyncio.get_running_loop().create_future()
        try:
            self._process.send(question)
            async with asyncio.timeout(timeout_seconds):
                answer = await future
        except TimeoutError:
            raise RunnerTimeoutError(f"the model's process gave no answer in {timeout_seconds:g} s") from None
        finally:
            del self._questions[question.id]
        if not isinstance(answer, kind):
            raise RunnerCrashedError("the model's process answered another question than it was asked")
        return answer

    def _on_message(self, message: protocol.FromRunner) -> None:
        match message:
            case protocol.Step(events=events):
                for request_id, event in events:
                    self._route(request_id, event)
            case protocol.RenderStarted(id=render_id):
                self._start_render_timer(render_id)
            case protocol.RenderEnded(id=render_id):
                self._stop_render_timer(render_id)
            case (
                protocol.Tokenized()
                | protocol.Detokenized()
                | protocol.Rendered()
                | protocol.Stats()
                | protocol.Embedded()
            ):
                question = self._questions.get(message.id)
                if question is not None and not question.done():
                    question.set_result(message)
            case protocol.Rejected(id=question_id, error=error):
                self._reject(question_id, error_from(error))
            case _:
                self._on_load_message(message)

    def _on_load_message(
        self, message: protocol.LoadProgress | protocol.Loaded | protocol.LoadFailed | protocol.Hello
    ) -> None:
        if self._loading.done() or isinstance(message, protocol.Hello):
            self._process.kill()  # said twice: this is no runner of ours
        elif isinstance(message, protocol.LoadProgress):
            self._on_progress(message.fraction)
        elif isinstance(message, protocol.Loaded):
            self._loading.set_result(message)
        else:
            self._fail_loading(_load_error(message))

    def _route(self, request_id: int, event: Event) -> None:
        stream = self._streams.get(request_id)
        if stream is None:  # cancelled while this step ran
            return
        stream.put_nowait(event)
        if isinstance(event, (Finished, Failed)):
            del self._streams[request_id]

    def _start_render_timer(self, render_id: int) -> None:
        seconds = self._deadlines.render_seconds
        if self._doom is None and render_id not in self._render_timers and math.isfinite(seconds):
            loop = asyncio.get_running_loop()
            self._render_timers[render_id] = loop.call_later(seconds, self._render_overdue, render_id)

    def _stop_render_timer(self, render_id: int) -> None:
        timer = self._render_timers.pop(render_id, None)
        if timer is not None:
            timer.cancel()

    def _render_overdue(self, render_id: int) -> None:
        error = RunnerTimeoutError(
            f"the model's chat template did not finish within {self._deadlines.render_seconds:g} s,"
            " so the model's process was ended",
            hint="the template may be faulty; LOCALLLM_RENDER_TIMEOUT sets how long it may take",
        )
        self._route(render_id, failed_from(error))
        self._reject(render_id, error)
        self._end_all(
            RunnerCrashedError(
                "the model's process was replaced because the chat template of another request did not finish",
                hint="send the request again",
            )
        )
        self._process.kill()

    def _on_death(self, death: Death) -> None:
        if not self._loading.done():
            self._fail_loading(LoadError(died_while("loading", death)))
        self._end_all(
            RunnerCrashedError(f"the model's process died ({death.cause})", hint="the next request starts a new one")
        )
        self._is_gone = True
        self._on_gone()

    def _end_all(self, reason: LocalllmError) -> None:
        """Doom the runner, once: every stream and question ends with `reason`."""
        if self._doom is not None:
            return
        self._doom = reason
        for request_id in tuple(self._streams):
            self._route(request_id, failed_from(reason))
        for question_id in tuple(self._questions):
            self._reject(question_id, reason)
        for render_id in tuple(self._render_timers):
            self._stop_render_timer(render_id)
        self._on_doomed()

    def _reject(self, question_id: int, error: LocalllmError) -> None:
        question = self._questions.get(question_id)
        if question is not None and not question.done():
            question.set_exception(error)

    def _fail_loading(self, error: LocalllmError) -> None:
        self._loading.set_exception(error)
        self._loading.exception()  # retrieved here: nobody may be waiting any more


def _load_error(message: protocol.LoadFailed) -> LocalllmError:
    if (short := message.shortfall) is None:
        return error_from(message.error)
    return OutOfMemoryError(message.error.message, short.device, short.wanted_bytes, short.free_bytes)
