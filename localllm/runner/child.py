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

# Huge pages where Linux gives them to who asks (glibc 2.35 and later do then): the pool of a context, which is written
# whole when it is opened, is there in a quarter of the time, and its cells are read a little quicker.
_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


async def start_child(command: Sequence[str], environment: Mapping[str, str], pass_fds: Sequence[int] = ()) -> Process:
    """A child with no input and with stdout and stderr in one pipe; it inherits `pass_fds` and no other descriptor.

    Raises OSError when the program cannot be started.
    """
    inherited = tuple(pass_fds)
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=child_environment(environment), pass_fds=inherited
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # uvloop loses a child whose start is cancelled, so the start is let finish first.
        with contextlib.suppress(OSError):
            await end_child(await starting)
        raise


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child of the daemon is given; what the user says about the C library's memory stays."""
    # ggml would start a debugger to print a stack when it aborts; unbuffered, a crash keeps the lines before it.
    added = {"GGML_NO_BACKTRACE": "1", "PYTHONUNBUFFERED": "1"}
    said = environment.get(_TUNABLES, "")
    if _HUGE_PAGES not in said:
        added[_TUNABLES] = ":".join(filter(None, (said, f"{_HUGE_PAGES}=1")))
    return {**environment, **added}


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
