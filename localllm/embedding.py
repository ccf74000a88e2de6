"""The one request for embeddings and its answer, whatever the dialect: the counterpart of generation.py.

Frozen msgspec structs, which cross the runner's pipe as they are.
"""

from __future__ import annotations

import msgspec

MOST_INPUTS = 16_384


class EmbedRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Texts to turn into one vector each; a tuple is the token ids of a text, to which nothing is added.

    `truncates` cuts an input that does not fit instead of refusing it. `dimensions` None keeps the model's own, a
    smaller number the first ones; then `normalises` makes each vector 1 long. `num_ctx` None is the model's context.
    With a `query` the inputs are documents, and each one's vector is its score for it, which a reranker tells.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    truncates: bool = False
    dimensions: int | None = None
    normalises: bool = True
    query: str | None = None
    num_ctx: int | None = None
    keep_alive_seconds: float | None = None


class Embeddings(msgspec.Struct, frozen=True, omit_defaults=True):
    """One vector per input, as the bytes of float64 in this machine's order: array("d") reads them.

    The values are float32 values, rounded to nine decimals, which is all that they tell apart. `prompt_tokens` counts
    the tokens of all inputs after cutting, `truncated_inputs` the inputs that were cut.
    """

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    truncated_inputs: int = 0
