"""The figures of a whole engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine holds now and has done so far. `prompt_tokens` were computed, `cached_tokens` taken over."""

    running: int
    waiting: int
    used_cells: int
    steps: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    idle_prefixes: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
