"""Says what the engine did: outputs to events, events to frames; in a thread of its own, while the engine goes on.

llama.cpp lets go of the interpreter while it decodes; the text work of one step (parsing tool calls and thinking,
encoding, writing to the pipe) is done in that time. Order is kept: one queue, one thread. A daemon that does not read
slows the engine down after PENDING_STEPS steps, instead of filling the memory.

Where the CPU computes, all its cores are busy then: a thread that wakes takes one of them from the engine, and the
others wait for it. What is to be told to one request alone is said at once instead: measured on two cores, an answer
alone is 3 to 5 % faster so, and eight together 5 % slower.
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
    """Sends one Step for each list it is given. `send` writes a frame; `overlaps`: cores are free while it decodes."""

    def __init__(self, send: Callable[[protocol.FromRunner], None], *, overlaps: bool) -> None:
        self._send = send
        self._overlaps = overlaps
        self._steps: queue.Queue[list[Spoken]] = queue.Queue(PENDING_STEPS)

    @property
    def is_behind(self) -> bool:
        """Whether there is something that was to be said and is not yet. Only who calls `say` makes it so."""
        return self._steps.unfinished_tasks > 0

    def say(self, step: list[Spoken]) -> None:
        """Have one step's events sent, in the order of the calls."""
        if len(step) == 1 and not self._overlaps and not self.is_behind:
            self._speak(step)
        elif step:
            self._steps.put(step)

    def start(self) -> None:
        """In a thread of its own."""
        threading.Thread(target=self.run, name="speaker", daemon=True).start()

    def run(self) -> None:
        """For ever: the process ends with the reader. A fault here would leave every client waiting: it ends it too."""
        try:
            while True:
                self._speak(self._steps.get())
                self._steps.task_done()
        finally:
            logger.error("the thread that answers has failed")
            os._exit(1)

    def _speak(self, step: list[Spoken]) -> None:
        events = tuple((spoken.id, event) for spoken in step for event in spoken.events())
        if events:
            self._send(protocol.Step(events))
