"""A child process that plays scenarios on the real engine with llama.cpp behind it, and tells what came out.

Standard input holds a JSON list of scenarios, standard output the list of their results (see `Scenario`, `Result`).
Every scenario gets a backend and an engine of its own. Requests are greedy, so that what they get is comparable.

Beside each token stands what the model thought of the two best: where two ways of computing the same thing differ, it
tells a tie that rounding decided from a state that is wrong.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from localllm.engine.backend import Batch, DecodeStatus, Sampler
from localllm.engine.draft_model import DraftModel
from localllm.engine.engine import Engine
from localllm.engine.llama import LlamaBackend, LlamaConfig
from localllm.engine.policy import EnginePolicy
from localllm.engine.sequence import SequenceOutput, SequenceRequest
from localllm.engine.tokens import Tokens
from localllm.generation import Sampling
from localllm.placement.cell_layout import LayoutChoice

STEPS_MOST = 100_000
INTERRUPT_SECONDS = 0.00005  # far less than a decode of a whole batch takes, on any machine


@dataclass
class Request:
    """One request. It arrives before step `step`, and not before the requests at `after` have ended.

    Its prompt is `prompt` or the tokens of `text`; `continues` puts another's prompt and answer in front of it.
    `cancel_after` steps since its arrival it is cancelled; if it `is_interrupted`, while a decode runs.
    """

    prompt: list[int] = field(default_factory=list)
    text: str = ""
    continues: int | None = None
    new_tokens: int = 16
    step: int = 0
    after: list[int] = field(default_factory=list)
    cancel_after: int | None = None
    is_interrupted: bool = False
    priority: int = 0
    message_starts: list[int] = field(default_factory=list)


@dataclass
class Scenario:
    """A model, how to load it, the engine's policy, and the requests.

    `draft` "itself": the model is its own draft model, whose guesses are right; "astray": the last of
    every second draft is not.
    """

    model: str
    requests: list[dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    draft: str = ""


@dataclass
class Result:
    """What one request got. `best` has, for each token sampled, the two best tokens and by how much they differed."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    reason: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    best: list[tuple[int, int, float]] = field(default_factory=list)


class Watching:
    """A sampler that writes down the two best tokens of the logits it samples from."""

    def __init__(self, sampler: Sampler, backend: LlamaBackend, best: list[tuple[int, int, float]]) -> None:
        self._sampler = sampler
        self._backend = backend
        self._best = best

    def sample(self, row: int) -> int:
        """The token, chosen by the sampler watched."""
        logits = self._backend.logits(row)
        second, first = np.argpartition(logits, -2)[-2:].tolist()
        if logits[second] > logits[first]:
            first, second = second, first
        self._best.append((first, second, float(logits[first] - logits[second])))
        return self._sampler.sample(row)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


class WatchedBackend(LlamaBackend):
    """The real backend; each new sampler is watched, and writes into `best` of the moment."""

    best: list[tuple[int, int, float]]
    interrupted = 0
    changes = 0
    filled = 0
    tiled = 0

    def change_layout(self) -> None:
        """What the real one does, counted."""
        super().change_layout()
        self.changes += 1

    def decode(self, batch: Batch) -> DecodeStatus:
        """What the real one does; counts the interrupted ones."""
        status = super().decode(batch)
        self.interrupted += status == "interrupted"
        return status

    def fillers(self, batch: Batch) -> list[tuple[int, int]]:
        """Those of the real one, counted: between slots of one row each, and behind the rows of prompts."""
        rows = super().fillers(batch)
        if len(batch.slots) == len(set(batch.slots.tolist())):
            self.filled += len(rows)
        else:
            self.tiled += len(rows)
        return rows

    def new_sampler(self, *arguments: Any, **named: Any) -> Any:
        """The sampler of the real one, watched."""
        return Watching(super().new_sampler(*arguments, **named), self, self.best)


class Astray(DraftModel):
    """Of every second draft the last guess is another one than the model's."""

    drafts = 0

    def guess(self, tokens: Tokens, most: int, plain_seconds: float) -> Tokens | None:
        """The guesses of the real one, but for the last."""
        guesses = super().guess(tokens, most, plain_seconds)
        if guesses is None:
            return None
        self.drafts += len(guesses) > 0
        if self.drafts % 2:
            guesses[-1:] = 300 + (guesses[-1:] + 1) % 2000
        return guesses


class Play:
    """One scenario, step by step."""

    def __init__(self, scenario: Scenario) -> None:
        defaults = {"max_sequences": 4, "batch_tokens": 256, "threads": 1, "pool_tokens": 4096}
        adapters = tuple(map(Path, scenario.config.get("adapters", ())))
        more = {**defaults, **scenario.config, "adapters": adapters}
        config = LlamaConfig(model_path=Path(scenario.model), **more)
        self.backend = WatchedBackend(config)
        self.engine = self._engine(scenario, config)
        self.requests = [Request(**one) for one in scenario.requests]
        self.results = [Result() for _ in self.requests]
        self.prompts: list[list[int]] = [[] for _ in self.requests]
        self.to_come = list(range(len(self.requests)))
        self.cancels: dict[int, list[int]] = {}
        self.steps = 0

    def _engine(self, scenario: Scenario, config: LlamaConfig) -> Engine:
        policy = EnginePolicy(**scenario.policy)
        if not scenario.draft:
            return Engine(self.backend, time.monotonic, policy)
        # Both being one model, guesses cost more than they save: where no time passes they are not paused for that.
        cells = LayoutChoice("unified", 1, keeps_whole_window=False, reason="one sequence")
        alone = LlamaBackend(replace(config, max_sequences=1, pool_tokens=2048, cells=cells))
        kind = Astray if scenario.draft == "astray" else DraftModel

        def clock() -> float:
            return 0.0

        draft_model = kind(alone, self.backend.facts.vocabulary_size, clock, least_probability=0.0)
        return Engine(self.backend, clock, policy, draft_model=draft_model)

    def run(self) -> dict[str, Any]:
        """Play it to the end."""
        while self.to_come or self.engine.has_work:
            for number in [number for number in self.to_come if self._is_due(number)]:
                self._arrive(number)
            for output in self._step(self.cancels.pop(self.steps, [])):
                self._take(output)
            self.steps += 1
            if self.steps > STEPS_MOST:
                raise RuntimeError("the engine does not come to an end")
        stats = asdict(self.engine.stats()) | {"interrupted": self.backend.interrupted}
        stats |= {"changes": self.backend.changes, "filled": self.backend.filled, "tiled": self.backend.tiled}
        self.backend.close()
        return {"requests": [asdict(result) for result in self.results], "stats": stats}

    def _step(self, leaving: list[int]) -> list[SequenceOutput]:
        """One step of the engine, during or before which some requests are cancelled."""
        breaks = [number for number in leaving if self.requests[number].is_interrupted]
        self._cancel([number for number in leaving if number not in breaks])
        is_over = Event()
        threads = [Thread(target=self._interrupt, args=(number, is_over)) for number in breaks]
        for thread in threads:
            thread.start()
        outputs = self.engine.step()
        is_over.set()
        for thread in threads:
            thread.join()
        self._cancel(breaks)
        return [output for output in outputs if output.id not in breaks]

    def _interrupt(self, number: int, is_over: Event) -> None:
        """In a thread: break off the decode that runs, as soon as it does."""
        while not is_over.wait(INTERRUPT_SECONDS):
            self.engine.interrupt(number)

    def _cancel(self, numbers: list[int]) -> None:
        for number in numbers:
            if self.engine.cancel(number):
                self.results[number].reason = "cancelled"

    def _is_due(self, number: int) -> bool:
        request = self.requests[number]
        return self.steps >= request.step and all(self.results[other].reason for other in request.after)

    def _arrive(self, number: int) -> None:
        request = self.requests[number]
        self.to_come.remove(number)
        is_first = request.continues is None
        prompt: Sequence[int] = request.prompt or self.backend.tokenize(
            request.text, add_special=is_first, parse_special=True
        )
        if request.continues is not None:
            prompt = [*self.prompts[request.continues], *self.results[request.continues].tokens, *prompt]
        self.prompts[number] = list(prompt)
        self.backend.best = self.results[number].best
        self.engine.add(
            SequenceRequest(
                id=number,
                prompt=prompt,
                sampling=Sampling(temperature=0.0),
                seed=0,
                limit_tokens=self.backend.facts.sequence_tokens_most,
                max_new_tokens=request.new_tokens,
                priority=request.priority,
                message_starts=tuple(request.message_starts),
            )
        )
        if request.cancel_after is not None:
            self.cancels.setdefault(self.steps + request.cancel_after, []).append(number)

    def _take(self, output: SequenceOutput) -> None:
        result = self.results[output.id]
        result.tokens += output.tokens
        result.text += output.text
        if output.error is not None:
            result.reason, result.error = "error", output.error
        if output.finish is not None:
            result.reason = output.finish.reason
            result.prompt_tokens = output.finish.stats.prompt_tokens
            result.cached_tokens = output.finish.stats.cached_tokens
            result.preemptions = output.finish.stats.preemptions


def main() -> None:
    """Play every scenario, in order."""
    json.dump([Play(Scenario(**one)).run() for one in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
