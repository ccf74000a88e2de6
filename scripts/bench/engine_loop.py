"""The engine's own loop without daemon, pipe or HTTP: the child that scripts/bench/decode measures against.

    python engine_loop.py MODEL.gguf

Loads the model in the shape the daemon would give it, prints {"end_tokens": […]}, and then answers each
line {"prompt": …, "tokens": …, "bias": {token: value}} on stdin with {"seconds": …, "tokens": …}. Ends with its stdin.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from localllm.config import load_settings
from localllm.engine.engine import Engine
from localllm.engine.llama import LlamaBackend, LlamaConfig
from localllm.engine.sequence import SequenceRequest
from localllm.generation import Options, Sampling
from localllm.placement.devices import host
from localllm.placement.plan import plan_unseen
from localllm.placement.wishes import wishes_from


def open_backend(model: Path) -> LlamaBackend:
    """As runner/worker opens it for the daemon's Load, where all of it lies in host memory."""
    wishes = wishes_from(load_settings(os.environ), Options())
    made = plan_unseen(host(), wishes, model.stat().st_size)
    config = LlamaConfig(
        model_path=model,
        max_sequences=made.parallel,
        batch_tokens=made.shape.batch_tokens,
        threads=made.threads,
        pool_bytes_limit=made.pool_bytes_limit,
        weights=made.layout,
    )
    return LlamaBackend(config)


def generate(engine: Engine, backend: LlamaBackend, order: dict[str, object], request_id: int) -> dict[str, float]:
    """One request from text to text, timed from before its tokenizing to after its last token."""
    bias = tuple((int(token), float(value)) for token, value in dict(order["bias"]).items())  # type: ignore[call-overload]
    started = time.perf_counter()
    request = SequenceRequest(
        id=request_id,
        prompt=backend.tokenize(str(order["prompt"]), add_special=True, parse_special=True),
        sampling=Sampling(temperature=0.0, logit_bias=bias),
        seed=0,
        limit_tokens=backend.facts.pool_tokens,
        max_new_tokens=int(str(order["tokens"])),
    )
    engine.add(request)
    tokens = 0
    while engine.has_work:
        for output in engine.step():
            if output.finish is None:
                continue
            tokens = output.finish.stats.completion_tokens
    return {"seconds": time.perf_counter() - started, "tokens": tokens}


def main() -> None:
    """Serve the lines of stdin."""
    backend = open_backend(Path(sys.argv[1]))
    engine = Engine(backend, time.monotonic)
    end_tokens = [token for token in range(backend.facts.vocabulary_size) if backend.is_end_of_generation(token)]
    print(json.dumps({"end_tokens": end_tokens}), flush=True)
    for request_id, line in enumerate(sys.stdin, start=1):
        print(json.dumps(generate(engine, backend, json.loads(line), request_id)), flush=True)


if __name__ == "__main__":
    main()
