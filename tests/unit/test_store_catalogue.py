"""The short names: every Modelfile of the catalogue can be read and leads to a repository on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm import modelfile
from localllm.errors import ModelFileError
from localllm.store.bundled import bundled_dir, bundled_names
from localllm.store.catalogue import entries, find_entry
from localllm.store.names import parse_name
from localllm.store.store import Store

CATALOGUE = tuple(entries(bundled_dir()))


def test_every_short_name_leads_to_a_repository_and_says_what_it_is():
    assert len(CATALOGUE) == len(list(bundled_dir().glob("*/*.Modelfile")))
    for entry in CATALOGUE:
        assert entry.source.is_hub
        assert 0 < len(entry.about) < 80
        assert entry.name == parse_name(str(entry.name))


def test_every_modelfile_of_the_catalogue_is_understood_whole_and_says_where_its_name_comes_from():
    for path in bundled_dir().glob("*/*.Modelfile"):
        text = path.read_text(encoding="utf-8")
        assert () == modelfile.parse(text).warnings
        assert path.name == "latest.Modelfile" or "The repository's name comes from" in text


def test_every_family_has_a_default_that_is_one_of_its_sizes():
    families = {entry.name.model for entry in CATALOGUE}
    for family in families:
        sources = {entry.name.tag: entry.source for entry in CATALOGUE if entry.name.model == family}
        assert sources.pop("latest") in sources.values()


def test_no_short_name_is_a_bundled_model():
    assert set() == {name.model for name in bundled_names(bundled_dir())} & {entry.name.model for entry in CATALOGUE}


def test_a_short_name_means_its_repository_in_any_case_and_the_hint_of_one_that_is_missing_says_so(tmp_path):
    store = Store(tmp_path, bundled_dir())
    request = store.pull_request("Llama3.2")
    assert ("bartowski/Llama-3.2-3B-Instruct-GGUF", "Q4_K_M") == (request.repository, request.choice)
    assert "`localllm pull llama3.2:1b` downloads it" == hint_of(store, "llama3.2:1b")
    assert "`localllm list` shows the models there are" == hint_of(store, "llama3.2:999b")
    assert ["guide:latest"] == [model.name for model in store.list()]


def hint_of(store: Store, name: str) -> str | None:
    with pytest.raises(Exception, match="not found") as caught:
        store.find(name)
    return caught.value.hint


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("FROM a:b", "FROM leads in a circle"),
        ("FROM ./file.gguf", "invalid model name"),
        ("FROM other.host/a/b", "must name a repository on the hub"),
        ("FORM a", "command must be one of"),
    ],
)
def test_a_wrong_modelfile_is_told_with_its_path(tmp_path: Path, text, error):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.Modelfile").write_text(text)
    with pytest.raises(ModelFileError if "FORM" not in text else Exception, match=error):
        find_entry(tmp_path, parse_name("a:b"))


def test_without_a_catalogue_there_are_no_short_names(tmp_path):
    assert () == tuple(entries(tmp_path / "nothing"))
    assert find_entry(tmp_path / "nothing", parse_name("llama3.2")) is None
