"""A child process that measures layouts without loading, or loads models in earnest and looks at what they take.

    python tests/model/measure_child.py measure|load < [{"model", "layout", "shape"}, …]      one JSON list on stdout

`measure` answers with the bytes of all buffers by kind, as engine/measure has them. `load` loads each file without
mapping it, opens the context, and answers with the same bytes of the real buffers and with what the process grew by.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import llama_cpp.llama_cpp as native
import msgspec
import psutil

from localllm.engine.llama_breakdown import breakdown
from localllm.engine.llama_parameters import context_parameters, model_parameters
from localllm.engine.measure import Question, measure
from localllm.placement.layout import BufferBytes


def by_kind(buffers: tuple[BufferBytes, ...]) -> dict[str, Any]:
    return {kind: sum(getattr(buffer, kind) for buffer in buffers) for kind in ("weights", "context", "compute")}


def load(question: Question) -> dict[str, Any]:
    process = psutil.Process()
    before = process.memory_info().rss
    parameters = model_parameters(question.layout)
    model = native.llama_model_load_from_file(question.model.encode(), parameters.values)
    context = native.llama_init_from_model(model, context_parameters(question.shape))
    grown = process.memory_info().rss - before
    buffers = breakdown(context)
    assert buffers is not None
    native.llama_free(context)
    native.llama_model_free(model)
    gc.collect()
    return by_kind(buffers) | {"grown": grown}


def main() -> None:
    silent = native.llama_log_callback(lambda level, text, data: None)
    native.llama_log_set(silent, None)
    native.llama_backend_init()
    questions = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Question])
    if sys.argv[1] == "measure":
        answers = [by_kind(measure(question)[0]) for question in questions]
    else:
        answers = [load(question) for question in questions]
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
