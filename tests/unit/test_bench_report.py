"""scripts/bench/report: the figures of a round, and what the targets say of them."""

from __future__ import annotations

import pytest
from bench import report
from bench.load_client import Answer, Round
from bench.workloads import Turn


def answer(started: float, arrivals: list[float], **fields: object) -> Answer:
    turn = Turn(" a b c d", 4, len(arrivals))
    counts = {"prompt_tokens": 4, "cached_tokens": 0, "output_tokens": len(arrivals)}
    known = {"turn_index": 0, "waited_for_streams": False, **counts, **fields}
    return Answer(turn, started=started, arrivals=arrivals, ended=arrivals[-1] if arrivals else started, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [([], 0.5, None), ([7.0], 0.99, 7.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0)],
)
def test_a_percentile_is_a_value_that_was_measured(
    values: list[float], fraction: float, expected: float | None
) -> None:
    assert expected == report.percentile(values, fraction)


def test_the_last_of_a_hundred_is_not_yet_the_99th_percentile() -> None:
    assert 99.0 == report.percentile([float(value) for value in range(1, 101)], 0.99)


def test_a_round_is_summed_up() -> None:
    figures = report.summarize(Round([answer(0.0, [1.0, 1.5, 2.0]), answer(0.0, [3.0, 3.5, 4.0])], 4.0))
    assert 1.5 == figures["output_tokens_per_s"]
    assert 2.0 == figures["ttft_mean_s"]
    assert 500.0 == figures["gap_p99_ms"]
    assert 2.0 == figures["decode_tokens_per_s"]
    assert 0.0 == figures["cached_share"]
    assert figures.get("new_share") is None  # nobody said anything twice


def test_failed_requests_count_as_unfinished_and_give_no_times() -> None:
    figures = report.summarize(Round([answer(0.0, [1.0, 2.0]), answer(0.0, [], error="503: full")], 2.0))
    assert (1.0, 1.0, 0.5) == (figures["finished"], figures["failed"], figures["finished_share"])
    assert 1.0 == figures["ttft_mean_s"]


def test_a_server_that_tells_no_cached_tokens_has_no_share() -> None:
    figures = report.summarize(Round([answer(0.0, [1.0], cached_tokens=None)], 1.0))
    assert figures["cached_share"] is None
    assert figures.get("new_share") is None


def test_the_last_token_of_the_answer_before_is_new_to_every_server() -> None:
    later = answer(0.0, [1.0], turn_index=1, prompt_tokens=12, cached_tokens=7)
    assert 1.0 == report.summarize(Round([later], 1.0))["new_share"]


def test_pauses_of_the_streams_count_while_the_long_prompt_runs_and_only_then() -> None:
    stream = answer(0.0, [1.0, 2.0, 2.1, 9.0, 9.1])
    long = answer(2.05, [8.0], waited_for_streams=True)
    assert [pytest.approx(0.1), pytest.approx(6.9)] == report.window_gaps([stream, long])


def test_ratios_are_those_of_each_round() -> None:
    ours, theirs = [{"x": 2.0}, {"x": 8.0}, {"x": 3.0}], [{"x": 1.0}, {"x": 4.0}, {"x": None}]
    assert 2.0 == report.ratio(ours, theirs, "x")
    assert report.ratio(ours, theirs, "y") is None


def test_the_targets_table_has_the_workloads_that_ran() -> None:
    table = report.targets_table(["shared"], lambda target: 5.0 if target.at_least else 0.3)
    lines = table.splitlines()
    assert 3 == len(lines)
    assert lines[1].endswith("met")
    assert lines[2].endswith("missed")


def test_a_workload_table_compares_two_servers() -> None:
    rounds = [report.summarize(Round([answer(0.0, [1.0, 1.5])], 2.0))]
    table = report.workload_table("unique", {"localllm": rounds, "llama-server": rounds})
    assert ["output", "tokens/s", "1.00", "1.00", "1.000"] in [line.split() for line in table.splitlines()]
    assert "failed" not in table
