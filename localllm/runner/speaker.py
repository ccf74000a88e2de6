"""Says what the engine did while the engine goes on: outputs to events, events to frames, in a thread of its own.

llama.cpp lets go of the interpreter while it decodes; the text work of one step (parsing tool calls and thinking,
encoding, writing to the pipe) is done in that time. Order is kept: one queue, one thread. A daemon that does not read
slows the engine down after PENDING_STEPS steps, instead of filling the memory.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from localllm.engine.sequence import SequenceOutput
from localllm.generation import Event, Failed
from localllm.runner import protocol
from localllm.runner.answer import Stream

logger = logging.getLogger(__name__)
PENDING_STEPS = 64


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one request is to be told: an output of the engine, or an event that is ready."""

    id: int
    stream: Stream | None = None
    output: SequenceOutput | None = None
    event: Event | None = None

    def events(self) -> list[Event]:
        """The events of it."""
        if self.event is not None:
            return [self.event]
        if self.output is None or self.stream is None:
            return []
        if self.output.error is not None:
            return [Failed("engine_error", 500, self.output.error)]
        return self.stream.events(self.output)


class Speaker:
    """Sends one Step for each list it is given. `send` writes a frame."""

    def __init__(self, send: Callable[[protocol.FromRunner], None]) -> None:
        self._send = send
        self._steps: queue.Queue[list[Spoken]] = queue.Queue(PENDING_STEPS)

    def say(self, step: list[Spoken]) -> None:
        """Have one step's events sent, in the order of the calls."""
        if step:
            self._steps.put(step)

    def start(self) -> None:
        """In a thread of its own."""
        threading.Thread(target=self.run, name="speaker", daemon=True).start()

    def run(self) -> None:
        """For ever: the process ends with the reader. A fault here would leave every client waiting: it ends it too."""
        try:
            while True:
                self._speak(self._steps.get())
        finally:
            logger.error("the thread that answers has failed")
            os._exit(1)

    def _speak(self, step: list[Spoken]) -> None:
        events = tuple((spoken.id, event) for spoken in step for event in spoken.events())
        if events:
            self._send(protocol.Step(events))
