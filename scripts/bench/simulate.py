"""The real engine on a model that only tells how long it would take: thousands of requests in a minute.

    scripts/bench/simulate [--requests N] [--rate R] [--costs cpu|gpu] [--layout unified|streams] [--no-prefixes]

Requests arrive at random (Poisson), most with one of a few long beginnings, from clients of which one asks far more
than the others, in three classes. Time is virtual, so the figures depend on nothing but the engine and the seed. The
second table is real: CPU time of the engine's own Python for one step, as more sequences run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.inputs import say
from bench.report import aligned, percentile, written
from bench.virtual_backend import PRESETS, Costs, VirtualBackend, VirtualClock

from localllm.engine.backend import MemoryTraits
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.engine.policy import EnginePolicy
from localllm.engine.sequence import SequenceOutput, SequenceRequest
from localllm.generation import Sampling

BATCH_TOKENS = 512
# Requests per second that keep each kind of machine busy most of the time.
RATES = {"cpu": 0.25, "gpu": 15.0}
RUNNING = (1, 4, 16, 64)
MEASURED_STEPS = 300
TARGET_RUNNING, TARGET_SECONDS = 16, 0.3e-3
STALLED_STEPS = 10_000
LETTERS = range(97, 123)
GREEDY = "greedy"


@dataclass(frozen=True)
class Arrival:
    """A request and when it comes."""

    at: float
    request: SequenceRequest


@dataclass
class Outcome:
    """What became of a request. Times are virtual."""

    arrival: Arrival
    first_token_at: float | None = None
    ended_at: float | None = None
    last_token_at: float | None = None
    gaps: list[float] = field(default_factory=list)
    output_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None

    def take(self, output: SequenceOutput, now: float) -> None:
        """One step's output."""
        if output.error is not None:
            self.error, self.ended_at = output.error, now
        if output.tokens:
            if self.last_token_at is None:
                self.first_token_at = now
            else:
                self.gaps.append(now - self.last_token_at)
            self.last_token_at = now
            self.output_tokens += len(output.tokens)
        if output.finish is not None:
            self.ended_at = now
            self.cached_tokens = output.finish.stats.cached_tokens


def make_arrivals(count: int, rate: float, seed: int, most_tokens: int) -> list[Arrival]:
    """The load: the same for the same seed."""
    chance = random.Random(seed)
    beginnings = [chance.choices(LETTERS, k=chance.randint(200, 1500)) for _ in range(12)]
    at = 0.0
    arrivals = []
    for number in range(count):
        at += chance.expovariate(rate)
        output_tokens = min(512, 8 + int(chance.expovariate(1 / 64)))
        prompt = chance.choices(LETTERS, k=min(2000, 16 + int(chance.expovariate(1 / 180))))
        if chance.random() < 0.6:
            # The first beginnings are asked for far more often than the last, as system prompts are.
            prompt = beginnings[min(int(chance.expovariate(0.4)), len(beginnings) - 1)] + prompt
        request = SequenceRequest(
            id=number,
            prompt=prompt[: most_tokens - output_tokens - 1],
            sampling=Sampling(),
            seed=number,
            limit_tokens=most_tokens,
            max_new_tokens=output_tokens,
            priority=chance.choices((0, 1, 2), (1, 8, 1))[0],
            client=GREEDY if chance.random() < 0.4 else f"client {chance.randrange(20)}",
        )
        arrivals.append(Arrival(at, request))
    return arrivals


def simulate(engine: Engine, clock: VirtualClock, arrivals: Sequence[Arrival]) -> list[Outcome]:
    """Run until everything has ended. Raises RuntimeError when the engine no longer moves."""
    outcomes = {arrival.request.id: Outcome(arrival) for arrival in arrivals}
    coming = iter(arrivals)
    next_one = next(coming, None)
    still_since, idle_steps = clock.now, 0
    while engine.has_work or next_one is not None:
        if not engine.has_work and next_one is not None:
            clock.now = max(clock.now, next_one.at)
        while next_one is not None and next_one.at <= clock.now:
            engine.add(next_one.request)
            next_one = next(coming, None)
        for output in engine.step():
            outcomes[output.id].take(output, clock.now)
        idle_steps = 0 if clock.now > still_since else idle_steps + 1
        still_since = clock.now
        if idle_steps > STALLED_STEPS:
            raise RuntimeError(f"the engine does not move any more: {engine.stats()}")
    return list(outcomes.values())


def load_rows(
    outcomes: Sequence[Outcome], engine: Engine, seconds: float, busy_seconds: float
) -> list[tuple[str, str]]:
    """The figures of the load."""
    stats = engine.stats()
    prompt = sum(len(outcome.arrival.request.prompt) for outcome in outcomes)
    gaps = [gap for outcome in outcomes for gap in outcome.gaps]
    rows = [
        ("requests, failed", f"{len(outcomes)}, {sum(outcome.error is not None for outcome in outcomes)}"),
        ("virtual seconds, busy", f"{seconds:.0f}, {busy_seconds / seconds:.0%}"),
        ("output tokens/s", f"{sum(outcome.output_tokens for outcome in outcomes) / seconds:.2f}"),
        ("prompt tokens, computed", f"{prompt}, {stats.prompt_tokens}"),
        ("cached share", f"{sum(outcome.cached_tokens for outcome in outcomes) / prompt:.3f}"),
        ("preemptions", str(stats.preemptions)),
        ("drafted, accepted", f"{stats.drafted_tokens}, {stats.accepted_tokens}"),
        ("between tokens p50 / p95 / p99 s", percentiles(gaps)),
        ("first token p50 / p95 / p99 s", percentiles(first_token_seconds(outcomes))),
    ]
    for name, chosen in groups(outcomes):
        rows.append((f"  of {name} ({len(chosen)})", percentiles(first_token_seconds(chosen))))
    return rows


def groups(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Outcome]]]:
    """Parts of the load whose waits should differ, or should not."""
    for priority in (0, 1, 2):
        yield f"class {priority}", [one for one in outcomes if one.arrival.request.priority == priority]
    for name, is_greedy in (("the greedy client", True), ("the other clients", False)):
        yield name, [one for one in outcomes if (one.arrival.request.client == GREEDY) is is_greedy]


def first_token_seconds(outcomes: Sequence[Outcome]) -> list[float]:
    """The waits for the first token."""
    return [one.first_token_at - one.arrival.at for one in outcomes if one.first_token_at is not None]


def percentiles(values: Sequence[float]) -> str:
    """Three of them, in one cell."""
    return " / ".join(written(percentile(values, rank / 100), "{:.3f}") for rank in (50, 95, 99))


def step_seconds(running: int, waiting: int, layout: str) -> list[float]:
    """CPU seconds of the engine's own Python in each of many steps in which `running` sequences decode."""
    clock = VirtualClock()
    fake = make_fake(2048 * running, running, running, layout)
    backend = VirtualBackend(fake, PRESETS["gpu"], clock)
    engine = Engine(backend, clock)
    chance = random.Random(running)
    for number in range(running + waiting):
        prompt = chance.choices(LETTERS, k=256)
        engine.add(SequenceRequest(number, prompt, Sampling(), number, 2000, max_new_tokens=MEASURED_STEPS * 3))
    for _ in range(STALLED_STEPS):
        if engine.stats().prompt_tokens >= 256 * running:
            break
        engine.step()
    found = []
    for _ in range(MEASURED_STEPS):
        busy, started = backend.busy_seconds, time.thread_time()
        engine.step()
        found.append(time.thread_time() - started - (backend.busy_seconds - busy))
    return found


def step_rows(layout: str) -> list[tuple[str, ...]]:
    """The second table."""
    rows: list[tuple[str, ...]] = [("sequences", "µs per step p50", "p99", "with 64 waiting p50", "target")]
    for running in RUNNING:
        alone, crowded = step_seconds(running, 0, layout), step_seconds(running, 64, layout)
        median = statistics.median(alone)
        target = ""
        if running == TARGET_RUNNING:
            target = f"<= {TARGET_SECONDS * 1e6:.0f} {'met' if median <= TARGET_SECONDS else 'missed'}"
        microseconds = (median, percentile(alone, 0.99), statistics.median(crowded))
        rows.append((str(running), *(written((value or 0.0) * 1e6, "{:.0f}") for value in microseconds), target))
    return rows


def make_fake(pool_tokens: int, parallel: int, slots: int, layout: str) -> FakeBackend:
    """The fake model in this shape."""
    memory = MemoryTraits(layout="streams" if layout == "streams" else "unified")
    return FakeBackend(pool_tokens, parallel, max(BATCH_TOKENS, parallel), slots=slots, memory=memory)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench/simulate", description="The engine in virtual time.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, help="requests per virtual second; what suits the costs unless given")
    parser.add_argument("--costs", choices=sorted(PRESETS), default="cpu", help="of which kind of machine")
    parser.add_argument("--step-ms", type=float, help="a decode's cost of itself, instead of the preset's")
    parser.add_argument("--row-ms", type=float, help="for each row")
    parser.add_argument("--cell-us", type=float, help="for each attended cell")
    parser.add_argument("--pool-tokens", type=int, default=16384)
    parser.add_argument("--parallel", type=int, default=8, help="sequences that run at once")
    parser.add_argument("--slots", type=int, help="places for running and idle ones; twice --parallel unless given")
    parser.add_argument("--layout", choices=("unified", "streams"), default="unified")
    parser.add_argument("--no-prefixes", action="store_true", help="forget each request when it ends")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write each request's times there")
    return parser.parse_args()


def costs_of(chosen: argparse.Namespace) -> Costs:
    """The preset, with what was said instead."""
    preset = PRESETS[chosen.costs]
    return Costs(
        preset.step if chosen.step_ms is None else chosen.step_ms / 1e3,
        preset.row if chosen.row_ms is None else chosen.row_ms / 1e3,
        preset.cell if chosen.cell_us is None else chosen.cell_us / 1e6,
    )


def main() -> None:
    """Simulate and print."""
    chosen = parse()
    clock = VirtualClock()
    fake = make_fake(chosen.pool_tokens, chosen.parallel, chosen.slots or 2 * chosen.parallel, chosen.layout)
    backend = VirtualBackend(fake, costs_of(chosen), clock)
    engine = Engine(backend, clock, EnginePolicy(keeps_prefixes=not chosen.no_prefixes))
    arrivals = make_arrivals(
        chosen.requests, chosen.rate or RATES[chosen.costs], chosen.seed, fake.facts.sequence_tokens
    )
    say(f"{len(arrivals)} requests, {chosen.pool_tokens} cells, {chosen.parallel} at once, {chosen.layout}")
    started = time.perf_counter()
    outcomes = simulate(engine, clock, arrivals)
    say(f"simulated in {time.perf_counter() - started:.1f} s")
    print(aligned([("load", ""), *load_rows(outcomes, engine, clock.now, backend.virtual_seconds)]), end="\n\n")
    print(aligned(step_rows(chosen.layout)))
    if chosen.json:
        chosen.json.write_text(json.dumps([raw(outcome) for outcome in outcomes], indent=1) + "\n", encoding="utf-8")


def raw(outcome: Outcome) -> dict[str, object]:
    """One request for --json."""
    request = outcome.arrival.request
    return {
        "client": request.client,
        "priority": request.priority,
        "prompt_tokens": len(request.prompt),
        "cached_tokens": outcome.cached_tokens,
        "output_tokens": outcome.output_tokens,
        "arrived_s": outcome.arrival.at,
        "first_token_s": outcome.first_token_at,
        "ended_s": outcome.ended_at,
        "error": outcome.error,
    }


if __name__ == "__main__":
    main()
