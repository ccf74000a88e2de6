"""Models of other tools get names where they lie: each tool's folders as it lays them out, and none of them changes."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gguf_files import MODEL_METADATA, Typed, gguf_bytes

from localllm.errors import ModelFileError
from localllm.generation import Message
from localllm.store.adopt import Adopted, adopt
from localllm.store.finding import find
from localllm.store.store import Store

_PREFIX = "application/vnd.ollama.image."


def model(number: int = 0) -> bytes:
    """A whole model, another one for each number."""
    return gguf_bytes({**MODEL_METADATA, "general.version": number})


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", tmp_path / "bundled")


def taken(
    store: Store, home: Path, where: str, environment: dict[str, str] | None = None, dry_run: bool = False
) -> list[Adopted]:
    return list(adopt(store, find(where, environment or {}, home, home)[1], dry_run=dry_run))


def named(done: list[Adopted]) -> dict[str, str]:
    return {one.name: one.files[0] for one in done if one.status == "named"}


def notes(done: list[Adopted]) -> list[str]:
    return [one.note for one in done]


class Ollama:
    """A store of Ollama's, as it writes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).hexdigest()
        put(self.folder / "blobs" / f"sha256-{digest}", data)
        return f"sha256:{digest}", len(data)

    def model(self, place: str, **layers: bytes) -> Path:
        """Write the manifest at HOST/NAMESPACE/MODEL/TAG; return its blob of weights."""
        rows: list[dict[str, Any]] = []
        for kind, data in layers.items():
            digest, size = self.blob(data)
            rows.append({"mediaType": _PREFIX + kind, "digest": digest, "size": size})
        manifest = {"schemaVersion": 2, "config": {"digest": "sha256:" + "0" * 64, "size": 2}, "layers": rows}
        put(self.folder / "manifests" / place, json.dumps(manifest).encode())
        return self.folder / "blobs" / f"sha256-{hashlib.sha256(layers.get('model', b'')).hexdigest()}"


@pytest.fixture
def ollama(home: Path) -> Ollama:
    return Ollama(home / ".ollama" / "models")


def test_a_model_of_ollamas_library_keeps_its_name_and_its_settings(store, home, ollama):
    blob = ollama.model(
        "registry.ollama.ai/library/tiny/1b",
        model=model(),
        template=b"{{ .Prompt }}",
        system=b"Be brief.",
        params=b'{"temperature": 0.5, "stop": ["<end>"], "penalize_newline": true}',
        license=b"MIT License",
        messages=b'[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]',
    )
    (done,) = taken(store, home, "ollama")
    assert ("named", "tiny:1b", "Ollama's tiny:1b") == (done.status, done.name, done.what)
    assert "penalize_newline has no effect" in done.note
    found = store.find("tiny:1b")
    assert (blob, "Be brief.", "{{ .Prompt }}", "MIT License") == (
        found.file,
        found.system,
        found.template,
        found.license,
    )
    assert (0.5, ("<end>",)) == (found.options.temperature, found.options.stop)
    assert (Message(role="user", content="hi"), Message(role="assistant", content="hello")) == found.messages


def test_models_that_share_their_weights_are_one_for_each_of_their_settings(store, home, ollama):
    said = {"plain": {}, "same": {}, "pirate": {"system": b"Arr."}, "cold": {"params": b'{"temperature": 0}'}}
    for name, layers in said.items():
        ollama.model(f"registry.ollama.ai/library/{name}/latest", model=model(), **layers)
    done = taken(store, home, "ollama")
    assert {"cold:latest", "pirate:latest", "plain:latest"} == set(named(done))
    assert [("plain:latest", "Ollama's same:latest")] == [(one.name, one.what) for one in done if one.status == "known"]
    assert ("Arr.", None) == (store.find("pirate").system, store.find("plain").system)
    assert {"known"} == {one.status for one in taken(store, home, "ollama")}
    store.copy("cold", "pirate")
    assert {"known"} == {one.status for one in taken(store, home, "ollama")}, (
        "a name that was changed here is left alone"
    )


def test_what_early_versions_and_other_programs_leave_in_ollamas_store_is_no_hindrance(store, home, ollama):
    blob = ollama.model("registry.ollama.ai/library/early/latest", model=model())
    blob.rename(blob.with_name(blob.name.replace("-", ":")))
    put(ollama.folder / "manifests/registry.ollama.ai/library/.DS_Store/latest", b"x")
    put(ollama.folder / "manifests/.DS_Store", b"x")
    assert [("named", "early:latest")] == [(one.status, one.name) for one in taken(store, home, "ollama")]


def test_models_of_other_places_in_ollamas_store_get_plain_names(store, home, ollama):
    ollama.model("registry.ollama.ai/someone/mine/latest", model=model(1))
    ollama.model("hf.co/owner/Tiny-Model-GGUF/Q4_K_M", model=model(2))
    assert {"someone-mine:latest", "tiny-model:q4_k_m"} == set(named(taken(store, home, "ollama")))


def test_what_ollama_holds_that_is_no_model_here_is_skipped_with_the_reason(store, home, ollama):
    ollama.model("registry.ollama.ai/library/cloud/latest", params=b"{}")
    ollama.model("registry.ollama.ai/library/broken/latest", model=model()[:300])
    ollama.model("registry.ollama.ai/library/gone/latest", model=model(1)).unlink()
    put(ollama.folder / "manifests/registry.ollama.ai/library/mad/latest", b"{")
    done = taken(store, home, "ollama")
    assert {"skipped"} == {one.status for one in done}
    for words in ("holds no model", "truncated", "does not exist", "cannot be read"):
        assert any(words in note for note in notes(done)), words
    assert () == store.list()


def test_the_models_of_ollamas_service_are_found_too(store, home):
    Ollama(home / "usr/share/ollama/.ollama/models").model("registry.ollama.ai/library/tiny/latest", model=model())
    assert ["tiny:latest"] == [*named(taken(store, home, "ollama"))]


def test_ollama_models_is_honoured(store, home, tmp_path):
    Ollama(tmp_path / "elsewhere").model("registry.ollama.ai/library/tiny/latest", model=model())
    assert ["tiny:latest"] == [*named(taken(store, home, "ollama", {"OLLAMA_MODELS": str(tmp_path / "elsewhere")}))]


def test_ollamas_projector_comes_along_in_place(store, home, ollama):
    projector = gguf_bytes({"general.architecture": "clip"})
    ollama.model("registry.ollama.ai/library/seeing/latest", model=model(), projector=projector)
    (done,) = taken(store, home, "ollama")
    assert "with its projector, which is kept: this version reads no images yet" == done.note
    digest = hashlib.sha256(projector).hexdigest()
    assert ollama.folder / "blobs" / f"sha256-{digest}" == store.find("seeing").projector


def test_lm_studios_models_are_named_after_their_files(store, home):
    folder = home / ".lmstudio" / "models" / "publisher" / "Tiny-8B-GGUF"
    small = put(folder / "Tiny-8B-Q4_K_M.gguf", model(1))
    large = put(folder / "Tiny-8B-UD-Q8_K_XL.gguf", model(2))
    put(folder / "mmproj-Tiny-8B-F16.gguf", gguf_bytes({"general.architecture": "clip"}))
    old = put(home / ".cache" / "lm-studio" / "models" / "a" / "b" / "old.gguf", model(3))
    done = taken(store, home, "lmstudio")
    expected = {"tiny-8b:q4_k_m": str(small), "tiny-8b:ud-q8_k_xl": str(large), "old:latest": str(old)}
    assert expected == named(done)
    assert ["with mmproj-Tiny-8B-F16.gguf", "with mmproj-Tiny-8B-F16.gguf", ""] == notes(done)
    assert folder / "mmproj-Tiny-8B-F16.gguf" == store.find("tiny-8b:q4_k_m").projector


def test_a_broken_projector_does_not_keep_its_model_away(store, home):
    folder = home / ".lmstudio" / "models" / "p" / "r"
    put(folder / "tiny.gguf", model())
    put(folder / "mmproj.gguf", b"GGUF")
    (done,) = taken(store, home, "lmstudio")
    assert "tiny:latest" == done.name
    assert "without its projector: " in done.note


def test_llama_cpps_downloads_lose_the_repository_in_front_of_their_names(store, home, tmp_path):
    cache = tmp_path / "llama-cache"
    known = put(cache / "ggml-org_tiny_model-GGUF_tiny-model-Q8_0.gguf", model(1))
    put(cache / "manifest=ggml-org=tiny_model-GGUF=latest.json", b"{}")
    unknown = put(cache / "other.gguf", model(2))
    done = taken(store, home, "llama.cpp", {"LLAMA_CACHE": str(cache)})
    assert {"tiny-model:q8_0": str(known), "other:latest": str(unknown)} == named(done)


def hub_file(cache: Path, path: str, data: bytes, commit: str = "a" * 40) -> Path:
    """A file of OWNER/Tiny as huggingface_hub keeps it: a link from the snapshot to a blob."""
    repository = cache / "models--OWNER--Tiny-GGUF"
    blob = put(repository / "blobs" / hashlib.sha256(data).hexdigest(), data)
    link = repository / "snapshots" / commit / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", None])
def test_the_hubs_cache_is_found_where_the_hubs_library_keeps_it(store, home, tmp_path, variable):
    value, cache = {
        "HF_HUB_CACHE": (tmp_path / "c", tmp_path / "c"),
        "HF_HOME": (tmp_path / "h", tmp_path / "h" / "hub"),
        "XDG_CACHE_HOME": (tmp_path / "x", tmp_path / "x" / "huggingface" / "hub"),
        None: ("", home / ".cache" / "huggingface" / "hub"),
    }[variable]
    link = hub_file(cache, "Tiny-Q4_K_M.gguf", model())
    assert {"tiny:q4_k_m": str(link)} == named(taken(store, home, "hf", {variable: str(value)} if variable else {}))


def test_one_blob_under_two_snapshots_gets_one_name_that_of_the_main_branch(store, home):
    cache = home / ".cache" / "huggingface" / "hub"
    hub_file(cache, "Tiny-Q4_K_M.gguf", model(), "a" * 40)
    link = cache / "models--OWNER--Tiny-GGUF" / "snapshots" / ("b" * 40) / "Tiny-Q4_K_M.gguf"
    link.parent.mkdir()
    link.symlink_to("../../blobs/" + hashlib.sha256(model()).hexdigest())
    put(cache / "models--OWNER--Tiny-GGUF" / "refs" / "main", b"b" * 40)
    done = taken(store, home, "hf")
    assert [("named", "tiny:q4_k_m"), ("known", "tiny:q4_k_m")] == [(one.status, one.name) for one in done]
    assert link == store.find("tiny:q4_k_m").file


def part(number: int, count: int) -> bytes:
    said = {"split.no": Typed(2, struct.pack("<H", number)), "split.count": Typed(2, struct.pack("<H", count))}
    return gguf_bytes({**MODEL_METADATA, **said})


def test_the_parts_of_a_split_model_are_one_model_and_missing_ones_are_told(store, home, tmp_path):
    folder = tmp_path / "folder"
    parts = [put(folder / f"Big-Q4_K_M-0000{number + 1}-of-00002.gguf", part(number, 2)) for number in (0, 1)]
    put(folder / "Half-Q8_0-00001-of-00003.gguf", part(0, 3))
    done = taken(store, home, str(folder))
    assert {"big:q4_k_m": str(parts[0])} == named(done)
    assert (parts[1],) == store.find("big:q4_k_m").parts
    assert ["1 of its 3 parts are there"] == [one.note for one in done if one.status == "skipped"]


def test_a_folder_is_searched_to_its_depths_but_not_in_circles_or_hidden_places(store, home, tmp_path):
    folder = tmp_path / "folder"
    deep = put(folder / "a" / "b" / "deep.GGUF", model(1))
    put(folder / ".trash" / "old.gguf", model(2))
    (folder / "a" / "circle").symlink_to(folder)
    assert {"deep:latest": str(deep)} == named(taken(store, home, str(folder)))


def test_files_with_names_of_all_kinds_are_named_or_told_with_the_reason(store, home, tmp_path):
    folder = tmp_path / "folder"
    put(folder / "My Model (v2) Q4_K_M.gguf", model(1))
    put(folder / "M.fp16.gguf", model(2))
    put(folder / "M.i1-Q6_K.gguf.part1of2", b"x")
    put(folder / "M.i1-Q6_K.gguf.part2of2", b"x")
    put(folder / os.fsdecode(b"\xff-Q8_0.gguf"), model(3))
    done = taken(store, home, str(folder))
    assert {"my-model-v2:q4_k_m", "m:f16"} == set(named(done))
    assert {
        str(folder / "M.i1-Q6_K.gguf"): "it is in pieces, which have to be joined with `cat`",
        rf"{folder}/\xff-Q8_0.gguf": rf"{folder}/\xff-Q8_0.gguf is not a UTF-8 path",
    } == {one.what: one.note for one in done if one.status == "skipped"}
    assert msgspec.json.encode(done)


def test_a_name_that_stands_for_another_model_is_left_alone(store, home, tmp_path):
    mine = put(tmp_path / "mine.gguf", model(1))
    store.create_from_file("tiny:q4_k_m", mine)
    theirs = [put(tmp_path / "folder" / name / "Tiny-Q4_K_M.gguf", model(n)) for n, name in enumerate("ab", 2)]
    done = taken(store, home, str(tmp_path / "folder"))
    assert {"tiny-2:q4_k_m": str(theirs[0]), "tiny-3:q4_k_m": str(theirs[1])} == named(done)
    assert ["'tiny:q4_k_m' is another model"] * 2 == notes(done)
    assert mine == store.find("tiny:q4_k_m").file


def test_a_second_import_names_nothing_twice(store, home, tmp_path):
    put(tmp_path / "folder" / "tiny.gguf", model())
    first, second = taken(store, home, str(tmp_path / "folder")), taken(store, home, str(tmp_path / "folder"))
    assert [("named", "tiny:latest")] == [(one.status, one.name) for one in first]
    assert [("known", "tiny:latest")] == [(one.status, one.name) for one in second]


def snapshot(folder: Path) -> list[tuple[str, int, int]]:
    return [(str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))]


def test_a_dry_run_tells_the_same_and_changes_nothing_and_no_run_changes_the_tools_files(store, home, ollama, tmp_path):
    ollama.model("registry.ollama.ai/library/tiny/latest", model=model(), params=b"{}")
    ollama.model("registry.ollama.ai/library/same/latest", model=model(), params=b"{}")
    before = snapshot(home)
    dry = taken(store, home, "ollama", dry_run=True)
    assert not (tmp_path / "models").exists()
    assert dry == taken(store, home, "ollama")
    assert before == snapshot(home)
    assert ["named", "known"] == [one.status for one in dry]


@pytest.mark.parametrize("where", ["ollama", "lmstudio", "llama.cpp", "hf"])
def test_a_tool_that_is_not_here_is_an_error_that_says_where_was_looked(home, where):
    with pytest.raises(ModelFileError) as caught:
        find(where, {}, home, home)
    assert f"there are no models of {where}: {home}" in caught.value.message
    assert "localllm import DIR" in (caught.value.hint or "")


def test_what_is_neither_a_tool_nor_a_folder_is_an_error_that_names_the_tools(home, tmp_path):
    file = put(tmp_path / "model.gguf", model())
    for where in (str(file), "nonsense"):
        with pytest.raises(ModelFileError, match="is not a folder") as caught:
            find(where, {}, home, home)
        assert "ollama, lmstudio, llama.cpp, hf" in (caught.value.hint or "")
