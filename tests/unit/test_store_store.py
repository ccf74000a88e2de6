"""The store: names stand for files that are used where they lie, and nothing that happens to either goes unsaid."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gguf_files import MODEL_METADATA, Tensor, gguf_bytes

from localllm.creating import Creation
from localllm.errors import BadRequestError, InvalidNameError, LocalllmError, ModelFileError, ModelNotFoundError
from localllm.generation import Message, Options
from localllm.modelfile import Modelfile, parse
from localllm.store.bundled import bundled_dir
from localllm.store.model import Facts, capabilities_of, format_parameter_count
from localllm.store.store import Store
from localllm.store.writable import try_writing

START = datetime(2026, 1, 1, tzinfo=UTC)


class Days:
    """A clock that goes on by a day each time it is read."""

    def __init__(self) -> None:
        self.day = 0

    def __call__(self) -> datetime:
        self.day += 1
        return START + timedelta(days=self.day)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "models", tmp_path / "bundled", Days())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "My Model.gguf"
    path.write_bytes(gguf_bytes())
    return path


@pytest.fixture
def guide(tmp_path):
    folder = tmp_path / "bundled" / "guide"
    folder.mkdir(parents=True)
    (folder / "guide.gguf").write_bytes(gguf_bytes())
    (folder / "Modelfile").write_text(
        "FROM ./guide.gguf\nPARAMETER temperature 0\nSYSTEM Be brief.\nLICENSE MIT\nMESSAGE user hi\n"
    )
    return folder


def manifest_file(tmp_path: Path, name: str, tag: str = "latest") -> Path:
    return tmp_path / "models" / "localllm" / "manifests" / name / f"{tag}.json"


def test_a_registered_file_is_found_under_its_name_in_any_case(store, file):
    created = store.create_from_file("Tiny", file)
    assert "Tiny:latest" == created.name
    for spelling in ("Tiny", "tiny", "TINY:latest", "tiny:LATEST", "library/tiny", "registry.ollama.ai/library/tiny"):
        assert created == store.find(spelling)


def test_a_model_tells_what_the_header_says(store, file):
    model = store.create_from_file("tiny", file)
    assert (file, file.stat().st_size) == (model.file, model.size_bytes)
    assert ("llama", "1.3K", "Q4_K_M", 2048, 256) == (
        model.family,
        model.parameter_size,
        model.quantization_level,
        model.context_length,
        model.embedding_length,
    )
    assert START + timedelta(days=1) == model.modified_at
    assert Options() == model.options
    assert (None, None, None, ()) == (model.system, model.template, model.license, model.messages)
    assert not model.is_bundled


def test_the_file_is_used_where_it_lies_and_only_the_manifest_is_written(store, file, tmp_path):
    before = file.stat()
    model = store.create_from_file("tiny:q4", file)
    manifest = manifest_file(tmp_path, "tiny", "q4")
    assert [manifest] == [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() == model.digest
    assert before.st_mtime_ns == file.stat().st_mtime_ns
    assert str(file) == json.loads(manifest.read_bytes())["file"]


def test_a_relative_path_is_made_absolute(store, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert file == store.create_from_file("tiny", Path("sub/../My Model.gguf")).file


def test_an_unknown_name_is_not_found(store):
    with pytest.raises(ModelNotFoundError) as caught:
        store.find("nobody")
    assert "model 'nobody' not found" == caught.value.message


def test_a_name_without_its_tag_is_told_with_the_tags_there_are(store, file):
    for tag in ("q8_0", "q4_k_m"):
        store.create_from_file(f"mine:{tag}", file)
    with pytest.raises(ModelNotFoundError) as found:
        store.find("Mine")
    assert "there is Mine:q4_k_m, Mine:q8_0" == found.value.hint
    with pytest.raises(ModelNotFoundError) as pulled:
        store.pull_request("mine")
    assert (pulled.value.hint or "").startswith("there is mine:q4_k_m, mine:q8_0; `localllm search`")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hf.co/owner/repo", "`localllm pull hf.co/owner/repo` downloads it"),
        ("someone/model", "localllm create NAME --from FILE.gguf"),
    ],
)
def test_a_name_of_another_host_is_not_found_and_the_hint_says_what_to_do(store, file, name, hint):
    with pytest.raises(ModelNotFoundError) as caught:
        store.find(name)
    assert hint in (caught.value.hint or "")
    with pytest.raises(InvalidNameError):
        store.create_from_file(name, file)
    with pytest.raises(ModelNotFoundError):
        store.delete(name)


@pytest.mark.parametrize("call", ["find", "delete"])
def test_what_is_no_name_is_refused(store, call):
    with pytest.raises(InvalidNameError):
        getattr(store, call)("../x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04", "is not a GGUF file"),
        (gguf_bytes()[:-1], "truncated"),
        (gguf_bytes(MODEL_METADATA, ()), "holds no weights"),
        (gguf_bytes({"x": 1}), "does not say its architecture"),
        (gguf_bytes({**MODEL_METADATA, "general.type": "adapter"}), "is an adapter, not a model"),
        (gguf_bytes({"general.architecture": "clip"}), "is a projector, not a model"),
        (gguf_bytes({**MODEL_METADATA, "split.count": 3}), "is one of 3 parts of a model"),
        (gguf_bytes({**MODEL_METADATA, "general.sampling.temp": -1.0}), "general.sampling values cannot be used"),
    ],
)
def test_a_file_that_is_no_whole_model_is_not_registered(store, file, data, words):
    file.write_bytes(data)
    with pytest.raises(ModelFileError, match=words):
        store.create_from_file("tiny", file)
    assert () == store.list()


def test_a_path_that_is_not_utf_8_is_refused_by_name(store, tmp_path):
    path = tmp_path / "caf\udce9.gguf"
    path.write_bytes(gguf_bytes())
    with pytest.raises(ModelFileError, match="is not a UTF-8 path"):
        store.create_from_file("tiny", path)


def test_creating_a_name_again_replaces_it(store, file, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_bytes({**MODEL_METADATA, "llama.context_length": 4096}))
    first = store.create_from_file("tiny", file)
    second = store.create_from_file("TINY", other)
    assert second == store.find("tiny")
    assert (4096, "TINY:latest") == (second.context_length, second.name)
    assert first.digest != second.digest
    assert (second,) == store.list()


def test_a_file_that_is_gone_is_told_and_other_models_stay(store, file, tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_bytes())
    store.create_from_file("lost", other)
    kept = store.create_from_file("kept", file)
    other.unlink()
    with pytest.raises(ModelFileError) as caught:
        store.find("lost")
    assert f"the file of model 'lost:latest' is gone: {other} does not exist" == caught.value.message
    assert "localllm create lost:latest --from FILE.gguf" in (caught.value.hint or "")
    assert (kept,) == store.list()
    assert [caught.value.message] == [problem.message for problem in store.problems()]


def test_a_file_that_changed_is_not_used_until_it_is_registered_again(store, file):
    store.create_from_file("tiny", file)
    file.write_bytes(gguf_bytes(MODEL_METADATA, [Tensor("t", (512,))]))
    with pytest.raises(ModelFileError, match="is not the one that was registered"):
        store.find("tiny")
    assert store.create_from_file("tiny", file) == store.find("tiny")


def test_a_damaged_manifest_is_told_and_can_be_deleted(store, file, tmp_path):
    kept = store.create_from_file("kept", file)
    store.create_from_file("bad", file)
    for damage in (b"", b"{", b"[]", b'{"schema":1}', b"\xff\xfe", b"[" * 100_000):
        manifest_file(tmp_path, "bad").write_bytes(damage)
        with pytest.raises(ModelFileError, match="is damaged"):
            store.find("bad")
    assert (kept,) == store.list()
    assert 1 == len(store.problems())
    store.delete("bad")
    assert () == store.problems()


def test_a_manifest_in_another_names_place_is_damaged(store, file, tmp_path):
    store.create_from_file("tiny:q4.5", file)
    manifest_file(tmp_path, "tiny", "copy").write_bytes(manifest_file(tmp_path, "tiny", "q4.5").read_bytes())
    with pytest.raises(ModelFileError, match=r"is damaged: it says it is of 'tiny:q4.5'"):
        store.find("tiny:copy")


def test_a_manifest_of_a_later_version_asks_for_an_update(store, file, tmp_path):
    store.create_from_file("tiny", file)
    path = manifest_file(tmp_path, "tiny")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ModelFileError) as caught:
        store.find("tiny")
    assert "update localllm" in (caught.value.hint or "")


def test_deleting_forgets_the_name_and_leaves_the_file_and_other_tags(store, file, tmp_path):
    store.create_from_file("tiny:a", file)
    store.create_from_file("tiny:b", file)
    store.delete("TINY:A")
    assert ["tiny:b"] == [model.name for model in store.list()]
    store.delete("tiny:b")
    assert not manifest_file(tmp_path, "tiny").parent.exists()
    assert file.exists()
    with pytest.raises(ModelNotFoundError):
        store.delete("tiny:b")


def test_a_bundled_model_needs_no_manifest(store, guide):
    model = store.find("guide")
    assert ("guide:latest", guide / "guide.gguf", True) == (model.name, model.file, model.is_bundled)
    assert (Options(temperature=0.0), "Be brief.", "MIT") == (model.options, model.system, model.license)
    assert (Message("user", "hi"),) == model.messages
    assert model == store.find("GUIDE:latest")
    assert (model,) == store.list()
    with pytest.raises(ModelNotFoundError):
        store.find("guide:other")


def test_a_bundled_model_is_read_again_only_when_one_of_its_files_is_another(store, guide):
    first = store.find("guide")
    assert store.find("Guide") is first
    assert store.list()[0] is first
    (guide / "Modelfile").write_text("FROM ./guide.gguf\nSYSTEM Be long.\n")
    second = store.find("guide")
    assert ("Be long.", None) == (second.system, second.license)
    (guide / "guide.gguf").write_bytes(gguf_bytes({**MODEL_METADATA, "general.name": "Grown" * 40}))
    third = store.find("guide")
    assert (guide / "guide.gguf").stat().st_size == third.size_bytes != second.size_bytes
    assert second.key != third.key
    (guide / "guide.gguf").unlink()
    with pytest.raises(ModelFileError):
        store.find("guide")
    (guide / "Modelfile").unlink()
    with pytest.raises(ModelNotFoundError):
        store.find("guide")


def test_a_bundled_model_cannot_be_deleted(store, guide):
    with pytest.raises(BadRequestError) as caught:
        store.delete("guide")
    assert "model 'guide:latest' comes with localllm and cannot be deleted" == caught.value.message
    assert (guide / "guide.gguf").exists()


def test_a_registered_name_hides_a_bundled_one_until_it_is_deleted(store, guide, file):
    mine = store.create_from_file("guide", file)
    assert (mine,) == store.list()
    assert mine == store.find("guide")
    store.delete("guide")
    assert store.find("guide").is_bundled


@pytest.mark.parametrize(
    ("modelfile", "words"),
    [
        ("NONSENSE", "command must be one of"),
        ("FROM ../x.gguf", "must name a file beside it"),
        ("FROM ./no.gguf", "not exist"),
    ],
)
def test_a_broken_bundled_model_is_told_and_does_not_hide_the_others(store, guide, file, modelfile, words):
    kept = store.create_from_file("kept", file)
    (guide / "Modelfile").write_text(modelfile)
    assert (kept,) == store.list()
    assert [True] == [words in problem.message for problem in store.problems()]
    with pytest.raises(LocalllmError):
        store.find("guide")


def test_models_are_listed_newest_first(store, file):
    for name in ("b", "c", "a"):
        store.create_from_file(name, file)
    assert ["a:latest", "c:latest", "b:latest"] == [model.name for model in store.list()]


def test_a_file_keeps_its_name_and_another_of_that_name_gets_a_number(store, file, guide, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / file.name
    other.write_bytes(gguf_bytes())
    assert "my-model" == store.name_for(file)
    store.create_from_file("my-model", file)
    assert "my-model" == store.name_for(file)
    assert "my-model-2" == store.name_for(other)
    store.create_from_file("my-model-2", other)
    assert "my-model-2" == store.name_for(other)
    file.write_bytes(gguf_bytes({**MODEL_METADATA, "general.name": "Changed"}))
    assert "my-model" == store.name_for(file)
    manifest_file(tmp_path, "my-model").write_bytes(b"damaged")
    assert "my-model-3" == store.name_for(file)
    assert "guide-2" == store.name_for(tmp_path / "guide.gguf")


def test_an_empty_store_lists_nothing(store):
    assert () == store.list()
    assert () == store.problems()


def test_the_header_is_read_once_while_the_file_stays_the_same(store, file):
    model = store.create_from_file("tiny", file)
    header = store.header(model)
    assert header is store.header(model)
    file.write_bytes(gguf_bytes())
    os.utime(file, ns=(1, 1))
    assert header is not store.header(model)
    assert header == store.header(model)


def test_models_of_one_file_share_a_key_and_another_state_of_the_file_has_another(store, file, tmp_path):
    link = tmp_path / "link.gguf"
    link.symlink_to(file)
    first = store.create_from_file("a", file)
    assert first.key == store.create_from_file("b", link).key
    assert link == store.find("b").file
    file.write_bytes(gguf_bytes({**MODEL_METADATA, "general.name": "Other"}))
    assert first.key != store.create_from_file("a", file).key


def test_another_template_is_another_key(store, guide):
    plain = store.find("guide")
    (guide / "Modelfile").write_text('FROM ./guide.gguf\nTEMPLATE "{{ messages }} tools"\n')
    override = store.find("guide")
    assert plain.key != override.key
    assert "{{ messages }} tools" == override.template == override.chat_template
    assert ("completion", "tools") == override.capabilities


def test_what_shapes_a_load_is_another_key_and_what_a_request_may_say_is_not(store, guide):
    keys = []
    for parameter in ("temperature 0.5", "temperature 0.6", "num_gpu 0", "num_parallel 2", "num_parallel 3"):
        (guide / "Modelfile").write_text(f"FROM ./guide.gguf\nPARAMETER {parameter}\n")
        keys.append(store.find("guide").key)
    assert keys[0] == keys[1]
    assert 4 == len(set(keys))


def test_the_modelfile_of_a_model_builds_it_again(store, guide):
    model = store.find("guide")
    assert model.modelfile.startswith('# Modelfile generated by "localllm show"\n')
    assert "# FROM guide:latest\n" in model.modelfile
    said = parse(model.modelfile)
    assert (str(model.file),) == said.bases
    assert (model.options, model.system, model.messages) == (said.options, said.system, said.messages)


def test_listing_500_models_opens_no_gguf_and_takes_little_time(store, file):
    file.write_bytes(gguf_bytes({**MODEL_METADATA, "tokenizer.chat_template": "{{ tools }}" * 1000}))
    for number in range(500):
        store.create_from_file(f"model{number}", file)
    started = time.process_time()
    models = store.list()
    assert time.process_time() - started < 1.0
    assert 500 == len(models)


def _create_again_and_again(root: Path, file: Path) -> None:
    store = Store(root / "models", root / "bundled")
    for _ in range(50):
        store.create_from_file("tiny", file)
        try:
            store.delete("tiny")
        except ModelNotFoundError:  # the other process was quicker
            continue


def test_processes_that_create_and_delete_one_name_at_once_never_show_half_a_manifest(tmp_path, file):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_create_again_and_again, args=(tmp_path, file)) for _ in range(2)]
    for writer in writers:
        writer.start()
    store = Store(tmp_path / "models", tmp_path / "bundled")
    seen = set()
    try:
        while any(writer.is_alive() for writer in writers):
            seen |= {problem.message for problem in store.problems()}
    finally:
        for writer in writers:
            writer.join()
    assert [0, 0] == [writer.exitcode for writer in writers]
    assert set() == seen
    store.create_from_file("tiny", file)
    assert ["latest.json"] == [path.name for path in manifest_file(tmp_path, "tiny").parent.iterdir()]


def test_a_folder_that_cannot_be_written_is_told(tmp_path, file):
    blocked = tmp_path / "models"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(ModelFileError, match="cannot be written"):
        Store(blocked, tmp_path / "bundled").create_from_file("tiny", file)


def test_whether_a_folder_can_be_written_is_asked_without_leaving_anything(tmp_path):
    try_writing(tmp_path / "not" / "there" / "yet")
    assert [] == list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below", "file/below/it"):
        with pytest.raises(NotADirectoryError):
            try_writing(tmp_path / place)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a folder where nobody may make a file")
def test_a_folder_where_not_even_root_may_make_a_file_cannot_be_written():
    with pytest.raises(OSError, match=r"not permitted|denied|such file|Read-only"):
        try_writing(Path("/proc/sys/localllm"))


def test_names_that_are_made_from_one_another_say_so_when_their_file_is_gone(store, file):
    store.create_from_file("first", file)
    for name, base in (("second", "first"), ("third", "second"), ("first", "third")):
        said = Modelfile((base,))
        store.create(store.base(Creation(name, said, base=base)), said)
    store.create_from_file("alone", file)
    assert "first:latest" == store.find("first").name
    file.unlink()
    for name in ("first", "second", "third"):
        with pytest.raises(ModelFileError, match="is gone") as caught:
            store.find(name)
        assert " is a circle, and none of these can be made of the other again" in caught.value.hint
        assert f"{name}:latest FROM " in caught.value.hint
        assert f"localllm create {name}:latest --from FILE.gguf" in caught.value.hint
    with pytest.raises(ModelFileError) as caught:
        store.find("alone")
    assert "circle" not in caught.value.hint


def test_the_bundled_folder_is_the_one_beside_or_in_the_package():
    assert "modelfiles" == bundled_dir().name
    assert bundled_dir().is_dir()


@pytest.mark.parametrize(
    ("facts", "template", "expected"),
    [
        (Facts(), None, ("completion",)),
        (Facts(), "{% for m in messages %}{{ m }}{% endfor %}", ("completion",)),
        (Facts(), "{% if tools %}", ("completion", "tools")),
        (Facts(), "<tool_call>", ("completion", "tools")),
        (Facts(), "<think>\n\n</think>", ("completion", "thinking")),
        (Facts(), "{% if enable_thinking %}", ("completion", "thinking")),
        (Facts(can_fill_in_the_middle=True), "{{ tools }}", ("completion", "tools", "insert")),
        (Facts(is_embedding_model=True), "{{ tools }}", ("embedding",)),
    ],
)
def test_capabilities_come_from_the_header_and_the_template_in_force(facts, template, expected):
    assert expected == capabilities_of(facts, template)


def test_fill_in_the_middle_tokens_make_a_model_insert(store, file):
    tokens = {"tokenizer.ggml.fim_pre_token_id": 1, "tokenizer.ggml.fim_suf_token_id": 2}
    file.write_bytes(gguf_bytes({**MODEL_METADATA, **tokens}))
    assert ("completion", "insert") == store.create_from_file("coder", file).capabilities


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1280, "1.3K"), (6_144_000, "6.1M"), (8_030_261_248, "8.0B"), (1_000_000_000_000, "1.0T")],
)
def test_parameter_counts_are_for_people(count, text):
    assert text == format_parameter_count(count)
