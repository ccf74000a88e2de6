"""How a child process ended, as plain data, and which of its last words may be repeated to a client.

What a child printed may hold paths and is for the daemon's log; a client hears the signal or exit code and, when a load
failed, llama.cpp's own error line with every path cut to its last part.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from localllm.paths import without_folders

ERROR_LINE_CHARACTERS = 300
_TELLING = re.compile(
    r"error|fail|abort|assert|unable|cannot|terminate called|out of memory|no such|what\(\):", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a child. Exactly one of `exit_code` and `signal_name` is set; `last_lines` are its last log lines."""

    exit_code: int | None
    signal_name: str | None
    last_lines: tuple[str, ...] = ()

    @property
    def cause(self) -> str:
        """ "SIGSEGV" or "exit code 3"."""
        return self.signal_name or f"exit code {self.exit_code}"

    @property
    def error_line(self) -> str | None:
        """The last line that reads like an error, without folders, at most ERROR_LINE_CHARACTERS long."""
        line = next((line for line in reversed(self.last_lines) if _TELLING.search(line)), None)
        return None if line is None else without_folders(line)[:ERROR_LINE_CHARACTERS]


def death_from(return_code: int, last_lines: tuple[str, ...] = ()) -> Death:
    """A Death from Python's return code, where a negative number is a signal's."""
    if return_code >= 0:
        return Death(return_code, None, last_lines)
    try:
        name = signal.Signals(-return_code).name
    except ValueError:  # real-time signals have numbers but no names
        name = f"signal {-return_code}"
    return Death(None, name, last_lines)


def died_while(doing: str, death: Death) -> str:
    """A sentence for a client: the cause, and the child's error line without folders."""
    reason = f": {death.error_line}" if death.error_line else ""
    return f"the model's process died while {doing} ({death.cause}){reason}"
