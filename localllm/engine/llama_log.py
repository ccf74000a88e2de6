"""What llama.cpp says in its log: lines to stderr, and the sizes and errors the runner reports.

llama.cpp offers no C function for the bytes of its buffers; the lines below are where it states them. A line that
changes its wording loses a figure, never a request.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field

_WARNING, _ERROR, _CONTINUED = 3, 4, 5  # ggml_log_level of ggml.h; the bindings list older numbers
_MIB = 2**20
_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|compute|LoRA) buffer size =\s*([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/\d+ layers to GPU")
_FLASH_ATTENTION = ": Flash Attention enabled"
_HOST_BUFFER = re.compile(r"CPU|Host|AMX|REPACK", re.IGNORECASE)
# How an allocation that failed is told: by the buffer's name and bytes, by CUDA's number and MiB, or of host memory.
_REFUSED = re.compile(r"failed to allocate (\S+) buffer of size (\d+)")
_REFUSED_BY_CUDA = re.compile(r"allocating ([\d.]+) MiB on device (\d+): cudaMalloc failed")
_REFUSED_BY_HOST = re.compile(r"failed to allocate buffer of size (\d+)")
_PATH = re.compile(r"'?(/[^\s']+)'?")


@dataclass(slots=True)
class Sizes:
    """Bytes of buffers by where they lie, as llama.cpp printed them. `adapter_bytes` by device."""

    kv_bytes: int = 0
    gpu_bytes: int = 0
    gpu_layers: int = 0
    adapter_bytes: dict[str, int] = field(default_factory=dict)


class LogReader:
    """Collects llama.cpp's log lines. Warnings and errors go to stderr, which the daemon keeps."""

    def __init__(self) -> None:
        self.sizes = Sizes()
        self.last_error = ""  # without paths: it is shown to clients
        self.refused: tuple[str, int] | None = None  # the device, or "CPU", and the bytes that it had not
        self.flash_attention = False  # of the latest context, once it is open
        self._level = 0

    def feed(self, level: int, text: str) -> None:
        """One call of the log callback; a continued line keeps the level of its beginning."""
        self._level = self._level if level == _CONTINUED else level
        line = text.rstrip("\n")
        if self._level in (_ERROR, _WARNING):
            sys.stderr.write(text)
            sys.stderr.flush()
        if self._level == _ERROR and line.strip(" ."):
            self.last_error = _PATH.sub("the file", line.strip())
            self.refused = _refused(line) or self.refused
        self._note_sizes(line)

    def _note_sizes(self, line: str) -> None:
        if match := _BUFFER.search(line):
            size = round(float(match[3]) * _MIB)
            if match[2] in ("KV", "RS"):
                self.sizes.kv_bytes += size
            if match[2] == "LoRA":
                device = "CPU" if _HOST_BUFFER.search(match[1]) else match[1]
                self.sizes.adapter_bytes[device] = self.sizes.adapter_bytes.get(device, 0) + size
            if not _HOST_BUFFER.search(match[1]):
                self.sizes.gpu_bytes += size
        elif match := _OFFLOADED.search(line):
            self.sizes.gpu_layers = int(match[1])
        elif line.endswith(_FLASH_ATTENTION):
            self.flash_attention = True


def _refused(line: str) -> tuple[str, int] | None:
    if found := _REFUSED_BY_CUDA.search(line):
        return f"CUDA{found[2]}", round(float(found[1]) * _MIB)
    if found := _REFUSED.search(line):
        return ("CPU" if _HOST_BUFFER.search(found[1]) else found[1]), int(found[2])
    if found := _REFUSED_BY_HOST.search(line):
        return "CPU", int(found[1])
    return None
