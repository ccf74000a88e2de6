"""Models made of others: a Modelfile laid over a base, copies, folders as bases, and the blobs behind them."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from datetime import UTC, datetime

import pytest
from gguf_files import MODEL_METADATA, Typed, gguf_bytes

from localllm.creating import Creation
from localllm.errors import (
    BadRequestError,
    DiskFullError,
    InvalidNameError,
    ModelFileError,
    ModelNotFoundError,
    UnsupportedError,
)
from localllm.generation import Message, Options
from localllm.load_options import LoadOptions
from localllm.modelfile import Modelfile, parse
from localllm.store.blobs import BlobWriter, blob_path, blobs_dir, find_blob, refuse_too_large, remove_stale
from localllm.store.files import is_path, is_to_be_converted, model_files
from localllm.store.store import Store

FULL = """FROM base
PARAMETER temperature 0.1
PARAMETER top_k 5
PARAMETER num_parallel 2
PARAMETER stop one
TEMPLATE {{ messages }} tools
SYSTEM Be brief.
LICENSE MIT
MESSAGE user hi
REQUIRES 0.14.0
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "models", tmp_path / "bundled", lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf_bytes())
    return path


def make(store: Store, name: str, text: str):
    """Create `name` from a Modelfile whose FROM is a model's name."""
    said = parse(text)
    return store.create(store.base(Creation(name, said, base=said.bases[0])), said)


def test_a_model_has_what_its_modelfile_says_and_the_file_of_its_base(store, file):
    store.create_from_file("base", file)
    made = make(store, "mine:v1", FULL)
    assert made == store.find("mine:v1")
    assert ("mine:v1", file, "base", "0.14.0") == (made.name, made.file, made.parent, made.requires)
    assert ("Be brief.", "MIT", (Message("user", "hi"),)) == (made.system, made.license, made.messages)
    assert (Options(temperature=0.1, top_k=5, stop=("one",)), LoadOptions(num_parallel=2)) == (made.options, made.load)
    assert ("{{ messages }} tools", ("completion", "tools")) == (made.chat_template, made.capabilities)


def test_what_a_modelfile_does_not_say_comes_from_the_base(store, file):
    store.create_from_file("base", file)
    make(store, "one", FULL)
    two = make(store, "two", "FROM one\nPARAMETER top_k 9\nPARAMETER kv_layout streams\nLICENSE Apache-2.0\n")
    assert Options(temperature=0.1, top_k=9, stop=("one",)) == two.options
    assert LoadOptions(num_parallel=2, kv_layout="streams") == two.load
    assert ("Be brief.", "MIT\n\nApache-2.0", (Message("user", "hi"),)) == (two.system, two.license, two.messages)
    assert ("one", "0.14.0") == (two.parent, two.requires)


def test_what_it_says_replaces_the_base_and_an_empty_text_takes_it_away(store, file):
    store.create_from_file("base", file)
    make(store, "one", FULL)
    two = make(
        store, "two", 'FROM one\nSYSTEM ""\nTEMPLATE ""\nLICENSE MIT\nMESSAGE assistant yes\nPARAMETER stop two\n'
    )
    assert (None, None, "MIT") == (two.system, two.template, two.license)
    assert ((Message("assistant", "yes"),), ("two",)) == (two.messages, two.options.stop)


def test_a_model_made_of_a_bundled_one_goes_on_with_the_file_of_another_version(store, tmp_path):
    guide = tmp_path / "bundled" / "guide"
    guide.mkdir(parents=True)
    (guide / "Modelfile").write_text("FROM ./guide.gguf\n")
    (guide / "guide.gguf").write_bytes(gguf_bytes())
    first = make(store, "mine", "FROM guide\nSYSTEM Be brief.\n")
    store.copy("mine", "other")
    (guide / "guide.gguf").rename(guide / "new.gguf")
    (guide / "new.gguf").write_bytes(gguf_bytes({**MODEL_METADATA, "llama.context_length": 512}))
    (guide / "Modelfile").write_text("FROM ./new.gguf\n")
    for name in ("mine", "other"):
        model = store.find(name)
        assert (guide / "new.gguf", 512, "Be brief.") == (model.file, model.context_length, model.system)
        assert first.key != model.key
    assert ["guide:latest", "mine:latest", "other:latest"] == sorted(model.name for model in store.list())
    assert () == store.problems()


def test_a_model_can_be_made_anew_from_itself(store, file):
    store.create_from_file("base", file)
    again = make(store, "base", "FROM base\nSYSTEM Hello.\n")
    assert ("base:latest", "Hello.") == (again.name, again.system)


def test_what_was_made_anew_from_itself_is_still_made_of_what_it_was_made_of_before(store, file):
    said = Modelfile((str(file),))
    store.create(store.base(Creation("mine", said, files=said.bases)), said)
    assert str(file) == make(store, "mine", "FROM Mine:latest\nSYSTEM Hello.\n").parent
    file.unlink()
    with pytest.raises(ModelFileError, match="is gone") as caught:
        store.find("mine")
    assert f"localllm create mine:latest --from {file}" in (caught.value.hint or "")


def test_what_is_not_there_is_not_made_of_itself(store):
    with pytest.raises(ModelNotFoundError, match="'mine' not found") as caught:
        store.base(Creation("mine:latest", Modelfile(("mine",)), base="mine"))
    assert "FROM names the very model that is to be made; name the one it is made of" == caught.value.hint


def test_what_is_shown_as_its_modelfile_makes_the_same_model(store, file):
    store.create_from_file("base", file)
    made = make(store, "mine", FULL)
    said = parse(made.modelfile)
    again = store.create(store.base(Creation("again", said, files=said.bases)), said)
    same = ("file", "options", "load", "system", "template", "license", "messages", "requires", "key")
    assert [getattr(made, name) for name in same] == [getattr(again, name) for name in same]


def test_a_base_that_is_not_there_or_a_name_with_a_host_is_refused(store, file):
    with pytest.raises(ModelNotFoundError, match="'absent' not found"):
        store.base(Creation("mine", Modelfile(("absent",)), base="absent"))
    with pytest.raises(InvalidNameError, match="no host or namespace"):
        store.base(Creation("hf.co/a/b", Modelfile(("x",)), files=(str(file),)))


def test_a_copy_stands_for_the_same_and_stays_when_the_first_goes(store, file):
    first = store.create_from_file("a", file)
    copy = store.copy("a", "b:small")
    assert ("b:small", first.key, first.options) == (copy.name, copy.key, copy.options)
    store.delete("a")
    assert copy == store.find("b:small")
    with pytest.raises(ModelNotFoundError):
        store.copy("a", "c")
    with pytest.raises(InvalidNameError):
        store.copy("b:small", "../c")


def part(number: int, count: int) -> bytes:
    said = {"split.no": Typed(2, struct.pack("<H", number)), "split.count": count}
    return gguf_bytes({**MODEL_METADATA, **said})


def test_the_first_part_stands_for_all_and_a_missing_one_is_named(store, tmp_path):
    for number in (1, 2):
        (tmp_path / f"big-{number:05}-of-00002.gguf").write_bytes(part(number - 1, 2))
    files = model_files(tmp_path / "big-00001-of-00002.gguf")
    assert ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"] == [path.name for path in files]
    said = Modelfile(("big",))
    made = store.create(store.base(Creation("big", said, files=tuple(map(str, files)))), said)
    assert files == (made.file, *made.parts)
    files[1].unlink()
    with pytest.raises(ModelFileError, match=r"one of 2 parts, and big-00002-of-00002\.gguf is not there"):
        model_files(files[0])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.gguf", "mmproj-a.gguf", ".hidden.gguf", "readme.md"], "a.gguf"),
        (["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"], "a-00001-of-00002.gguf"),
    ],
)
def test_a_folder_stands_for_its_only_model(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    assert found == model_files(tmp_path)[0].name


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], ModelFileError, "holds no GGUF file"),
        (["a.gguf", "b.gguf"], ModelFileError, r"holds several models: a\.gguf, b\.gguf"),
        (
            ["pytorch_model.bin"],
            UnsupportedError,
            r"holds no GGUF but pytorch_model\.bin, a pickle, which may run code",
        ),
    ],
)
def test_a_folder_without_one_model_is_refused_with_what_to_do(tmp_path, names, error, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(error, match=message) as caught:
        model_files(tmp_path)
    assert caught.value.hint


def test_weights_that_are_no_gguf_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(UnsupportedError, match="is a part of a model: its folder says what it is") as caught:
        model_files(tmp_path / "model.safetensors")
    assert f"name the folder: {tmp_path}" == caught.value.hint
    with pytest.raises(UnsupportedError, match="is no GGUF but a pickle, which may run code when it is read"):
        model_files(tmp_path / "model.PTH")


def test_a_folder_of_safetensors_is_converted_unless_there_is_a_gguf(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "mmproj-a.gguf").touch()
    assert is_to_be_converted(tmp_path)
    assert not is_to_be_converted(tmp_path / "model.safetensors")
    (tmp_path / "a.gguf").touch()
    assert not is_to_be_converted(tmp_path)
    assert (tmp_path / "a.gguf",) == model_files(tmp_path)


def test_paths_and_names_are_told_apart():
    assert all(map(is_path, ["./x", "../x", "/x", "~/x", "x.gguf", "a/b.GGUF", "C:\\x", ".", "m.safetensors"]))
    assert not any(map(is_path, ["x", "llama3.2:3b", "hf.co/o/r:Q4_K_M", "gguf"]))


DATA = b"some bytes"
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def test_a_blob_is_there_once_its_bytes_have_its_digest(tmp_path):
    folder = blobs_dir(tmp_path)
    with BlobWriter(folder) as writer:
        writer.write(DATA[:4])
        writer.write(DATA[4:])
        assert not blob_path(folder, DIGEST).exists()
        assert blob_path(folder, DIGEST) == writer.keep(DIGEST)
    assert DATA == find_blob(folder, DIGEST.upper().replace("SHA256:", "sha256-")).read_bytes()
    assert [blob_path(folder, DIGEST)] == list(folder.iterdir())


def test_nothing_is_left_of_a_blob_with_another_digest_or_one_that_was_given_up(tmp_path):
    folder = blobs_dir(tmp_path)
    with BlobWriter(folder) as writer:
        writer.write(DATA)
        with pytest.raises(BadRequestError, match=f'digest mismatch, expected "sha256:{"0" * 64}", got "{DIGEST}"'):
            writer.keep(f"sha256:{'0' * 64}")
    with BlobWriter(folder) as writer:
        writer.write(DATA)
    assert [] == list(folder.iterdir())


@pytest.mark.parametrize("text", ["", "sha256:", DIGEST + "0", DIGEST.replace("sha256", "md5"), f"{DIGEST}/../x"])
def test_what_is_no_digest_is_no_path(tmp_path, text):
    with pytest.raises(BadRequestError, match="invalid digest format"):
        blob_path(tmp_path, text)


def test_a_full_disk_is_told_as_one(tmp_path):
    folder = blobs_dir(tmp_path)
    with BlobWriter(folder) as writer:
        os.close(writer._descriptor)
        writer._descriptor = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(DiskFullError, match="is full"):
            writer.write(DATA)
    with pytest.raises(DiskFullError, match="do not fit"):
        refuse_too_large(folder, 2**60)


def test_partial_files_go_when_their_writer_is_gone(tmp_path):
    old, new, whole = (tmp_path / name for name in (".old.partial", ".new.partial", "sha256-x"))
    with BlobWriter(tmp_path) as writer:
        for path in (old, new, whole):
            path.touch()
        for path in (old, whole, writer.path):
            os.utime(path, (1, 1))
        remove_stale(tmp_path, time.time())
        assert {new, whole, writer.path} == set(tmp_path.iterdir())


def test_the_blob_of_a_model_goes_with_the_last_name_that_needs_it(store, tmp_path):
    data = gguf_bytes()
    with BlobWriter(blobs_dir(tmp_path / "models")) as writer:
        writer.write(data)
        blob = writer.keep()
    said = Modelfile(("uploaded",))
    store.create(store.base(Creation("a", said, files=(str(blob),))), said)
    store.copy("a", "b")
    store.delete("a")
    assert blob == store.find("b").file
    store.delete("b")
    assert not blob.exists()


def test_the_same_bytes_made_again_are_still_what_other_names_stand_for(store, tmp_path):
    def made(name):
        with BlobWriter(blobs_dir(tmp_path / "models")) as writer:
            writer.write(gguf_bytes())
            blob = writer.keep()
        said = Modelfile(("uploaded",))
        store.create(store.base(Creation(name, said, files=(str(blob),))), said)
        return blob

    first = made("a")
    os.utime(first, ns=(5, 5_000_000_000))
    assert first == made("a") == made("b")
    assert store.find("a").file == store.find("b").file


def test_the_blob_of_a_name_that_is_made_anew_goes(store, tmp_path, file):
    with BlobWriter(blobs_dir(tmp_path / "models")) as writer:
        writer.write(file.read_bytes())
        blob = writer.keep()
    said = Modelfile(("uploaded",))
    store.create(store.base(Creation("a", said, files=(str(blob),))), said)
    make(store, "a", "FROM a\nSYSTEM Hello.\n")
    assert blob == store.find("a").file
    store.create_from_file("a", file)
    assert not blob.exists()


def test_a_file_that_is_used_in_place_stays_when_its_name_goes(store, file):
    store.create_from_file("a", file)
    store.delete("a")
    assert file.exists()


def test_no_blob_goes_while_a_manifest_cannot_be_read(store, tmp_path):
    with BlobWriter(blobs_dir(tmp_path / "models")) as writer:
        writer.write(gguf_bytes())
        blob = writer.keep()
    said = Modelfile(("uploaded",))
    store.create(store.base(Creation("a", said, files=(str(blob),))), said)
    store.copy("a", "b")
    (tmp_path / "models" / "localllm" / "manifests" / "b" / "latest.json").write_text("{")
    store.delete("a")
    assert blob.exists()
