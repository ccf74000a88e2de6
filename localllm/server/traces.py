"""Traces of answers for OpenTelemetry, by its conventions for generative AI; an extra: `pip install localllm[otel]`.

One span for each answer, from its arrival in the queue to its last event, under the span that the client names in
`traceparent`. It tells the model, the options, tokens, times and how it ended; never a word of a prompt or an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from localllm.errors import ConfigError, LocalllmError
from localllm.generation import AnswerEvent, Failed, Finished, GenerationRequest
from localllm.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_OPTIONS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "num_predict": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}


class Traces:
    """Spans of one daemon, sent on by `provider`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("localllm", __version__)

    async def follow(
        self,
        events: AsyncGenerator[AnswerEvent, None],
        headers: Mapping[str, str],
        request: GenerationRequest,
        model: str,
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The events of an answer, as they are; its span ends with them."""
        span = self._start(headers, request, model)
        is_over = False
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished):
                        _finish(span, event)
                        is_over = True
                    elif isinstance(event, Failed):
                        _fail(span, event.code, event.message)
                        is_over = True
                    yield event
        except LocalllmError as error:
            _fail(span, error.code, error.message)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if not is_over:
                _fail(span, "client_gone", "the client left before its answer was complete")
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what has not been sent; waits for the network."""
        self._provider.shutdown()

    def _start(self, headers: Mapping[str, str], request: GenerationRequest, model: str) -> Span:
        # Here, because it is an extra, and nobody without an endpoint waits for its import.
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        operation = "text_completion" if request.messages is None else "chat"
        parent = TraceContextTextMapPropagator().extract(dict(headers))
        return self._tracer.start_span(
            f"{operation} {model}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes=_request_attributes(operation, request, model),
        )


def traces_to(endpoint: str) -> Traces:
    """Traces that are sent to an OTLP collector by HTTP. Raises ConfigError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"LOCALLLM_OTLP_ENDPOINT is set, but OpenTelemetry is not installed ({error.name})",
            hint="pip install 'localllm[otel]'",
        ) from error
    resource = Resource.create({"service.name": "localllm", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return Traces(provider)


def _request_attributes(operation: str, request: GenerationRequest, model: str) -> dict[str, Any]:
    said = {key: value for name, key in _OPTIONS.items() if (value := getattr(request.options, name)) is not None}
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "localllm",
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": model,
        "localllm.priority": request.priority,
        **({"gen_ai.request.stop_sequences": list(request.options.stop)} if request.options.stop else {}),
        **said,
    }


def _finish(span: Span, event: Finished) -> None:
    usage, timings = event.usage, event.timings
    span.set_attributes(
        {
            "gen_ai.response.finish_reasons": [event.reason],
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            "localllm.queue_seconds": timings.queue_seconds,
            "localllm.load_seconds": timings.load_seconds,
            "localllm.prefill_seconds": timings.prefill_seconds,
            "localllm.decode_seconds": timings.decode_seconds,
        }
    )


def _fail(span: Span, code: str, message: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, message))
