"""Grammars: llguidance compiles them once, and a matcher of one says step by step which tokens may follow.

Not here: when a grammar is in force (constrained.py), and where its text comes from (chat/).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from localllm.errors import BadRequestError

KEPT_GRAMMARS = 32
_MISSING_KEYWORDS = re.compile(r"Unimplemented keys: (\[.*?\])")
_LISTING = re.compile(r"\n +\d+ \| |\n<state>")
_LIMITS = LLParserLimits(verbose_errors=False)  # else its messages hold the whole grammar
_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that grammars are about. `ends` end the model's turn; `token_bytes` has the text of control tokens."""

    tokenizer: LLTokenizer
    token_bytes: Callable[[int], bytes]
    tokens_of: Callable[[str], list[int]]
    ends: frozenset[int]

    def tokens_with_bytes(self, data: bytes) -> list[int] | None:
        """Tokens that together are `data`, whichever; None when there are none."""
        tokens = self.tokenizer.tokenize_bytes(data)
        if b"".join(map(self.token_bytes, tokens)) != data:
            return None
        return list(tokens)


class Grammars:
    """Compiles grammars, and remembers those that were used last: agents send the same tools again and again."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._compiled: dict[str, LLMatcher] = {}

    def matcher(self, lark: str) -> LLMatcher:
        """A matcher at the start of a text. Raises BadRequestError for a grammar that is none, or too large."""
        compiled = self._compiled.pop(lark, None)
        if compiled is None:
            grammar = LLMatcher.grammar_from_lark(lark)
            compiled = LLMatcher(self.vocabulary.tokenizer, grammar, log_level=0, limits=_LIMITS)
            if compiled.is_error():
                raise BadRequestError(f"the grammar cannot be kept: {readable(compiled.get_error())}")
            compiled.compute_bitmask()
            if compiled.is_error():
                raise BadRequestError("the grammar cannot be kept: there is no text that it allows")
        self._compiled[lark] = compiled
        if len(self._compiled) > KEPT_GRAMMARS:
            del self._compiled[next(iter(self._compiled))]
        return compiled.deep_copy()


@functools.lru_cache(maxsize=1024)
def schema_complaint(schema: str) -> str | None:
    """What of a JSON Schema (its text) cannot be kept, in words; None when all of it can."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema)
    except ValueError as error:
        return str(error)
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return "; ".join(map(readable, messages)) or None if is_error or messages else None


def readable(message: str) -> str:
    """llguidance's message without places in texts that nobody wrote, and with keywords named as such."""
    first = " ".join(_PLACE.sub("", _LISTING.split(message, maxsplit=1)[0].strip()).split())
    found = _MISSING_KEYWORDS.search(first)
    if found is None:
        return first
    names = ", ".join(f'"{name}"' for name in json.loads(found.group(1)))
    return f"unsupported keywords: {names}"


class _Pieces:
    """A vocabulary as TokenizerWrapper wants it: the bytes of every token, and no way to split text but by bytes."""

    def __init__(self, tokens: Sequence[bytes], end: int) -> None:
        # A token without bytes of its own would be the beginning of every mark.
        self.tokens = [token if index != end else b"<end>" for index, token in enumerate(tokens)]
        self.eos_token_id = end
        self.bos_token_id = None
        self.special_token_ids = [end, *(token for token in range(len(tokens)) if len(tokens[token]) > 1)]
        self._of_byte = {token: index for index, token in enumerate(tokens)}

    def __call__(self, text: str | bytes) -> list[int]:
        data = text if isinstance(text, bytes) else text.encode()
        return [self._of_byte[data[at : at + 1]] for at in range(len(data))]


def byte_tokenizer(tokens: Sequence[bytes], end: int) -> LLTokenizer:
    """A tokenizer for a vocabulary of single bytes, the token `end`, and marks."""
    return LLTokenizer(TokenizerWrapper(_Pieces(tokens, end)), n_vocab=len(tokens), eos_token=[end], slices=[])
