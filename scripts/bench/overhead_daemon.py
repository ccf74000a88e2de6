"""The daemon that scripts/bench/overhead asks: the real one, whose runners are paced_runner; prints its port.

python -m bench.overhead_daemon TOKENS_PER_SECOND     settings from the environment
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from localllm.config import load_settings
from localllm.server.daemon import serve

PACED_RUNNER = Path(__file__).with_name("paced_runner.py")


def runner_command(tokens_per_second: str) -> tuple[str, ...]:
    """The program of a runner with that pace."""
    return (sys.executable, str(PACED_RUNNER), tokens_per_second)


def main() -> None:
    """Serve until SIGTERM."""
    pace = sys.argv[1]
    serve(
        load_settings(os.environ),
        idle_exit=False,
        on_ready=lambda address: print(address.port, flush=True),
        command_for=lambda model: runner_command(pace),
    )


if __name__ == "__main__":
    main()
