"""A child process that embeds with llama.cpp and prints vectors as JSON, for test_llama_embedding.

    python embedding_child.py MODEL.gguf

Prints {"facts": {…}, "alone": one vector per text, each computed alone, "together": the same in shared batches, …}.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from localllm.engine.backend import EngineError, ModelLoadError
from localllm.engine.embedding import Input, tokenize_input
from localllm.engine.llama_embedding import LlamaEmbedder, LlamaEmbedderConfig

TEXTS = ("hello", "How do I pull a model?", "a", "localllm " * 20, "a longer text, and then some more of it " * 3)


def array(*tokens: int) -> Input:
    return np.array(tokens, dtype=np.int32)


def refusal(embedder: LlamaEmbedder, inputs: list[Input]) -> str:
    """What the embedder says to a batch that llama.cpp would abort on."""
    try:
        embedder.embed_batch(inputs)
    except EngineError as error:
        return str(error)
    return "computed"


def main(path: str) -> dict[str, object]:
    try:
        embedder = LlamaEmbedder(LlamaEmbedderConfig(Path(path), threads=1))
    except ModelLoadError as error:
        return {"refused": str(error)}
    facts = embedder.facts
    inputs = [tokenize_input(embedder, text, None, truncates=False).tokens for text in TEXTS]
    longest = array(*(5 + index % 200 for index in range(facts.input_tokens)))
    answer = {
        "facts": asdict(facts),
        "alone": [embedder.embed_batch([one])[0].tolist() for one in inputs],
        "together": embedder.embed_batch(inputs).tolist(),
        "backwards": embedder.embed_batch(inputs[::-1]).tolist(),
        "longest": embedder.embed_batch([longest]).tolist(),
        "refusals": [
            refusal(embedder, [array(5), array()]),
            refusal(embedder, [array(*longest, 5)]),
            refusal(embedder, [array(10**6)]),
            refusal(embedder, [array(5)] * (facts.sequences + 1)),
        ],
    }
    embedder.close()
    return answer


if __name__ == "__main__":
    json.dump(main(sys.argv[1]), sys.stdout)
