"""How far one request has come, and the `x-localllm-…` headers that tell it.

    x-localllm-queue-position     0 once it has its turn, 1 for the next, …
    x-localllm-queue-eta-ms       until it is likely to have its turn
    x-localllm-queue-ms           what it waited for its turn     ┐
    x-localllm-load-ms            what it waited for a load       ├ once it has its turn
    x-localllm-placement          cpu, gpu, or gpu 10/32 layers   │
    x-localllm-fallback           why not all of it is on a GPU   ┘
    x-localllm-prompt-tokens, -cached-tokens, -prefill-tokens-per-second, -decode-tokens-per-second

The last line is known at an answer's end: in the headers of an answer that is not streamed; a stream has these figures
in its last event, as far as its dialect has a place for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from localllm.errors import LocalllmError, RequestTimeoutError
from localllm.generation import Finished
from localllm.runner.protocol import Loaded
from localllm.server.services import Lease, Turn

HEADER_NAMES = (
    "x-localllm-queue-position",
    "x-localllm-queue-eta-ms",
    "x-localllm-queue-ms",
    "x-localllm-load-ms",
    "x-localllm-placement",
    "x-localllm-fallback",
    "x-localllm-prompt-tokens",
    "x-localllm-cached-tokens",
    "x-localllm-prefill-tokens-per-second",
    "x-localllm-decode-tokens-per-second",
)


class Progress:
    """Filled in by the handler that leases: `lease` once there is one. `timeout_seconds` counts from the arrival."""

    def __init__(self, turn: Turn | None, timeout_seconds: float | None = None) -> None:
        self.turn = turn
        self.timeout_seconds = timeout_seconds
        self.lease: Lease | None = None

    def headers(self, finished: Finished | None = None) -> list[tuple[bytes, bytes]]:
        """What is known now; with `finished` what is known at the end."""
        told = self._queue_headers() if self.lease is None else _lease_headers(self.lease)
        if finished is not None and self.lease is not None:
            told |= _end_headers(finished)
        return [(name.encode(), value.encode()) for name, value in told.items()]

    @contextmanager
    def time_limit(self, fail: Callable[[LocalllmError], None]) -> Iterator[None]:
        """Around the answering: call `fail` when the request's own time is over."""
        timer = None
        if self.timeout_seconds is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self.timeout_seconds, lambda: fail(self._timeout_error()))
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _timeout_error(self) -> RequestTimeoutError:
        place = self.turn.place() if self.turn is not None and self.lease is None else None
        seconds = f"{self.timeout_seconds:g} s"
        if self.lease is not None:
            return RequestTimeoutError(f"the answer was not complete within {seconds}")
        if place is not None and place.eta_seconds is not None:
            return RequestTimeoutError(
                f"the request was not started within {seconds}: it was number {place.position} in the queue"
                f" and needed about {place.eta_seconds:.1f} s more"
            )
        return RequestTimeoutError(f"the request was not started within {seconds}: the model was not loaded yet")

    def _queue_headers(self) -> dict[str, str]:
        place = self.turn.place() if self.turn is not None else None
        if place is None:
            return {}
        told = {"x-localllm-queue-position": str(place.position)}
        if place.eta_seconds is not None:
            told["x-localllm-queue-eta-ms"] = str(_milliseconds(place.eta_seconds))
        return told


def placement_text(loaded: Loaded) -> str:
    """Where a model's layers lie."""
    if not loaded.gpu_layers:
        return "cpu"
    return "gpu" if loaded.gpu_layers >= loaded.layers else f"gpu {loaded.gpu_layers}/{loaded.layers} layers"


def _lease_headers(lease: Lease) -> dict[str, str]:
    told = {
        "x-localllm-queue-position": "0",
        "x-localllm-queue-ms": str(_milliseconds(lease.queue_seconds)),
        "x-localllm-load-ms": str(_milliseconds(lease.load_seconds)),
        "x-localllm-placement": placement_text(lease.loaded),
    }
    if lease.fallback:
        told["x-localllm-fallback"] = lease.fallback.encode("ascii", "replace").decode()
    return told


def _end_headers(finished: Finished) -> dict[str, str]:
    usage, timings = finished.usage, finished.timings
    told = {
        # Now with what it waited inside the engine, too.
        "x-localllm-queue-ms": str(_milliseconds(timings.queue_seconds)),
        "x-localllm-prompt-tokens": str(usage.prompt_tokens),
        "x-localllm-cached-tokens": str(usage.cached_tokens),
    }
    rates = (
        ("prefill", usage.prompt_tokens - usage.cached_tokens, timings.prefill_seconds),
        ("decode", usage.completion_tokens, timings.decode_seconds),
    )
    for name, tokens, seconds in rates:
        if tokens > 0 and seconds > 0:
            told[f"x-localllm-{name}-tokens-per-second"] = f"{tokens / seconds:.1f}"
    return told


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
