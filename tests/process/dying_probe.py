"""A stand-in for engine/probe that really dies. Behaviours: what it does with extra buffers, and without them.

    python tests/process/dying_probe.py LOG WITH WITHOUT MODEL [--no-extra-buffers]

Each is one of ok, segv, ill, nan, hang. Every start appends a line to LOG, so that tests can count children.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

ANSWERS = {"ok": ({"ok": True}, 0), "nan": ({"ok": False, "error": "the logits are not finite"}, 3)}


def main() -> None:
    log, with_extra, without_extra, _, *flags = sys.argv[1:]
    with Path(log).open("a") as file:
        file.write(f"{' '.join(flags)}\n")
    behaviour = without_extra if "--no-extra-buffers" in flags else with_extra
    if behaviour == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "ill":
        os.kill(os.getpid(), signal.SIGILL)
    if behaviour == "hang":
        time.sleep(60)
    report, status = ANSWERS[behaviour]
    sys.stdout.write("llama_context: graph nodes = 100\n")
    sys.stdout.write(json.dumps({"build": "0.3.36", **report}) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
