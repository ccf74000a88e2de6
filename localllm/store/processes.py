"""A process that does one thing for a create: a line of JSON in, lines of JSON out.

What runs a stranger's template, or llama.cpp, runs there: it may hang, and it may abort. Its stdin stays open as long
as the result is wanted; the end of stdin ends it, so that none is left behind whatever kills its starter.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator

import msgspec

from localllm.errors import LocalllmError

_LINE_BYTES = 2**20


class ProcessEndedError(LocalllmError):
    """It ended without a last word. `exit_code` is negative for a signal."""

    def __init__(self, module: str, exit_code: int) -> None:
        super().__init__(f"the process of {module} ended without a word ({exit_code})")
        self.exit_code = exit_code


async def lines_from(module: str, request: msgspec.Struct) -> AsyncGenerator[bytes, None]:
    """What `python -m MODULE` answers to `request`, line by line; closing the generator kills it.

    Raises ProcessEndedError when it ends without a last word, which is for the caller to know.
    """
    # -P: `-m` would otherwise look for modules in the folder this process happens to stand in.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module, stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"}, limit=_LINE_BYTES, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        async for line in process.stdout:
            yield line
        code = await process.wait()
        raise ProcessEndedError(module, code)
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
