"""The child's pipe, and the thread that turns what comes through it into prompts.

The model's template is a stranger's program: the daemon is told when it begins and ends, and kills a process in which
it takes too long. What takes long without being the template's fault comes before.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from localllm.errors import BadRequestError, LocalllmError
from localllm.failures import failed_from
from localllm.generation import GenerationRequest
from localllm.runner import protocol
from localllm.runner.conversation import Prepared, Rejection
from localllm.runner.embedding import Inbox

Work = protocol.Generate | protocol.Tokenize | protocol.Detokenize | protocol.Render


class Texts(Protocol):
    """What a preparer does its work with."""

    def prepare(self, request_id: int, request: GenerationRequest) -> Prepared: ...
    def render(self, request: GenerationRequest) -> tuple[str, list[int]]: ...
    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, tokens: Sequence[int]) -> list[bytes]: ...


class Pipe:
    """Both ends of the child's pipe pair; writing is safe from any thread."""

    def __init__(self, read_descriptor: int, write_descriptor: int) -> None:
        self._input = os.fdopen(read_descriptor, "rb")
        self._output = write_descriptor
        self._lock = threading.Lock()

    def receive(self) -> protocol.ToRunner | None:
        """The next message, or None when the daemon closed its end. Raises FrameError."""
        header = self._input.read(4)
        if len(header) < 4:
            return None
        return protocol.decode_to_runner(self._input.read(protocol.frame_length(header)))

    def send(self, message: protocol.FromRunner) -> None:
        """Write one frame; a daemon that is gone ends this process."""
        data = memoryview(protocol.encode(message))
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._output, data) :]
            except BrokenPipeError:
                os._exit(0)


class Preparer:
    """Renders and tokenizes, one request after the other. `make_ready` comes before one whose answer may be held."""

    def __init__(
        self,
        pipe: Pipe,
        conversations: Texts,
        inbox: Inbox,
        work: queue.SimpleQueue[Work],
        make_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_ready = make_ready
        self._work = work
        self._pipe = pipe
        self._conversations = conversations
        self._inbox = inbox

    def start(self) -> None:
        """In a thread of its own."""
        threading.Thread(target=self.run, name="preparer", daemon=True).start()

    def run(self) -> None:
        """For ever: the process ends with the reader."""
        while True:
            message = self._work.get()
            if isinstance(message, protocol.Generate) and (message.request.tools or message.request.response_format):
                self._make_ready()
            self._pipe.send(protocol.RenderStarted(message.id))
            try:
                self._handle(message)
            except LocalllmError as error:
                self._refuse(message, error)
            except (RecursionError, MemoryError, ValueError, TypeError, ArithmeticError, LookupError) as error:
                # Templates are programs of strangers: what they raise beyond their own errors is theirs too.
                self._refuse(message, BadRequestError(f"the model's chat template failed: {error}"))
            finally:
                self._pipe.send(protocol.RenderEnded(message.id))

    def _handle(self, message: Work) -> None:
        match message:
            case protocol.Generate():
                self._inbox.put(self._conversations.prepare(message.id, message.request))
            case protocol.Tokenize():
                tokens = self._conversations.tokenize(message.text, message.add_special, message.parse_special)
                self._pipe.send(protocol.Tokenized(message.id, tuple(tokens)))
            case protocol.Render():
                prompt, tokens = self._conversations.render(message.request)
                self._pipe.send(protocol.Rendered(message.id, prompt, tuple(tokens)))
            case protocol.Detokenize():
                pieces = self._conversations.detokenize(message.tokens)
                self._pipe.send(protocol.Detokenized(message.id, tuple(pieces)))

    def _refuse(self, message: Work, error: LocalllmError) -> None:
        failed = failed_from(error)
        if isinstance(message, protocol.Generate):
            self._inbox.put(Rejection(message.id, failed))
        else:
            self._pipe.send(protocol.Rejected(message.id, failed))
