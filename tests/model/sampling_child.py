"""A child process that samples with llama.cpp and prints what it chose, as JSON, for test_llama_samplers.

    python sampling_child.py MODEL.gguf

Two sources of logits: random rows of a vocabulary as large as real ones, and the model after a short prompt.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from localllm.engine import sampling
from localllm.engine.backend import EngineError
from localllm.engine.llama_samplers import Samplers
from localllm.generation import Sampling

VOCABULARY_SIZE = 151_936
CONTEXT_TOKENS = 512
ROWS = 40
RECENT = [*range(20), 5, 5, 5, 9]  # said before the first row
SHORTLISTED = {
    "defaults": Sampling(),
    "few": Sampling(top_k=5, top_p=1.0),
    "many": Sampling(top_k=290, top_p=1.0, temperature=2.0),
    "bias": Sampling(logit_bias=tuple((token, 9.0 - token) for token in range(12)), temperature=3.0),
    "penalties": Sampling(repeat_penalty=1.7, presence_penalty=0.4, frequency_penalty=2.5, repeat_last_n=24, top_k=30),
    "bias and penalties": Sampling(logit_bias=((5, 30.0), (9, 29.0)), repeat_penalty=0.6, frequency_penalty=3.0),
    "every filter": Sampling(top_k=64, typical_p=0.95, top_p=0.98, min_p=0.01, xtc_probability=0.5, xtc_threshold=0.05),
}


GREEDY = {
    "greedy bias": Sampling(temperature=0.0, logit_bias=((5, 14.0), (9, 13.5), (77, -50.0))),
    "greedy penalties": Sampling(temperature=0.0, repeat_penalty=1.3, presence_penalty=1.5, repeat_last_n=-1),
    "greedy of one": Sampling(top_k=1, frequency_penalty=2.0, repeat_penalty=2.0, logit_bias=((5, 20.0),)),
}


class RandomRows:
    """Logits out of a generator: mostly noise, a few that stand out, as models have them."""

    vocabulary_size = VOCABULARY_SIZE
    context = 0

    def __init__(self, seed: int, allowed: int = VOCABULARY_SIZE) -> None:
        self._random = np.random.default_rng(seed)
        self._allowed = allowed
        self.row = np.zeros(VOCABULARY_SIZE, dtype=np.float32)

    def next_row(self) -> None:
        self.row = self._random.standard_normal(VOCABULARY_SIZE, dtype=np.float32) * np.float32(2.5)
        standing_out = self._random.choice(VOCABULARY_SIZE, 200, replace=False)
        self.row[standing_out] += self._random.exponential(4.0, 200).astype(np.float32)
        forbidden = self._random.permutation(VOCABULARY_SIZE)[self._allowed :]
        self.row[forbidden] = -np.inf

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        return self.row


class AfterPrompt:
    """The model's logits after a prompt, with the shape of a backend; written to only until `refresh`."""

    def __init__(self, path: str) -> None:
        native.llama_backend_init()
        model = native.llama_model_load_from_file(path.encode(), native.llama_model_default_params())
        self.vocabulary = native.llama_model_get_vocab(model)
        self.vocabulary_size = native.llama_vocab_n_tokens(self.vocabulary)
        parameters = native.llama_context_default_params()
        parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = CONTEXT_TOKENS, 1, 1
        self.context = native.llama_init_from_model(model, parameters)
        tokens = self.tokenize(b"Run `localllm pull")
        array = (native.llama_token * len(tokens))(*tokens)
        if native.llama_decode(self.context, native.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama_decode failed")
        self._kept = self.logits(-1).copy()

    def tokenize(self, text: bytes) -> list[int]:
        ids = (native.llama_token * (len(text) + 8))()
        count = native.llama_tokenize(self.vocabulary, text, len(text), ids, len(ids), False, True)
        return list(ids[:count])

    def refresh(self) -> None:
        self.logits(-1)[:] = self._kept

    def place(self, row: int) -> int:
        return row

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        return np.ctypeslib.as_array(native.llama_get_logits_ith(self.context, -1), shape=(self.vocabulary_size,))


def whole_chain(source: RandomRows, wanted: Sampling, seed: int) -> Iterator[int]:
    """llama.cpp's own way, as llama_sampler_sample does it: a candidate for every token, and the whole chain."""
    steps = sampling.chain(wanted, seed, CONTEXT_TOKENS)
    chain = Samplers(source).chain(steps, wanted)
    for token in RECENT:
        native.llama_sampler_accept(chain, token)
    while True:
        candidates = np.zeros(VOCABULARY_SIZE, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        candidates["id"], candidates["logit"] = np.arange(VOCABULARY_SIZE), source.row
        data = ctypes.cast(candidates.ctypes.data, native.llama_token_data_p)
        array = native.llama_token_data_array(data, VOCABULARY_SIZE, -1, False)
        native.llama_sampler_apply(chain, ctypes.byref(array))
        token = array.data[array.selected].id
        native.llama_sampler_accept(chain, token)
        yield token


def both_ways(wanted: Sampling, allowed: int = VOCABULARY_SIZE) -> dict[str, object]:
    """What a shortlist and a whole chain choose from the same rows with the same seed."""
    source = RandomRows(seed=1, allowed=allowed)
    shortlisted = Samplers(source).new(wanted, 7, RECENT, CONTEXT_TOKENS)
    whole = whole_chain(source, wanted, 7)
    choices = []
    for _ in range(ROWS):
        source.next_row()
        before = source.row.copy()
        choices.append((shortlisted.sample(0), next(whole)))
        assert np.array_equal(before, source.row), "a sampler leaves the logits as they were"
    shortlisted.close()
    return {
        "kind": type(shortlisted).__name__,
        "shortlisted": [a for a, _ in choices],
        "whole": [b for _, b in choices],
    }


def broken_row(value: float) -> str:
    """What a shortlist says of a row with one logit of this value."""
    source = RandomRows(seed=2)
    source.next_row()
    source.row[77] = value
    try:
        return str(Samplers(source).new(Sampling(), 7, [], CONTEXT_TOKENS).sample(0))
    except EngineError as error:
        return str(error)


def choices(
    source: AfterPrompt, wanted: Sampling, seed: int = 3, recent: tuple[int, ...] = (), count: int = 20
) -> list[int]:
    """What one sampler chooses, again and again, after the prompt; the second of its kind, which may be a clone."""
    samplers = Samplers(source)
    samplers.new(wanted, seed, (), CONTEXT_TOKENS).close()
    sampler = samplers.new(wanted, seed, recent, CONTEXT_TOKENS)
    samplers.close()
    chosen = []
    for _ in range(count):
        source.refresh()
        chosen.append(sampler.sample(-1))
    sampler.close()
    return chosen


def after_prompt(path: str) -> dict[str, object]:
    """One answer for each parameter that earlier versions did not have."""
    source = AfterPrompt(path)
    ranked = np.argsort(-source.logits(-1)).tolist()
    (comma,) = source.tokenize(b",")
    dry = Sampling(temperature=0.0, dry_multiplier=100.0, dry_sequence_breakers=())
    repeating = (ranked[500], comma, ranked[0], ranked[500], comma)
    broken = Sampling(temperature=0.0, dry_multiplier=100.0, dry_sequence_breakers=(",", "\ud83d", "\0"))
    unseeing = Sampling(temperature=0.0, dry_multiplier=100.0, dry_penalty_last_n=0)
    warm = {"temperature": 5.0, "top_k": 0, "top_p": 1.0}
    return {
        "ranked": ranked[:3],
        "dry": choices(source, dry, recent=repeating, count=1),
        "dry with a breaker": choices(source, broken, recent=repeating, count=1),
        "dry over no tokens": choices(source, unseeing, recent=repeating, count=1),
        "xtc": choices(source, Sampling(temperature=1.0, top_k=3, top_p=1.0, xtc_probability=1.0, xtc_threshold=0.0)),
        "narrow sigma": choices(source, Sampling(top_n_sigma=0.001, **warm)),
        "mirostat 2 without surprise": choices(source, Sampling(mirostat=2, mirostat_tau=0.0, **warm), count=1),
        "mirostat 1": [choices(source, Sampling(mirostat=1, temperature=5.0), seed) for seed in (3, 3, 4)],
        "mirostat 2": [choices(source, Sampling(mirostat=2, temperature=5.0), seed) for seed in (3, 3, 4)],
    }  # fmt: skip


def main() -> None:
    facts = {name: both_ways(wanted) for name, wanted in {**SHORTLISTED, **GREEDY}.items()}
    facts["few allowed"] = both_ways(Sampling(), allowed=9)
    facts["nan"], facts["infinity"] = broken_row(float("nan")), broken_row(float("inf"))
    json.dump({**facts, **after_prompt(sys.argv[1])}, sys.stdout)


if __name__ == "__main__":
    main()
