"""Whether a draft model can guess for a model: llama.cpp reads both vocabularies, and no weights.

    python -m localllm.engine.llama_draft       one DraftCheck in on stdin, one CheckEvent out, a line of JSON each

A guess is a token's number, so both must mean the same token by it. Vocabularies of one family differ in a few tokens
that are for special uses, or in how many unused ones stand at the end; such a token is never kept for another.
"""

from __future__ import annotations

import os

import llama_cpp.llama_cpp as native

from localllm.creating import Checked, CheckEvent, DraftCheck
from localllm.engine.backend import ModelLoadError
from localllm.engine.llama_backends import start
from localllm.engine.llama_log import LogReader
from localllm.engine.llama_memory import memory_kind
from localllm.engine.llama_parameters import model_parameters
from localllm.errand import read_request, tell
from localllm.generation import Failed
from localllm.placement.layout import Layout

OTHER_PART_MOST = 0.01  # of the tokens may be other ones


def check(request: DraftCheck) -> CheckEvent:
    """Whether both have one vocabulary, and memories that guesses can be taken out of."""
    log = LogReader()
    start(log.feed)
    try:
        model, draft = (_vocabulary_of(path, log) for path in (request.model, request.draft))
    except ModelLoadError as error:
        return Failed("bad_draft", 400, str(error), error.hint)
    if memory_kind(model) == "recurrent":
        return Failed("bad_draft", 400, "the model itself takes no token back, and some guesses are wrong")
    if not native.llama_model_has_decoder(draft) or native.llama_model_has_encoder(draft):
        return Failed("bad_draft", 400, "only decoder models can guess")
    if memory_kind(draft) == "recurrent":
        return Failed("bad_draft", 400, "it takes no token back, and some guesses are wrong")
    return _compared(_tokens(model), _tokens(draft))


def _compared(model: list[bytes], draft: list[bytes]) -> CheckEvent:
    others = sum(one != other for one, other in zip(model, draft, strict=False))
    if others > OTHER_PART_MOST * min(len(model), len(draft)):
        return Failed(
            "bad_draft",
            400,
            f"its vocabulary is another one: {others:,} of the first {min(len(model), len(draft)):,} tokens differ",
        )
    return Checked()


def _vocabulary_of(path: str, log: LogReader) -> int:
    """A llama_model without weights."""
    parameters = model_parameters(Layout(gpu_layers=0))
    parameters.values.vocab_only = True
    model = native.llama_model_load_from_file(path.encode(), parameters.values)
    if not model:
        raise ModelLoadError(log.last_error or "llama.cpp could not read the vocabulary")
    return int(model)


def _tokens(model: int) -> list[bytes]:
    """The tokens as llama.cpp knows them."""
    vocabulary = native.llama_model_get_vocab(model)
    return [native.llama_vocab_get_text(vocabulary, token) for token in range(native.llama_vocab_n_tokens(vocabulary))]


def main() -> None:
    """Serve one request."""
    tell(check(read_request(DraftCheck)))
    os._exit(0)  # what llama.cpp holds goes with the process


if __name__ == "__main__":
    main()
