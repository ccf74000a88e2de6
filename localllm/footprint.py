"""How much memory one quantisation of a model will take, to choose between them before any is downloaded.

The header of one speaks for the caches and the computing of all; the size of its file is that of each one's weights.
A plan, which knows every device and where each layer lies, is made once one is chosen (placement/plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.errors import ModelFileError
from localllm.gguf import Header
from localllm.placement.estimate import Estimate, estimate
from localllm.placement.shape import ContextShape

# The interpreter, its libraries and the engine's own tables; measured as 150 MB for a model of 3 MB.
RUNNER_BYTES = 200 * 10**6
LEAST_CELLS = 4096
_UNKNOWN_WORK_BYTES = 500 * 10**6


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes: of the files, of the cache that is filled while it answers, and of what a step computes with."""

    weight_bytes: int
    cache_bytes: int
    work_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, with the process around it."""
        return self.weight_bytes + self.cache_bytes + self.work_bytes + RUNNER_BYTES


def footprint(
    header: Header | None, file_bytes: int, *, pool_bytes_limit: int, parallel: int, batch_tokens: int
) -> Footprint:
    """What a model of `file_bytes` takes under a plan; without a usable header the cache is as large as that allows."""
    estimated = _estimated(header)
    if estimated is None:
        return Footprint(file_bytes, pool_bytes_limit, _UNKNOWN_WORK_BYTES)
    shape = _affordable(estimated, ContextShape(LEAST_CELLS, parallel, batch_tokens), pool_bytes_limit)
    return Footprint(file_bytes, estimated.kv_bytes(shape), estimated.compute_bytes(shape).whole)


def _estimated(header: Header | None) -> Estimate | None:
    try:
        return None if header is None else estimate(header)
    except ModelFileError:  # what is wrong with it is told when it is there and looked at
        return None


def _affordable(estimated: Estimate, least: ContextShape, limit: int) -> ContextShape:
    """The largest context within `limit` bytes of cache, up to the trained one for each sequence; at least LEAST_CELLS,
    or the whole of a shorter one."""
    most = max(estimated.context_length * least.sequences, 1)
    low, high = min(LEAST_CELLS, most), most
    while low < high:
        middle = (low + high + 1) // 2
        if estimated.kv_bytes(_with_cells(least, middle)) <= limit:
            low = middle
        else:
            high = middle - 1
    return _with_cells(least, low)


def _with_cells(shape: ContextShape, cells: int) -> ContextShape:
    return ContextShape(cells, shape.sequences, shape.batch_tokens)
