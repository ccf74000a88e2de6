"""The largest quant that fits: which is taken, what is said, and how much of a file is asked for to know it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gguf_files import MODEL_METADATA, gguf_bytes

from localllm.errors import HubError, NotOnHubError, UnsupportedError
from localllm.pulling import Memory
from localllm.store.fitting import choose_largest, remote_header
from localllm.store.repository import HubFile, Repository
from localllm.store.source import Opened, SourceBusyError

GB = 10**9
DATA = gguf_bytes(MODEL_METADATA | {"llama.attention.head_count": 8, "padding": "x" * 300_000})


class Files:
    """A source whose files all begin with the same bytes; `asked` counts what was taken of each."""

    def __init__(self, data: bytes = DATA, error: HubError | None = None) -> None:
        self.data = data
        self.error = error
        self.asked: dict[str, int] = {}

    @contextmanager
    def open(self, repository: Repository, file: HubFile, start: int, piece_bytes: int) -> Iterator[Opened]:
        yield Opened(start, self._pieces(file, 100_000))

    def _pieces(self, file: HubFile, piece_bytes: int) -> Iterator[bytes]:
        for at in range(0, file.size_bytes, piece_bytes):
            if self.error:
                raise self.error
            self.asked[file.name] = at + piece_bytes
            yield self.data[at : at + piece_bytes].ljust(piece_bytes, b"\0")


def repository(**sizes: int) -> Repository:
    files = tuple(HubFile(f"M-{quant}.gguf", size, "ab" * 32) for quant, size in sizes.items())
    return Repository("owner/repo", "c" * 40, files, license="mit")


def memory(available: float, total: int = 16) -> Memory:
    return Memory(int(available * GB), total * GB, pool_bytes_limit=GB, parallel=8, batch_tokens=512)


QUANTS = {"Q2_K": 3 * GB, "Q4_K_M": 5 * GB, "Q8_0": 9 * GB, "F16": 17 * GB}


@pytest.mark.parametrize(
    ("available", "quant"), [(60, "F16"), (10, "Q8_0"), (9.1, "Q4_K_M"), (8.9, "Q4_K_M"), (4, "Q2_K")]
)
def test_the_largest_that_fits_with_its_cache_is_taken(available, quant):
    assert quant == choose_largest(Files(), repository(**QUANTS), memory(available)).variant.quant


def test_why_it_was_taken_is_said_with_the_figures_and_the_alternatives():
    files = Files()
    said = choose_largest(files, repository(**QUANTS), memory(8)).remarks
    assert (
        "taking Q4_K_M (5 GB), the largest that fits: it needs about 5.2 GB of memory, and 8 GB of 16 GB are free; "
        "too large: F16 (17 GB) needs about 17 GB, Q8_0 (9 GB) needs about 9.2 GB; smaller: Q2_K (3 GB)",
        "license: mit",
    ) == said
    assert ["M-Q4_K_M.gguf"] == list(files.asked)


def test_without_a_header_the_size_of_the_file_has_to_do_and_that_is_said():
    busy = Files(error=SourceBusyError("busy"))
    choice = choose_largest(busy, repository(Q8_0=9 * GB, Q4_K_M=5 * GB), memory(10))
    assert choice.remarks[0].startswith(
        "taking Q4_K_M (5 GB), the largest that fits: it needs about 6.7 GB of memory, by the size of its file alone"
    )


def test_when_nothing_fits_the_smallest_is_named_with_what_it_needs():
    with pytest.raises(UnsupportedError) as caught:
        choose_largest(Files(), repository(**QUANTS), memory(2))
    assert caught.value.message == (
        "no quant of owner/repo fits: Q2_K (3 GB) needs about 4.7 GB, and of 16 GB of memory 2 GB are free"
    )
    assert "a smaller model" in caught.value.hint


def test_a_repository_without_a_model_is_said_to_have_none():
    with pytest.raises(NotOnHubError):
        choose_largest(Files(), Repository("owner/repo", "c" * 40, ()), memory(8))


def test_no_more_of_a_file_is_asked_for_than_its_header_takes():
    files = Files()
    header = remote_header(files, repository(Q8_0=9 * GB), HubFile("a.gguf", 9 * GB, "ab" * 32))
    assert (256, 9 * GB) == (header.embedding_length, header.file_size_bytes)
    assert files.asked["a.gguf"] <= 5 * 2**20


def test_what_is_no_gguf_has_no_header():
    file = HubFile("a.gguf", 200_000, "ab" * 32)
    assert remote_header(Files(b"<html>" * 100), repository(), file) is None
