"""What the header of an adapter must say: llama.cpp looks at two numbers of each pair, and aborts on the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import Tensor, Typed, gguf_bytes

from localllm.errors import ModelFileError
from localllm.gguf import Header, read_header
from localllm.gguf_adapters import check_adapter

BASE = {"general.architecture": "llama", "llama.block_count": 2}
LORA = {
    "general.type": "adapter",
    "general.architecture": "llama",
    "adapter.type": "lora",
    "adapter.lora.alpha": 16.0,
}
MATRICES = (
    Tensor("token_embd.weight", (64, 100)),
    Tensor("output.weight", (64, 100)),
    Tensor("blk.0.attn_q.weight", (64, 32)),
    Tensor("blk.0.attn_norm.weight", (64,)),
    Tensor("blk.0.ffn_up_exps.weight", (64, 96, 4)),
    Tensor("blk.0.time_mix.weight", (64, 1, 1, 5)),
    Tensor("blk.1.attn_q.weight", (64, 32)),
)
Read = Callable[..., Header]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The header of a file with these contents."""

    def read(metadata: dict[str, Any], tensors: tuple[Tensor, ...]) -> Header:
        path = tmp_path / "some.gguf"
        path.write_bytes(gguf_bytes(metadata, tensors))
        return read_header(path)

    return read


def pair(name: str, a: tuple[int, ...], b: tuple[int, ...], type_name: str = "F32") -> tuple[Tensor, ...]:
    return Tensor(f"{name}.lora_a", a, type_name), Tensor(f"{name}.lora_b", b, type_name)


QUERIES = pair("blk.0.attn_q.weight", (64, 8), (8, 32))


def test_pairs_of_every_kind_fit_and_are_counted(read: Read) -> None:
    pairs = (
        *QUERIES,
        *pair("token_embd.weight", (4, 100), (4, 64)),
        *pair("output.weight", (64, 4), (4, 100), "F16"),
        *pair("blk.0.ffn_up_exps.weight", (64, 16, 4), (16, 96, 4)),
        *pair("blk.1.attn_q.weight", (64, 1), (1, 32)),
    )
    facts = check_adapter(read(LORA, pairs), read(BASE, MATRICES), Path("lora.gguf"))
    assert (16, 16.0, 5, ()) == (facts.rank, facts.alpha, facts.matrices, facts.remarks)


def test_norms_of_an_adapter_are_left_out_and_that_is_said(read: Read) -> None:
    found = read(LORA, (*QUERIES, Tensor("blk.0.attn_norm.weight", (64,))))
    facts = check_adapter(found, read(BASE, MATRICES), Path("lora.gguf"))
    assert ("left out of lora.gguf: 1 norms, which llama.cpp does not take from an adapter",) == facts.remarks


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"general.type": "model"}, "is no adapter: its general.type is 'model'"),
        ({"general.type": 5}, "is no adapter: it does not say that it is one"),
        ({"adapter.type": "control_vector"}, "is an adapter of the type 'control_vector', and only 'lora'"),
        ({"adapter.type": 1}, "is an adapter of the type None"),
        ({"general.architecture": "qwen3"}, "it was made for the architecture 'qwen3', not 'llama'"),
        ({"general.architecture": 7}, "it was made for the architecture '', not 'llama'"),
        ({"adapter.lora.alpha": float("nan")}, "its adapter.lora.alpha is nan"),
        ({"adapter.lora.alpha": float("inf")}, "its adapter.lora.alpha is inf"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, "is an activated adapter"),
    ],
)
def test_what_is_no_adapter_of_this_model_is_refused(read: Read, said: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_adapter(read({**LORA, **said}, QUERIES), read(BASE, MATRICES), Path("lora.gguf"))
    assert message in str(caught.value)
    assert caught.value.hint or "type" in message


@pytest.mark.parametrize("strength", [16, Typed(12, bytes(8)), "16"])
def test_a_strength_of_another_type_than_llama_cpp_reads_is_refused(read: Read, strength: object) -> None:
    with pytest.raises(ModelFileError, match=r"'adapter.lora.alpha' must be a float32"):
        read({**LORA, "adapter.lora.alpha": strength}, QUERIES)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((), "it holds no matrices"),
        (QUERIES[:1], "'blk.0.attn_q.weight.lora_b' is missing"),
        (QUERIES[1:], "'blk.0.attn_q.weight.lora_a' is missing"),
        ((*QUERIES, Tensor("blk.0.attn_q.bias", (32,))), "'blk.0.attn_q.bias' is neither .lora_a nor .lora_b"),
        (pair("x.lora_a", (64, 8), (8, 32)), "'x.lora_a.lora_a' cannot be the name of a tensor"),
        (pair("blk.9.attn_q.weight", (64, 8), (8, 32)), "it changes 'blk.9.attn_q.weight', which the model does not"),
        (pair("blk.0.attn_norm.weight", (64, 8), (8, 1)), "it changes 'blk.0.attn_norm.weight', which is no matrix"),
        (pair("blk.0.time_mix.weight", (64, 8, 1, 5), (8, 1, 1, 5)), "which is no matrix"),
        (pair("blk.0.attn_q.weight", (32, 8), (8, 64)), "lora_a' has the shape [32, 8], and [64, 8] would fit"),
        (pair("blk.0.attn_q.weight", (64, 8), (8, 64)), "lora_b' has the shape [8, 64], and [8, 32] would fit"),
        (pair("blk.0.attn_q.weight", (64, 4), (8, 32)), "lora_a' has the shape [64, 4], and [64, 8] would fit"),
        (pair("blk.0.attn_q.weight", (64, 8, 2), (8, 32)), "lora_a' has the shape [64, 8, 2], and [64, 8] would fit"),
        (pair("blk.0.attn_q.weight", (64, 8), (8, 32, 3)), "lora_b' has the shape [8, 32, 3], and [8, 32] would fit"),
        (pair("token_embd.weight", (64, 4), (4, 100)), "lora_a' has the shape [64, 4], and [4, 100] would fit"),
        (pair("token_embd.weight", (4, 100), (8, 64)), "lora_a' has the shape [4, 100], and [8, 100] would fit"),
        (pair("blk.0.ffn_up_exps.weight", (64, 8), (8, 96)), "and [64, 8, 4] would fit"),
        (pair("blk.0.ffn_up_exps.weight", (64, 8, 4), (8, 96, 2)), "and [8, 96, 4] would fit"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_what_would(
    read: Read, tensors: tuple[Tensor, ...], message: str
) -> None:
    with pytest.raises(ModelFileError) as caught:
        check_adapter(read(LORA, tensors), read(BASE, MATRICES), Path("lora.gguf"))
    assert message in str(caught.value)
    assert caught.value.hint


def test_what_llama_cpp_would_multiply_wrongly_or_not_at_all_is_refused(read: Read) -> None:
    tied = tuple(tensor for tensor in MATRICES if tensor.name != "output.weight")
    looked_up = (*MATRICES, Tensor("position_embd.weight", (64, 128)))
    ahead = {**BASE, "llama.nextn_predict_layers": 1}
    scaled = (Tensor("blk.0.attn_q.weight", (64, 32), "F16", type_id=40),)
    for said, matrices, tensors, message in (
        (BASE, tied, pair("token_embd.weight", (4, 100), (4, 64)), "which is the output matrix of this model too"),
        (BASE, looked_up, pair("position_embd.weight", (64, 4), (4, 128)), "which llama.cpp only looks up"),
        (ahead, MATRICES, pair("blk.1.attn_q.weight", (64, 8), (8, 32)), "in a layer that guesses tokens ahead"),
        (BASE, scaled, QUERIES, "which is of type NVFP4, to which llama.cpp applies none"),
    ):
        with pytest.raises(ModelFileError, match="cannot be applied") as caught:
            check_adapter(read(LORA, tensors), read(said, matrices), Path("lora.gguf"))
        assert message in str(caught.value)


def test_weights_in_a_type_that_no_kernel_multiplies_are_refused(read: Read) -> None:
    halves = (Tensor("blk.0.attn_q.weight.lora_a", (64, 8), "F32", type_id=26), QUERIES[1])  # I32, as large
    with pytest.raises(ModelFileError, match="is of type I32, which is not for weights"):
        check_adapter(read(LORA, halves), read(BASE, MATRICES), Path("lora.gguf"))
