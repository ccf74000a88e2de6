"""What a long conversation costs a chat template: CPU time of a rendering, for each template the engine's source has.

    scripts/bench/rendering [--shown 10] [--rounds 7] [--names Kimi-K3,…]

A conversation of more than 60,000 tokens with calls and their results, rendered in the sandbox as the runner does it.
The goal is 50 ms; what the machine does meanwhile is told by a yardstick: the time for 100,000 look-ups and texts,
10 ms on an idle core of a server of 2023.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from datetime import datetime

from bench.inputs import ensure_templates, say
from bench.report import aligned

from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError
from localllm.generation import Message, Tool, ToolCall

GOAL_MS = 50.0
CHARACTERS = 240_000  # 60,000 tokens and more
TEXT = "The quick brown fox jumps over the lazy dog, and then it goes home. " * 10
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"at": {}}}}
TOOLS = (Tool("look", json.dumps({"type": "function", "function": FUNCTION})),) * 12


def long_conversation(*, has_calls: bool) -> list[Message]:
    """Questions and answers, between them a call and its result."""
    turns: list[Message] = []
    while sum(len(turn.content) for turn in turns) < CHARACTERS:
        turns.append(Message("user", TEXT))
        if has_calls:
            call = ToolCall(f"call_abcd{len(turns):05}", "look", json.dumps({"at": TEXT[:200], "times": len(turns)}))
            turns.append(Message("assistant", tool_calls=(call,)))
            turns.append(Message("tool", TEXT, tool_name="look", tool_call_id=call.id))
        turns.append(Message("assistant", TEXT))
    return [*turns, Message("user", "And now?")]


def yardstick() -> float:
    """Milliseconds that this machine takes, just now, for things like those that a template does."""
    begun = time.thread_time()
    values = {"a": 1}
    for number in range(100_000):
        values.get("a")
        str(number)
    return (time.thread_time() - begun) * 1000


def milliseconds(template: ChatTemplate, rounds: int) -> tuple[float, float] | None:
    """The median and the least of so many renderings; None for a template that refuses such conversations."""
    for has_calls in (True, False):
        turns = long_conversation(has_calls=has_calls)
        try:
            template.render(turns, TOOLS if has_calls else ())
        except TemplateError:
            continue
        taken = []
        for _ in range(rounds):
            begun = time.thread_time()
            template.render(turns, TOOLS if has_calls else ())
            taken.append((time.thread_time() - begun) * 1000)
        return statistics.median(taken), min(taken)
    return None


def main() -> None:
    """Measure, and print the slowest."""
    parser = argparse.ArgumentParser(prog="scripts/bench/rendering", description="Long conversations in templates.")
    parser.add_argument("--shown", type=int, default=10, help="how many of the slowest are shown")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--names", default="", help="only these templates, with commas between")
    chosen = parser.parse_args()
    wanted = set(filter(None, chosen.names.split(",")))
    files = [file for file in sorted(ensure_templates().glob("*.jinja")) if not wanted or file.stem in wanted]
    say(f"{len(files)} templates")
    gc.freeze()  # as the runner does with what it has loaded
    figures: dict[str, tuple[float, float]] = {}
    for file in files:
        template = ChatTemplate(file.read_text(), bos_token="<s>", today=lambda: datetime(2031, 2, 3))
        taken = milliseconds(template, chosen.rounds)
        if taken is not None:
            figures[file.stem] = taken
    slowest = sorted(figures.items(), key=lambda one: -one[1][1])[: chosen.shown]
    rows = [(name, f"{median:.1f}", f"{least:.1f}", f"< {GOAL_MS:.0f}") for name, (median, least) in slowest]
    print(aligned([("template", "ms of CPU, median", "least", "goal"), *rows]))
    print(f"{len(figures)} of {len(files)} render it; the yardstick takes {yardstick():.1f} ms (10 on an idle core)")


if __name__ == "__main__":
    main()
