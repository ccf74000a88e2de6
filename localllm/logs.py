"""How a log line looks: one line per event on stderr, with its level and the module that speaks."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """Send every log record at `level` or above to stderr. Called once, by a process's entry point."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
