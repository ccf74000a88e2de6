"""The header of a file that is not here yet: the first megabytes of it are asked for, more until it is whole."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from localllm.errors import ModelFileError
from localllm.gguf import Header, header_from
from localllm.gguf_file import Source as FileSource
from localllm.store.answers import SourceBusyError
from localllm.store.repository import HubFile, Repository
from localllm.store.source import Source, refuse_other

_PIECE_BYTES = 2**20
_MOST_BYTES = 64 * 2**20


def remote_header(source: Source, repository: Repository, file: HubFile) -> Header | None:
    """The header of a file from its first megabytes; None when it cannot be read so. Raises HubError's kinds."""
    with (
        tempfile.TemporaryFile() as kept,
        source.open(repository, file, 0, _PIECE_BYTES) as opened,
    ):
        refuse_other(opened.place, file, source.title)
        received, try_at = 0, _PIECE_BYTES
        for piece in opened.pieces:
            kept.seek(received)
            kept.write(piece)
            received += len(piece)
            is_last = received >= min(_MOST_BYTES, file.size_bytes)
            if is_last or received >= try_at:
                # The parts of a split model have small headers, a vocabulary takes megabytes.
                try_at = 2 * received
                kept.flush()
                if (header := _read(kept.fileno(), file)) or is_last:
                    return header
    raise SourceBusyError(f"the connection ended before the header of {file.name} was whole")


def _read(descriptor: int, file: HubFile) -> Header | None:
    with open(descriptor, "rb", closefd=False) as beginning:
        beginning.seek(0)
        given = FileSource(beginning, Path(file.name))
        given.size = file.size_bytes  # extents are checked against the whole file, of which this is the beginning
        try:
            return header_from(given)
        except (ModelFileError, struct.error):  # not yet all of it, or no GGUF: that is told once the file is there
            return None
