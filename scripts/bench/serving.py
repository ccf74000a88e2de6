"""Our daemon against llama-server under load, in one run: throughput, time to the first token, gaps between tokens.

    scripts/bench/serving [--workloads unique,chat] [--repeats N] [--json FILE]      both servers, started here
    scripts/bench/serving --base-url URL --model NAME [--peer-url URL]               servers that run already

Both serve the same model with the same threads and the same number of KV cells. In each round one answers a workload
and then the other, in alternating order, so that a machine that slows down slows both; the one that waits stays loaded.
Every round has new texts, so that nothing of an earlier round helps. Tables go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench import adapters, report
from bench.inputs import ensure_model, say
from bench.load_client import Endpoint, Round, run_workload
from bench.peer import Peer, ensure_peer
from bench.servers import MODEL_NAME, PeerHolder, Setup, fetch, llama_bench, llama_server, localllm_daemon
from bench.words import ensure_words
from bench.workloads import MAKERS, Workload, make_workload

from localllm.placement.devices import host

ANSWER_WORDS = 64
BENCH_TOKENS = 128
WARM_UP = "warm-up"
Serve = Callable[[Workload], Endpoint]


@dataclass
class Measured:
    """What came out of one workload: for each server its rounds, and llama-bench's tokens per second beside them."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    figures: dict[str, list[dict[str, float | None]]] = field(default_factory=dict)
    bench: list[float] = field(default_factory=list)

    def add(self, name: str, run: Round) -> None:
        """One more round of a server."""
        self.rounds.setdefault(name, []).append(run)
        self.figures.setdefault(name, []).append(report.summarize(run))


@dataclass
class Course:
    """How every workload is run."""

    words: Mapping[str, int]
    seed: int
    scale: float
    repeats: int
    most_seconds: float

    def workload(self, name: str, turn: int) -> Workload:
        """The texts of this round."""
        return make_workload(name, list(self.words), f"{self.seed} {turn}", self.scale)

    def warm_up(self, endpoint: Endpoint) -> None:
        """One short answer that is not measured: the first of a server pays for what is made once."""
        words = list(self.words)
        run = run_workload(endpoint, make_workload("single", words, f"{WARM_UP} {time.time()}", 0.1), self.most_seconds)
        if error := run.answers[0].error:
            raise SystemExit(f"bench: {endpoint.name} does not answer: {error}")

    def run(self, name: str, serve: Sequence[Serve], bench: Callable[[], float] | None) -> Measured:
        """All rounds of one workload."""
        measured = Measured()
        for index in range(self.repeats):
            workload = self.workload(name, index)
            sides = list(enumerate(serve))
            for _, side in sides if index % 2 == 0 else reversed(sides):
                endpoint = side(workload)
                self.warm_up(endpoint)
                run = run_workload(endpoint, workload, self.most_seconds)
                measured.add(endpoint.name, run)
                tell(name, index, endpoint, run)
            if bench is not None:
                measured.bench.append(bench())
        return measured


def tell(name: str, index: int, endpoint: Endpoint, run: Round) -> None:
    """Progress, and a server's own words where it failed."""
    say(f"{name}, round {index + 1}: {endpoint.name} took {run.seconds:.1f} s")
    errors = [answer.error for answer in run.answers if answer.error]
    for words in sorted(set(errors)):
        say(f"  {errors.count(words)} failed: {words[:300]}")


def value_of(measured: Mapping[str, Measured], ours: str, peer: str | None) -> report.Measure:
    """How a target's value comes out of what was measured."""

    def value(target: report.Target) -> float | None:
        found = measured[target.workload]
        own = found.figures.get(ours, [])
        if target.against == report.NOTHING:
            return report.medians(own).get(target.figure)
        if target.against == report.BENCH:
            return report.ratio(own, [{target.figure: rate} for rate in found.bench], target.figure)
        return report.ratio(own, found.figures.get(peer, []), target.figure) if peer else None

    return value


def raw(measured: Measured) -> dict[str, object]:
    """One workload's figures for --json: of each round, and of each request with times from the round's first."""
    servers = {}
    for name, rounds in measured.rounds.items():
        servers[name] = [
            {"figures": figures, "requests": raw_answers(run)}
            for figures, run in zip(measured.figures[name], rounds, strict=True)
        ]
    return {"servers": servers, "llama_bench_tokens_per_s": measured.bench}


def raw_answers(run: Round) -> list[dict[str, object]]:
    """The requests of a round."""
    begin = min((answer.started for answer in run.answers), default=0.0)
    return [
        {
            "turn": answer.turn_index,
            "sent_s": round(answer.started - begin, 4),
            "arrivals_s": [round(stamp - begin, 4) for stamp in answer.arrivals],
            "prompt_tokens": answer.prompt_tokens,
            "cached_tokens": answer.cached_tokens,
            "output_tokens": answer.output_tokens,
            "error": answer.error,
        }
        for answer in run.answers
    ]


def endpoint_of(url: str, name: str, model: str, kind: str, key: str | None, rule: adapters.Rule) -> Endpoint:
    """A server that runs already; `kind` auto asks it what it is."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise SystemExit(f"bench: {url} is not an http:// address")
    port = parts.port or 80
    kind = kind_of(parts.hostname, port) if kind == "auto" else kind
    adapter: adapters.Adapter = adapters.OpenAI(model)
    if kind == "localllm":
        adapter = adapters.Localllm(model, rule)
    elif kind == "llama-server":
        adapter = adapters.LlamaServer(rule)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Endpoint(name, parts.hostname, port, adapter, headers, prefix)


def kind_of(hostname: str, port: int) -> str:
    """What answers there: its own routes tell."""
    for path, field_name, kind in (("/api/version", "localllm", "localllm"), ("/props", "total_slots", "llama-server")):
        try:
            if field_name in fetch(port, "GET", path, hostname=hostname):
                return kind
        except (OSError, RuntimeError, ValueError):  # another kind of server
            continue
    return "openai"


def compare_started(course: Course, setup: Setup, chosen: argparse.Namespace) -> tuple[dict[str, Measured], str, str]:
    """Start both servers and run every workload on them."""
    peer = ensure_peer()
    measured = {}
    with ExitStack() as stack:
        ours, context = stack.enter_context(localllm_daemon(setup))
        holder = PeerHolder(setup, peer, chosen.pool_tokens or context, chosen.peer_layout)
        stack.callback(holder.close)
        tokens = max(8, round(BENCH_TOKENS * course.scale))
        bench = partial(llama_bench, peer, setup, tokens)
        say(f"localllm serves contexts up to {context} tokens; llama-server gets {holder.pool_tokens} cells")
        for name in chosen.workloads:
            workload = course.workload(name, 0)
            if workload.pool_tokens is not None:
                measured[name] = run_small(course, name, setup, peer, workload.pool_tokens)
                continue
            measured[name] = course.run(name, [lambda _: ours, holder.endpoint], bench if name == "single" else None)
            print_table(name, measured[name])
    return measured, "localllm", "llama-server"


def run_small(course: Course, name: str, setup: Setup, peer: Peer, pool_tokens: int) -> Measured:
    """A workload on servers of its own, with a pool that is too small for it."""
    cells = -(-pool_tokens // 256) * 256  # both pad to this
    say(f"starting both servers with {cells} cells")
    small: AbstractContextManager[tuple[Endpoint, int]] = localllm_daemon(setup, cells)
    with small as (ours, _), llama_server(setup, peer, cells, unified=True) as theirs:
        measured = course.run(name, [lambda _: ours, lambda _: theirs], None)
    print_table(name, measured)
    return measured


def compare_running(
    course: Course, chosen: argparse.Namespace, rule: adapters.Rule
) -> tuple[dict[str, Measured], str, str | None]:
    """Run the workloads on servers that somebody else started."""
    key = chosen.api_key
    sides = [endpoint_of(chosen.base_url, "server", chosen.model, chosen.kind, key, rule)]
    if chosen.peer_url:
        sides.append(endpoint_of(chosen.peer_url, "peer", chosen.peer_model or chosen.model, "auto", key, rule))
    for side in sides:
        say(f"{side.name}: {side.host}:{side.port}, spoken to as {side.adapter.kind}")
    measured = {}
    for name in chosen.workloads:
        if course.workload(name, 0).pool_tokens is not None:
            say(f"{name} is left out: it needs a server with a small pool, which only we can start")
            continue
        measured[name] = course.run(name, [lambda _, side=side: side for side in sides], None)
        print_table(name, measured[name])
    return measured, "server", "peer" if chosen.peer_url else None


def print_table(name: str, measured: Measured) -> None:
    """As soon as it is known: a run may take an hour."""
    print(report.workload_table(name, measured.figures), end="\n\n", flush=True)


def workload_names(text: str) -> list[str]:
    """The value of --workloads."""
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in MAKERS]:
        raise argparse.ArgumentTypeError(f"no workload is called {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    return names


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench/serving", description="Our daemon against llama-server.")
    parser.add_argument("--workloads", type=workload_names, default=list(MAKERS), help=f"of {','.join(MAKERS)}")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each workload; medians are shown")
    parser.add_argument("--tokens-scale", type=float, default=1.0, help="shrink all sizes, to see whether all works")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that one round may take")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the texts; the time unless given")
    parser.add_argument("--greedy", action="store_true", help="temperature 0: answers that repeat one word")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    own = parser.add_argument_group("servers started here")
    own.add_argument(
        "--gguf", type=Path, metavar="FILE", help="a model with Qwen2's tokens instead of the synthetic one"
    )
    own.add_argument("--threads", type=int, default=host().physical_cores, help="of each server")
    own.add_argument("--kv-layout", help="LOCALLLM_KV_LAYOUT of our daemon")
    own.add_argument("--pool-tokens", type=int, help="cells of llama-server; as many as our daemon serves unless given")
    own.add_argument("--peer-layout", choices=("auto", "unified", "streams"), default="auto", help="of llama-server")
    own.add_argument("--peer-arguments", default="", help="more for llama-server, in one text")
    running = parser.add_argument_group("servers that run already")
    running.add_argument("--base-url", metavar="URL")
    running.add_argument("--model", default=MODEL_NAME, metavar="NAME")
    running.add_argument("--kind", choices=("auto", "localllm", "llama-server", "openai"), default="auto")
    running.add_argument("--peer-url", metavar="URL")
    running.add_argument("--peer-model", metavar="NAME")
    running.add_argument("--api-key")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    chosen = parse()
    words = ensure_words()
    rule = adapters.Rule(tuple(words.values())[:ANSWER_WORDS], 0.0 if chosen.greedy else adapters.TEMPERATURE)
    course = Course(words, chosen.seed, chosen.tokens_scale, max(1, chosen.repeats), chosen.timeout)
    say(f"seed {course.seed}, {course.repeats} rounds, sizes times {course.scale:g}")
    if chosen.base_url:
        measured, ours, peer = compare_running(course, chosen, rule)
    else:
        model = (chosen.gguf or ensure_model("qwen3-0.6b", "qwen2")).resolve()
        arguments = tuple(shlex.split(chosen.peer_arguments))
        setup = Setup(model, chosen.threads, rule, chosen.kv_layout, arguments)
        measured, ours, peer = compare_started(course, setup, chosen)
    if peer:
        print(report.targets_table(list(measured), value_of(measured, ours, peer)))
    if chosen.json:
        everything = {
            "seed": course.seed,
            "tokens_scale": course.scale,
            "workloads": {name: raw(found) for name, found in measured.items()},
        }
        chosen.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    # As Ctrl-C does, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
