"""Adapters in the store: which file ADAPTER names, what a manifest keeps of it, and who may take it away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from gguf_files import MODEL_METADATA, Tensor, gguf_bytes

from localllm.creating import Creation
from localllm.errors import BadRequestError, ModelFileError, UnsupportedError
from localllm.modelfile import Modelfile
from localllm.placement.estimate import estimate
from localllm.placement.shape import ContextShape
from localllm.store.adapters import adapter_file
from localllm.store.blobs import BlobWriter
from localllm.store.model import Model
from localllm.store.store import Store
from localllm.store.usage import usage

TENSORS = (
    Tensor("token_embd.weight", (256, 64)),
    Tensor("output.weight", (256, 64)),
    Tensor("blk.0.attn_q.weight", (256, 256)),
    Tensor("blk.0.ffn_up.weight", (256, 512)),
)
METADATA = {**MODEL_METADATA, "llama.block_count": 1, "llama.embedding_length": 256}
LORA = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}


def lora(rank: int = 4, name: str = "blk.0.attn_q.weight", out: int = 256) -> bytes:
    return gguf_bytes(LORA, (Tensor(f"{name}.lora_a", (256, rank)), Tensor(f"{name}.lora_b", (rank, out))))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", tmp_path / "bundled")


@pytest.fixture
def base(store: Store, tmp_path: Path) -> Model:
    path = tmp_path / "base.gguf"
    path.write_bytes(gguf_bytes(METADATA, TENSORS))
    return store.create_from_file("base", path)


def make(store: Store, name: str, base: str, *adapters: Path) -> Model:
    settings = Modelfile((base,), adapters=tuple(map(str, adapters)))
    manifest = store.base(Creation(name, settings, base=base))
    return store.create(store.with_adapters(manifest, settings.adapters)[0], settings)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_model_with_an_adapter_is_another_model_than_its_base(store: Store, base: Model, tmp_path: Path) -> None:
    path = written(tmp_path / "lora.gguf", lora())
    mine = make(store, "mine", "base", path)
    assert (base.file, (path,)) == (mine.file, mine.adapters)
    assert base.size_bytes + path.stat().st_size == mine.size_bytes
    assert f"ADAPTER {path}" in mine.modelfile.splitlines()
    other = make(store, "other", "base", written(tmp_path / "other.gguf", lora(8)))
    assert 3 == len({base.key, mine.key, other.key})
    assert mine.key == store.copy("mine", "twin").key
    assert [4] == [facts.rank for _, facts in store.adapters(mine)]


def test_adapters_add_up_and_the_same_file_counts_once(store: Store, base: Model, tmp_path: Path) -> None:
    first, second = (written(tmp_path / f"{rank}.gguf", lora(rank)) for rank in (1, 2))
    make(store, "one", "base", first)
    link = tmp_path / "link.gguf"
    link.symlink_to(first)
    assert 2 == len(make(store, "two", "one", second, link).adapters)
    more = [written(tmp_path / f"{rank}.gguf", lora(rank)) for rank in (3, 4, 5)]
    with pytest.raises(UnsupportedError, match="5 adapters are for one model, and 4 is the limit"):
        make(store, "five", "two", *more)


def test_an_adapter_that_changed_or_went_away_is_told(store: Store, base: Model, tmp_path: Path) -> None:
    path = written(tmp_path / "lora.gguf", lora())
    make(store, "mine", "base", path)
    os.utime(path, (1, 1))
    with pytest.raises(ModelFileError, match="the adapter of model 'mine:latest' is not the one that was") as caught:
        store.find("mine")
    assert "localllm create mine:latest -f MODELFILE" in str(caught.value.hint)
    path.unlink()
    with pytest.raises(ModelFileError, match="the adapter of model 'mine:latest' is gone"):
        store.find("mine")
    assert "base:latest" == store.find("base").name


def test_what_does_not_fit_is_refused_and_leaves_the_name_as_it_was(store: Store, base: Model, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="which the model does not have"):
        make(store, "base", "base", written(tmp_path / "x.gguf", lora(name="blk.5.attn_q.weight")))
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        make(store, "base", "base", written(tmp_path / "y.gguf", b"<html>"))
    assert base.digest == store.find("base").digest


def test_an_adapter_among_our_blobs_stays_as_long_as_a_name_needs_it(store: Store, base: Model, tmp_path: Path) -> None:
    with BlobWriter(store.blobs_dir) as writer:
        writer.write(lora())
        blob = writer.keep()
    make(store, "mine", "base", blob)
    store.copy("mine", "twin")
    found = usage(store, tmp_path / "models", tmp_path / "hub")
    assert () == found.leftovers
    assert {("mine:latest", blob.stat().st_size), ("base:latest", 0)} <= {
        (one.name, one.size_bytes - base.size_bytes) for one in found.models
    }
    store.delete("mine")
    assert blob.exists()
    store.delete("twin")
    assert not blob.exists()


def test_a_model_of_a_bundled_one_keeps_the_file_that_its_adapter_was_made_for(store: Store, tmp_path: Path) -> None:
    guide = tmp_path / "bundled" / "guide"
    guide.mkdir(parents=True)
    (guide / "Modelfile").write_text("FROM ./guide.gguf\n")
    written(guide / "guide.gguf", gguf_bytes(METADATA, TENSORS))
    make(store, "mine", "guide", written(tmp_path / "lora.gguf", lora()))
    assert "mine:latest" == store.find("mine").name
    written(guide / "guide.gguf", gguf_bytes({**METADATA, "llama.context_length": 7}, TENSORS))
    os.utime(guide / "guide.gguf", (time.time() + 5,) * 2)
    assert 7 == store.find("guide").context_length
    with pytest.raises(ModelFileError, match="is not the one that was registered"):
        store.find("mine")


def test_the_bytes_of_an_adapter_are_planned_where_the_tensors_lie_that_it_changes(
    store: Store, base: Model, tmp_path: Path
) -> None:
    queries = written(tmp_path / "q.gguf", lora(4))
    output = written(tmp_path / "o.gguf", lora(8, "output.weight", 64))
    mine = make(store, "mine", "base", queries, output)
    without, adapted = (estimate(store.loaded_header(model)) for model in (base, mine))
    assert (4 * 4 * (256 + 256), 0) == (
        adapted.layers[0].attention - without.layers[0].attention,
        adapted.embedding_bytes - without.embedding_bytes,
    )
    assert 4 * 8 * (256 + 64) == adapted.output_bytes - without.output_bytes
    assert adapted.adapters.weights == adapted.weight_bytes - without.weight_bytes
    assert without.packed_bytes(has_amx=True) == adapted.packed_bytes(has_amx=True)
    shape = ContextShape(256, 1, batch_tokens=100)
    more = adapted.compute_bytes(shape).layers - without.compute_bytes(shape).layers
    assert 100 * 4 * (256 + 4) <= more <= 1.2 * 100 * 4 * (256 + 4)
    assert store.header(mine).tensors == store.header(base).tensors


def test_which_file_adapter_names(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    folder.mkdir()

    def find(said: str) -> Path:
        return adapter_file(said, tmp_path, store.blobs_dir)

    with pytest.raises(ModelFileError, match=r"trained holds no GGUF file"):
        find("trained")
    written(folder / "adapter_model.safetensors", b"x")
    for said in ("./trained", "trained/adapter_model.safetensors"):
        with pytest.raises(UnsupportedError, match=r"adapter_model.safetensors is no GGUF") as refused:
            find(said)
        assert "the folder of an adapter in safetensors, with its adapter_config.json" in str(refused.value.hint)
    written(folder / "adapter_config.json", b"{}")
    assert folder == find("./trained") == find("trained/adapter_model.safetensors")
    path = written(folder / "lora.gguf", lora())
    assert path == find("trained") == find("./trained/lora.gguf") == find(str(path))
    written(folder / "more.gguf", lora())
    with pytest.raises(ModelFileError, match=r"holds several GGUF files: lora.gguf, more.gguf"):
        find("trained")
    with pytest.raises(ModelFileError, match="does not exist"):
        find("absent.gguf")
    with pytest.raises(BadRequestError, match="invalid digest format"):
        find("@sha256:12")
    with BlobWriter(store.blobs_dir) as writer:
        writer.write(b"some bytes")
        blob = writer.keep()
    assert blob == find(f"@sha256:{blob.name.removeprefix('sha256-')}")
