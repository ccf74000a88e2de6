"""A child process that owns llama.cpp: quantises, tokenizes, gives logits, or answers prompts greedily.

One order as JSON on standard input, one result as JSON on standard output:

    {"quantise": PATH, "to": PATH, "file_type": N}           -> {"status": 0}
    {"model": PATH, "tokenize": [text, …]}                   -> {"ids": [[…], …]}
    {"model": PATH, "logits": [id, …]}                       -> {"logits": [[…] per id]}
    {"model": PATH, "prompts": [text, …], "answer_tokens": N} -> {"answers": […], "tokens_per_second": …}

It is run by path with the Python that has llama-cpp-python, so it imports nothing of this package.
"""

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp

CONTEXT_TOKENS = 2048


class Model:
    """A loaded model with one context of 2,048 tokens."""

    def __init__(self, path: str) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            raise OSError(f"llama.cpp does not load {path}")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary_size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT_TOKENS
        settings.n_threads = settings.n_threads_batch = 1  # small matrices: a second thread only waits
        self.context = llama_cpp.llama_init_from_model(self.model, settings)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), ids, room, False, True)
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, 256, 0, False)
        return buffer.raw[:length]

    def feed(self, ids: list[int]) -> None:
        array = (llama_cpp.llama_token * len(ids))(*ids)
        if status := llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(ids))):
            raise RuntimeError(f"llama_decode returned {status}")

    def forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def likeliest(self) -> int:
        row = llama_cpp.llama_get_logits_ith(self.context, -1)[: self.vocabulary_size]
        return row.index(max(row))

    def answer(self, prompt: str, answer_tokens: int) -> tuple[str, int]:
        """The greedy answer and its number of tokens; without the token that ends it."""
        self.forget()
        self.feed(self.tokenize(prompt))
        data, count = b"", 0
        while count < answer_tokens:
            token = self.likeliest()
            count += 1
            if llama_cpp.llama_vocab_is_eog(self.vocabulary, token):
                return data.decode(errors="replace"), count
            data += self.piece(token)
            self.feed([token])
        return data.decode(errors="replace") + " …", count

    def logits(self, ids: list[int]) -> list[list[float]]:
        rows = []
        for token in ids:
            self.feed([token])
            rows.append(llama_cpp.llama_get_logits_ith(self.context, -1)[: self.vocabulary_size])
        return rows


def answer_all(model: Model, prompts: list[str], answer_tokens: int) -> dict[str, Any]:
    started, count, answers = time.monotonic(), 0, []
    for prompt in prompts:
        text, tokens = model.answer(prompt, answer_tokens)
        answers.append(text)
        count += tokens
    return {"answers": answers, "tokens_per_second": round(count / (time.monotonic() - started))}


def quantise(source: str, target: str, file_type: int) -> dict[str, Any]:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 2
    status = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    if status:
        raise RuntimeError(f"llama_model_quantize returned {status}")
    return {"status": status}


def obey(order: dict[str, Any]) -> dict[str, Any]:
    if "quantise" in order:
        return quantise(order["quantise"], order["to"], order["file_type"])
    model = Model(order["model"])
    if "tokenize" in order:
        return {"ids": [model.tokenize(text) for text in order["tokenize"]]}
    if "logits" in order:
        return {"logits": model.logits(order["logits"])}
    return answer_all(model, order["prompts"], order["answer_tokens"])


if __name__ == "__main__":
    llama_cpp.llama_backend_init()
    json.dump(obey(json.load(sys.stdin)), sys.stdout)
