"""The localllm command with a small KV pool, for the workload that needs more than there is.

    python small_pool.py BYTES serve        `localllm serve`, whose models get at most so many bytes of KV

There is no setting for it on purpose: a pool follows from the machine. This changes the bound that placement/ keeps
to, in the daemon's process alone.
"""

from __future__ import annotations

import sys

from localllm.cli.main import main
from localllm.placement import plan, pool

BOUND = "HOST_POOL_BYTES_MOST"

if __name__ == "__main__":
    limit = int(sys.argv.pop(1))
    for module in (plan, pool):
        if not hasattr(module, BOUND):
            raise SystemExit(f"bench: {module.__name__} has no {BOUND} any more; small_pool.py must follow it")
        setattr(module, BOUND, limit)
    sys.exit(main())
