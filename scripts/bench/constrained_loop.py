"""Eight answers at once in the engine alone, held to a grammar or free: the child of scripts/bench/constrained.

    python constrained_loop.py MODEL.gguf THREADS

Prints {"grammar_seconds": …}, what the first grammar of the vocabulary costs. Then answers each line
{"constrained": N, "tokens": …, "temperature": …} on stdin with {"step_ms": …, "cpu_ms": …, "steps": …}: the mean step
in which all sequences decode, of which N are held to a JSON Schema; and what it took of the engine's own thread.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from localllm.answer_rules import AnswerRules, Held
from localllm.chat.lark import Lark
from localllm.engine.engine import Engine
from localllm.engine.llama import LlamaBackend, LlamaConfig
from localllm.engine.sequence import SequenceRequest
from localllm.generation import Sampling

SEQUENCES = 8
PROMPT = "Write down the orders of the last year, as JSON."
# An agent's usual: texts, numbers with bounds, listed words, a list in an object in a list; and it never ends.
SCHEMA = {
    "type": "array",
    "minItems": 100_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "state": {"enum": ["open", "paid", "sent", "returned"]},
            "count": {"type": "integer", "minimum": 1, "maximum": 999},
            "price": {"type": "number", "minimum": 0},
            "note": {"type": ["string", "null"]},
            "lines": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
        },
        "required": ["name", "state", "count", "price", "lines"],
        "additionalProperties": False,
    },
}


class Bench:
    """One loaded model."""

    def __init__(self, model: Path, threads: int) -> None:
        config = LlamaConfig(model, max_sequences=SEQUENCES, batch_tokens=512, threads=threads, pool_tokens=16_384)
        self._backend = LlamaBackend(config)
        lark = Lark(self._backend)
        started = time.perf_counter()
        self._rules = AnswerRules((Held(lark.text(lark.json(SCHEMA).name)),))
        self._backend.new_constraint(self._rules)
        self.grammar_seconds = time.perf_counter() - started
        self._next_id = 0

    def _add(self, engine: Engine, *, is_constrained: bool, tokens: int, temperature: float) -> None:
        self._next_id += 1
        request = SequenceRequest(
            id=self._next_id,
            prompt=self._backend.tokenize(f"{self._next_id} {PROMPT}", add_special=True, parse_special=True),
            sampling=Sampling(temperature=temperature),
            seed=self._next_id,
            limit_tokens=self._backend.facts.pool_tokens,
            max_new_tokens=tokens,
            constraint=self._backend.new_constraint(self._rules) if is_constrained else None,
        )
        engine.add(request)

    def run(self, constrained: int, tokens: int, temperature: float) -> dict[str, float]:
        """One round."""
        engine = Engine(self._backend, time.monotonic)
        for index in range(SEQUENCES):
            self._add(engine, is_constrained=index < constrained, tokens=tokens, temperature=temperature)
        seconds: list[float] = []
        cpu_seconds: list[float] = []
        while engine.has_work:
            started, cpu_started = time.perf_counter(), time.thread_time()
            outputs = engine.step()
            took, cpu_took = time.perf_counter() - started, time.thread_time() - cpu_started
            errors = [output.error for output in outputs if output.error is not None]
            if errors:
                raise SystemExit(f"bench: {errors[0]}")
            if len([output for output in outputs if output.tokens]) == SEQUENCES:
                seconds.append(took)
                cpu_seconds.append(cpu_took)
        engine.forget_prefixes()
        count = len(seconds)
        if not count:
            raise SystemExit("bench: an answer ended at once; take another model")
        return {"step_ms": 1000 * sum(seconds) / count, "cpu_ms": 1000 * sum(cpu_seconds) / count, "steps": count}


def main() -> None:
    """Serve the lines of stdin."""
    bench = Bench(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"grammar_seconds": bench.grammar_seconds}), flush=True)
    for line in sys.stdin:
        print(json.dumps(bench.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
