"""Can this CPU (or GPU) run this build of the engine? A child process that finds out by decoding.

    python -m localllm.engine.probe MODEL.gguf [--no-extra-buffers]

It decodes one prompt long enough for the batched kernels and then single tokens, and prints one line of JSON: exit 0
and `{"ok": true, …}`, or exit 3 and why not. A build made for another CPU dies by a signal instead: whoever started the
child reads that from its exit status (runner/preflight).
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from localllm.engine.backend import Batch, EngineError, ModelLoadError
from localllm.engine.llama import LlamaBackend, LlamaConfig
from localllm.placement.layout import Layout

PROMPT_ROWS = 96  # the AMX and repacked kernels start at larger batches than a single row
SINGLE_ROWS = 4
FAILED = 3


def probe(model_path: Path, *, use_extra_buffers: bool) -> None:
    """Decode a prompt and single tokens. Raises ModelLoadError or EngineError, or the process dies."""
    config = LlamaConfig(
        model_path=model_path,
        max_sequences=1,
        batch_tokens=PROMPT_ROWS,
        threads=1,
        pool_tokens=256,
        weights=Layout(use_extra_buffers=use_extra_buffers),
    )
    backend = LlamaBackend(config)
    tokens = np.arange(PROMPT_ROWS + SINGLE_ROWS, dtype=np.int32) % backend.facts.vocabulary_size
    _decode(backend, tokens[:PROMPT_ROWS], 0)
    for position in range(PROMPT_ROWS, PROMPT_ROWS + SINGLE_ROWS):
        _decode(backend, tokens[position : position + 1], position)
    backend.close()


def _decode(backend: LlamaBackend, tokens: np.ndarray[tuple[int], np.dtype[np.int32]], position: int) -> None:
    size = len(tokens)
    positions = np.arange(position, position + size, dtype=np.int32)
    outputs = np.zeros(size, dtype=np.int8)
    outputs[-1] = 1
    if backend.decode(Batch(tokens, positions, np.zeros(size, dtype=np.int32), outputs)) != "done":
        raise EngineError("the pool had no room for the probe")
    if not np.isfinite(backend.logits(size - 1)).all():
        raise EngineError("the logits are not finite")


def main(arguments: list[str]) -> int:
    """Run the probe; the exit status is 0, 3, or the signal that killed the process."""
    parser = argparse.ArgumentParser(prog="python -m localllm.engine.probe")
    parser.add_argument("model", type=Path)
    parser.add_argument("--no-extra-buffers", action="store_true")
    chosen = parser.parse_args(arguments)
    report: dict[str, object] = {"build": metadata.version("llama-cpp-python")}
    try:
        probe(chosen.model, use_extra_buffers=not chosen.no_extra_buffers)
    except (EngineError, ModelLoadError) as error:
        report |= {"ok": False, "error": str(error)}
    else:
        report |= {"ok": True}
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if report["ok"] else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
