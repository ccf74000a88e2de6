"""The cache that other tools share: what is found in it however they left it, and how a file gets its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from localllm.store.hub_folder import HubFolder, hub_cache
from localllm.store.repository import HubFile, Repository

DATA = b"weights"
OID = hashlib.sha256(DATA).hexdigest()
FILE = HubFile("Q4/a.gguf", len(DATA), OID)
OLD, NEW = "a" * 40, "b" * 40
ID = "owner/repo"


def at(commit: str) -> Repository:
    return Repository(ID, commit, (FILE,))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "models--owner--repo"


@pytest.fixture
def folder(tmp_path: Path) -> HubFolder:
    return HubFolder(tmp_path)


def put(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_finished_blob_gets_its_name_by_a_link_that_survives_a_move_of_the_cache(folder, home, tmp_path):
    put(home / "blobs" / OID)
    named = folder.link(at(OLD), FILE)
    assert home / "snapshots" / OLD / "Q4" / "a.gguf" == named
    assert Path(f"../../../blobs/{OID}") == named.readlink()
    assert OLD == (home / "refs" / "main").read_text()
    home.parent.rename(tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved") / named.relative_to(tmp_path)
    assert DATA == moved.read_bytes()


@pytest.mark.parametrize("in_the_way", ["a link to nothing", "an older file", "nothing"])
def test_a_file_is_found_by_its_blob_when_its_name_is_missing_or_wrong(folder, home, in_the_way):
    put(home / "blobs" / OID)
    named = home / "snapshots" / OLD / "Q4" / "a.gguf"
    named.parent.mkdir(parents=True)
    if in_the_way == "a link to nothing":
        named.symlink_to("nowhere")
    elif in_the_way == "an older file":
        named.write_bytes(b"other")
    assert named == folder.find(at(OLD), FILE)
    assert DATA == named.read_bytes()
    assert [named] == list(named.parent.iterdir())


def test_a_name_as_long_as_a_disk_allows_is_given(folder, home):
    put(home / "blobs" / OID)
    long = HubFile(f"{80 * '模'}-q4.gguf", len(DATA), OID)
    assert DATA == folder.link(at(OLD), long).read_bytes()


def test_what_is_not_whole_is_not_found(folder, home):
    assert None is folder.find(at(OLD), FILE)
    put(home / "blobs" / OID, DATA[:-1])
    put(home / "snapshots" / OLD / "Q4" / "a.gguf", DATA[:-1])
    assert None is folder.find(at(OLD), FILE)


def test_where_links_are_unwanted_the_file_has_two_names_and_lies_there_once(tmp_path, home):
    folder = HubFolder(tmp_path, may_link=False)
    blob = put(home / "blobs" / OID)
    named = folder.link(at(OLD), FILE)
    assert not named.is_symlink()
    assert named.samefile(blob)


def test_in_a_cache_that_cannot_be_written_a_file_is_found_under_the_name_it_has(folder, home):
    put(home / "blobs" / OID)
    put(home / "snapshots" / NEW / "Q4", b"a file where a folder should be: not even root can write there")
    assert home / "blobs" / OID == folder.find(at(NEW), FILE)
    named = folder.link(at(OLD), FILE)
    assert named == folder.find(at(NEW), FILE)


def test_offline_the_main_branch_counts_or_else_the_newest_commit_that_has_a_model(folder, home):
    assert None is folder.look_up(ID)
    put(home / "blobs" / OID)
    folder.link(at(OLD), FILE)
    assert (OLD, (FILE,)) == (folder.look_up(ID).commit, folder.look_up(ID).files)
    put(home / "snapshots" / NEW / "config.json")
    for main in (NEW, "../../..", ""):
        (home / "refs" / "main").write_text(main)
        assert OLD == folder.look_up(ID).commit
    put(home / "snapshots" / NEW / "b.gguf")
    (home / "refs" / "main").write_text(NEW)
    found = folder.look_up(ID)
    assert (NEW, True) == (found.commit, found.is_offline)
    assert HubFile("b.gguf", len(DATA), "") in found.files, "what is no link has no hash"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"HF_HOME": "/hf", "XDG_CACHE_HOME": "/xdg"}, "/hf/hub"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hub"),
        ({"HF_HUB_CACHE": "/cache", "HF_HOME": "/hf"}, "/cache"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/huggingface/hub"),
        ({"HF_HOME": "~nobody-of-that-name/hf"}, f"{Path.cwd()}/~nobody-of-that-name/hf/hub"),
        ({"HF_HOME": "there/../hf"}, f"{Path.cwd()}/hf/hub"),
    ],
)
def test_the_cache_is_where_the_variables_say_and_its_path_is_whole(variables, folder):
    assert Path(folder) == hub_cache(variables, Path("/home/me"))
