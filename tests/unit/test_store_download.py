"""One file's download against a hub that is a few lines: what is waited for, given up, and left behind."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from localllm.errors import DiskFullError, HubAccessError, HubError, WrongHashError
from localllm.pulling import PullProgress, PullStatus
from localllm.store.answers import Place, RangeRefusedError, SourceBusyError
from localllm.store.download import Effects, download
from localllm.store.repository import HubFile, Repository
from localllm.store.source import Opened

DATA = bytes(range(256)) * 40_000
FILE = HubFile("a.gguf", len(DATA), hashlib.sha256(DATA).hexdigest())
REPOSITORY = Repository("owner/repo", "c" * 40, (FILE,))


class FewLinesHub:
    """`script` says for each connection: how many bytes come, then what is raised (None: the end of the file)."""

    title = "the hub"
    moved_by = "HF_HOME"

    def __init__(self, folder: Path, *script: tuple[int, Exception | None], data: bytes = DATA) -> None:
        self.cache_dir = folder
        self.script = list(script)
        self.data = data
        self.starts: list[int] = []

    def blob(self, repository: Repository, file: HubFile) -> Path:
        return self.cache_dir / "blobs" / file.oid

    def find(self, repository: Repository, file: HubFile) -> Path | None:
        return self.blob(repository, file) if self.blob(repository, file).exists() else None

    link = blob

    def lock(self, repository: Repository, file: HubFile, seconds: float | None) -> nullcontext[None]:
        return nullcontext()

    @contextmanager
    def open(self, repository: Repository, file: HubFile, start: int, piece_bytes: int) -> Iterator[Opened]:
        self.starts.append(start)
        count, error = self.script.pop(0) if self.script else (len(self.data), None)
        yield Opened(Place(start, None), self._pieces(self.data[start : start + count], piece_bytes, error))

    def _pieces(self, data: bytes, piece_bytes: int, error: Exception | None) -> Iterator[bytes]:
        for at in range(0, len(data), piece_bytes):
            yield data[at : at + piece_bytes]
        if error is not None:
            raise error


class OddHub(FewLinesHub):
    """`answers`: what each connection says it has, and what comes; then it is as it should be."""

    def __init__(self, folder: Path, *answers: tuple[Place, bytes] | Exception) -> None:
        super().__init__(folder)
        self.answers = list(answers)

    @contextmanager
    def open(self, repository: Repository, file: HubFile, start: int, piece_bytes: int) -> Iterator[Opened]:
        if not self.answers:
            with super().open(repository, file, start, piece_bytes) as opened:
                yield opened
            return
        self.starts.append(start)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield Opened(answer[0], self._pieces(answer[1], piece_bytes, None))


class Watched:
    """Effects that wait for nothing: the clock moves by what is slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.told: list = []
        self.effects = Effects(self.told.append, self.slept.append, lambda: sum(self.slept))


def busy(retry_after_seconds: float | None = None) -> SourceBusyError:
    return SourceBusyError("the hub is busy", retry_after_seconds=retry_after_seconds)


def test_a_hub_that_stays_away_is_given_up_after_half_a_minute_and_the_partial_file_stays(tmp_path):
    watched = Watched()
    hub = FewLinesHub(tmp_path, (3_000_000, busy()), *[(0, busy())] * 5)
    with pytest.raises(SourceBusyError):
        download(hub, REPOSITORY, FILE, 0, watched.effects)
    assert [0.5, 1, 2, 4, 8] == watched.slept
    assert [0] + [3_000_000] * 5 == hub.starts
    assert DATA[:3_000_000] == (tmp_path / "blobs" / f"{FILE.oid}.incomplete").read_bytes()
    assert DATA == download(FewLinesHub(tmp_path), REPOSITORY, FILE, 0, watched.effects).read_bytes()


def test_what_the_hub_asks_to_wait_is_waited_and_progress_ends_whole(tmp_path):
    watched = Watched()
    hub = FewLinesHub(tmp_path, (1_000_000, busy(7)), (0, busy(500)), (2_000_000, None))
    assert DATA == download(hub, REPOSITORY, FILE, 0, watched.effects).read_bytes()
    assert [7, 60, 0.5] == watched.slept
    assert PullProgress("a.gguf", f"sha256:{FILE.oid}", len(DATA), len(DATA)) == watched.told[-1]


def test_a_hub_that_refuses_leaves_no_file_behind(tmp_path):
    with pytest.raises(HubAccessError):
        download(FewLinesHub(tmp_path, (0, HubAccessError("not for you"))), REPOSITORY, FILE, 0, Watched().effects)
    assert [] == list((tmp_path / "blobs").iterdir())


def test_a_full_disk_is_said_as_such_and_the_partial_file_stays(tmp_path):
    hub = FewLinesHub(tmp_path, (2_000_000, OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DiskFullError) as caught:
        download(hub, REPOSITORY, FILE, 0, Watched().effects)
    assert "goes on where this one stopped" in caught.value.hint
    assert 2_000_000 == (tmp_path / "blobs" / f"{FILE.oid}.incomplete").stat().st_size


@pytest.mark.parametrize(("data", "error"), [(DATA[:-1] + b"x", WrongHashError), (DATA + b"x", HubError)])
def test_another_file_than_the_hub_promised_never_gets_its_name(tmp_path, data, error):
    with pytest.raises(error):
        download(FewLinesHub(tmp_path, data=data), REPOSITORY, FILE, 0, Watched().effects)
    assert not (tmp_path / "blobs" / FILE.oid).exists()


def test_a_limit_makes_pauses_that_keep_to_it(tmp_path):
    watched = Watched()
    download(FewLinesHub(tmp_path), REPOSITORY, FILE, 1_000_000, watched.effects)
    assert pytest.approx(len(DATA) / 1_000_000) == sum(watched.slept)
    assert max(watched.slept) <= 0.125


SIZE = len(DATA)
BEGINNING = (Place(0, SIZE), DATA[:3_000_000])


@pytest.mark.parametrize(
    "odd",
    [
        (Place(0, 12), b"<html></html"),
        (Place(3_000_000, 12), b"<html></html"),
        (Place(0, SIZE + 1), DATA + b"x"),
        SourceBusyError("the connection broke"),
    ],
)
def test_an_answer_about_another_file_costs_nothing_of_what_is_here(tmp_path, odd):
    hub = OddHub(tmp_path, BEGINNING, odd)
    assert DATA == download(hub, REPOSITORY, FILE, 0, Watched().effects).read_bytes()
    assert [0, 3_000_000, 3_000_000] == hub.starts


@pytest.mark.parametrize(
    "odd",
    [
        (Place(100, SIZE), DATA[100:200]),
        (Place(None, None), DATA[3_000_000:]),
        (Place(0, None), DATA[:1000]),
        RangeRefusedError("416"),
    ],
)
def test_who_has_no_parts_of_a_file_is_asked_for_all_of_it(tmp_path, odd):
    hub = OddHub(tmp_path, BEGINNING, odd)
    assert DATA == download(hub, REPOSITORY, FILE, 0, Watched().effects).read_bytes()
    assert [0, 3_000_000, 1000 if odd == (Place(0, None), DATA[:1000]) else 0] == hub.starts


def test_what_was_put_together_wrongly_of_several_answers_is_downloaded_anew(tmp_path):
    watched = Watched()
    hub = OddHub(tmp_path, BEGINNING, (Place(3_000_000, SIZE), bytes(SIZE - 3_000_000)))
    assert DATA == download(hub, REPOSITORY, FILE, 0, watched.effects).read_bytes()
    assert PullStatus("what was there of a.gguf is damaged: downloading it anew") in watched.told


def test_an_answer_that_is_never_of_the_file_is_given_up_with_the_sizes(tmp_path):
    hub = OddHub(tmp_path, *[(Place(0, 12), b"<html></html")] * 6)
    with pytest.raises(SourceBusyError, match=r"the hub or a proxy sends a file of 12 bytes, and a\.gguf has 10240000"):
        download(hub, REPOSITORY, FILE, 0, Watched().effects)
    assert [] == list((tmp_path / "blobs").iterdir())
