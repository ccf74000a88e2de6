"""A child process that gives one engine many short requests, takes some of them back, and measures what stays behind.

Standard input holds {"model": PATH, "requests": N, "settled": M}, standard output the figures after the first M
requests and after all of them (see `figures`). At both times nothing runs, and idle prefixes have been forgotten.
What is kept on purpose, the texts of tokens, is there before the first request, and what the allocator keeps for later
use is given back before each measurement: what grows in between is held by somebody.
"""

from __future__ import annotations

import ctypes
import gc
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import psutil

from localllm.engine.engine import Engine
from localllm.engine.llama import LlamaBackend, LlamaConfig
from localllm.engine.policy import EnginePolicy
from localllm.engine.sequence import SequenceRequest
from localllm.generation import Sampling

SEQUENCES = 8
OUTSTANDING_MOST = 12  # running and waiting
CANCELLED_SHARE = 0.2
SHELF_BYTES = 2 * 2**20  # full before the first measurement: what grows then is no cache
PREFIXES = 20  # prompts begin with one of these, so that cells are shared, and then left idle


class Soak:
    """The engine, and a reproducible stream of requests for it."""

    def __init__(self, model: Path) -> None:
        config = LlamaConfig(model_path=model, max_sequences=SEQUENCES, batch_tokens=128, threads=1, pool_tokens=512)
        self.backend = LlamaBackend(config)
        self.engine = Engine(self.backend, time.monotonic, EnginePolicy(shelf_bytes_most=SHELF_BYTES))
        self.random = random.Random(1)
        self.prefixes = [self._tokens(self.random.randrange(4, 40)) for _ in range(PREFIXES)]
        self.outstanding: set[int] = set()
        self.ended = {"finished": 0, "cancelled": 0, "failed": 0}
        self.added = 0
        for token in range(self.backend.facts.vocabulary_size):
            for special in (False, True):
                self.backend.token_bytes(token, special=special)

    def _tokens(self, count: int) -> list[int]:
        return self.random.choices(range(300, self.backend.facts.vocabulary_size), k=count)

    def run(self, until: int) -> None:
        """Go on until so many requests have come and all of them have gone."""
        while self.added < until or self.outstanding:
            while self.added < until and len(self.outstanding) < OUTSTANDING_MOST:
                self._add()
            if self.outstanding and self.random.random() < CANCELLED_SHARE:
                self._cancel(self.random.choice(sorted(self.outstanding)))
            for output in self.engine.step():
                if output.finish is not None or output.error is not None:
                    self.ended["failed" if output.finish is None else "finished"] += 1
                    self.outstanding.discard(output.id)

    def _add(self) -> None:
        prompt = [*self.random.choice(self.prefixes), *self._tokens(self.random.randrange(1, 8))]
        self.engine.add(
            SequenceRequest(
                id=self.added,
                prompt=prompt,
                sampling=Sampling(temperature=self.random.choice((0.0, 0.8))),
                seed=self.added,
                limit_tokens=self.backend.facts.sequence_tokens,
                max_new_tokens=self.random.randrange(1, 6),
                priority=self.random.randrange(2),
            )
        )
        self.outstanding.add(self.added)
        self.added += 1

    def _cancel(self, number: int) -> None:
        if self.engine.cancel(number):
            self.ended["cancelled"] += 1
        self.outstanding.discard(number)

    def figures(self) -> dict[str, Any]:
        """Memory of the process, what the engine counts, and the cells that llama.cpp still holds."""
        idle_prefixes = self.engine.stats().idle_prefixes
        self.engine.forget_prefixes()
        _give_back_free_memory()
        memory = llama_cpp.llama_get_memory(self.backend.context)
        slots = range(self.backend.facts.slots)
        return {
            "resident_bytes": psutil.Process().memory_info().rss,
            "python_blocks": sys.getallocatedblocks(),
            "idle_prefixes": idle_prefixes,
            "used_cells": self.engine.stats().used_cells,
            "held_tokens": sum(llama_cpp.llama_memory_seq_pos_max(memory, slot) + 1 for slot in slots),
            "cached_tokens": self.engine.stats().cached_tokens,
            **self.ended,
        }


def _give_back_free_memory() -> None:
    """Of Python and of C. What allocators keep goes up and down by megabytes, and says nothing of leaks."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)


def main() -> None:
    """Measure twice: when everything that is made once has been made, and at the end."""
    order = json.load(sys.stdin)
    soak = Soak(Path(order["model"]))
    soak.run(order["settled"])
    early = soak.figures()
    soak.run(order["requests"])
    json.dump({"early": early, "late": soak.figures()}, sys.stdout)


if __name__ == "__main__":
    main()
