"""The process in which mutated files are loaded: paths in, a line per file out. It dies of a file that kills llama.cpp.

    python -m gguf_fuzz.loader_child        stdin  PATH\\n        stdout  {"stage": …, "said": …, "peak_mib": …}\\n

Two stages, both by the engine's own classes. "load": vocabulary and weights. "decode": a context, texts cut into tokens
and put together again, one batch computed. What the engine answers with an error of its own is "refused", any other
exception "raised". Nothing is kept from one file to the next. Behind a path, each after a tab, may stand adapters.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
from pathlib import Path

import numpy as np

from localllm.engine.backend import Batch, EngineError, ModelLoadError
from localllm.engine.llama import LlamaBackend, LlamaConfig
from localllm.engine.llama_embedding import LlamaEmbedder, LlamaEmbedderConfig
from localllm.engine.llama_model import LlamaModel
from localllm.gguf import read_header
from localllm.placement.layout import Layout

ADDRESS_SPACE_BYTES = 8 * 2**30
_TEXTS = ("", "The cat and the hat.\n", "▁ Ünïcödé 漢字 🙂\t\0 <s></s><|im_end|>", "a" * 200)
_ROWS = 5
HOST_ONLY = Layout(gpu_layers=0)


def _load(path: Path, adapters: tuple[Path, ...]) -> str:
    LlamaModel(path, HOST_ONLY, adapters=adapters).close()
    return "loaded"


def _speak(model: LlamaBackend | LlamaEmbedder) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Texts to tokens; some tokens of a text, or the first ones of the vocabulary when there are none."""
    found = [model.tokenize(text, add_special=special, parse_special=special) for text in _TEXTS for special in (0, 1)]
    tokens = max(found, key=len)[:_ROWS] or [0]
    return np.array(tokens, dtype=np.int32)


def _decode(path: Path, adapters: tuple[Path, ...]) -> str:
    if read_header(path).is_embedding_model:
        config = LlamaEmbedderConfig(path, threads=1, weights=HOST_ONLY, kv_bytes_limit=2**22, adapters=adapters)
        embedder = LlamaEmbedder(config)
        embedder.embed_batch([_speak(embedder)])
        embedder.close()
        return "embedded"
    backend = LlamaBackend(
        LlamaConfig(
            path,
            max_sequences=2,
            batch_tokens=64,
            threads=1,
            weights=HOST_ONLY,
            pool_tokens=256,
            adapters=adapters,
        )
    )
    tokens = _speak(backend)
    for token in range(min(backend.vocabulary_size, 400)):
        backend.token_bytes(token, special=True)
        backend.is_end_of_generation(token)
    size = len(tokens)
    positions = np.arange(size, dtype=np.int32)
    backend.decode(Batch(tokens, positions, np.zeros(size, dtype=np.int32), np.ones(size, dtype=np.int8)))
    backend.forget(0)
    backend.close()
    return "decoded"


def _answer(path: Path, *adapters: Path) -> dict[str, object]:
    stage = "load"
    try:
        _load(path, adapters)
        stage = "decode"
        said = _decode(path, adapters)
    except (ModelLoadError, EngineError) as error:
        said = f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - the campaign counts it
        said = f"raised: {type(error).__name__}: {error}"
    return {"stage": stage, "said": said, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def main() -> None:
    """Answer for every path on stdin."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    for line in sys.stdin:
        paths = map(Path, line.rstrip("\n").split("\t"))
        answers.write(json.dumps(_answer(*paths)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
