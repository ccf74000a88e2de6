"""GET /metrics, read as Prometheus reads it, and log lines that say which request they belong to."""

from __future__ import annotations

import json
import logging
import sys

import httpx
import pytest
from live_server import wait_until
from prometheus_client.parser import text_string_to_metric_families

from localllm.logs import request_id, set_up_logging
from localllm.server.app import route_of


def figures(server) -> dict[tuple, float]:
    """Every sample by its name and the values of its labels, in the order of the labels' names."""
    text = httpx.get(f"{server.url}/metrics").text
    families = text_string_to_metric_families(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def ask(server, prompt: str, **fields) -> httpx.Response:
    return httpx.post(f"{server.url}/api/generate", json={"model": "guide", "prompt": prompt, **fields}, timeout=20)


def test_tokens_waits_and_times_of_answers_are_counted_by_model(server):
    ask(server, "echo a b c")
    ask(server, "echo a", stream=False)
    ask(server, "fail")
    told = figures(server)
    model = "guide:latest"
    assert (6, 2, 4) == (
        told["localllm_prompt_tokens_total", model],
        told["localllm_cached_tokens_total", model],
        told["localllm_completion_tokens_total", model],
    )
    assert (2, 2) == (
        told["localllm_time_to_first_token_seconds_count", model],
        told["localllm_inter_token_seconds_count", model],
    )
    assert (2, 0.25) == (told["localllm_queue_seconds_count", model], told["localllm_queue_seconds_sum", model])
    assert 0.5 == told["localllm_load_wait_seconds_sum", model]


def test_requests_are_counted_by_route_and_status_and_nobody_can_make_a_series_of_their_own(server):
    ask(server, "echo a")
    ask(server, "fail")
    for path in ("/made-up", "/v1/models/made-up", "/v1/models/another"):
        httpx.get(server.url + path)
    told = figures(server)
    requests = {name[1:]: value for name, value in told.items() if name[0] == "localllm_requests_total"}
    assert {
        ("/api/generate", "200"): 1,
        ("/api/generate", "400"): 1,
        ("other", "404"): 1,
        ("/v1/models/{id:path}", "404"): 2,
    } == requests
    assert 2 == told["localllm_request_seconds_count", "/api/generate"]


def test_what_is_so_now_is_asked_when_somebody_looks(server):
    told = figures(server)
    assert (0, 1) == (told["localllm_queue_length", "guide:latest"], told["localllm_queue_length", "slow:latest"])
    assert (1024, 700) == (told["localllm_cells", "guide:latest"], told["localllm_used_cells", "guide:latest"])
    sizes = [told["localllm_model_bytes", kind, "guide:latest"] for kind in ("weights", "kv", "gpu")]
    assert [1000, 500, 300] == sizes
    counts = [told[f"localllm_{name}_total",] for name in ("model_loads", "model_unloads", "model_evictions")]
    assert ([3, 2, 1], 1) == (counts, told["localllm_runner_deaths_total",])


@pytest.mark.parametrize(
    ("path", "route"),
    [("/api/chat", "/api/chat"), ("/v1/models/a/b", "/v1/models/{id:path}"), ("/api/chat/", "other"), ("", "other")],
)
def test_a_route_is_a_row_of_the_table(path, route):
    assert route == route_of(path)


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_a_json_line_has_the_request_and_the_exception(root_logger, capsys):
    set_up_logging("INFO", "json")
    request_id.set("abc")
    try:
        raise KeyError("x")
    except KeyError:
        root_logger.error("it broke: %s", 'a "quote"\nand a line', exc_info=sys.exc_info())
    request_id.set("")
    root_logger.info("fine")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert ("ERROR", "root", 'it broke: a "quote"\nand a line', "abc") == (
        first["level"], first["logger"], first["message"], first["request_id"],
    )  # fmt: skip
    assert "KeyError" in first["exception"]
    assert "request_id" not in second


def test_lines_of_a_request_name_it_also_those_of_other_modules(server, root_logger, capsys):
    set_up_logging("INFO", "human")
    answer = ask(server, "bug")
    known = answer.headers["x-request-id"]
    lines: list[str] = []

    def is_told(words: str) -> bool:
        lines.extend(capsys.readouterr().err.splitlines())
        return any(words in line for line in lines)

    # The whole beginning: httpx, which runs in this process too, may tell the path before the server has.
    wait_until(lambda: is_told(f"localllm.server.app: {known} POST /api/generate"))
    assert is_told(f"localllm.server.streaming: {known} a request failed")
