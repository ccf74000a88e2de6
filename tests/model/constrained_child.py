"""A child process that answers requests with a real model, eight at once: the runner's text side and the engine.

Standard input holds {"model": PATH, "template": text or null, "requests": [GenerationRequest, …]}, standard output a
line for each request, in order: {"thinking", "content", "calls": [[name, arguments], …], "reason", "error"}.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from datetime import datetime
from pathlib import Path

import msgspec

from localllm.engine.engine import Engine
from localllm.engine.llama import LlamaBackend, LlamaConfig
from localllm.errors import LocalllmError
from localllm.generation import ContentDelta, Finished, GenerationRequest, ThinkingDelta, ToolCallDelta
from localllm.runner.answer import Stream
from localllm.runner.conversation import Conversations, Sources

SEQUENCES = 8
requests = msgspec.json.Decoder(tuple[GenerationRequest, ...])


def main() -> None:
    order = json.load(sys.stdin)
    config = LlamaConfig(Path(order["model"]), max_sequences=SEQUENCES, batch_tokens=512, threads=1, pool_tokens=32_768)
    backend = LlamaBackend(config)
    numbers = itertools.count()
    sources = Sources(lambda: next(numbers), lambda: f"call_{next(numbers):08d}", lambda: datetime(2031, 2, 3))
    conversations = Conversations(backend, order["template"], sources)
    engine = Engine(backend, time.monotonic)
    found = [{"thinking": "", "content": "", "calls": [], "reason": "", "error": ""} for _ in order["requests"]]
    streams: dict[int, Stream] = {}
    for index, request in enumerate(requests.decode(json.dumps(order["requests"]))):
        try:
            prepared = conversations.prepare(index, request)
            engine.add(prepared.sequence)
            streams[index] = Stream(prepared)
        except LocalllmError as error:
            found[index]["error"] = error.message
    while engine.has_work:
        for output in engine.step():
            if output.error:
                found[output.id]["error"] = output.error
                continue
            for event in streams[output.id].events(output):
                take(found[output.id], event)
    for one in found:
        sys.stdout.write(json.dumps(one) + "\n")


def take(said: dict, event: object) -> None:
    match event:
        case ThinkingDelta(text):
            said["thinking"] += text
        case ContentDelta(text):
            said["content"] += text
        case ToolCallDelta(_, _, str(name), _):
            said["calls"].append([name, ""])
        case ToolCallDelta(_, _, _, arguments):
            said["calls"][-1][1] += arguments
        case Finished(reason):
            said["reason"] = reason


if __name__ == "__main__":
    main()
