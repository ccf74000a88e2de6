"""What the daemon counts, in Prometheus' words: GET /metrics.

Counters and histograms are filled in while requests run; what can be asked for (queue, loaded models, their engines) is
asked when somebody looks. Names of models are those of the store, so that a client cannot make series of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from localllm.generation import (
    AnswerEvent,
    ContentDelta,
    Finished,
    OfChoice,
    ThinkingDelta,
    ToolCallDelta,
)
from localllm.runner.protocol import Loaded, Stats
from localllm.scheduler.state import Counts, QueuePlace
from localllm.store.model import Model

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_SPOKEN = (ContentDelta, ThinkingDelta, ToolCallDelta)


class Running(Protocol):
    """A model that takes up room."""

    @property
    def model(self) -> Model: ...
    @property
    def loaded(self) -> Loaded | None: ...
    @property
    def active(self) -> int: ...


_Metric = TypeVar("_Metric", Counter, Histogram)


class _Series(Generic[_Metric]):
    """The series of a metric by the values of its labels, each looked for once: that takes longer than to count."""

    def __init__(self, metric: _Metric) -> None:
        self._metric: _Metric = metric
        self._known: dict[tuple[str, ...], _Metric] = {}

    def of(self, *values: str) -> _Metric:
        """The series of these values."""
        known = self._known.get(values)
        if known is None:
            known = self._known[values] = self._metric.labels(*values)
        return known


class Metrics:
    """One daemon's counters. All methods belong to its event loop."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = _counter("localllm_requests", "Answered requests", registry, "route", "status")
        self._seconds = _histogram("localllm_request_seconds", "From arrival to the last byte", "route", registry)
        self._prompt = _counter("localllm_prompt_tokens", "Tokens of prompts", registry, "model")
        self._cached = _counter(
            "localllm_cached_tokens", "Of those, tokens taken over from earlier requests", registry, "model"
        )
        self._completion = _counter("localllm_completion_tokens", "Tokens of answers", registry, "model")
        self._queue = _histogram("localllm_queue_seconds", "Waits for a turn", "model", registry)
        self._load = _histogram("localllm_load_wait_seconds", "Waits for a load", "model", registry)
        self._first = _histogram("localllm_time_to_first_token_seconds", "From arrival", "model", registry)
        self._gap = _histogram(
            "localllm_inter_token_seconds", "Between pieces of an answer", "model", registry, _GAP_BUCKETS
        )

    def request_ended(self, route: str, status: int, seconds: float) -> None:
        """An answer is complete, or its client is gone (status 0 if nothing had been sent)."""
        self._requests.of(route, str(status)).inc()
        self._seconds.of(route).observe(seconds)

    def answer(self, model: str, arrived_at: float) -> AnswerMeter:
        """Measures one answer of `model`; `arrived_at` is of the clock that `see` will be told."""
        return AnswerMeter(self._first.of(model), self._gap.of(model), arrived_at)

    def finished(self, model: str, event: Finished) -> None:
        """An answer of `model` ended well."""
        self._prompt.of(model).inc(event.usage.prompt_tokens)
        self._cached.of(model).inc(event.usage.cached_tokens)
        self._completion.of(model).inc(event.usage.completion_tokens)
        self._queue.of(model).observe(event.timings.queue_seconds)
        self._load.of(model).observe(event.timings.load_seconds)


class AnswerMeter:
    """The times between the pieces of one answer."""

    def __init__(self, first: Histogram, gap: Histogram, arrived_at: float) -> None:
        self._first = first
        self._gap = gap
        self._last_at = arrived_at
        self._has_begun = False

    def see(self, event: AnswerEvent, now: float) -> None:
        """One event has come."""
        if not isinstance(event.event if isinstance(event, OfChoice) else event, _SPOKEN):
            return
        (self._gap if self._has_begun else self._first).observe(now - self._last_at)
        self._last_at, self._has_begun = now, True


class _Now(Collector):
    """What is so at this moment."""

    def __init__(
        self,
        running: Iterable[Running],
        queue: Iterable[QueuePlace],
        counts: Counts,
        stats: Mapping[str, Stats],
        joules: Mapping[str, float],
    ) -> None:
        self._running = tuple(running)
        self._queue = tuple(queue)
        self._counts = counts
        self._stats = stats
        self._joules = joules

    def collect(self) -> Iterable[Metric]:
        """The families of one look."""
        names = {place.model for place in self._queue} | {one.model.name for one in self._running}
        waiting = {name: sum(place.model == name for place in self._queue) for name in sorted(names)}
        yield _gauge("localllm_queue_length", "Requests that wait", waiting)
        active = {one.model.name: one.active for one in self._running}
        yield _gauge("localllm_active_requests", "Requests that have their turn", active)
        loaded = {one.model.name: one.loaded for one in self._running if one.loaded is not None}
        memory = GaugeMetricFamily("localllm_model_bytes", "Memory of a loaded model", labels=("model", "kind"))
        for name, one in loaded.items():
            for kind, amount in (("weights", one.weight_bytes), ("kv", one.kv_bytes), ("gpu", one.gpu_bytes)):
                memory.add_metric((name, kind), amount)
        yield memory
        stats = self._stats
        yield _gauge("localllm_cells", "Cells of the pool", {name: one.pool_tokens for name, one in stats.items()})
        yield _gauge("localllm_used_cells", "Of those, in use", {name: one.used_cells for name, one in stats.items()})
        resident = {name: one.resident_bytes for name, one in stats.items()}
        yield _gauge("localllm_runner_resident_bytes", "Memory of a model's process", resident)
        yield CounterMetricFamily("localllm_model_loads", "Models that were loaded", self._counts.loads)
        yield CounterMetricFamily("localllm_model_unloads", "Models that were unloaded", self._counts.unloads)
        yield CounterMetricFamily("localllm_model_evictions", "Of those, to make room", self._counts.evictions)
        energy = CounterMetricFamily(
            "localllm_energy_joules", "Energy a device has taken, for whomever", labels=("device",)
        )
        for device, joules in self._joules.items():
            energy.add_metric((device,), joules)
        yield energy
        yield CounterMetricFamily("localllm_runner_deaths", "Processes that died by themselves", self._counts.deaths)


def page(
    metrics: Metrics,
    running: Iterable[Running],
    queue: Iterable[QueuePlace],
    counts: Counts,
    stats: Mapping[str, Stats],
    joules: Mapping[str, float],
) -> bytes:
    """The text that Prometheus reads; `stats` are by model name, of those whose engine answered, `joules` by device."""
    now = CollectorRegistry()
    now.register(_Now(running, queue, counts, stats, joules))
    return generate_latest(metrics.registry) + generate_latest(now)


def _counter(name: str, about: str, registry: CollectorRegistry, *labels: str) -> _Series[Counter]:
    return _Series(Counter(name, about, labels, registry=registry))


def _histogram(
    name: str, about: str, label: str, registry: CollectorRegistry, buckets: tuple[float, ...] = _WAIT_BUCKETS
) -> _Series[Histogram]:
    return _Series(Histogram(name, about, (label,), registry=registry, buckets=buckets))


def _gauge(name: str, about: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=("model",))
    for model, value in values.items():
        family.add_metric((model,), value)
    return family
