"""llama-server's ranking of documents for a query: /rerank, whose bodies are Jina's and Cohere's, or TEI's.

documents   {"results": [{"index", "relevance_score"}], …}, the best first; with `return_documents` their texts
texts       TEI's form: an array of {"index", "score"}, the best first; with `return_text` their texts
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from localllm.dialects.body import ignored_names, read
from localllm.dialects.framing import to_json
from localllm.dialects.ollama_embed import check_count
from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import InvalidFieldError


class _Document(msgspec.Struct):
    text: str


class _Body(msgspec.Struct):
    model: str | None = None
    query: str | None = None
    documents: list[str | _Document] | None = None
    texts: list[str] | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    truncate: bool | None = None  # TEI's, and here with both forms


_decoder = msgspec.json.Decoder(_Body)
# What is read where, for the document of the API.
PATHS = ("/rerank", "/v1/rerank", "/reranking", "/v1/reranking")  # llama-server has all four
BODIES: dict[str, type[msgspec.Struct]] = dict.fromkeys(PATHS, _Body)


@dataclass(frozen=True, slots=True)
class Ranking:
    """A body, understood: how many of the best are told, whether with their texts, and in whose form."""

    request: EmbedRequest
    told: int
    tells_text: bool
    is_teis: bool
    ignored: tuple[str, ...]


def decode_rerank(body: bytes) -> Ranking:
    """The body of POST /rerank; a model's name may be missing. Raises InvalidFieldError."""
    fields = read(body, _decoder)
    if fields.query is None:
        raise InvalidFieldError('"query" must be provided', field="query")
    is_teis = fields.texts is not None
    given: Sequence[str | _Document] = fields.texts or () if is_teis else fields.documents or ()
    if not given:
        name = "texts" if is_teis else "documents"
        raise InvalidFieldError(f'"{name}" must be an array of texts, and not empty', field=name)
    check_count(given)
    if fields.top_n is not None and fields.top_n < 1:
        raise InvalidFieldError(f"top_n is {fields.top_n}, but must be 1 or more", field="top_n")
    texts = tuple(one if isinstance(one, str) else one.text for one in given)
    return Ranking(
        EmbedRequest(fields.model or "", texts, truncates=bool(fields.truncate), normalises=False, query=fields.query),
        fields.top_n or len(texts),
        tells_text=bool(fields.return_text if is_teis else fields.return_documents),
        is_teis=is_teis,
        ignored=ignored_names(body, _Body),
    )


def encode_ranking(ranking: Ranking, model: str, parts: Sequence[Embeddings]) -> bytes:
    """The best documents, best first; of equal ones the first."""
    scores = [array("d", vector)[0] for part in parts for vector in part.vectors]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: ranking.told]
    results = [_result(ranking, index, scores[index]) for index in best]
    if ranking.is_teis:
        return to_json(results)
    tokens = sum(part.prompt_tokens for part in parts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return to_json({"model": model, "object": "list", "usage": usage, "results": results})


def _result(ranking: Ranking, index: int, score: float) -> dict[str, Any]:
    text = ranking.request.inputs[index]
    if ranking.is_teis:
        return {"index": index, "score": score, **({"text": text} if ranking.tells_text else {})}
    return {"index": index, "relevance_score": score, **({"document": {"text": text}} if ranking.tells_text else {})}
