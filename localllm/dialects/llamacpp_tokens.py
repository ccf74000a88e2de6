"""llama-server's questions about tokens: /tokenize, /detokenize, /apply-template, and its /embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from localllm.dialects.body import read
from localllm.dialects.framing import to_json
from localllm.dialects.llamacpp import Pieces, read_pieces, read_tokens
from localllm.dialects.ollama_embed import check_count, vector_json
from localllm.embedding import Embeddings, EmbedRequest
from localllm.errors import InvalidFieldError


class TokenizeBody(msgspec.Struct):
    """The body of POST /tokenize."""

    model: str | None = None
    content: Any = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class _DetokenizeBody(msgspec.Struct):
    model: str | None = None
    tokens: Any = None


class _EmbedBody(msgspec.Struct):
    model: str | None = None
    content: Any = None
    input: Any = None
    embd_normalize: int | None = None
    truncate: bool | None = None


_tokenize_decoder = msgspec.json.Decoder(TokenizeBody)
_detokenize_decoder = msgspec.json.Decoder(_DetokenizeBody)
_embed_decoder = msgspec.json.Decoder(_EmbedBody)
# What is read where, for the document of the API.
BODIES: dict[str, type[msgspec.Struct]] = {
    "/tokenize": TokenizeBody,
    "/detokenize": _DetokenizeBody,
    "/embedding": _EmbedBody,
    "/embeddings": _EmbedBody,
}


def decode_tokenize(body: bytes) -> TokenizeBody:
    """Raises InvalidFieldError."""
    fields = read(body, _tokenize_decoder)
    pieces_of(fields)
    return fields


def pieces_of(body: TokenizeBody) -> Pieces:
    """The texts and token ids, in turn, of which the tokens are wanted. Raises InvalidFieldError."""
    content = body.content
    if content is None or content == []:
        return ()
    pieces = (content,) if isinstance(content, str) else read_pieces(content)
    if pieces is None:
        raise InvalidFieldError("content must be a text, or an array of texts and token ids", field="content")
    return pieces


def decode_detokenize(body: bytes) -> tuple[str, tuple[int, ...]]:
    """The model's name, which may be empty, and token ids, which may be none. Raises InvalidFieldError."""
    fields = read(body, _detokenize_decoder)
    tokens = () if fields.tokens == [] else read_tokens(fields.tokens)
    if tokens is None:
        raise InvalidFieldError('"tokens" must be an array of token ids', field="tokens")
    return fields.model or "", tokens


def decode_embedding(body: bytes) -> EmbedRequest:
    """The body of POST /embedding; a model's name may be missing. Raises InvalidFieldError."""
    fields = read(body, _embed_decoder)
    value = fields.content if fields.content is not None else fields.input
    several = value if isinstance(value, list) and read_tokens(value) is None else [value]
    inputs = [one if isinstance(one, str) else read_tokens(one) for one in several]
    found = tuple(one for one in inputs if one)
    if not found or len(found) < len(inputs):
        raise InvalidFieldError('"content" must be a text, token ids, or an array of these', field="content")
    if fields.embd_normalize not in (None, -1, 2):
        raise InvalidFieldError("embd_normalize must be 2 (length 1) or -1 (as they are)", field="embd_normalize")
    check_count(several)
    return EmbedRequest(
        fields.model or "", found, truncates=bool(fields.truncate), normalises=fields.embd_normalize != -1
    )


def encode_tokens(tokens: Sequence[int], pieces: Sequence[bytes] | None) -> bytes:
    """The ids, or with the pieces objects of id and text; a piece that is no text is an array of its bytes."""
    if pieces is None:
        return to_json({"tokens": list(tokens)})
    pairs = zip(tokens, pieces, strict=True)
    return to_json({"tokens": [{"id": token, "piece": _piece(piece)} for token, piece in pairs]})


def encode_text(pieces: Sequence[bytes]) -> bytes:
    """The text that tokens stand for; what is no UTF-8 becomes U+FFFD."""
    return to_json({"content": b"".join(pieces).decode("utf-8", "replace")})


def encode_prompt(prompt: str, tokens: Sequence[int]) -> bytes:
    """What a template made of a conversation, and the ids of its tokens, which llama-server does not tell."""
    return to_json({"prompt": prompt, "tokens": list(tokens)})


def encode_embedding(parts: Sequence[Embeddings]) -> bytes:
    """An object for each input; its vector is the only row."""
    vectors = [vector for part in parts for vector in part.vectors]
    return to_json([{"index": index, "embedding": [vector_json(vector)]} for index, vector in enumerate(vectors)])


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
