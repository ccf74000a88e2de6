"""A child process that answers prompts with a GGUF file, greedily: no part of the program, only llama.cpp itself.

Standard input holds {"model": PATH, "prompts": [text, …], "answer_tokens": N}, standard output the list of answers:
[{"text": …, "ended": whether the model ended the answer itself, "finite": whether all logits were finite}, …].
"""

from __future__ import annotations

import ctypes
import json
import math
import sys

import llama_cpp

CONTEXT_TOKENS = 2048


class Model:
    """One model with one context; every answer starts from an empty one."""

    def __init__(self, path: str) -> None:
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary_size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = CONTEXT_TOKENS
        settings.n_threads = settings.n_threads_batch = 1  # the matrices are so small that threads only wait
        self.context = llama_cpp.llama_init_from_model(self.model, settings)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode(errors="surrogateescape")
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), ids, len(ids), False, True)
        return list(ids[:count])

    def logits_after(self, ids: list[int]) -> list[float]:
        array = (llama_cpp.llama_token * len(ids))(*ids)  # the batch only points to it
        if status := llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(ids))):
            raise RuntimeError(f"llama_decode returned {status}")
        return list(llama_cpp.llama_get_logits_ith(self.context, -1)[: self.vocabulary_size])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, 256, 0, False)
        return buffer.raw[:length]

    def answer(self, prompt: str, answer_tokens: int) -> dict[str, object]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        data, finite, ended = b"", True, False
        logits = self.logits_after(self.tokenize(prompt))
        for _ in range(answer_tokens):
            finite = finite and all(map(math.isfinite, logits))
            token = max(range(len(logits)), key=logits.__getitem__)
            if ended := bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token)):
                break
            data += self.piece(token)
            logits = self.logits_after([token])
        return {"text": data.decode(errors="replace"), "ended": ended, "finite": finite}


def main() -> None:
    order = json.load(sys.stdin)
    llama_cpp.llama_backend_init()
    model = Model(order["model"])
    json.dump([model.answer(prompt, order["answer_tokens"]) for prompt in order["prompts"]], sys.stdout)


if __name__ == "__main__":
    main()
