"""Starting a child process whose output is read by nobody but its starter, and leaving none behind when cancelled.

Both children of the daemon start here: runners (runner/process) and the engine's probe (runner/preflight).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence


async def start_child(command: Sequence[str], environment: Mapping[str, str], pass_fds: Sequence[int] = ()) -> Process:
    """A child with no input and with stdout and stderr in one pipe; it inherits `pass_fds` and no other descriptor.

    Raises OSError when the program cannot be started.
    """
    # ggml would start a debugger to print a stack when it aborts; unbuffered, a crash keeps the lines before it.
    added = {"GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env={**environment, **added}, pass_fds=tuple(pass_fds)
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # uvloop loses a child whose start is cancelled, so the start is let finish first.
        with contextlib.suppress(OSError):
            await end_child(await starting)
        raise


def signal_child(child: Process, signal_number: signal.Signals) -> None:
    """Send a signal; nothing happens when the child has ended."""
    # Not Process.send_signal: its poll() may reap the child before asyncio's watcher, which then loses the status.
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal_number)


async def end_child(child: Process) -> None:
    """Kill and reap."""
    signal_child(child, signal.SIGKILL)
    await child.wait()
