"""Embedding models of each kind in llama.cpp: an input has the same vector whatever is computed beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_models import build

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHILD = Path(__file__).with_name("embedding_child.py")
ENCODER, DECODER, RERANKER = "bert-tiny", "qwen3-embedding-tiny", "bert-reranker-tiny"
# Random models; the same rows in another batch differ by up to 0.003 of values near 1, through other kernels.
TOLERANCE = 0.02


def run(model: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(CHILD), str(model)], capture_output=True, timeout=100, check=False)
    assert 0 == done.returncode, done.stderr[-2000:].decode(errors="replace")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one child says of each kind of model."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: run(build(kind, GUIDE, folder / f"{kind}.gguf")) for kind in (ENCODER, DECODER, RERANKER)}


@pytest.mark.parametrize("kind", [ENCODER, DECODER, RERANKER])
def test_an_input_has_the_same_vector_alone_and_beside_others(kind: str, answers: dict[str, dict[str, Any]]) -> None:
    alone = np.array(answers[kind]["alone"])
    scale = np.abs(alone).max()
    for way in (answers[kind]["together"], answers[kind]["backwards"][::-1]):
        assert np.abs(alone - np.array(way)).max() < TOLERANCE * scale


@pytest.mark.parametrize("kind", [ENCODER, DECODER])
def test_other_texts_have_other_vectors(kind: str, answers: dict[str, dict[str, Any]]) -> None:
    vectors = np.array(answers[kind]["together"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (np.triu(vectors @ vectors.T, 1) < 0.999).all()


@pytest.mark.parametrize(
    ("kind", "dimensions", "input_tokens", "is_reranker"),
    [(ENCODER, 256, 512, False), (DECODER, 256, 4096, False), (RERANKER, 1, 512, True)],
)
def test_the_facts_are_the_models(
    kind: str, dimensions: int, input_tokens: int, is_reranker: bool, answers: dict[str, dict[str, Any]]
) -> None:
    facts = answers[kind]["facts"]
    assert (dimensions, input_tokens, is_reranker) == (
        facts["dimensions"],
        facts["input_tokens"],
        facts["is_reranker"],
    )
    assert facts["weight_bytes"] > 0


def test_a_decoder_computes_an_input_that_is_longer_than_a_batch(answers: dict[str, dict[str, Any]]) -> None:
    answer = answers[DECODER]
    assert answer["facts"]["batch_rows"] < answer["facts"]["input_tokens"]
    assert [(1, 256)] == [np.shape(answer["longest"])]
    assert np.isfinite(answer["longest"]).all()


@pytest.mark.parametrize("kind", [ENCODER, DECODER, RERANKER])
def test_what_llama_cpp_would_abort_on_is_refused(kind: str, answers: dict[str, dict[str, Any]]) -> None:
    longest, sequences = (answers[kind]["facts"][name] for name in ("input_tokens", "sequences"))
    too_long = f"an input that is empty or longer than {longest} tokens"
    assert [too_long, too_long] == answers[kind]["refusals"][:2]
    assert answers[kind]["refusals"][2].startswith("a token id outside 0..")
    assert f"{sequences + 1} inputs in a batch; 1 to {sequences} can be computed" == answers[kind]["refusals"][3]


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    assert {"refused"} == set(run(tmp_path / "x.gguf"))
