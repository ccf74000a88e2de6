"""Starts and ends the servers that are measured: our daemon, and llama-server. Every child is ended by its own id."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from bench.adapters import LlamaServer, Localllm, Rule
from bench.inputs import say
from bench.load_client import Endpoint
from bench.peer import Peer
from bench.workloads import Workload

HERE = Path(__file__).resolve().parent
LOCALLLM = Path(sys.executable).parent / "localllm"
HOST = "127.0.0.1"
MODEL_NAME = "bench"
PARALLEL = 8
START_SECONDS = 180
STOP_SECONDS = 30
# Room beside a conversation that llama-server keeps free, and its padding.
SPARE_TOKENS = 32


@dataclass(frozen=True)
class Setup:
    """What both servers are given."""

    model: Path
    threads: int
    rule: Rule
    kv_layout: str | None = None
    peer_arguments: tuple[str, ...] = ()


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def fetch(port: int, method: str, path: str, body: object = None, *, hostname: str = HOST) -> dict[str, object]:
    """One request and the object it answers. Raises OSError, and RuntimeError with the server's words."""
    connection = http.client.HTTPConnection(hostname, port, timeout=START_SECONDS)
    try:
        connection.request(method, path, body=json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        data = response.read()
    except http.client.HTTPException as error:
        raise RuntimeError(f"{method} {path}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{method} {path} answered {response.status}: {data[:500].decode(errors='replace')}")
    return dict(json.loads(data))


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child; what it leaves of its own children is ended too, by id."""
    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it ended before
        family = []
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for process in psutil.wait_procs(family, timeout=5)[1]:
        process.kill()


@contextmanager
def running(
    command: list[str | Path], environment: Mapping[str, str], port: int, path: str, folder: Path
) -> Iterator[None]:
    """A child, once it answers at `path`; its words are kept in the folder, and the last of them shown if it fails."""
    log = folder / "server.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(command, env=dict(environment), stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port, path):
            if child.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise SystemExit(f"{tail}\nbench: {Path(command[0]).name} did not start; its last words stand above")
            time.sleep(0.1)
        yield
    finally:
        end(child)


def answers(port: int, path: str) -> bool:
    """Whether the server is ready."""
    try:
        fetch(port, "GET", path)
    except (OSError, RuntimeError):  # not listening, or still loading
        return False
    return True


def kv_bytes_per_token(model: Path) -> int:
    """Bytes of one cell of the pool in f16, from the model's header."""
    from localllm.gguf import read_header

    values = read_header(model).metadata
    architecture = values["general.architecture"]
    heads, layers = (int(values[f"{architecture}.{name}"]) for name in ("attention.head_count_kv", "block_count"))
    sizes = [int(values[f"{architecture}.attention.{name}_length"]) for name in ("key", "value")]
    return layers * heads * sum(sizes) * 2


@contextmanager
def localllm_daemon(setup: Setup, pool_tokens: int | None = None) -> Iterator[tuple[Endpoint, int]]:
    """Our daemon with the model loaded, and the context it serves; with `pool_tokens` one whose pool is so small."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        ours = {
            "LOCALLLM_HOME": folder,
            "LOCALLLM_HOST": f"{HOST}:{port}",
            "LOCALLLM_KEEP_ALIVE": "-1",
            "LOCALLLM_IDLE_EXIT": "-1",
            "LOCALLLM_NUM_PARALLEL": str(PARALLEL),
            "LOCALLLM_NUM_THREADS": str(setup.threads),
            **({"LOCALLLM_KV_LAYOUT": setup.kv_layout} if setup.kv_layout else {}),
        }
        foreign = ("LOCALLLM_", "OLLAMA_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | ours
        command: list[str | Path] = [LOCALLLM, "serve"]
        if pool_tokens:
            limit = pool_tokens * kv_bytes_per_token(setup.model)
            command = [sys.executable, HERE / "small_pool.py", str(limit), "serve"]
        with running(command, environment, port, "/api/version", Path(folder)):
            create = [LOCALLLM, "create", MODEL_NAME, "--from", setup.model]
            subprocess.run(create, env=environment, check=True, stdout=subprocess.DEVNULL)
            fetch(port, "POST", "/api/generate", {"model": MODEL_NAME, "prompt": "", "stream": False})
            yield Endpoint("localllm", HOST, port, Localllm(MODEL_NAME, setup.rule)), served_context(port)


def served_context(port: int) -> int:
    """The longest context that the loaded model is served with, which is its pool unless the model's own is shorter."""
    models = fetch(port, "GET", "/api/ps").get("models")
    return int(models[0]["context_length"]) if isinstance(models, list) and models else 0


@contextmanager
def llama_server(setup: Setup, peer: Peer, pool_tokens: int, *, unified: bool) -> Iterator[Endpoint]:
    """llama-server with a pool of the same size, shared by its slots or split between them."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        threads = str(setup.threads)
        command: list[str | Path] = [peer.server, "-m", setup.model, "--host", HOST, "--port", str(port)]
        command += ["-c", str(pool_tokens), "-np", str(PARALLEL), "-t", threads, "-tb", threads]
        command += ["--kv-unified" if unified else "--no-kv-unified", *setup.peer_arguments]
        with running(command, os.environ, port, "/health", Path(folder)):
            yield Endpoint("llama-server", HOST, port, LlamaServer(setup.rule))


@dataclass
class PeerHolder:
    """The llama-server that is loaded now. It splits its pool, which is faster, where a workload fits a slot."""

    setup: Setup
    peer: Peer
    pool_tokens: int
    layout: str = "auto"
    _stack: ExitStack = field(default_factory=ExitStack)
    _held: tuple[bool, Endpoint] | None = None

    def is_unified(self, workload: Workload) -> bool:
        """Whether the slots must share their cells for this workload."""
        if self.layout != "auto":
            return self.layout == "unified"
        return workload.most_tokens + SPARE_TOKENS > self.pool_tokens // PARALLEL

    def endpoint(self, workload: Workload) -> Endpoint:
        """The server for this workload, started anew if the one that runs is of the other kind."""
        unified = self.is_unified(workload)
        if self._held is None or self._held[0] is not unified:
            self.close()
            kind = "one pool for all slots" if unified else "a part of the pool for each slot"
            say(f"starting llama-server with {self.pool_tokens} cells, {kind}")
            endpoint = self._stack.enter_context(llama_server(self.setup, self.peer, self.pool_tokens, unified=unified))
            self._held = (unified, endpoint)
        return self._held[1]

    def close(self) -> None:
        """End what runs."""
        self._held = None
        self._stack.close()


def llama_bench(peer: Peer, setup: Setup, tokens: int) -> float:
    """Tokens per second of llama-bench's tg, the model alone without any server, behind as many tokens of prompt.

    As deep as the workload `single` generates: each earlier token costs attention, on a CPU a tenth of all for 128.
    """
    command = [peer.bench, "-m", setup.model, "-p", "0", "-n", str(tokens), "-d", str(tokens), "-t", str(setup.threads)]
    command += ["-r", "1", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr[-2000:]}\nbench: llama-bench failed; its last words stand above")
    return float(json.loads(done.stdout)[-1]["avg_ts"])
