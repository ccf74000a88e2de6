"""The bytes of one untrusted file, in order, never past its end. Knows lengths, not what a GGUF is made of.

Reads through a buffer and a window of 1 MiB. No mmap: a file that another program cuts short would then kill this
process with SIGBUS instead of raising.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from localllm.errors import ModelFileError

_WINDOW_BYTES = 1_048_576
_BATCH_BYTES = 262_144
_MAX_WALK_END = 2**28
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def open_regular(path: Path) -> BinaryIO:
    """Open for reading without waiting: a FIFO without a writer would block for ever, a device may never end."""
    try:
        _refuse_irregular(path, os.stat(path).st_mode)  # noqa: PTH116  (the same call as fstat below)
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  (no opener in Path.open)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError(f"{path} does not exist", hint="check the path") from None
    except PermissionError:
        raise ModelFileError(f"{path} cannot be read: permission denied", hint=f"chmod u+r '{path}'") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    try:
        _refuse_irregular(path, os.fstat(file.fileno()).st_mode)  # it may have been exchanged since the first look
    except ModelFileError:
        file.close()
        raise
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_irregular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ModelFileError(f"{path} is a directory, not a GGUF file", hint="name the .gguf file inside it")
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise ModelFileError(f"{path} is {kind}, not a regular file", hint="copy the model to a file first")


class Source:
    """One open file. `position` is the next byte; nothing past `size`, its length when opened, is ever asked for.

    `what` in the methods names the thing that is read, for the error's text.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def check(self, length: int, what: str) -> None:
        if length > self.size - self.position:
            raise self.short(self.position + length, what)

    def take(self, length: int, what: str) -> bytes:
        self.check(length, what)
        data = self.file.read(length)
        if len(data) != length:
            raise self.wrong(f"the file became shorter while {what} was read")
        self.position += length
        return data

    def skip(self, length: int, what: str) -> None:
        self.check(length, what)
        self.position += length
        self.file.seek(self.position)

    def rewind(self, position: int) -> None:
        """Go back to a byte that was passed."""
        self.position = position
        self.file.seek(position)

    def wrong(self, what: str, hint: str | None = None) -> ModelFileError:
        return ModelFileError(f"{self.path} is not a usable GGUF file: {what}", hint=hint)

    def short(self, end: int, what: str) -> ModelFileError:
        message = f"truncated: {what} ends at byte {end}, the file has {self.size}"
        return self.wrong(message, hint="the download is incomplete or damaged: fetch the file again")

    def walk_strings(self, length: int, what: str) -> None:
        """Step over `length` strings. A string that reaches past the window is stepped over without being read."""
        read_length = _U64.unpack_from
        left = length
        while left:
            window = self.file.read(min(_WINDOW_BYTES, self.size - self.position))
            if len(window) < 8:
                raise self.short(self.position + 8, what)
            at = 0
            try:
                # The loop variable tells, when the window ends, how many strings are still to come.
                for left in range(left, 0, -1):  # noqa: B007, B020
                    at += read_length(window, at)[0] + 8
                left = 0
            except (struct.error, OverflowError):
                pass  # `at` lies past the window, or in its last 7 bytes: go on from there, if the file does
            self.skip(at, what)
            if self.position > _MAX_WALK_END:
                raise self.wrong(f"{what} lies beyond byte {_MAX_WALK_END}, where no header reaches")

    def strings(self, length: int, what: str) -> Iterator[list[bytes]]:
        """`length` strings, many at a time. To be taken to the end: the position follows. Raises for one over 1 MiB."""
        left = length
        while left:
            window = self.file.read(min(_BATCH_BYTES, self.size - self.position))
            found, at = _whole_strings(window, left)
            if not found:
                self.check(8, what)
                (size,) = _U64.unpack_from(window)
                if size > _WINDOW_BYTES:
                    raise self.wrong(f"{what} has a string of {size} bytes, and {_WINDOW_BYTES} is the limit")
                self.skip(8, what)
                found, at = [self.take(size, what)], 0
            yield found
            left -= len(found)
            self.skip(at, what)
            if self.position > _MAX_WALK_END:
                raise self.wrong(f"{what} lies beyond byte {_MAX_WALK_END}, where no header reaches")


def _whole_strings(window: bytes, most: int) -> tuple[list[bytes], int]:
    """The strings that lie in `window` from its start on, and where the next one begins."""
    read_length, size = _U64.unpack_from, len(window)
    found: list[bytes] = []
    at = 0
    try:
        for _ in range(most):
            start = at + 8
            end = start + read_length(window, at)[0]
            if end > size:
                break
            found.append(window[start:end])
            at = end
    except struct.error:  # the next length is cut off by the window's end
        pass
    return found, at
