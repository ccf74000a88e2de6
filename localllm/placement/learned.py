"""What loads took beyond what was reckoned, by device: kept in a file, so that the next plan counts on it.

    <state_dir>/placement.json     {"CPU": [bytes, …], "CUDA0": […]}   the last differences, newest last

A difference is what was measured less what llama.cpp's buffers were to take: the process itself, a GPU's context,
what the estimate missed. The largest of the last ones counts: to be short by a little fails a load.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

KEPT = 8
FILE = "placement.json"
MOST_BYTES = 2**40  # a difference beyond that is nonsense, and would leave no room for any model

log = logging.getLogger(__name__)


class Learned:
    """The differences of one machine. Without a file they are kept for this process alone."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._differences = _read(file) if file is not None else {}

    def note(self, device: str, reckoned_bytes: int, measured_bytes: int) -> None:
        """One load on `device` was to take so much, and took so much."""
        before = self._differences.get(device, [])
        after = [*before, measured_bytes - reckoned_bytes][-KEPT:]
        if after != before:
            self._differences[device] = after
            self._write()

    def overheads(self) -> dict[str, int]:
        """What to count on beside the buffers of each device."""
        return {device: max(0, *values) for device, values in self._differences.items() if values}

    def _write(self) -> None:
        if self._file is None:
            return
        temporary = self._file.with_name(f".{self._file.name}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self._differences))
            temporary.replace(self._file)
        except OSError as error:  # a full or read-only disk: the next daemon learns it anew
            log.warning("what loads take cannot be kept in %s: %s", self._file, error.strerror)


def _read(file: Path) -> dict[str, list[int]]:
    try:
        known = msgspec.json.decode(file.read_bytes(), type=dict[str, list[int]])
    except FileNotFoundError:  # nothing was loaded yet
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s is not used: %s", file, error)
        return {}
    return {device: [value for value in values if abs(value) < MOST_BYTES][-KEPT:] for device, values in known.items()}
