"""How a model is laid out when it loads: `plan(settings, options, host, …) -> Plan`, pure.

The first version knows one host and leaves two things to the runner, which alone sees the engine: how many layers go to
a GPU when nobody said (-1: all that the build can take), and how many cells fit in the pool's bytes. `num_ctx` is a
limit of one request and never shapes the pool.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.config import KvLayout, Settings
from localllm.generation import Options
from localllm.load_options import LoadOptions
from localllm.placement.devices import Host

BATCH_TOKENS = 512
ALL_LAYERS = -1
# Of the memory that is free now: the rest is for the weights, for the next model, and for what else the machine runs.
POOL_SHARE = 0.25
# llama.cpp writes the whole pool at load: 5.5 GB took 14 to 19 s on a virtual machine of two cores. Sequences that need
# more than the pool wait for each other, so a smaller one costs time only then.
POOL_BYTES_MOST = 2 * 2**30
# Of a file this small a step takes less time than the meetings of its threads: `guide` is three times as fast on one.
ONE_THREAD_BYTES = 48 * 2**20
MOST_THREADS = 512  # GGML_MAX_N_THREADS; llama.cpp aborts above it


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of a loaded model; names and units are those of protocol.Load. `pool_tokens` 0 is automatic."""

    parallel: int
    pool_tokens: int
    pool_bytes_limit: int
    batch_tokens: int
    threads: int
    gpu_layers: int
    use_mmap: bool
    kv_layout: KvLayout = "auto"
    stream_slowdown: float = 2.0


_AS_USUAL = LoadOptions()


def plan(settings: Settings, options: Options, host: Host, file_bytes: int, load: LoadOptions = _AS_USUAL) -> Plan:
    """Lay out a model of `file_bytes`; what its Modelfile says (`options`, `load`) goes before the settings, these
    before what the host has."""
    parallel = load.num_parallel or settings.num_parallel
    return Plan(
        parallel=parallel,
        pool_tokens=0,
        pool_bytes_limit=min(int(host.available_bytes * POOL_SHARE), POOL_BYTES_MOST),
        # A step must have room for one row of every sequence.
        batch_tokens=max(options.num_batch or BATCH_TOKENS, parallel),
        threads=min(options.num_thread or settings.num_threads or _threads(host, file_bytes), MOST_THREADS),
        gpu_layers=ALL_LAYERS if options.num_gpu is None else options.num_gpu,
        use_mmap=options.use_mmap is not False,
        kv_layout=load.kv_layout or settings.kv_layout,
        stream_slowdown=load.stream_slowdown or settings.stream_slowdown,
    )


def _threads(host: Host, file_bytes: int) -> int:
    return 1 if file_bytes < ONE_THREAD_BYTES else host.physical_cores
