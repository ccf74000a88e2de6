"""What names take of the disk, what nobody needs, and that removing it touches nothing else, in the hub's layout."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from gguf_files import MODEL_METADATA, gguf_bytes

from localllm.errors import LocalllmError
from localllm.store import ledger
from localllm.store.blobs import BlobWriter
from localllm.store.cleaning import reasons_to_keep, remove
from localllm.store.store import Store
from localllm.store.usage import Leftover, Usage, usage

LATER = 24 * 3600.0


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def store(models_dir: Path, tmp_path: Path) -> Store:
    return Store(models_dir, tmp_path / "bundled")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def look(store: Store, models_dir: Path, cache: Path) -> Callable[[], Usage]:
    return lambda: usage(store, models_dir, cache)


def model(number: int = 0) -> bytes:
    return gguf_bytes({**MODEL_METADATA, "general.version": number})


def in_hub(cache: Path, name: str, data: bytes, *, is_ours: bool = True, repository: str = "OWNER--REPO") -> Path:
    """A file as the hub's library lays it out, and our note when we downloaded it; its path in the snapshot."""
    home = cache / f"models--{repository}"
    blob = home / "blobs" / hashlib.sha256(data).hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link = home / "snapshots" / ("a" * 40) / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text("a" * 40)
    if is_ours:
        ledger.record(cache, blob)
    return link


def partial(cache: Path, name: str = "b" * 64, *, is_ours: bool = True) -> Path:
    path = cache / "models--OWNER--REPO" / "blobs" / f"{name}.incomplete"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    if is_ours:
        lock = cache / ".locks" / "models--OWNER--REPO" / f"{path.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    return path


def paths(found: Usage) -> dict[str, str]:
    return {one.path: one.kind for one in found.leftovers}


def kept(found: Usage, cache: Path, after_seconds: float = LATER) -> list[str]:
    return list(reasons_to_keep(found.leftovers, cache, time.time() + after_seconds).values())


def test_a_file_that_two_names_share_is_counted_once(store, cache, look):
    shared, own = in_hub(cache, "shared.gguf", model(1)), in_hub(cache, "own.gguf", model(2))
    for name, file in (("one", shared), ("two", shared), ("three", own)):
        store.create_from_file(name, file)
    found = look()
    size = len(model())
    assert {"one:latest": (size, size), "two:latest": (size, size), "three:latest": (size, 0)} == {
        one.name: (one.size_bytes, one.shared_bytes) for one in found.models
    }
    assert 2 * size == found.used_bytes
    assert () == found.leftovers


def test_what_we_downloaded_and_no_name_uses_is_a_leftover_and_other_tools_files_never_are(store, cache, look):
    link = in_hub(cache, "ours.gguf", model(1))
    in_hub(cache, "theirs.gguf", model(2), is_ours=False)
    store.create_from_file("ours", link)
    assert {} == paths(look())
    store.delete("ours")
    assert {str(link.resolve()): "download"} == paths(look())


def test_a_file_that_another_tool_downloaded_again_is_not_ours_any_more(cache, look):
    blob = in_hub(cache, "ours.gguf", model(1)).resolve()
    blob.unlink()
    blob.write_bytes(model(1))
    assert {} == paths(look())


def test_beginnings_of_our_downloads_are_leftovers_and_those_of_other_tools_are_not(cache, look):
    ours = partial(cache)
    partial(cache, "c" * 64, is_ours=False)
    assert {str(ours): "partial"} == paths(look())


def test_blobs_without_a_name_and_unfinished_ones_are_leftovers(store, look):
    with BlobWriter(store.blobs_dir) as writer:
        writer.write(model())
        blob = writer.keep()
    unfinished = store.blobs_dir / ".abc.partial"
    unfinished.write_bytes(b"x")
    begun = store.blobs_dir / f"sha256-{'d' * 64}.incomplete"
    begun.write_bytes(b"x")
    assert {str(blob): "blob", str(unfinished): "partial", str(begun): "partial"} == paths(look())
    store.create_from_file("mine", blob)
    assert str(blob) not in paths(look())


def test_a_name_whose_file_changed_still_keeps_it(store, cache, look):
    link = in_hub(cache, "ours.gguf", model(1))
    store.create_from_file("ours", link)
    os.utime(link, ns=(1, 1))
    ledger.record(cache, link.resolve())
    found = look()
    assert () == found.leftovers
    assert "is not the one that was registered" in found.problems[0]
    assert found.is_certain


def test_with_a_manifest_that_cannot_be_read_nothing_is_certain(store, models_dir, look, tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(model())
    store.create_from_file("m", file)
    (models_dir / "localllm" / "manifests" / "m" / "latest.json").write_bytes(b"{")
    assert not look().is_certain


def test_removing_a_download_takes_its_links_and_empty_folders_and_nothing_else(cache, look):
    ours = in_hub(cache, "ours.gguf", model(1))
    theirs = in_hub(cache, "theirs.gguf", model(2), is_ours=False)
    alone = in_hub(cache, "alone.gguf", model(3), repository="OWNER--OTHER")
    for leftover in look().leftovers:
        remove(leftover, cache)
    assert not ours.is_symlink()
    assert model(2) == theirs.read_bytes()
    assert not alone.parents[2].exists()
    assert ["blobs", "refs", "snapshots"] == sorted(path.name for path in theirs.parents[2].iterdir())
    assert () == look().leftovers
    assert [] == list((cache / ".locks" / "localllm").iterdir())


def test_a_second_name_in_place_of_a_link_goes_with_the_download_too(cache, look):
    named = in_hub(cache, "a.gguf", model())
    blob = named.resolve()
    named.unlink()
    named.hardlink_to(blob)
    named.with_name("dangling.gguf").symlink_to("nowhere")
    (leftover,) = look().leftovers
    remove(leftover, cache)
    assert (False, False) == (named.exists(), blob.exists())


def test_removing_what_is_gone_is_no_error_and_what_cannot_be_removed_says_so(cache, look):
    in_hub(cache, "ours.gguf", model(1))
    (leftover,) = look().leftovers
    remove(leftover, cache)
    remove(leftover, cache)
    with pytest.raises(LocalllmError, match="cannot be removed"):
        remove(Leftover("blob", str(cache), 0), cache.parent / "elsewhere")


def test_what_is_being_downloaded_stays_and_so_does_what_its_repository_already_has(cache, look):
    partial(cache)
    in_hub(cache, "first-part.gguf", model(1))
    lock = cache / ".locks" / "models--OWNER--REPO" / f"{'b' * 64}.incomplete.lock"
    with FileLock(lock):
        assert ["it is being downloaded"] * 2 == kept(look(), cache)
        begun = next(one for one in look().leftovers if one.kind == "partial")
        with pytest.raises(LocalllmError, match="is being downloaded"):
            remove(begun, cache)
        assert Path(begun.path).exists()
    assert [] == kept(look(), cache)


def test_what_was_written_a_moment_ago_stays_until_its_name_had_time_to_appear(store, cache, look):
    in_hub(cache, "ours.gguf", model(1))
    with BlobWriter(store.blobs_dir) as writer:
        writer.write(model(2))
        writer.keep()
    assert ["it was written a moment ago"] * 2 == kept(look(), cache, 1)
    assert ["it was written a moment ago"] == kept(look(), cache, 120)
    assert [] == kept(look(), cache, LATER)


def test_what_a_process_has_mapped_stays(cache, look):
    """In another process, as a runner with a model that is still loaded."""
    blob = in_hub(cache, "ours.gguf", model(1)).resolve()
    code = (
        "import mmap, sys; file = open(sys.argv[1], 'rb')\n"
        "mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); file.close()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(blob)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        assert [f"process {process.pid} uses it"] == kept(look(), cache)
        process.stdin.close()
    assert [] == kept(look(), cache)


def test_a_file_that_is_only_open_stays_too(cache, look):
    blob = in_hub(cache, "ours.gguf", model(1))
    with blob.open("rb"):
        assert [f"process {os.getpid()} uses it"] == kept(look(), cache)
