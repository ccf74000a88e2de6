"""The daemon in a child process: prints its port once it takes requests, or the error it refused to start with.

python daemon_child.py [idle]     settings from the environment, port 0 for a free one
"""

from __future__ import annotations

import os
import sys

from localllm.config import load_settings
from localllm.errors import LocalllmError
from localllm.server.daemon import serve


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    try:
        settings = load_settings(os.environ)
        serve(settings, idle_exit="idle" in sys.argv, on_ready=lambda address: say(str(address.port)))
    except LocalllmError as error:
        say(f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
