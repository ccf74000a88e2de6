"""Folders with models in safetensors: what is seen of them, and what is refused before anything is converted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import TENSORS, folder_of, safetensors_bytes

from localllm.errors import ModelFileError, UnsupportedError
from localllm.store.convert import arguments, converted_bytes, out_type, type_name
from localllm.store.safetensors import WIDTHS, Weights, is_safetensors_folder, read_weights

ONE = {"a": ("BF16", (2, 3))}
TWO = {"b": ("F32", (4,))}


def parted(folder: Path, **listed: str) -> Path:
    """A model in two parts; `listed` is put into the index."""
    folder_of(folder)
    (folder / "model.safetensors").unlink()
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name, tensors in zip(names, (ONE, TWO), strict=True):
        (folder / name).write_bytes(safetensors_bytes(tensors))
    weight_map = {"a": names[0], "b": names[1], **listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_a_folder_is_seen_with_what_counts_for_its_conversion(tmp_path):
    weights = read_weights(folder_of(tmp_path / "m"))
    assert Weights("LlamaForCausalLM", 4 * 256 * 2 + 256 * 4, 2, {"BF16": 1024}, 256, "BF16", False) == weights


def test_the_parts_of_a_model_are_seen_as_one_with_and_without_an_index(tmp_path):
    folder = parted(tmp_path / "m")
    weights = read_weights(folder)
    assert (2, 12 + 16, {"BF16": 6}, 4) == (
        weights.tensor_count,
        weights.size_bytes,
        weights.elements,
        weights.other_elements,
    )
    (folder / "model.safetensors.index.json").unlink()
    assert weights == read_weights(folder)


def test_a_model_that_sees_is_known_as_one_and_by_what_reads_its_text(tmp_path):
    said = {"vision_config": {"x": 1}, "text_config": {"architectures": ["Qwen3ForCausalLM"], "vocab_size": 5}}
    weights = read_weights(folder_of(tmp_path / "m", architectures=["Qwen3VLForConditionalGeneration"], **said))
    assert ("Qwen3ForCausalLM", True) == (weights.architecture, weights.more_than_text)


@pytest.mark.parametrize(
    ("architecture", "name", "lacks"),
    [
        ("Qwen3_5ForCausalLM", "a", True),
        ("Qwen3NextForCausalLM", "a.mtp.x", True),
        ("Qwen3_5MoeForConditionalGeneration", "mtp.fc.weight", False),
        ("Qwen3_5ForCausalLM", "model.mtp.fc.weight", False),
        ("Qwen3ForCausalLM", "a", False),
    ],
)
def test_layers_that_guess_ahead_are_missed_where_the_converter_would_look_for_them(
    tmp_path, architecture, name, lacks
):
    folder = folder_of(tmp_path / "m", {name: ("BF16", (2, 2))}, architectures=[architecture])
    assert lacks == read_weights(folder).lacks_drafts


def test_links_are_followed_as_the_hubs_cache_has_them(tmp_path):
    folder = folder_of(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in folder.iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert read_weights(folder) == read_weights(tmp_path / "snapshot")


def without(name: str):
    return lambda folder: (folder / name).unlink()


def written(name: str, data: bytes | str):
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def cut(count: int):
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:count])

    return change


def entry(**changes: Any):
    """The one tensor of a file, with what is wrong about it."""
    said = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}
    return written("model.safetensors", safetensors_bytes({"x": ("F32", (2, 2))}, x=said))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (without("config.json"), ModelFileError, "has no config.json, which says what the model is"),
        (written("config.json", "{"), ModelFileError, "config.json cannot be read: Input data was truncated"),
        (written("config.json", '{"architectures": 5}'), ModelFileError, "config.json cannot be read: Expected `array"),
        (written("config.json", "[" * 100000), ModelFileError, "config.json cannot be read"),
        (without("tokenizer.json"), ModelFileError, "holds no tokenizer (such as tokenizer.json or tokenizer.model)"),
        (without("model.safetensors"), ModelFileError, "holds no model.safetensors"),
        (cut(4), ModelFileError, "is cut short, or no safetensors: it has 4 bytes"),
        (cut(60), ModelFileError, "is cut short, or no safetensors: it has 60 bytes"),
        (cut(-1), ModelFileError, "is cut short: its header speaks of 3072 bytes of weights, and it has 3071"),
        (written("model.safetensors", b"\xff" * 64), ModelFileError, "is cut short, or no safetensors"),
        (written("model.safetensors", (9).to_bytes(8, "little") + b"not  json"), ModelFileError, "is no safetensors"),
        (entry(dtype="F4"), UnsupportedError, "the tensor 'x' is 'F4', and these can be converted: F64, F32"),
        (entry(shape=[2, 3]), ModelFileError, "is damaged: 'x' takes 16 bytes and should take 24"),
        (entry(shape=[-2, -2]), ModelFileError, "is damaged: 'x' takes 16 bytes"),
        (entry(shape=[2**40, 2**40]), ModelFileError, "is damaged"),
        (entry(data_offsets=[-16, 0]), ModelFileError, "is damaged: 'x' takes 16 bytes and should take 16"),
        (
            entry(data_offsets=[0, 2**70]),
            ModelFileError,
            "is cut short: its header speaks of 1180591620717411303424 bytes",
        ),
        (entry(data_offsets="all"), ModelFileError, "is no safetensors: Expected `array`"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_reason(tmp_path, change, kind, message):
    folder = folder_of(tmp_path / "m")
    change(folder)
    with pytest.raises(kind) as refused:
        read_weights(folder)
    assert message in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    ("listed", "kind", "message"),
    [
        (
            {"b": "model-00003-of-00003.safetensors"},
            ModelFileError,
            "lacks 1 of 2 files of its weights: model-00003-of",
        ),
        ({"c": "model-00001-of-00002.safetensors"}, ModelFileError, "index.json lists: c (model-00001-of-00002"),
        (
            {"b": "../other/model.safetensors"},
            ModelFileError,
            "names '../other/model.safetensors', which is no file of",
        ),
        ({"b": "/etc/passwd"}, ModelFileError, "names '/etc/passwd', which is no file of its folder"),
        (
            {"b": "pytorch_model-00001-of-00002.bin"},
            UnsupportedError,
            "is a pickle, which may run code when it is read",
        ),
    ],
)
def test_an_index_that_names_what_is_not_there_or_not_safe_is_refused(tmp_path, listed, kind, message):
    with pytest.raises(kind) as refused:
        read_weights(parted(tmp_path / "m", **listed))
    assert message in refused.value.message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "consolidated.00.pt", "x.ckpt"])
def test_pickles_are_refused_by_name(tmp_path, name):
    folder = folder_of(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UnsupportedError, match=f"{name} is a pickle, which may run code when it is read"):
        read_weights(folder)


def test_mistrals_own_layout_and_an_adapter_are_refused_as_what_they_are(tmp_path):
    folder = folder_of(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(ModelFileError, match=r"no model\.safetensors, only consolidated\.safetensors"):
        read_weights(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(UnsupportedError, match="holds an adapter, not a model"):
        read_weights(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "qwen.tiktoken", "spiece.model"]
)
def test_a_tokenizer_may_be_of_any_kind(tmp_path, name):
    assert 2 == read_weights(folder_of(tmp_path / "m", tokenizer=name)).tensor_count


def test_settings_of_a_tokenizer_are_none(tmp_path):
    with pytest.raises(ModelFileError, match="holds no tokenizer"):
        read_weights(folder_of(tmp_path / "m", tokenizer="tokenizer_config.json"))


@pytest.mark.parametrize(
    ("kind", "target", "wanted", "named"),
    [
        ("BF16", None, "auto", "BF16"),
        ("F16", None, "auto", "F16"),
        ("F32", None, "auto", "F16"),
        ("BF16", "Q4_K_M", "auto", "BF16"),
        ("F32", "Q4_K_M", "f32", "F32"),
        ("F32", "BF16", "bf16", "BF16"),
        ("BF16", "F32", "f32", "F32"),
    ],
)
def test_weights_keep_their_16_bits_and_are_rounded_once_at_most(tmp_path, kind, target, wanted, named):
    weights = read_weights(folder_of(tmp_path / "m", {**TENSORS, "model.embed_tokens.weight": (kind, (4, 256))}))
    assert (wanted, named) == (out_type(weights, target), type_name(weights, wanted))
    assert 1024 * WIDTHS[named] + 256 * 4 == converted_bytes(weights, wanted)


def test_a_model_in_the_hubs_cache_is_called_by_its_repository(tmp_path):
    plain = folder_of(tmp_path / "trained" / "snapshots" / "mine")
    cached = folder_of(tmp_path / "models--Owner--Qwen3-0.6B" / "snapshots" / "0123abcd")
    weights = read_weights(plain)
    assert ("--outtype", "auto", str(plain)) == arguments(plain, weights, "auto")
    assert ("--outtype", "f32", "--model-name", "Qwen3-0.6B", str(cached)) == arguments(cached, weights, "f32")
    lacking = replace(weights, lacks_drafts=True)
    assert ("--outtype", "f16", "--no-mtp", str(plain)) == arguments(plain, lacking, "f16")


def test_only_a_folder_with_safetensors_is_one_of_safetensors(tmp_path):
    assert is_safetensors_folder(folder_of(tmp_path / "m"))
    assert not is_safetensors_folder(tmp_path)
