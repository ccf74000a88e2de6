"""The largest quant of a repository that fits this machine's memory: asks for headers, then decides with figures.

The header is the beginning of a file that is not there yet: a few megabytes of it are asked for. Where it cannot be
had, the size of the file has to do.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

from localllm.errors import HubError, ModelFileError, UnsupportedError
from localllm.footprint import footprint
from localllm.gguf import Header, header_from
from localllm.gguf_file import Source as FileSource
from localllm.pulling import Memory
from localllm.sizes import size_text
from localllm.store.repository import Choice, HubFile, Repository, Variant, choice_of, listed, variants_in
from localllm.store.source import Source

_PIECE_BYTES = 2**20
_MOST_BYTES = 64 * 2**20


def choose_largest(source: Source, repository: Repository, memory: Memory) -> Choice:
    """The largest variant that fits. Raises NotOnHubError for no model, UnsupportedError when none fits."""
    variants = sorted(variants_in(repository), key=lambda variant: -variant.size_bytes)
    whole = [variant for variant in variants if variant.is_whole]
    header = None
    for index, variant in enumerate(whole):
        if variant.size_bytes >= memory.available_bytes:
            continue  # whatever its header says
        header = remote_header(source, repository, variant.files[0])
        if _need(header, variant, memory) <= memory.available_bytes:
            reason = _reason(variant, header, memory, too_large=whole[:index], smaller=whole[index + 1 :])
            return choice_of(repository, variant, (reason,))
    raise UnsupportedError(
        f"no quant of {repository.id} fits: {_needs(whole[-1:], header, memory)}, and of "
        f"{size_text(memory.total_bytes)} of memory {size_text(memory.available_bytes)} are free",
        hint="end other programs, choose a smaller model, or name a quant all the same: it will be slow",
    )


def _need(header: Header | None, variant: Variant, memory: Memory) -> int:
    return footprint(
        header,
        variant.size_bytes,
        pool_bytes_limit=memory.pool_bytes_limit,
        parallel=memory.parallel,
        batch_tokens=memory.batch_tokens,
    ).total_bytes


def _reason(
    variant: Variant, header: Header | None, memory: Memory, *, too_large: list[Variant], smaller: list[Variant]
) -> str:
    estimated = "" if header else ", by the size of its file alone"
    text = (
        f"taking {variant}, the largest that fits: it needs about {size_text(_need(header, variant, memory))} of memory"
        f"{estimated}, and {size_text(memory.available_bytes)} of {size_text(memory.total_bytes)} are free"
    )
    if too_large:
        text += f"; too large: {_needs(too_large, header, memory)}"
    return text + (f"; smaller: {listed(smaller)}" if smaller else "")


def _needs(variants: Iterable[Variant], header: Header | None, memory: Memory) -> str:
    """Another quant of a model has the same cache: one header speaks for all."""
    return ", ".join(f"{variant} needs about {size_text(_need(header, variant, memory))}" for variant in variants)


def remote_header(source: Source, repository: Repository, file: HubFile) -> Header | None:
    """The header of a file from its first megabytes; None when it cannot be had or read so."""
    try:
        with (
            tempfile.TemporaryFile() as kept,
            source.open(repository, file, 0, _PIECE_BYTES) as opened,
        ):
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
    except HubError:  # an estimate must not fail a pull that would work
        return None
    return None


def _read(descriptor: int, file: HubFile) -> Header | None:
    with open(descriptor, "rb", closefd=False) as beginning:
        beginning.seek(0)
        given = FileSource(beginning, Path(file.name))
        given.size = file.size_bytes  # extents are checked against the whole file, of which this is the beginning
        try:
            return header_from(given)
        except (ModelFileError, struct.error):  # not yet all of it, or no GGUF: that is told once the file is there
            return None
