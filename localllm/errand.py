"""The child side of a process that does one thing: its request in on stdin, events out on stdout, a line of JSON each.

Whoever asked keeps stdin open; its end means that nobody waits any more, and ends the process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

R = TypeVar("R")


def read_request(kind: type[R], tidy: Callable[[R], None] = lambda request: None) -> R:
    """The request, once; from then on the end of stdin calls `tidy` and ends the process, whatever it does."""
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=kind)

    def end_with_stdin() -> None:
        while os.read(0, 4096):  # unbuffered: a thread that waits in sys.stdin would hold its lock when Python ends
            pass
        tidy(request)
        os._exit(1)  # not sys.exit(): the main thread works, perhaps in a system call

    threading.Thread(target=end_with_stdin, daemon=True).start()
    return request


def tell(event: msgspec.Struct) -> None:
    """Write an event, at once."""
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()
