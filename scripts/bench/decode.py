"""Single-stream decode through the daemon's HTTP against the engine's loop alone, in one run, and idle costs.

    scripts/bench/decode [--repeats N] [--tokens N] [--model FILE.gguf] [--vocabulary FILE.gguf]

Both sides answer the same prompt at temperature 0 with the same number of tokens (end tokens are forbidden by a bias),
one after the other, alternating, so that a machine that slows down slows both. Seconds are wall time from the request's
text to its last token. The daemon is a real one in a folder of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from bench.inputs import ensure_model, say
from bench.servers import free_port

HERE = Path(__file__).resolve().parent
LOCALLLM = Path(sys.executable).parent / "localllm"
MODEL_NAME = "bench"
PROMPT = "The quick brown fox jumps over the lazy dog."
START_SECONDS = 30
TARGET_RATIO = 0.95
TARGET_IDLE_BYTES = 60 * 10**6


@dataclass(frozen=True)
class Order:
    """What both sides are asked for."""

    tokens: int
    bias: dict[str, float]


@contextmanager
def engine_loop(
    script: str, *arguments: object, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The engine alone, in a child that runs one of the scripts here; its first line is still to be read."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def ask(child: subprocess.Popen[str], line: str | None = None) -> dict[str, object]:
    """The child's next answer."""
    assert child.stdin is not None
    assert child.stdout is not None
    if line is not None:
        child.stdin.write(line + "\n")
        child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit(f"bench: the engine's loop ended with {child.wait()}")
    return dict(json.loads(answer))


@contextmanager
def daemon(environment: dict[str, str], port: int) -> Iterator[psutil.Process]:
    """A real daemon, once it answers."""
    child = subprocess.Popen([LOCALLLM, "serve"], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port):
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("bench: the daemon did not start; run `localllm serve` to see why")
            time.sleep(0.05)
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait()


def answers(port: int) -> bool:
    """Whether the daemon serves yet."""
    try:
        return fetch(port, "GET", "/api/version")[0] == 200
    except OSError:  # not listening yet
        return False


def fetch(port: int, method: str, path: str, body: dict[str, object] | None = None) -> tuple[int, bytes]:
    """One request and its whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request(method, path, body=json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def tokens_per_second_alone(child: subprocess.Popen[str], order: Order) -> float:
    """The engine's loop."""
    answer = ask(child, json.dumps({"prompt": PROMPT, "tokens": order.tokens, "bias": order.bias}))
    return float(str(answer["tokens"])) / float(str(answer["seconds"]))


def tokens_per_second_http(port: int, order: Order) -> float:
    """The same through POST /api/generate, streamed."""
    options = {"temperature": 0, "num_predict": order.tokens, "logit_bias": order.bias}
    body: dict[str, object] = {"model": MODEL_NAME, "prompt": PROMPT, "raw": True, "options": options}
    started = time.perf_counter()
    status, answer = fetch(port, "POST", "/api/generate", body)
    seconds = time.perf_counter() - started
    last = json.loads(answer.splitlines()[-1])
    if status != 200 or last.get("eval_count") != order.tokens:
        raise SystemExit(f"bench: POST /api/generate answered {status}: {json.dumps(last)[:500]}")
    return order.tokens / seconds


def milliseconds(command: list[str | Path], environment: dict[str, str]) -> float:
    """Wall time of a command that must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return seconds * 1000


def alternate(repeats: int, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure, taken in turns after one unmeasured round."""
    rounds = [[measure() for measure in measures] for _ in range(repeats + 1)]
    return [statistics.median(values) for values in zip(*rounds[1:], strict=True)]


def table(rows: list[tuple[str, str, str]]) -> str:
    """Three columns, aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}".rstrip() for a, b, c in rows)


def measure(model: Path, repeats: int, tokens: int) -> list[tuple[str, str, str]]:
    """All figures, as rows of the table."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        ours = {"LOCALLLM_HOME": str(folder), "LOCALLLM_HOST": f"127.0.0.1:{port}", "LOCALLLM_KEEP_ALIVE": "-1"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCALLLM_")} | ours
        process = stack.enter_context(daemon(environment, port))
        time.sleep(1)  # the idle figure is that of a daemon that has settled
        idle_bytes = process.memory_info().rss
        milliseconds([LOCALLLM, "create", MODEL_NAME, "--from", model], environment)
        version, nothing, listing = alternate(
            max(repeats, 5),
            lambda: milliseconds([LOCALLLM, "--version"], environment),
            lambda: milliseconds([sys.executable, "-c", "pass"], environment),
            lambda: milliseconds([LOCALLLM, "list"], environment),
        )
        child = stack.enter_context(engine_loop("engine_loop.py", model, environment=environment))
        end_tokens = ask(child)["end_tokens"]
        assert isinstance(end_tokens, list)
        order = Order(tokens, {str(token): -1e9 for token in end_tokens})
        http_rate, alone_rate = alternate(
            repeats, lambda: tokens_per_second_http(port, order), lambda: tokens_per_second_alone(child, order)
        )
    ratio = http_rate / alone_rate
    return [
        ("what", "median", "against"),
        ("decode through HTTP", f"{http_rate:.2f} tokens/s", f"ratio {ratio:.3f} (goal >= {TARGET_RATIO})"),
        ("decode, engine alone", f"{alone_rate:.2f} tokens/s", ""),
        ("idle daemon, resident", f"{idle_bytes / 1e6:.1f} MB", f"goal < {TARGET_IDLE_BYTES / 1e6:.0f} MB"),
        ("localllm --version", f"{version:.0f} ms", f"{version / nothing:.2f} x python -c pass"),
        ("python -c pass", f"{nothing:.0f} ms", ""),
        ("localllm list, warm", f"{listing:.0f} ms", f"{listing / nothing:.2f} x python -c pass"),
    ]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench/decode", description="What HTTP costs beside the engine alone."
    )
    parser.add_argument("--repeats", type=int, default=5, help="measured repeats of each side (at least 3)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens per repeat")
    parser.add_argument("--model", type=Path, help="a GGUF instead of the synthetic 0.6 B")
    parser.add_argument("--vocabulary", type=Path, help="ggml-vocab-qwen2.gguf, instead of downloading it")
    chosen = parser.parse_args()
    model = chosen.model or ensure_model("qwen3-0.6b", "qwen2", chosen.vocabulary)
    repeats = max(3, chosen.repeats)
    say(f"{model.name}: {repeats} repeats of {chosen.tokens} tokens on each side, taking turns")
    print(table(measure(model.resolve(), repeats, chosen.tokens)))


if __name__ == "__main__":
    main()
