"""Idle prefixes in host memory: out of the way of what runs, and back with nothing computed again."""

import numpy as np
from test_engine import expected_text, request, run

from localllm.engine.backend import MemoryTraits
from localllm.engine.engine import Engine
from localllm.engine.fake import FakeBackend
from localllm.engine.policy import EnginePolicy
from localllm.engine.shelf import Shelf, Shelved

OLD = "an old conversation that nobody runs on at the moment, but that may go on"
OTHER = "something else that somebody asks in the meantime"


def new_engine(shelf_bytes_most=2**20, memory=None, **options):
    backend = FakeBackend(memory=memory or MemoryTraits(), **options)
    policy = EnginePolicy(speculates=False, shelf_bytes_most=shelf_bytes_most, shelf_tokens_least=20)
    return Engine(backend, lambda: 0.0, policy), backend


def after_an_old_conversation(**options):
    """An engine on which OLD has ended, and OTHER runs."""
    engine, backend = new_engine(**options)
    engine.add(request(1, OLD, max_new_tokens=5))
    run(engine)
    engine.add(request(2, OTHER, max_new_tokens=5))
    engine.step()
    return engine, backend


def test_an_idle_prefix_leaves_the_pool_when_others_run():
    engine, backend = after_an_old_conversation()
    assert len(OTHER) == backend.used_cells == engine.stats().used_cells


def test_it_comes_back_and_only_new_tokens_are_computed():
    engine, backend = after_an_old_conversation()
    run(engine)
    answer = expected_text(OLD, 4)
    before = backend.computed_rows
    engine.add(request(3, OLD + answer + " and?", max_new_tokens=1))
    texts, finishes = run(engine)
    assert expected_text(OLD + answer + " and?", 1) == texts[3]
    assert len(OLD) + 4 == finishes[3].stats.cached_tokens
    assert len(" and?") == backend.computed_rows - before


def test_without_room_in_host_memory_it_stays_in_the_pool():
    _, backend = after_an_old_conversation(shelf_bytes_most=100 * 1024 // 2)
    assert len(OLD) + 4 + len(OTHER) == backend.used_cells


def test_a_prefix_that_is_in_nobodys_way_stays_where_it_is():
    _, backend = after_an_old_conversation(memory=MemoryTraits(layout="streams"))
    assert len(OLD) + 4 + len(OTHER) == backend.used_cells


def test_a_full_pool_moves_prefixes_out_and_none_is_computed_again():
    engine, backend = new_engine(pool_tokens=128, slots=8)
    prompts = [f"{number} " * 40 for number in range(3)]
    for number, prompt in enumerate((*prompts, *prompts)):
        engine.add(request(number, prompt, max_new_tokens=1))
        run(engine)
    assert 3 * 80 + 3 == backend.computed_rows


def test_forgetting_prefixes_forgets_those_in_host_memory_too():
    engine, backend = after_an_old_conversation()
    run(engine)
    engine.forget_prefixes()
    before = backend.computed_rows
    engine.add(request(3, OLD, max_new_tokens=1))
    run(engine)
    assert len(OLD) == backend.computed_rows - before


def shelved(*tokens, size=10):
    return Shelved(np.array(tokens, dtype=np.int32), bytes(size), request_id=0, shares=0)


def test_the_shelf_gives_the_longest_match_and_forgets_what_was_put_first():
    shelf = Shelf(25)
    short, long = shelved(1, 2, 9), shelved(1, 2, 3, 4)
    shelf.put(short)
    shelf.put(long)
    prompt = np.array([1, 2, 3, 4, 5], dtype=np.int32)
    assert long is shelf.best(prompt, at_least=2)
    assert shelf.best(prompt, at_least=5) is None
    shelf.put(shelved(7, 8))
    assert (20, True, False) == (shelf.bytes, shelf.has_room(5), shelf.has_room(6))
    assert long is shelf.best(np.array([1, 2, 9, 9], dtype=np.int32), at_least=2)


def test_the_shelf_forgets_what_is_only_the_beginning_of_something_new():
    shelf = Shelf(100)
    shelf.put(shelved(1, 2))
    shelf.put(shelved(1, 2, 3))
    assert 10 == shelf.bytes


def test_a_prefix_comes_back_though_what_makes_room_for_it_fills_the_host_memory():
    engine, backend = new_engine(pool_tokens=128, slots=8, shelf_bytes_most=100 * 1024)
    prompts = [f"{number} " * 40 for number in range(2)]
    backend.save = padded(backend.save, 60 * 1024)  # one state fits, and not two
    for number, prompt in enumerate((*prompts, *prompts)):
        engine.add(request(number, prompt, max_new_tokens=1))
        texts, _ = run(engine)
        assert expected_text(prompt, 1) == texts[number]
    assert 2 * 80 + 2 == backend.computed_rows


def padded(save, size):
    """Saves states that are that large; JSON bears blanks behind it."""
    return lambda slot: bytes(save(slot)).ljust(size)
