"""A store remembers the manifests it read, and sees every change that others make to them or to their models' files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gguf_files import MODEL_METADATA, gguf_bytes

from localllm.errors import ModelFileError, ModelNotFoundError
from localllm.store.store import Store


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    """Two processes' views of one folder, in one process."""
    return Store(tmp_path / "models", tmp_path / "bundled"), Store(tmp_path / "models", tmp_path / "bundled")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes())
    return path


def test_what_is_the_same_is_not_read_again(stores, file):
    store, _ = stores
    store.create_from_file("mine", file)
    assert store.find("mine") is store.find("mine")
    assert store.list()[0] is store.find("mine")


def test_a_name_that_another_process_gave_to_another_file_is_seen(stores, file, tmp_path):
    ours, theirs = stores
    ours.create_from_file("mine", file)
    first = ours.find("mine")
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_bytes({**MODEL_METADATA, "general.name": "Other"}))
    theirs.create_from_file("mine", other)
    second = ours.find("mine")
    assert (file, other) == (first.file, second.file)
    assert first.digest != second.digest
    assert second.digest == theirs.find("mine").digest == ours.list()[0].digest


def test_a_name_that_another_process_took_away_is_gone(stores, file):
    ours, theirs = stores
    ours.create_from_file("mine", file)
    assert "mine:latest" == ours.find("mine").name
    theirs.delete("mine")
    with pytest.raises(ModelNotFoundError):
        ours.find("mine")
    assert () == ours.list()


def test_a_model_file_that_changed_is_refused_and_accepted_again_when_it_is_as_it_was(stores, file):
    store, _ = stores
    store.create_from_file("mine", file)
    store.find("mine")
    status = file.stat()
    os.utime(file, ns=(1, 1))
    with pytest.raises(ModelFileError, match="is not the one that was registered"):
        store.find("mine")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file == store.find("mine").file


def test_a_manifest_that_was_damaged_since_is_told(stores, file, tmp_path):
    store, _ = stores
    store.create_from_file("mine", file)
    store.find("mine")
    (tmp_path / "models/localllm/manifests/mine/latest.json").write_bytes(b"{")
    with pytest.raises(ModelFileError, match="is damaged"):
        store.find("mine")
    assert 1 == len(store.problems())
