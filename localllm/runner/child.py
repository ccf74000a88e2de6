"""Starting a child process whose output is read by nobody but its starter, and leaving none behind when cancelled.

All children of the daemon that run the engine start here: runners (runner/process), and those that answer one question
with a line of JSON (runner/preflight, runner/inventory, runner/measuring).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

Answer = TypeVar("Answer")


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


async def run_child(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[int, bytes]:
    """A child's return code and all that it printed. Raises TimeoutError when it takes longer than `seconds`, and
    OSError when it cannot be started; none is left behind."""
    child = await start_child(command, environment)
    try:
        async with asyncio.timeout(seconds):
            output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            await end_child(child)
    return child.returncode or 0, output


def answer_in(output: bytes, kind: type[Answer]) -> Answer | None:
    """The last line of JSON that a child printed, as `kind`; None without one. The engine prints lines of its own."""
    for line in reversed(output.splitlines()):
        if line.startswith(b"{"):
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(line, type=kind)
    return None
