"""What HTTP, queue and dialects cost over the engine alone, measured side by side in one run.

    scripts/bench/overhead [--requests 300] [--tokens 20000] [--pace 20000] [--rounds 3] [--dialects ollama,openai]

The engine is a runner that computes nothing and tells tokens at a pace (paced_runner). It is asked twice: by the
daemon's own runner handle with nothing around it, and over HTTP through the daemon, by a client that is a process of
its own and only stamps what comes. Both are asked in turns, so that a busy machine disturbs both.

    per request     the median time of an answer of one token, over HTTP − by the handle
    per token       (time of a stream of --tokens, over HTTP − by the handle) / tokens, and what the daemon's process
                    took of the CPU for a token − what the handle's did

The CPU's share counts when the pace hides the time: a daemon that keeps pace with a slower engine costs no time at all.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.overhead_daemon import runner_command

from localllm.generation import Finished, GenerationRequest, Options
from localllm.placement.layout import Layout
from localllm.placement.shape import ContextShape
from localllm.runner.handle import Deadlines, RunnerHandle
from localllm.runner.process import start_process
from localllm.runner.protocol import Load

GOAL_REQUEST_MS, GOAL_TOKEN_US = 1.5, 40.0
TICKS = os.sysconf("SC_CLK_TCK")
MESSAGES = [{"role": "user", "content": "hi"}]
# Path, body but for the limit, the limit's way in the body.
DIALECTS: dict[str, tuple[str, dict[str, object], tuple[str, ...]]] = {
    "ollama": ("/api/chat", {"model": "guide", "messages": MESSAGES}, ("options", "num_predict")),
    "openai": ("/v1/chat/completions", {"model": "guide", "messages": MESSAGES}, ("max_tokens",)),
    "responses": ("/v1/responses", {"model": "guide", "input": "hi", "store": False}, ("max_output_tokens",)),
    "anthropic": ("/v1/messages", {"model": "guide", "messages": MESSAGES}, ("max_tokens",)),
    "llama.cpp": ("/completion", {"model": "guide", "prompt": "hi"}, ("n_predict",)),
}


@dataclass(frozen=True)
class Measured:
    """Seconds: of each one-token answer, of a whole stream, and of the CPU for that stream."""

    answers: list[float]
    stream: float
    cpu: float


def body_for(dialect: str, tokens: int, *, stream: bool) -> bytes:
    """A body that asks for so many tokens."""
    _, body, way = DIALECTS[dialect]
    limit: object = tokens
    for name in reversed(way):
        limit = {name: limit}
    assert isinstance(limit, dict)
    return json.dumps({**body, **limit, "stream": stream}).encode()


async def by_handle(pace: str, requests: int, tokens: int) -> Measured:
    """The same answers from a runner of our own, by the daemon's handle and nothing else."""
    process = await start_process(runner_command(pace), os.environ, "alone")
    handle = RunnerHandle(process, Deadlines(60.0, 60.0))
    try:
        load = Load("nothing.gguf", Layout(), ContextShape(0, 8), parallel=8, threads=1)
        await handle.load(load, lambda share: None)
        answers = [await _ask(handle, 1) for _ in range(requests)]
        cpu = time.process_time()
        stream = await _ask(handle, tokens)
        return Measured(answers, stream, time.process_time() - cpu)
    finally:
        await handle.discard()


async def _ask(handle: RunnerHandle, tokens: int) -> float:
    began = time.perf_counter()
    async for event in handle.generate(GenerationRequest("guide", prompt="hi", options=Options(num_predict=tokens))):
        if isinstance(event, Finished):
            break
    return time.perf_counter() - began


def over_http(port: int, process_id: int, dialect: str, requests: int, tokens: int) -> Measured:
    """The same answers over HTTP, on one connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    path = DIALECTS[dialect][0]

    def ask(body: bytes) -> float:
        began = time.perf_counter()
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"{dialect}: status {answer.status}")
        return time.perf_counter() - began

    try:
        ask(body_for(dialect, 1, stream=False))  # the model is loaded now
        answers = [ask(body_for(dialect, 1, stream=False)) for _ in range(requests)]
        cpu = cpu_seconds(process_id)
        stream = ask(body_for(dialect, tokens, stream=True))
        return Measured(answers, stream, cpu_seconds(process_id) - cpu)
    finally:
        connection.close()


def cpu_seconds(process_id: int) -> float:
    """What a process has taken of the CPU."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def daemon(pace: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a daemon whose runners have that pace."""
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOCALLLM_", "OLLAMA_"))}
        environment = {**kept, "LOCALLLM_HOME": home, "LOCALLLM_HOST": "127.0.0.1:0", "LOCALLLM_LOG_LEVEL": "INFO"}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.overhead_daemon", pace],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def figures(alone: list[Measured], through: list[Measured], tokens: int) -> tuple[float, float, float]:
    """Milliseconds a request, microseconds a token by the clock and by the CPU: medians of the rounds."""

    def difference(pick: str) -> float:
        pairs = zip(alone, through, strict=True)
        return statistics.median(getattr(ours, pick) - getattr(theirs, pick) for theirs, ours in pairs)

    request = statistics.median(time for one in through for time in one.answers) - statistics.median(
        time for one in alone for time in one.answers
    )
    return request * 1e3, difference("stream") / tokens * 1e6, difference("cpu") / tokens * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="HTTP, queue and dialects over the engine alone")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=20000)
    parser.add_argument("--pace", default="20000", help="tokens per second of the engine; 0 as fast as it can")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dialects", default=",".join(DIALECTS))
    chosen = parser.parse_args()
    dialects = chosen.dialects.split(",")
    alone: dict[str, list[Measured]] = {dialect: [] for dialect in dialects}
    through: dict[str, list[Measured]] = {dialect: [] for dialect in dialects}
    with daemon(chosen.pace) as (port, process_id):
        for _ in range(chosen.rounds):
            for dialect in dialects:
                alone[dialect].append(asyncio.run(by_handle(chosen.pace, chosen.requests, chosen.tokens)))
                measured = over_http(port, process_id, dialect, chosen.requests, chosen.tokens)
                through[dialect].append(measured)
    print(f"an engine of {chosen.pace} tokens/s, {chosen.rounds} rounds of {chosen.requests} requests and "
          f"{chosen.tokens} tokens; over the engine alone:\n")  # fmt: skip
    print("| dialect | ms a request | µs a token | µs of CPU a token |\n|---|---|---|---|")
    worst = [0.0, 0.0, 0.0]
    for dialect in dialects:
        told = figures(alone[dialect], through[dialect], chosen.tokens)
        worst = [max(pair) for pair in zip(worst, told, strict=True)]
        print(f"| {dialect} | {told[0]:.2f} | {told[1]:.1f} | {told[2]:.1f} |")
    is_met = worst[0] <= GOAL_REQUEST_MS and worst[1] <= GOAL_TOKEN_US
    print(f"\ngoals: {GOAL_REQUEST_MS} ms and {GOAL_TOKEN_US:g} µs: {'met' if is_met else 'missed'}")
    alone_seconds = statistics.median(one.stream for rounds in alone.values() for one in rounds)
    print(f"the engine alone told {chosen.tokens / alone_seconds:.0f} tokens/s")


if __name__ == "__main__":
    main()
