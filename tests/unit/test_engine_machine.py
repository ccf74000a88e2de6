"""Random work on the engine and the fake model, over every kind of memory and layout: nothing is lost or mixed up.

The fake model's next token is a function of all tokens before it, so a wrong copy, a wrong rewind or a stale cell shows
in the text; and it counts its cells itself, so a leak shows after every step.
"""

import itertools
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from localllm.engine import layout, roster
from localllm.engine.backend import MemoryTraits
from localllm.engine.engine import Engine
from localllm.engine.fake import END_TOKEN, FakeBackend, next_token
from localllm.engine.policy import EnginePolicy
from localllm.engine.sequence import SequenceRequest
from localllm.generation import Sampling

GREEDY = Sampling(temperature=0.0)
POOL_TOKENS = 240
SHARED = "a shared beginning that is longer than what is worth waiting for <"  # ends where a message begins
REPEATED = ("asked again and again <by everybody", "another one that is often asked <here>")
MEMORIES = {
    "attention": MemoryTraits(),
    "attention in streams": MemoryTraits(layout="streams"),
    "a layout that changes": MemoryTraits(layout="streams"),
    "window": MemoryTraits(kind="window", window_tokens=8, can_shift=False),
    "window in streams": MemoryTraits(kind="window", window_tokens=8, layout="streams", can_shift=False),
    "recurrent": MemoryTraits(kind="recurrent", can_shift=False),
}


def expected_text(prompt: str, count: int) -> str:
    tokens = list(prompt.encode())
    while len(tokens) < len(prompt.encode()) + count and (token := next_token(tokens)) != END_TOKEN:
        tokens.append(token)
    return bytes(tokens[len(prompt.encode()) :]).decode()


class EngineMachine(RuleBasedStateMachine):
    """Adds, cancels, interrupts and steps, with half of the prompts beginning alike; `traits` are set by a subclass."""

    traits = MemoryTraits()
    can_change_layout = False
    seen: ClassVar[set[str]] = set()  # layouts, of all runs

    def __init__(self) -> None:
        super().__init__()
        self.backend = FakeBackend(POOL_TOKENS, max_sequences=4, batch_tokens=16, slots=6, memory=self.traits)
        if self.traits.layout == "streams":
            # Those that can change do, at the latest when somebody needs more than a quarter.
            cells = 2 * POOL_TOKENS if self.can_change_layout else 4 * POOL_TOKENS
            self.backend = FakeBackend(
                cells, 4, 16, slots=4, memory=self.traits, can_change_layout=self.can_change_layout, mixed_rows_most=0
            )
        self.ticks = 0
        self.engine = Engine(self.backend, self.now, EnginePolicy(shelf_tokens_least=20, layout_change_pays=0.0))
        self.ids = itertools.count()
        self.expected: dict[int, str] = {}
        self.texts: dict[int, str] = {}
        self.unscored: dict[int, bytes] = {}  # what of each prompt is to be told with its logprobs

    def now(self) -> float:
        self.ticks += 1
        return self.ticks * 0.01

    @rule(
        prompt=st.text("abc<", min_size=1, max_size=50) | st.sampled_from(REPEATED),
        is_shared=st.booleans(),
        count=st.integers(1, 40),
        priority=st.integers(0, 2),
        client=st.sampled_from("xyz"),
        is_scored=st.sampled_from([False, False, False, True]),
        ticks_ago=st.sampled_from([0, 0, 3, 30]),
    )
    def add(
        self,
        prompt: str,
        is_shared: bool,
        count: int,
        priority: int,
        client: str,
        is_scored: bool = False,
        ticks_ago: int = 0,
    ) -> None:
        number = next(self.ids)
        text = SHARED + prompt if is_shared else prompt
        tokens = list(text.encode())
        self.engine.add(
            SequenceRequest(
                id=number,
                prompt=tokens,
                sampling=GREEDY,
                seed=0,
                limit_tokens=POOL_TOKENS,
                max_new_tokens=count,
                priority=priority,
                client=client,
                message_starts=tuple(at for at, token in enumerate(tokens) if self.backend.is_control(token)),
                prompt_logprobs=1 if is_scored else None,
            ),
            self.now() - 0.01 * ticks_ago,
        )
        self.expected[number], self.texts[number] = expected_text(text, count), ""
        self.unscored[number] = text.encode() if is_scored else b""

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.expected:
            number = data.draw(st.sampled_from(sorted(self.expected)))
            self.engine.cancel(number)
            del self.expected[number], self.texts[number]

    @rule()
    def interrupt(self) -> None:
        self.backend.interrupt()

    @rule(cells=st.integers(0, 30))
    def take_cells_behind_its_back(self, cells: int) -> None:
        self.backend.unknown_cells = cells

    @rule(steps=st.integers(1, 60))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.run_one_step()

    def run_one_step(self) -> None:
        for output in self.engine.step():
            assert output.error is None
            self.texts[output.id] += output.text
            scored = b"".join(one.data for one in output.prompt_logprobs)
            assert self.unscored[output.id].startswith(scored)
            self.unscored[output.id] = self.unscored[output.id].removeprefix(scored)
            if output.finish:
                assert self.expected.pop(output.id) == self.texts.pop(output.id)
                assert b"" == self.unscored.pop(output.id)

    @invariant()
    def accounts_agree(self) -> None:
        self.seen.add(self.backend.facts.memory.layout)
        assert self.backend.used_cells == self.engine.stats().used_cells

    def teardown(self) -> None:
        self.backend.unknown_cells = 0
        for _ in range(20_000):
            if not self.engine.has_work:
                break
            self.run_one_step()
        assert {} == self.expected
        self.engine.forget_prefixes()
        assert (0, 0) == (self.backend.used_cells, self.engine.stats().used_cells)


def changing_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the layout change for requests as short as these."""
    monkeypatch.setattr(layout, "LEAST_CELLS", 0)
    monkeypatch.setattr(roster, "GROWTH_TOKENS", 0)


def machine_of(memory: str) -> type[EngineMachine]:
    options = {
        "traits": MEMORIES[memory],
        "can_change_layout": memory == "a layout that changes",
        "seen": set[str](),
    }
    return type("Machine", (EngineMachine,), options)


@pytest.mark.parametrize("memory", MEMORIES)
def test_random_work_is_never_lost_or_mixed_up(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changing_often(monkeypatch)
    machine = machine_of(memory)
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))
    assert MEMORIES[memory].layout in machine.seen
    assert machine.can_change_layout or len(machine.seen) == 1


def test_the_layout_of_the_machine_changes_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    changing_often(monkeypatch)
    machine = machine_of("a layout that changes")()
    for is_shared in (False, True, False):
        for prompt in "abcd":
            machine.add(prompt=50 * prompt, is_shared=is_shared, count=10, priority=0, client="x")
        machine.step(steps=60)
        machine.accounts_agree()
    machine.teardown()
    assert {"streams", "unified"} == machine.seen
