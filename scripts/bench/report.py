"""Figures out of answers, tables out of figures, and the targets that the ratios are held against. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.load_client import Answer, Round

Figures = Mapping[str, float | None]
# What a table shows: the figure, its heading, and how the value is written.
ROWS = (
    ("finished", "finished requests", "{:.0f}"),
    ("failed", "failed requests", "{:.0f}"),
    ("wall_s", "wall s", "{:.2f}"),
    ("output_tokens_per_s", "output tokens/s", "{:.2f}"),
    ("decode_tokens_per_s", "decode tokens/s", "{:.2f}"),
    ("ttft_mean_s", "first token mean s", "{:.3f}"),
    ("ttft_p50_s", "first token p50 s", "{:.3f}"),
    ("ttft_p95_s", "first token p95 s", "{:.3f}"),
    ("ttft_p99_s", "first token p99 s", "{:.3f}"),
    ("gap_p50_ms", "between tokens p50 ms", "{:.1f}"),
    ("gap_p95_ms", "between tokens p95 ms", "{:.1f}"),
    ("gap_p99_ms", "between tokens p99 ms", "{:.1f}"),
    ("window_gap_p99_ms", "the same while the long prompt runs", "{:.1f}"),
    ("prompt_tokens", "prompt tokens", "{:.0f}"),
    ("cached_tokens", "cached tokens", "{:.0f}"),
    ("cached_share", "cached share", "{:.3f}"),
    ("new_share", "new of computed prompt tokens", "{:.3f}"),
    ("wrong_lengths", "answers of another length", "{:.0f}"),
)


@dataclass(frozen=True)
class Target:
    """`measure` gives (ours, against); their ratio is to be at least or at most `bound`."""

    workload: str
    name: str
    figure: str
    against: str
    bound: float
    at_least: bool = True


PEER, BENCH, NOTHING = "peer", "llama-bench", "absolute"
TARGETS = (
    Target("single", "decode rate", "decode_tokens_per_s", BENCH, 0.97),
    Target("unique", "output tokens/s", "output_tokens_per_s", PEER, 1.05),
    Target("shared", "output tokens/s", "output_tokens_per_s", PEER, 4.5),
    Target("shared", "first token mean", "ttft_mean_s", PEER, 0.25, at_least=False),
    Target("chat", "new of computed prompt tokens", "new_share", NOTHING, 0.99),
    Target("chat", "output tokens/s", "output_tokens_per_s", PEER, 1.15),
    Target("long-prefill", "between tokens p99", "window_gap_p99_ms", PEER, 0.1, at_least=False),
    Target("pressure", "finished of all", "finished_share", NOTHING, 1.0),
)


def percentile(values: Sequence[float], fraction: float) -> float | None:
    """The nearest-rank percentile: a value that was measured; None of none."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-fraction * len(ranked) // 1) - 1))]


def gaps(answer: Answer) -> list[tuple[float, float]]:
    """(begin, end) of each pause between two pieces of an answer."""
    return list(zip(answer.arrivals, answer.arrivals[1:], strict=False))


def window_gaps(answers: Sequence[Answer]) -> list[float]:
    """Seconds of the streams' pauses that lie in the time from the long prompt's request to its first token, or reach
    into it."""
    long = next((answer for answer in answers if answer.waited_for_streams and answer.arrivals), None)
    if long is None:
        return []
    pauses = [pause for answer in answers if not answer.waited_for_streams for pause in gaps(answer)]
    return [end - begin for begin, end in pauses if begin < long.arrivals[0] and end > long.started]


def milliseconds(seconds: float | None) -> float | None:
    """None stays None."""
    return None if seconds is None else seconds * 1000


def known_sum(values: Sequence[int | None]) -> int | None:
    """The sum, where a server that tells some leaves out zeros; None when it tells none."""
    told = [value for value in values if value is not None]
    return sum(told) if told else None


def new_tokens(answer: Answer) -> int:
    """Prompt tokens that no server could have computed before: the turn's own, and the last of the answer before it,
    which was sampled and never computed."""
    return answer.turn.new_tokens + (1 if answer.turn_index else 0)


def summarize(run: Round) -> dict[str, float | None]:
    """All figures of one round."""
    good = [answer for answer in run.answers if answer.error is None]
    first = [answer.arrivals[0] - answer.started for answer in good]
    pauses = [end - begin for answer in good for begin, end in gaps(answer)]
    output = sum(answer.output_tokens or len(answer.arrivals) for answer in good)
    failed = len(run.answers) - len(good)
    return {
        "finished": float(len(good)),
        "failed": float(failed),
        "finished_share": len(good) / len(run.answers) if run.answers else 0.0,
        "wall_s": run.seconds,
        "output_tokens_per_s": output / run.seconds if run.seconds else None,
        "decode_tokens_per_s": _decode_rate(good),
        "ttft_mean_s": statistics.fmean(first) if first else None,
        **{f"ttft_p{rank}_s": percentile(first, rank / 100) for rank in (50, 95, 99)},
        **{f"gap_p{rank}_ms": milliseconds(percentile(pauses, rank / 100)) for rank in (50, 95, 99)},
        "window_gap_p99_ms": milliseconds(percentile(window_gaps(good), 0.99)),
        **_prompt_figures(good),
        "wrong_lengths": float(sum(answer.output_tokens != answer.turn.output_tokens for answer in good)),
    }


def _decode_rate(answers: Sequence[Answer]) -> float | None:
    """The median over the streams of tokens per second after the first."""
    rates = [
        ((answer.output_tokens or len(answer.arrivals)) - 1) / (answer.arrivals[-1] - answer.arrivals[0])
        for answer in answers
        if len(answer.arrivals) > 1
    ]
    return statistics.median(rates) if rates else None


def _prompt_figures(answers: Sequence[Answer]) -> dict[str, float | None]:
    prompt = known_sum([answer.prompt_tokens for answer in answers])
    cached = known_sum([answer.cached_tokens for answer in answers])
    figures: dict[str, float | None] = {"prompt_tokens": prompt, "cached_tokens": cached}
    known = prompt and cached is not None
    figures["cached_share"] = cached / prompt if known and prompt and cached is not None else None
    computed = prompt - cached if prompt is not None and cached is not None else 0
    # Only conversations tell what is new: what requests share is no client's own.
    if computed and any(answer.turn_index for answer in answers):
        figures["new_share"] = sum(new_tokens(answer) for answer in answers) / computed
    return figures


def medians(rounds: Sequence[Figures]) -> dict[str, float | None]:
    """The median of each figure over the rounds that have it."""
    found: dict[str, float | None] = {}
    for name in rounds[0] if rounds else ():
        values = [value for figures in rounds if (value := figures.get(name)) is not None]
        found[name] = statistics.median(values) if values else None
    return found


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures], name: str) -> float | None:
    """The median of the rounds' own ratios: what slows a machine down slows both sides of one round."""
    pairs = ((one.get(name), other.get(name)) for one, other in zip(ours, theirs, strict=False))
    ratios = [first / second for first, second in pairs if first is not None and second]
    return statistics.median(ratios) if ratios else None


def written(value: float | None, form: str) -> str:
    """A value in a table."""
    return "-" if value is None else form.format(value)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of one width, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *cells]).rstrip())
    return "\n".join(lines)


def workload_table(name: str, measured: Mapping[str, Sequence[Figures]]) -> str:
    """One workload: a column for each server, and their ratio when there are two."""
    columns = [medians(rounds) for rounds in measured.values()]
    pair = list(measured.values()) if len(measured) == 2 else None
    rows = [(name, *measured, *(["ratio"] if pair else []))]
    for figure, heading, form in ROWS:
        values = [column.get(figure) for column in columns]
        if all(value is None for value in values) or (figure in ("failed", "wrong_lengths") and not any(values)):
            continue
        compared = [written(ratio(*pair, figure), "{:.3f}")] if pair else []
        rows.append((heading, *(written(value, form) for value in values), *compared))
    return aligned(rows)


Measure = Callable[[Target], float | None]


def targets_table(names: Sequence[str], measure: Measure) -> str:
    """Each target of these workloads: what came out, what was wanted, and whether that holds."""
    rows = [("target", "against", "measured", "wanted", "")]
    for target in TARGETS:
        if target.workload not in names:
            continue
        value = measure(target)
        wanted = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        rows.append(
            (
                f"{target.workload}: {target.name}",
                target.against,
                written(value, "{:.3f}"),
                wanted,
                verdict(target, value),
            )
        )
    return aligned(rows)


def verdict(target: Target, value: float | None) -> str:
    """A word on one target."""
    if value is None:
        return "not measured"
    return "met" if (value >= target.bound if target.at_least else value <= target.bound) else "missed"
