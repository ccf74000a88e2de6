"""The header of a file that is elsewhere: how much of it is asked for, and what is no header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gguf_files import MODEL_METADATA, gguf_bytes

from localllm.errors import HubAccessError, HubError
from localllm.store.answers import Place, SourceBusyError
from localllm.store.remote_header import remote_header
from localllm.store.repository import HubFile, Repository
from localllm.store.source import Opened

GB = 10**9
DATA = gguf_bytes(MODEL_METADATA | {"llama.attention.head_count": 8, "padding": "x" * 300_000})


class Files:
    """A source whose files all begin with the same bytes; `asked` counts what was taken of each."""

    title = "the hub"

    def __init__(self, data: bytes = DATA, error: HubError | None = None, whole_bytes: int | None = None) -> None:
        self.whole_bytes = whole_bytes
        self.data = data
        self.error = error
        self.asked: dict[str, int] = {}

    @contextmanager
    def open(self, repository: Repository, file: HubFile, start: int, piece_bytes: int) -> Iterator[Opened]:
        yield Opened(Place(start, self.whole_bytes), self._pieces(file, 100_000))

    def _pieces(self, file: HubFile, piece_bytes: int) -> Iterator[bytes]:
        for at in range(0, file.size_bytes, piece_bytes):
            if self.error:
                raise self.error
            self.asked[file.name] = at + piece_bytes
            yield self.data[at : at + piece_bytes].ljust(piece_bytes, b"\0")


def repository(**sizes: int) -> Repository:
    files = tuple(HubFile(f"M-{quant}.gguf", size, "ab" * 32) for quant, size in sizes.items())
    return Repository("owner/repo", "c" * 40, files, license="mit")


def test_no_more_of_a_file_is_asked_for_than_its_header_takes():
    files = Files()
    header = remote_header(files, repository(Q8_0=9 * GB), HubFile("a.gguf", 9 * GB, "ab" * 32))
    assert (256, 9 * GB) == (header.embedding_length, header.file_size_bytes)
    assert files.asked["a.gguf"] <= 5 * 2**20


def test_what_keeps_a_source_from_answering_is_passed_on():
    with pytest.raises(HubAccessError, match="accept the terms"):
        remote_header(Files(error=HubAccessError("accept the terms")), repository(), HubFile("a.gguf", GB, "ab" * 32))


def test_a_page_in_place_of_the_file_is_no_word_about_its_header():
    with pytest.raises(SourceBusyError, match="sends a file of 12 bytes, and a\\.gguf has 1000000000"):
        remote_header(Files(whole_bytes=12), repository(), HubFile("a.gguf", GB, "ab" * 32))


def test_what_is_no_gguf_has_no_header():
    file = HubFile("a.gguf", 200_000, "ab" * 32)
    assert remote_header(Files(b"<html>" * 100), repository(), file) is None
