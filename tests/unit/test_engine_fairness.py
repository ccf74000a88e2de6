"""Who is served when, on a fake model whose decodes take virtual time: classes, clients, streams and late prompts."""

import itertools

import pytest
from test_engine import expected_text, request, run

from localllm.engine.batch import OLDEST_FIRST_EVERY
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.engine.policy import EnginePolicy

STEP_SECONDS = 0.010
ROW_SECONDS = 0.001
ALONE_SECONDS = STEP_SECONDS + ROW_SECONDS  # one stream and nobody else


class TimedBackend(FakeBackend):
    """Every decode takes some time, and more for each row."""

    now = 0.0
    slowness = 1.0

    def decode(self, batch):
        self.now += self.slowness * (STEP_SECONDS + ROW_SECONDS * len(batch.tokens))
        return super().decode(batch)


def new_engine(policy=None, **backend_options):
    backend = TimedBackend(**backend_options)
    return Engine(backend, lambda: backend.now, policy), backend


def finish_order(engine):
    order = []
    while engine.has_work:
        order += [output.id for output in engine.step() if output.finish]
    return order


def test_an_urgent_request_takes_the_place_of_a_lower_one_and_both_end_right():
    engine, backend = new_engine(max_sequences=2, slots=3)
    for number in (1, 2):
        engine.add(request(number, f"batch {number}", priority=2, max_new_tokens=30))
    before = {output.id: output.text for output in engine.step()}
    engine.add(request(3, "urgent", max_new_tokens=5))
    assert {1, 3} == {output.id for output in engine.step()}  # the newest of the lowest class gave way
    texts, finishes = run(engine)
    assert expected_text("batch 2", 30) == before[2] + texts[2]
    assert expected_text("urgent", 5)[1:] == texts[3]
    assert expected_text("batch 1", 30)[2:] == texts[1]
    assert [0, 1, 0] == [finishes[number].stats.preemptions for number in (1, 2, 3)]
    # Its cells stayed while nobody needed them: nothing was computed twice.
    assert 2 * (len("batch 1") + 29) + len("urgent") + 4 == backend.computed_rows


def test_the_newest_gives_way_even_if_it_started_first():
    engine, _ = new_engine(max_sequences=2)
    for number in (1, 2):
        engine.add(request(number, f"first {number}", priority=1, max_new_tokens=4))
    engine.step()
    engine.add(request(3, "older and longer", priority=1, max_new_tokens=20))
    engine.step()
    engine.add(request(4, "newer", priority=1, max_new_tokens=20))
    engine.step()
    engine.step()
    assert {3, 4} == {output.id for output in engine.step()}
    engine.add(request(5, "urgent", max_new_tokens=20))
    assert {3, 5} == {output.id for output in engine.step()}


def test_nobody_gives_way_to_an_equal_or_a_lower_one_or_while_a_place_is_free():
    engine, _ = new_engine(max_sequences=2)
    engine.add(request(1, "first", priority=1, max_new_tokens=20))
    engine.step()
    for number, priority in ((2, 0), (3, 1), (4, 2)):
        engine.add(request(number, f"later {number}", priority=priority, max_new_tokens=20))
    assert [1, 2, 3, 4] == finish_order(engine)
    assert 0 == engine.stats().preemptions


def test_nobody_gives_way_to_one_that_only_waits_for_a_prefix():
    engine, _ = new_engine(max_sequences=2, batch_tokens=16)
    shared = "a long beginning that several have in common " * 3
    engine.add(request(1, shared + "1", priority=2, max_new_tokens=1))
    engine.step()
    engine.add(request(2, "short", priority=2, max_new_tokens=4))
    engine.step()
    engine.add(request(3, shared + "3", max_new_tokens=1))
    assert [2, 1, 3] == finish_order(engine)
    assert 0 == engine.stats().preemptions


def test_waiting_requests_are_served_by_class():
    engine, _ = new_engine(max_sequences=1)
    for number, priority in enumerate((2, 0, 1, 0)):
        engine.add(request(number, f"request {number}", priority=priority, max_new_tokens=3))
    assert [1, 3, 2, 0] == finish_order(engine)


def test_two_clients_get_equal_shares_however_many_requests_one_has_sent():
    engine, _ = new_engine(pool_tokens=16_384, max_sequences=1, batch_tokens=1200)
    clients = {}
    for number in range(16):
        clients[number] = "first" if number < 10 else "second"
        engine.add(request(number, f"{number:02}" * 600, client=clients[number], max_new_tokens=1))
    served = [clients[number] for number in finish_order(engine)]
    differences = [
        served[:count].count("first") - served[:count].count("second") for count in range(1, 13)
    ]  # while both have something to do
    assert max(map(abs, differences)) <= 1


def test_a_newcomer_has_no_claim_for_the_time_it_was_away():
    engine, _ = new_engine(pool_tokens=16_384, max_sequences=1, batch_tokens=1200)
    for number in range(10):
        engine.add(request(number, f"{number:02}" * 600, client="first", max_new_tokens=1))
    finished = []
    while len(finished) < 5:
        finished += [output.id for output in engine.step() if output.finish]
    for number in range(10, 15):
        engine.add(request(number, f"{number:02}" * 600, client="second", max_new_tokens=1))
    assert 2 <= sum(number < 10 for number in finish_order(engine)[:5]) <= 3


def start_a_stream(engine, steps=10):
    engine.add(request(1, "s" * 100, max_new_tokens=2000))
    for _ in range(steps):
        engine.step()


def late_steps(engine, backend, prompt_tokens):
    """Seconds and prompt tokens of each step until a late prompt is computed; the stream gets a token in each."""
    engine.add(request(2, "p" * prompt_tokens, max_new_tokens=1))
    steps, processed, is_done = [], 0, False
    while not is_done:
        before = backend.now
        outputs = {output.id: output for output in engine.step()}
        assert 1 == len(outputs[1].tokens)
        is_done = 2 in outputs and outputs[2].finish is not None
        now_processed = prompt_tokens if is_done else outputs[2].prompt_processed if 2 in outputs else processed
        steps.append((backend.now - before, now_processed - processed))
        processed = now_processed
    return steps


def test_a_late_prompt_keeps_the_stream_within_the_stretch():
    engine, backend = new_engine(batch_tokens=256)
    start_a_stream(engine)
    steps = late_steps(engine, backend, 1000)
    assert max(seconds for seconds, _ in steps) <= 2 * ALONE_SECONDS + 1e-9
    assert min(tokens for _, tokens in steps[:40]) >= 9  # and uses what it may: 10 or 11
    assert 0 in [tokens for _, tokens in steps[40:]]  # decoding alone is measured again


@pytest.mark.parametrize(("prompt_tokens", "parts"), [(60, [60]), (150, [64, 86])])
def test_a_late_prompt_that_fits_in_a_batch_is_computed_in_few_parts(prompt_tokens, parts):
    engine, backend = new_engine(batch_tokens=256)
    start_a_stream(engine)
    assert parts == [tokens for _, tokens in late_steps(engine, backend, prompt_tokens)]


def test_a_larger_stretch_lets_a_late_prompt_through_sooner():
    lengths = []
    for stretch in (1.5, 2.0, 4.0):
        engine, backend = new_engine(EnginePolicy(stretch=stretch), batch_tokens=256)
        start_a_stream(engine)
        lengths.append(len(late_steps(engine, backend, 500)))
    assert sorted(lengths, reverse=True) == lengths
    assert 4 * lengths[2] <= lengths[0]


def test_a_device_that_became_slower_is_noticed():
    engine, backend = new_engine(batch_tokens=256)
    start_a_stream(engine)
    backend.slowness = 50.0
    for _ in range(30):
        engine.step()
    assert max(seconds for seconds, _ in late_steps(engine, backend, 1000)[20:]) <= 50 * 2.2 * ALONE_SECONDS


def test_a_prompt_that_was_there_before_the_streams_is_computed_in_full_batches():
    engine, _ = new_engine(batch_tokens=128)
    engine.add(request(1, "short", max_new_tokens=50))
    engine.add(request(2, "p" * 600, max_new_tokens=1))
    progress = [0]
    while (outputs := {output.id: output for output in engine.step()})[2].finish is None:
        progress.append(outputs[2].prompt_processed)
    assert [123, 127, 127, 127] == [after - before for before, after in itertools.pairwise(progress)]


def begin_a_burst(engine, backend, rest_tokens, rest_priority=0):
    """One of four that came at once is computed while the others are still on their way into the engine."""
    engine.add(request(1, "p" * 60, max_new_tokens=50))
    came_at = backend.now
    engine.step()
    backend.now += ROW_SECONDS
    for number in (2, 3, 4):
        engine.add(request(number, str(number) * rest_tokens, max_new_tokens=50, priority=rest_priority), came_at)


def test_a_burst_of_which_one_was_taken_first_is_computed_in_one_batch_more():
    engine, backend = new_engine(batch_tokens=256)
    begin_a_burst(engine, backend, 60)
    assert [1, 1, 1, 1] == [len(output.tokens) for output in engine.step()]


def test_those_of_a_lower_class_do_not_hold_up_one_that_came_with_them():
    engine, backend = new_engine(batch_tokens=256)
    start_a_stream(engine)
    while engine.has_work:
        engine.step()
    begin_a_burst(engine, backend, 1000, rest_priority=1)
    before = backend.now
    engine.step()
    assert backend.now - before <= 2 * ALONE_SECONDS + 1e-9


def test_the_first_of_a_burst_flows_after_one_full_batch_of_the_others():
    engine, backend = new_engine(batch_tokens=256)
    start_a_stream(engine)
    while engine.has_work:
        engine.step()
    begin_a_burst(engine, backend, 1000)
    seconds = []
    for _ in range(20):
        before = backend.now
        assert [1] == [len(output.tokens) for output in engine.step() if output.id == 1]
        seconds.append(backend.now - before)
    assert STEP_SECONDS + 256 * ROW_SECONDS == pytest.approx(seconds[0])
    assert max(seconds[1:]) <= 2 * ALONE_SECONDS + 1e-9


def test_what_came_before_it_was_taken_has_waited_since_then():
    engine, backend = new_engine()
    engine.add(request(1, "p" * 60, max_new_tokens=1), came_at=backend.now - 3.0)
    _, finishes = run(engine)
    assert 3.0 == pytest.approx(finishes[1].stats.queue_seconds)


@pytest.mark.parametrize("places", [1, 2])
@pytest.mark.parametrize("newcomer_tokens", [4, 30])
def test_an_old_request_of_the_lowest_class_ends_however_many_better_ones_arrive(places, newcomer_tokens):
    engine, backend = new_engine(max_sequences=places)
    backend.slowness = 20.0  # a step takes about half a second
    engine.add(request(0, "old and patient " * 4, priority=2, max_new_tokens=40))
    numbers = itertools.count(1)
    text = ""
    for _ in range(1200):
        while engine.stats().waiting + engine.stats().running < places + 2:
            number = next(numbers)
            engine.add(request(number, f"newcomer {number}", max_new_tokens=newcomer_tokens))
        outputs = engine.step()
        text += "".join(output.text for output in outputs if output.id == 0)
        if any(output.finish for output in outputs if output.id == 0):
            break
    assert expected_text("old and patient " * 4, 40) == text


def test_a_prompt_of_the_lowest_class_moves_on_however_many_better_ones_come():
    engine, backend = new_engine(batch_tokens=32, max_sequences=4)
    backend.slowness = 0.0  # no time passes, so waiting lifts nobody
    engine.add(request(0, "z" * 160, priority=2, max_new_tokens=1))
    steps, better, ended = 0, 0, []
    while 0 not in ended:
        while engine.stats().running + engine.stats().waiting < 4:
            better += 1
            engine.add(request(better, f"{better:03}" + "y" * 60, priority=0, max_new_tokens=1))
        ended += [output.id for output in engine.step() if output.finish]
        steps += 1
        assert steps < OLDEST_FIRST_EVERY * 8
    assert len(ended) > 10
