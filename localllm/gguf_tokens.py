"""The tokens of a vocabulary, looked at once as they are walked over; nothing of them is kept but what is counted here.

llama.cpp reads them as C strings, names the empty ones after their number, and aborts when two are alike. Distinctness
is decided on 64-bit hashes, 8 bytes a token, and only hashes that meet are looked at again.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from localllm.gguf_file import Source

_PLAIN = {bytes([byte]): byte for byte in range(1, 128)}
_IN_HEX = {f"<0x{byte:02X}>".encode(): byte for byte in range(256)} | _PLAIN
_ESCAPED = (
    {f"\\x{byte:02{case}}".encode(): byte for byte in range(256) for case in "xX"}
    | {
        b"\\" + letter: byte
        for letter, byte in ((b"t", 9), (b"n", 10), (b"r", 13), (b"'", 39), (b'"', 34), (b"\\", 92))
    }
    | {token: byte for token, byte in _PLAIN.items() if token != b"\\"}
)
_BYTE_TOKENS = frozenset(_IN_HEX.keys() | _ESCAPED.keys())


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How many tokens there are, and which bytes have one of their own.

    `bytes` written as "<0x0A>", `escaped_bytes` as "\\x0a" or "\\n"; a letter that stands for itself counts as both.
    """

    size: int = 0
    bytes: frozenset[int] = frozenset()
    escaped_bytes: frozenset[int] = frozenset()


def read_vocabulary(source: Source, length: int, what: str) -> Vocabulary:
    """Walk over the `length` strings that follow. Raises ModelFileError when two tokens are alike."""
    start = source.position
    hashes = array("q")
    present: set[bytes] = set()
    for tokens in _tokens(source, length, what):
        hashes.extend(map(hash, tokens))
        present.update(_BYTE_TOKENS.intersection(tokens))
    if len(set(hashes)) < len(hashes):
        meeting = {one for one, other in itertools.pairwise(sorted(hashes)) if one == other}
        source.rewind(start)
        _refuse_twins(source, length, what, meeting)
    spelled, escaped = (frozenset(table[token] for token in present & table.keys()) for table in (_IN_HEX, _ESCAPED))
    return Vocabulary(length, spelled, escaped)


def _refuse_twins(source: Source, length: int, what: str, hashes: set[int]) -> None:
    seen: dict[bytes, int] = {}
    for number, token in enumerate(itertools.chain.from_iterable(_tokens(source, length, what))):
        if hash(token) not in hashes:
            continue
        if token in seen:
            shown = ascii(token[:40].decode("utf-8", "replace"))
            raise source.wrong(f"{what} has the token {shown} twice, as number {seen[token]} and as {number}")
        seen[token] = number


def _tokens(source: Source, length: int, what: str) -> Iterator[list[bytes]]:
    """The tokens as llama.cpp knows them: to their first NUL, and empty ones by their number."""
    first = 0
    for tokens in source.strings(length, what):
        if b"" in tokens or b"".join(tokens).find(0) >= 0:  # both rare, and quick to rule out
            tokens = [token.split(b"\0", 1)[0] or b"[EMPTY_%d]" % number for number, token in enumerate(tokens, first)]
        yield tokens
        first += len(tokens)
