"""The synthetic models: llama.cpp loads them, their logits are finite, and a seed means the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_models import RECIPES, build

from localllm.gguf import read_header

VOCABULARY = Path(__file__).resolve().parent.parent.parent / "modelfiles" / "guide" / "guide.gguf"


GENERATING = ["llama-tiny", "qwen3-tiny", "qwen3moe-tiny", "gemma3-tiny", "qwen35-tiny", "mamba-tiny", "infill-tiny"]
# Not probed: they make vectors and scores, no logits, and an encoder has no KV cache that could be decoded into.
EMBEDDING = [("bert-tiny", "bert", 1), ("qwen3-embedding-tiny", "qwen3", 3), ("bert-reranker-tiny", "bert", 4)]


@pytest.mark.parametrize("recipe", GENERATING)
def test_a_synthetic_model_loads_and_decodes_to_finite_logits(recipe: str, tmp_path: Path) -> None:
    model = build(recipe, VOCABULARY, tmp_path / "model.gguf", quantization="Q4_K_M")
    command = [sys.executable, "-m", "localllm.engine.probe", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    assert json.loads(done.stdout)["ok"] is True


@pytest.mark.parametrize(("recipe", "architecture", "pooling"), EMBEDDING)
def test_a_synthetic_embedding_model_says_how_it_pools(
    recipe: str, architecture: str, pooling: int, tmp_path: Path
) -> None:
    header = read_header(build(recipe, VOCABULARY, tmp_path / "model.gguf", quantization="Q4_K_M"))
    assert architecture == header.architecture
    assert pooling == header.metadata[f"{architecture}.pooling_type"]
    assert {"token_embd.weight"} < {tensor.name for tensor in header.tensors}


def test_every_tiny_recipe_is_tried_here() -> None:
    tried = {*GENERATING, *(recipe for recipe, _, _ in EMBEDDING)}
    assert {name for name in RECIPES if name.endswith("-tiny")} == tried


def test_a_synthetic_model_has_the_tokenizer_it_was_given_and_only_the_tensors_of_its_kind(tmp_path: Path) -> None:
    header = read_header(build("qwen3-embedding-tiny", VOCABULARY, tmp_path / "model.gguf"))
    tensors = [tensor.name for tensor in header.tensors]
    assert "qwen3" == header.architecture
    assert read_header(VOCABULARY).metadata["tokenizer.ggml.tokens"] == header.metadata["tokenizer.ggml.tokens"]
    assert 2 + 2 * 11 == len(tensors)
    assert "blk.0.attn_output.weight" in tensors
    assert "output.weight" not in tensors


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.gguf", "same.gguf", "other.gguf"))
    build("llama-tiny", VOCABULARY, one, seed=7)
    build("llama-tiny", VOCABULARY, same, seed=7)
    build("llama-tiny", VOCABULARY, other, seed=8)
    assert one.read_bytes() == same.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    assert {"one.gguf", "same.gguf", "other.gguf"} == {path.name for path in tmp_path.iterdir()}


def test_a_recipe_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be read as GGUF"):
        build("llama-tiny", Path(__file__), tmp_path / "model.gguf")
