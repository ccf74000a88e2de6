"""Traces of answers at a collector on loopback: what a span tells, whose it is, and that it tells no text."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cli_process import cli_environment, run_cli
from daemon_process import running_daemon
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

QUESTION = "How do I pull a model?"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector():
    """Its URL and the bodies it got."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()


def spans_of(bodies: list[bytes]):
    for body in bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                yield from scope.spans


def attributes_of(span) -> dict[str, object]:
    found = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        found[pair.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


def test_each_answer_is_a_span_under_its_clients_and_tells_no_text(tmp_path):
    with collector() as (url, bodies):
        with running_daemon(tmp_path, LOCALLLM_OTLP_ENDPOINT=url) as daemon:
            body = {"model": "guide", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "seed": 7}
            parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert 200 == daemon.http.post("/v1/chat/completions", json=body, headers=parent).status_code
            wrong = {"model": "guide", "prompt": "x", "stream": True, "num_ctx": 16}
            daemon.http.post("/v1/completions", json={**wrong, "prompt": QUESTION * 50})
        spans = sorted(spans_of(bodies), key=lambda span: span.name)  # what was left was sent at the end
    chat, failed = spans
    said = attributes_of(chat)
    assert ("chat guide:latest", TRACE, PARENT) == (chat.name, chat.trace_id.hex(), chat.parent_span_id.hex())
    assert ("chat", "localllm", "guide", "guide:latest") == tuple(
        said[f"gen_ai.{name}"] for name in ("operation.name", "provider.name", "request.model", "response.model")
    )
    assert (0.0, 7, ["stop"]) == (
        said["gen_ai.request.temperature"], said["gen_ai.request.seed"], said["gen_ai.response.finish_reasons"],
    )  # fmt: skip
    assert min(said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) > 0
    assert chat.end_time_unix_nano > chat.start_time_unix_nano
    assert ("text_completion guide:latest", "prompt_too_long") == (failed.name, attributes_of(failed)["error.type"])
    assert QUESTION.encode() not in b"".join(bodies)


def test_a_collector_that_is_not_there_costs_no_answer(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_OTLP_ENDPOINT="http://127.0.0.1:9") as daemon:
        assert "localllm pull" in daemon.chat(QUESTION)["message"]["content"]


def test_an_endpoint_that_is_no_url_is_told(tmp_path):
    environment = cli_environment(tmp_path, "127.0.0.1:0", LOCALLLM_OTLP_ENDPOINT="collector:4318")
    assert (
        "LOCALLLM_OTLP_ENDPOINT is 'collector:4318', but must be an http or https URL"
        in run_cli("serve", environment=environment).stderr
    )
