"""A small real child program that speaks runner/protocol.py and behaves as its first argument says.

    python tests/process/stand_in_runner.py BEHAVIOUR --read-fd N --write-fd M

answers          streams the prompt back word by word and finishes; questions and `Embed` work
waits            streams one word, and embeds nothing, until it is cancelled or the pipe closes
holds_back       reports progress and then never finishes loading
crawls           loads for two seconds with progress every tenth of a second
hangs_in_render  enters the template and never comes back, for every request whose prompt is "hang"
segv, ill, kill, abort, exits   streams one word, then dies by that real signal (or exits with 3)
dies_loading     prints an error line with a path in it and dies by SIGABRT
exits_loading    exits with code 1 while loading
refuses_loading  answers LoadFailed
narrow           has memory for a pool of at most 30,000 cells, and says what was missing
full             never has the memory
silent           never says Hello
old              says Hello in another version
babbles          writes what is no frame after its Hello
deaf             ignores that its pipe closes, and SIGTERM
dies_at_once     prints an error line and exits with 7 before Hello

Counts of cancelled requests come back as `running` of Stats, so that tests see a Cancel arrive.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from localllm.embedding import Embeddings
from localllm.generation import ContentDelta, Failed, Finished, GenerationRequest, Usage
from localllm.runner import protocol

SIGNALS = {"segv": signal.SIGSEGV, "ill": signal.SIGILL, "kill": signal.SIGKILL, "abort": signal.SIGABRT}


class StandIn:
    def __init__(self, behaviour: str, read_fd: int, write_fd: int) -> None:
        self.behaviour = behaviour
        self.input = os.fdopen(read_fd, "rb")
        self.output = os.fdopen(write_fd, "wb", buffering=0)
        self.cancelled = 0

    def say(self, *messages: protocol.FromRunner) -> None:
        self.output.write(b"".join(protocol.encode(message) for message in messages))

    def say_aloud(self, line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def hear(self) -> protocol.ToRunner | None:
        header = self.input.read(4)
        return protocol.decode_to_runner(self.input.read(protocol.frame_length(header))) if len(header) == 4 else None

    def run(self) -> None:
        if self.behaviour == "silent":
            time.sleep(60)
        if self.behaviour == "dies_at_once":
            sys.stderr.write("ImportError: /opt/somewhere/libgomp.so cannot be found\n")
            sys.exit(7)
        self.say(protocol.Hello(protocol.PROTOCOL_VERSION + (self.behaviour == "old"), os.getpid()))
        if self.behaviour == "babbles":
            self.output.write(b"\xff\xff\xff\xffnot a frame")
        while (message := self.hear()) is not None:
            self.answer(message)
        if self.behaviour == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)

    def answer(self, message: protocol.ToRunner) -> None:
        match message:
            case protocol.Load():
                self.load(message)
            case protocol.Generate(id=request_id, request=request):
                self.generate(request_id, request)
            case protocol.Render(id=question, request=request):
                self.say(protocol.RenderStarted(question), protocol.RenderEnded(question))
                prompt = request.prompt or ""
                self.say(protocol.Rendered(question, prompt, tuple(prompt.encode())))
            case protocol.Detokenize(id=question, tokens=tokens):
                self.say(protocol.Detokenized(question, tuple(bytes([token]) for token in tokens)))
            case protocol.Embed(id=question, request=request) if self.behaviour != "waits":
                self.say(protocol.Embedded(question, Embeddings((b"vector",) * len(request.inputs), 7)))
            case protocol.Tokenize(id=question, text=""):
                self.say(protocol.Rejected(question, Failed("bad_request", 400, "nothing to tokenize")))
            case protocol.Tokenize(id=question, text=text):
                self.say(protocol.Tokenized(question, tuple(text.encode())))
            case protocol.AskStats(id=question):
                self.say(protocol.Stats(question, self.cancelled, 0, 0, 4096, 0, 0, 0, 0))
            case protocol.Cancel():
                self.cancelled += 1

    def load(self, load: protocol.Load) -> None:
        self.say_aloud(f"llama_model_loader: loading {load.model_path}")
        self.say(protocol.LoadProgress(0.5))
        if self.behaviour == "dies_loading":
            self.say_aloud("ggml.c: error loading model: \x1b[31mmissing tensor in /home/somebody/models/x.gguf\n")
            os.kill(os.getpid(), signal.SIGABRT)
        if self.behaviour == "exits_loading":
            sys.exit(1)
        if self.behaviour == "refuses_loading":
            self.say(protocol.LoadFailed(Failed("bad_model_file", 400, "the file is not a GGUF")))
            sys.exit(0)
        if self.behaviour == "full" or (self.behaviour == "narrow" and load.shape.cells > 30_000):
            failed = Failed("load_failed", 500, "the model could not be loaded: unable to allocate CUDA0 buffer")
            self.say(protocol.LoadFailed(failed, protocol.Shortfall("CUDA0", 4 * 2**30, 2**30)))
            sys.exit(1)
        if self.behaviour == "holds_back":
            time.sleep(60)
        if self.behaviour == "crawls":
            for step in range(20):
                self.say(protocol.LoadProgress(step / 20))
                time.sleep(0.1)
        self.say(protocol.Loaded(2048, 4096, load.parallel, 1000, 500, 0, 2, 0, 0.01))

    def generate(self, request_id: int, request: GenerationRequest) -> None:
        self.say(protocol.RenderStarted(request_id))
        if self.behaviour == "hangs_in_render" and request.prompt == "hang":
            time.sleep(60)
        self.say(protocol.RenderEnded(request_id))
        words = (request.prompt or "").split()
        if self.behaviour == "waits" or (self.behaviour == "hangs_in_render"):
            words = words[:1]
        for word in words:
            self.say(protocol.Step(((request_id, ContentDelta(word)),)))
            if self.behaviour in SIGNALS:
                os.kill(os.getpid(), SIGNALS[self.behaviour])
            if self.behaviour == "exits":
                sys.exit(3)
        if self.behaviour not in ("waits", "hangs_in_render"):
            self.say(protocol.Step(((request_id, Finished("stop", Usage(len(words), 0, len(words)))),)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour")
    parser.add_argument("--read-fd", type=int)
    parser.add_argument("--write-fd", type=int)
    chosen = parser.parse_args()
    StandIn(chosen.behaviour, chosen.read_fd, chosen.write_fd).run()


def stand_in_command(behaviour: str) -> tuple[str, ...]:
    """The command line of a stand-in that behaves like this."""
    return (sys.executable, str(Path(__file__)), behaviour)


if __name__ == "__main__":
    main()
