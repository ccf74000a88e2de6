"""Constrained output: only tokens that keep the answer within a grammar can be chosen.

llguidance compiles a JSON Schema to a matcher and says for each step which tokens may follow; the others' logits become
minus infinity before the sampler sees them, so that every sampling parameter still means what it says.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer

from localllm.engine.backend import EngineError, Sampler
from localllm.errors import BadRequestError
from localllm.generation import ResponseFormat

ANY_OBJECT = '{"type": "object"}'
# Between two parts of the JSON: nothing, a space, or a new line and its indentation. Without a bound a weak model that
# may not end its turn there writes white space for ever.
WHITE_SPACE = r"( |\n[ \t]{0,48})?"


def new_matcher(tokenizer: LLTokenizer, response_format: ResponseFormat) -> LLMatcher:
    """A matcher at the start of an answer. Raises BadRequestError naming what the schema has that cannot be kept."""
    schema = ANY_OBJECT if response_format.schema is None else response_format.schema
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": WHITE_SPACE})
    except ValueError as error:
        raise BadRequestError(f"the JSON schema of `format` cannot be read: {error}") from error
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer)
    if is_error or messages:
        raise BadRequestError(f"the JSON schema of `format` cannot be kept: {'; '.join(messages)}")
    return LLMatcher(tokenizer, grammar, log_level=0)


class ConstrainedSampler:
    """A sampler that never leaves the grammar of its matcher. `logits` gives a row's logits, to be written to."""

    def __init__(self, sampler: Sampler, matcher: LLMatcher, logits: Callable[[int], npt.NDArray[np.float32]]) -> None:
        self._sampler = sampler
        self._matcher = matcher
        self._logits = logits

    def sample(self, row: int) -> int:
        """The inner sampler's choice among the tokens that may follow."""
        logits = self._logits(row)
        allowed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(allowed, count=len(logits), bitorder="little")
        logits[bits == 0] = -np.inf
        token = self._sampler.sample(row)
        if not self._matcher.consume_token(token):
            raise EngineError(f"the answer left its grammar: {self._matcher.get_error()}")
        return token

    def close(self) -> None:
        """Free the inner sampler."""
        self._sampler.close()
