"""A runner that computes nothing: it speaks runner/protocol and tells tokens at a pace, as an engine in its steps does.

    python paced_runner.py TOKENS_PER_SECOND --read-fd N --write-fd M

Every request gets as many tokens as its num_predict says, all running requests one each per step; a step is one frame.
Steps whose time has come go out at once, so that a machine that is late catches up as an engine would not: the pace
is an average. A pace of 0 is as fast as it can.
"""

from __future__ import annotations

import argparse
import os
import select
import time

from localllm.generation import ContentDelta, Finished, PromptProgress, Timings, Usage
from localllm.runner import protocol

PROMPT_TOKENS = 10
WORD = " word"


class PacedRunner:
    """One child. `remaining` are the tokens that each running request has still to get."""

    def __init__(self, tokens_per_second: float, read_fd: int, write_fd: int) -> None:
        self._seconds_per_token = 1 / tokens_per_second if tokens_per_second else 0.0
        self._input = read_fd
        self._output = write_fd
        self._buffer = b""
        self._remaining: dict[int, int] = {}
        self._totals: dict[int, int] = {}
        self._due = 0.0

    def run(self) -> None:
        """Until the pipe closes."""
        self._say(protocol.Hello(protocol.PROTOCOL_VERSION, os.getpid()))
        while self._hear():
            if self._remaining:
                self._step()

    def _hear(self) -> bool:
        """Take what has come; wait for it only when nothing runs. False once the pipe is closed."""
        wait = max(0.0, self._due - time.perf_counter()) if self._remaining else None
        # The last microseconds are waited for in a loop: no sleep is that exact.
        ready, _, _ = select.select([self._input], [], [], None if wait is None else max(0.0, wait - 0.0001))
        if not ready:
            while time.perf_counter() < self._due:
                pass
            return True
        data = os.read(self._input, 65536)
        self._buffer += data
        while len(self._buffer) >= 4 and len(self._buffer) >= (end := 4 + protocol.frame_length(self._buffer[:4])):
            self._take(protocol.decode_to_runner(self._buffer[4:end]))
            self._buffer = self._buffer[end:]
        return bool(data)

    def _take(self, message: protocol.ToRunner) -> None:
        match message:
            case protocol.Load(parallel=parallel):
                self._say(protocol.Loaded(2**20, 2**20, parallel, 1000, 500, 0, 2, 0, 0.0))
            case protocol.Generate(id=number, request=request):
                if not self._remaining:
                    self._due = time.perf_counter()
                self._totals[number] = self._remaining[number] = request.options.num_predict or 1
                progress = PromptProgress(PROMPT_TOKENS, PROMPT_TOKENS)
                self._say(protocol.RenderStarted(number), protocol.RenderEnded(number))
                self._say(protocol.Step(((number, progress),)))
            case protocol.Cancel(id=number):
                self._remaining.pop(number, None)
            case protocol.AskStats(id=number):
                self._say(protocol.Stats(number, 0, 0, 0, 2**20, 0, 0, 0, 0))

    def _step(self) -> None:
        events: list[tuple[int, object]] = []
        for number in tuple(self._remaining):
            events.append((number, ContentDelta(WORD)))
            self._remaining[number] -= 1
            if not self._remaining[number]:
                del self._remaining[number]
                total = self._totals.pop(number)
                timings = Timings(prefill_seconds=0.001, decode_seconds=total * self._seconds_per_token)
                events.append((number, Finished("length", Usage(PROMPT_TOKENS, 0, total), timings)))
        self._due += self._seconds_per_token * max(1, len(events))
        self._say(protocol.Step(tuple(events)))  # type: ignore[arg-type]

    def _say(self, *messages: protocol.FromRunner) -> None:
        data = memoryview(b"".join(map(protocol.encode, messages)))
        while data:
            data = data[os.write(self._output, data) :]


def main() -> None:
    """One runner."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tokens_per_second", type=float)
    parser.add_argument("--read-fd", type=int)
    parser.add_argument("--write-fd", type=int)
    chosen = parser.parse_args()
    PacedRunner(chosen.tokens_per_second, chosen.read_fd, chosen.write_fd).run()


if __name__ == "__main__":
    main()
