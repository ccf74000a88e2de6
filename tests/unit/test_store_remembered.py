"""What a store found before is the answer again as long as nothing that was looked at has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf_files import MODEL_METADATA, gguf_bytes

from localllm.store.bundled import bundled_dir
from localllm.store.remembered import Remembered
from localllm.store.store import Store


class Place:
    """A store, another process's view of the same folder, and a model of each kind in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundled = folder / "bundled"
        shutil.copytree(bundled_dir() / "guide", self.bundled / "guide")
        self.file = folder / "model.gguf"
        self.file.write_bytes(gguf_bytes())
        self.ours, self.theirs = (Store(folder / "models", self.bundled) for _ in range(2))
        self.ours.create_from_file("mine", self.file)

    def other_file(self) -> Path:
        path = self.folder / "other.gguf"
        path.write_bytes(gguf_bytes({**MODEL_METADATA, "general.name": "Other"}))
        return path

    def touch(self, path: Path) -> None:
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("name", ["mine", "mine:latest", "MINE", "guide"])
def test_what_was_found_is_the_answer_again_and_nothing_is_before_it_was_asked_for(place, name):
    assert place.ours.unchanged(name) is None
    found = place.ours.find(name)
    assert found is place.ours.unchanged(name)


CHANGES: dict[str, tuple[str, Callable[[Place], object]]] = {
    "another file under the name": ("mine", lambda place: place.theirs.create_from_file("mine", place.other_file())),
    "the name taken away": ("mine", lambda place: place.theirs.delete("mine")),
    "the file written again": ("mine", lambda place: place.touch(place.file)),
    "the file gone": ("mine", lambda place: place.file.unlink()),
    "a damaged manifest": (
        "mine",
        lambda place: (place.folder / "models/localllm/manifests/mine/latest.json").write_bytes(b"{"),
    ),
    "a model of the bundled one's name": ("guide", lambda place: place.theirs.create_from_file("guide", place.file)),
    "the bundled Modelfile": ("guide", lambda place: place.touch(place.bundled / "guide/Modelfile")),
    "the bundled file": ("guide", lambda place: place.touch(place.bundled / "guide/guide.gguf")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_that_another_process_makes_has_the_model_found_again(place, change):
    name, make = CHANGES[change]
    place.ours.find(name)
    make(place)
    assert place.ours.unchanged(name) is None


def test_a_name_on_the_bundled_model_is_found_again_when_that_changes(place):
    place.ours.copy("guide", "again")
    found = place.ours.find("again")
    assert found is place.ours.unchanged("again")
    place.touch(place.bundled / "guide/Modelfile")
    assert place.ours.unchanged("again") is None


def test_a_name_that_is_not_there_is_looked_for_each_time(place):
    with pytest.raises(Exception, match="not found"):
        place.ours.find("other")
    assert place.ours.unchanged("other") is None
    place.theirs.create_from_file("other", place.file)
    assert "other:latest" == place.ours.find("other").name


def test_names_that_clients_make_up_do_not_fill_the_memory(place):
    model = place.ours.find("mine")
    remembered = Remembered()
    for number in range(3000):
        remembered.keep(f"name{number}", model, (), ())
    assert remembered.unchanged("name0") is None
    assert model is remembered.unchanged("name2999")
