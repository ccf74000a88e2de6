"""Damage to GGUF files: from one well-formed file any number of broken ones, the same for the same seed.

    mutated(document, data, random) -> (bytes, what was done)

Two families. Raw ones change bytes and know nothing. The others change one thing that a file says and keep the rest in
step, so that the result is well formed and only its meaning is wrong: those get past a reader of lengths and reach the
code behind it. Values, keys, tokenizers and architectures come from the tables of vocabulary.py.
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable
from random import Random

from gguf_fuzz.document import ARRAY, NUMBER_CODES, STRING, Document, Pair, array, array_items, render, text
from gguf_fuzz.words import ARCHITECTURES, KEYS, PRE_TOKENIZERS, TENSOR_NAMES, TEXTS, TOKENIZERS

from localllm.gguf_types import TENSOR_TYPES

_INTEGERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 31, 33, 64, 100, 255, 256, 511, 512, 513, 1023, 1024, 1025, 4096, 65535, 65536)
_LARGE = (10**6, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**62, 2**63 - 1, 2**64 - 1, -1, -2, -(2**31), -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, -1e30, math.nan, math.inf, -math.inf, 3.4e38, 2.0, 100.0)
_NEAR: tuple[Callable[[int], int], ...] = (
    lambda n: n + 1,
    lambda n: n - 1,
    lambda n: n * 2,
    lambda n: n // 2,
    lambda n: -n,
    lambda n: n * 3,
)


def mutated(document: Document, data: bytes, random: Random) -> tuple[bytes, str]:
    """One broken file, made from a well-formed one by up to three changes, and the names of these."""
    if random.random() < 0.2:
        kind = random.choice(RAW)
        return kind(data, random), kind.__name__
    changed = copy.deepcopy(document)
    names = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        kind_of_change = random.choices(CHANGES, WEIGHTS)[0]
        said = kind_of_change(changed, random)
        names.append(f"{kind_of_change.__name__}({said})")
    return render(changed), " + ".join(names)


# --- raw ------------------------------------------------------------------------------------------------------------


def _header_length(data: bytes) -> int:
    return max(64, data.rfind(b".weight") + 64)


def flip_bits(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(random.randint(1, 8)):
        out[random.randrange(_header_length(data)) % len(out)] ^= 1 << random.randrange(8)
    return bytes(out)


def overwrite(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    at = random.randrange(_header_length(data)) % len(out)
    piece = random.choice((bytes(8), b"\xff" * 8, random.randbytes(8), struct.pack("<Q", 2**63), struct.pack("<Q", 1)))
    out[at : at + 8] = piece
    return bytes(out)


def cut_off(data: bytes, random: Random) -> bytes:
    return data[: random.choice((random.randrange(len(data)), random.randrange(_header_length(data)), len(data) - 1))]


def lose_bytes(data: bytes, random: Random) -> bytes:
    at = random.randrange(_header_length(data)) % len(data)
    return data[:at] + data[at + random.randint(1, 16) :]


def gain_bytes(data: bytes, random: Random) -> bytes:
    at = random.randrange(_header_length(data)) % len(data)
    return data[:at] + random.randbytes(random.randint(1, 16)) + data[at:]


def noise_in_weights(data: bytes, random: Random) -> bytes:
    """Weights are not the header's business, but NaN and rubbish in them must not kill the engine either."""
    at = random.randrange(min(_header_length(data), len(data) - 1), len(data))
    size = min(4096, len(data) - at)
    return data[:at] + random.choice((random.randbytes(size), b"\xff" * size)) + data[at + size :]


RAW = (flip_bits, overwrite, cut_off, lose_bytes, gain_bytes, noise_in_weights)


# --- numbers and texts ------------------------------------------------------------------------------------------------


def number(random: Random, type_id: int, before: int | float | None = None) -> bytes:
    """A value worth trying, as the type writes it."""
    code = NUMBER_CODES[type_id]
    if code == "?":
        return random.choice((b"\0", b"\x01", b"\x02"))
    if code in "fd":
        wide = _packed(code, before * random.choice((2, -1, 0.5))) if isinstance(before, float) else None
        return wide if wide and random.random() < 0.3 else struct.pack(f"<{code}", random.choice(_FLOATS))
    if isinstance(before, int) and random.random() < 0.4:
        value = random.choice(_NEAR)(before)
    else:
        value = random.choice(random.choice((_INTEGERS, _LARGE)))
    size = struct.calcsize(code)
    return (value % 2 ** (8 * size)).to_bytes(size, "little")


def _packed(code: str, value: float) -> bytes:
    try:
        return struct.pack(f"<{code}", value)
    except OverflowError:  # twice the largest float
        return struct.pack(f"<{code}", math.copysign(math.inf, value))


def _value(pair: Pair) -> int | float | None:
    if pair.type_id in NUMBER_CODES and len(pair.raw) == struct.calcsize(NUMBER_CODES[pair.type_id]):
        return struct.unpack(f"<{NUMBER_CODES[pair.type_id]}", pair.raw)[0]  # type: ignore[no-any-return]
    return None


def _any_value(random: Random, key: bytes) -> tuple[int, bytes]:
    type_id = random.choice((4, 4, 4, 5, 6, 6, 7, 7, 8, 9, 9, 10, 11, 12, 0, 2))
    if type_id == STRING:
        return STRING, text(_any_text(random, key))
    if type_id == ARRAY:
        element = random.choice((4, 5, 6, 7, 8, 0))
        length = random.choice((0, 1, 2, 4, 100, 600))
        one = (lambda: text(_any_text(random, key))) if element == STRING else (lambda: number(random, element))
        return ARRAY, array(element, [one() for _ in range(length)])
    return type_id, number(random, type_id)


def _any_text(random: Random, key: bytes) -> bytes:
    table = {
        b"general.architecture": ARCHITECTURES,
        b"tokenizer.ggml.model": TOKENIZERS,
        b"tokenizer.ggml.pre": PRE_TOKENIZERS,
    }.get(key, TEXTS)
    return random.choice(table if random.random() < 0.8 else TEXTS)


# --- changes to metadata ----------------------------------------------------------------------------------------------


def _architecture(document: Document) -> bytes:
    return next((pair.raw[8:] for pair in document.pairs if pair.key == b"general.architecture"), b"llama")


def change_value(document: Document, random: Random) -> str:
    pair = random.choice(document.pairs)
    if pair.type_id == STRING:
        pair.raw = text(_any_text(random, pair.key))
    elif pair.type_id == ARRAY:
        return change_array(document, random)
    else:
        pair.raw = number(random, pair.type_id, _value(pair))
    return _told(pair)


def change_hyperparameter(document: Document, random: Random) -> str:
    """As change_value, of the architecture's numbers alone, where most of the meaning is."""
    numbers = [pair for pair in document.pairs if pair.type_id in NUMBER_CODES and not pair.key.startswith(b"general")]
    if not numbers:
        return "nothing"
    pair = random.choice(numbers)
    pair.raw = number(random, pair.type_id, _value(pair))
    return _told(pair)


def change_type(document: Document, random: Random) -> str:
    pair = random.choice(document.pairs)
    value = _value(pair)
    if value is not None and random.random() < 0.5 and math.isfinite(value):
        pair.type_id = random.choice((0, 1, 2, 3, 4, 5, 10, 11))
        size = struct.calcsize(NUMBER_CODES[pair.type_id])
        pair.raw = (int(value) % 2 ** (8 * size)).to_bytes(size, "little")
    elif value is not None and random.random() < 0.5:
        copies = random.choice((0, 1, 2, 4, 8, 100))
        pair.type_id, pair.raw = ARRAY, array(pair.type_id, [pair.raw] * copies)
    else:
        pair.type_id, pair.raw = _any_value(random, pair.key)
    return _told(pair)


def drop_pair(document: Document, random: Random) -> str:
    return _told(document.pairs.pop(random.randrange(len(document.pairs))))


def repeat_pair(document: Document, random: Random) -> str:
    pair = copy.deepcopy(random.choice(document.pairs))
    document.pairs.insert(random.randrange(len(document.pairs)), pair)
    return _told(pair)


def swap_keys(document: Document, random: Random) -> str:
    one, other = random.choice(document.pairs), random.choice(document.pairs)
    one.key, other.key = other.key, one.key
    return f"{one.key!r}, {other.key!r}"


def add_pair(document: Document, random: Random) -> str:
    """A key that llama.cpp knows, with a value of any kind; an array of the model's length now and then."""
    key = random.choice(KEYS).replace(b"%s", _architecture(document))
    document.pairs = [pair for pair in document.pairs if pair.key != key]
    if random.random() < 0.6:
        type_id = random.choice((4, 4, 6, 7))
        pair = Pair(key, type_id, number(random, type_id))
    else:
        pair = Pair(key, *_any_value(random, key))
    document.pairs.append(pair)
    return _told(pair)


def change_array(document: Document, random: Random) -> str:
    """Elements lost, repeated, exchanged or replaced: tokens, merges, scores, types, values per layer."""
    arrays = [pair for pair in document.pairs if pair.type_id == ARRAY and not pair.lies]
    if not arrays:
        return "nothing"
    pair = random.choice(arrays)
    element, items = array_items(pair.raw)
    one = (lambda: text(random.choice(TEXTS))) if element == STRING else (lambda: number(random, element))
    at = random.randrange(len(items)) if items else 0
    way = random.randrange(8)
    if way == 0:
        items = items[:at]
    elif way == 1:
        items = items + items[:at]
    elif way == 2:
        items = []
    elif way == 3 and items:
        items[random.randrange(len(items))] = items[at]
    elif way == 4:
        items = [one() for _ in items]
    elif way == 5:
        element = random.choice((0, 1, 4, 5, 6, 7, 8, 10))
        items = [text(b"x") if element == STRING else number(random, element) for _ in items]
    else:
        for _ in range(random.choice((1, 1, 5, 50))):
            if items:
                items[random.randrange(len(items))] = one()
    pair.raw = array(element, items)
    return f"{pair.key.decode('utf-8', 'replace')} way {way}"


def lie_about_length(document: Document, random: Random) -> str:
    """The length of a key, text or array, or the number of pairs or tensors: larger or smaller than what follows."""
    if random.random() < 0.3:
        document.counts = (
            int.from_bytes(number(random, 10, len(document.tensors)), "little"),
            random.choice((len(document.pairs), int.from_bytes(number(random, 10, len(document.pairs)), "little"))),
        )
        return f"counts {document.counts}"
    pair = random.choice([pair for pair in document.pairs if pair.type_id in (STRING, ARRAY)] or document.pairs)
    at = 0 if pair.type_id == STRING else 4
    before = int.from_bytes(pair.raw[at : at + 8], "little")
    pair.raw = pair.raw[:at] + number(random, 10, before) + pair.raw[at + 8 :]
    pair.lies = True
    return _told(pair)


# --- changes to tensors -----------------------------------------------------------------------------------------------


def drop_tensor(document: Document, random: Random) -> str:
    if not document.tensors:
        return "nothing"
    return str(document.tensors.pop(random.randrange(len(document.tensors))).name)


def repeat_tensor(document: Document, random: Random) -> str:
    tensor = copy.copy(random.choice(document.tensors))
    tensor.shape = list(tensor.shape)
    if random.random() < 0.7:
        tensor.name = random.choice(TENSOR_NAMES).replace(b"%d", str(random.choice((0, 1, 2, 99))).encode())
    document.tensors.append(tensor)
    return str(tensor.name)


def rename_tensor(document: Document, random: Random) -> str:
    tensor = random.choice(document.tensors)
    tensor.name = random.choice(
        (random.choice(TENSOR_NAMES).replace(b"%d", b"0"), tensor.name[:-1], b"x" * 63, b"x" * 64, b"\xff\xfe", b"")
    )
    return str(tensor.name)


def swap_tensors(document: Document, random: Random) -> str:
    one, other = random.choice(document.tensors), random.choice(document.tensors)
    one.name, other.name = other.name, one.name
    return f"{one.name!r}, {other.name!r}"


def change_shape(document: Document, random: Random) -> str:
    tensor = random.choice(document.tensors)
    way = random.randrange(6)
    at = random.randrange(len(tensor.shape)) if tensor.shape else 0
    if way == 0:
        tensor.shape.append(random.choice((1, 2, 0)))
    elif way == 1 and len(tensor.shape) > 1:
        tensor.shape.pop(at)
    elif way == 2:
        tensor.shape.reverse()
    elif way == 3 and len(tensor.shape) > 1:
        tensor.shape = [math.prod(tensor.shape)]
    elif tensor.shape:
        step = {256: 256, 32: 32, 64: 64}.get(TENSOR_TYPES.get(tensor.type_id, ("", 1, 4))[1], 1)
        near = (tensor.shape[at] + step, abs(tensor.shape[at] - step), tensor.shape[at] * 2, 1, 0, 2**32, 2**63)
        tensor.shape[at] = random.choice(near)
    return f"{tensor.name!r} {tensor.shape}"


def change_tensor_type(document: Document, random: Random) -> str:
    """Another type for one tensor or for all of a kind, with its data laid out anew."""
    tensor = random.choice(document.tensors)
    type_id = random.choice((*TENSOR_TYPES, *TENSOR_TYPES, 4, 5, 31, 36, 99, 2**31))
    for other in document.tensors if random.random() < 0.1 else (tensor,):
        other.type_id = type_id
    return f"{tensor.name!r} type {type_id}"


def change_offset(document: Document, random: Random) -> str:
    tensor = random.choice(document.tensors)
    tensor.offset = int.from_bytes(number(random, 10, random.choice((0, 32, len(tensor.data)))), "little")
    return f"{tensor.name!r} offset {tensor.offset}"


def change_alignment(document: Document, random: Random) -> str:
    document.alignment = random.choice((8, 16, 64, 128, 4096))
    said = random.choice((document.alignment, 0, 1, 3, 32, 2**31))
    document.pairs.append(Pair(b"general.alignment", 4, struct.pack("<I", said)))
    return f"{document.alignment}, said {said}"


def _told(pair: Pair) -> str:
    value = _value(pair) if len(pair.raw) <= 8 else None
    shown = pair.raw[:24] if value is None else value
    return f"{pair.key.decode('utf-8', 'replace')} type {pair.type_id} = {shown!r}"


Change = Callable[[Document, Random], str]
_WEIGHTED: dict[Change, float] = {
    change_value: 2,
    change_hyperparameter: 5,
    change_type: 2,
    drop_pair: 2,
    repeat_pair: 0.3,
    swap_keys: 0.5,
    add_pair: 5,
    change_array: 2.5,
    lie_about_length: 0.7,
    drop_tensor: 1,
    repeat_tensor: 0.7,
    rename_tensor: 0.7,
    swap_tensors: 0.7,
    change_shape: 1.5,
    change_tensor_type: 2,
    change_offset: 0.4,
    change_alignment: 0.4,
}
CHANGES = tuple(_WEIGHTED)
WEIGHTS = tuple(_WEIGHTED.values())
