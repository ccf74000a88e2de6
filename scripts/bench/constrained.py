"""Eight answers held to a JSON Schema beside eight free ones, in the engine alone, taking turns.

    scripts/bench/constrained [--repeats N] [--tokens N] [--threads N] [--model FILE.gguf] [--vocabulary FILE.gguf]

The held answers are a list that never ends, the free ones noise that hardly ever does; all have the default sampling.
Milliseconds are means over the steps in which all eight decode, medians over the repeats; a machine that slows down
slows both sides.
On a busy machine `--threads 1` tells the time that the engine's thread computed, instead of the time that went by.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from pathlib import Path

from bench.decode import ask, engine_loop, table
from bench.inputs import ensure_model, say

SEQUENCES = 8
TARGET_RATIO = 1.10


def measure(child: subprocess.Popen[str], repeats: int, tokens: int, figure: str) -> list[tuple[str, str, str]]:
    """All figures, as rows of the table."""
    grammar_seconds = float(str(ask(child)["grammar_seconds"]))
    rounds: dict[int, list[float]] = {0: [], SEQUENCES: []}
    for number in range(repeats + 1):
        for constrained, found in rounds.items():
            order = f'{{"constrained": {constrained}, "tokens": {tokens}, "temperature": 0.8}}'
            milliseconds = float(str(ask(child, order)[figure]))
            if number:  # the first round warms up
                found.append(milliseconds)
    free, held = statistics.median(rounds[0]), statistics.median(rounds[SEQUENCES])
    ratio = statistics.median(h / f for f, h in zip(rounds[0], rounds[SEQUENCES], strict=True))
    return [
        ("what", "median", "against"),
        ("a step of 8 held answers", f"{held:.2f} ms", f"ratio {ratio:.3f} (goal <= {TARGET_RATIO:.2f})"),
        ("a step of 8 free answers", f"{free:.2f} ms", ""),
        ("of it for each held token", f"{(held - free) / SEQUENCES:.3f} ms", ""),
        ("the first grammar of a vocabulary", f"{grammar_seconds:.2f} s", "once per loaded model"),
    ]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="scripts/bench/constrained", description="What grammars cost.")
    parser.add_argument("--repeats", type=int, default=5, help="measured repeats of each side (at least 3)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the engine")
    parser.add_argument("--model", type=Path, help="a GGUF instead of the synthetic 0.6 B")
    parser.add_argument("--vocabulary", type=Path, help="ggml-vocab-qwen2.gguf, instead of downloading it")
    chosen = parser.parse_args()
    model = chosen.model or ensure_model("qwen3-0.6b", "qwen2", chosen.vocabulary)
    repeats = max(3, chosen.repeats)
    say(f"{model.name}: {repeats} repeats of {chosen.tokens} tokens on each side, taking turns")
    figure = "cpu_ms" if chosen.threads == 1 else "step_ms"
    with engine_loop("constrained_loop.py", model.resolve(), chosen.threads) as child:
        print(table(measure(child, repeats, chosen.tokens, figure)))


if __name__ == "__main__":
    main()
