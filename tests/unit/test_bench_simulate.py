"""scripts/bench/simulate: the virtual clock, and that a simulated load ends."""

from __future__ import annotations

import numpy as np
from bench.simulate import make_arrivals, make_fake, simulate
from bench.virtual_backend import PRESETS, Costs, VirtualBackend, VirtualClock

from localllm.engine.backend import Batch
from localllm.engine.engine import Engine


def batch(positions: list[int], slots: list[int]) -> Batch:
    rows = np.array(positions, dtype=np.int32)
    return Batch(rows, rows, np.array(slots, dtype=np.int32), np.zeros(len(rows), dtype=np.int8))


def test_a_decode_costs_its_rows_and_each_sequence_its_cells_once() -> None:
    costs = Costs(step=1000.0, row=100.0, cell=1.0)
    assert 1000.0 + 300.0 + 7.0 + 10.0 == costs.of(batch([5, 6, 9], [0, 0, 3]))


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert make_arrivals(20, 1.0, 1, 4096) == make_arrivals(20, 1.0, 1, 4096)
    assert make_arrivals(20, 1.0, 1, 4096) != make_arrivals(20, 1.0, 2, 4096)


def test_a_simulated_load_ends_with_every_token_in_virtual_time() -> None:
    clock = VirtualClock()
    backend = VirtualBackend(make_fake(4096, 4, 8, "unified"), PRESETS["gpu"], clock)
    arrivals = make_arrivals(30, 20.0, 1, 2000)
    outcomes = simulate(Engine(backend, clock), clock, arrivals)
    assert [arrival.request.max_new_tokens for arrival in arrivals] == [one.output_tokens for one in outcomes]
    assert all(one.error is None and one.ended_at is not None for one in outcomes)
    assert clock.now >= backend.virtual_seconds > 0
