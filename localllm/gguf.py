"""A GGUF file's header: its metadata and its table of tensors; never its weights, and never more than is checked.

The file is untrusted. Every length, count, type, dimension, alignment, offset and extent is compared with the file's
size before anything is read, skipped or allocated because of it. What llama.cpp would refuse is refused here too, with
the numbers, before a runner starts. `gguf_types.py` holds the tables of types, `gguf_file.py` reads the bytes.

    magic "GGUF" | version u32 | tensors u64 | pairs u64
    pairs    ×   key text | type u32 | value            text = length u64, bytes
                                     | array: type u32, length u64, elements
    tensors  ×   name text | dimensions u32 | each u64 | type u32 | offset u64 (into the data section)
    padding to `general.alignment` (32 if unsaid) | data section

Long arrays (a vocabulary has 150,000 strings) are walked over, not decoded.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from localllm.errors import InvalidOptionError, ModelFileError
from localllm.generation import Options, parse_options
from localllm.gguf_file import Source, open_regular
from localllm.gguf_tokens import Vocabulary, read_vocabulary
from localllm.gguf_types import FILE_TYPE_NAMES, NUMBER_FORMATS, TENSOR_TYPES, VALUE_TYPE_NAMES

MAX_PAIRS = 65_536
MAX_TENSORS = 65_536
MAX_STRINGS = 8_388_608  # walked in all arrays together; the largest real vocabulary has 1.3 million with its merges
MAX_KEY_BYTES = 65_535
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME, less its NUL
MAX_TEXT_BYTES = 1_048_576  # a longer value is skipped: it is somebody's whole tokenizer.json
MAX_KEPT_BYTES = 16_777_216
MAX_DIMENSIONS = 4
MAX_KEPT_ARRAY = 64
MAX_KEPT_NUMBERS = 512  # LLAMA_MAX_LAYERS: a number for each layer is needed to know what the layers keep
DEFAULT_ALIGNMENT = 32
_MIN_PAIR_BYTES = 13
_MIN_TENSOR_BYTES = 24
_STRING, _ARRAY = 8, 9
# llama.cpp reads these as this type and aborts when they are of another.
_FIXED_TYPES = {"general.alignment": 4, "split.no": 2, "adapter.lora.alpha": 6}
_TOKENS = "'tokenizer.ggml.tokens'"
_NO_VOCABULARY = Vocabulary()

_UNPOOLED = (2**32 - 1, -1, 0)  # LLAMA_POOLING_TYPE_UNSPECIFIED, as both signs write it, and NONE
# fmt: off
_ENCODERS = frozenset([
    "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "modern-bert", "eurobert",
    "t5encoder", "gemma-embedding", "llama-embed",
])
# fmt: on
_SAMPLING_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repeat_penalty",
    "general.sampling.penalty_last_n": "repeat_last_n",
    "general.sampling.xtc_probability": "xtc_probability",
    "general.sampling.xtc_threshold": "xtc_threshold",
    "general.sampling.mirostat": "mirostat",
    "general.sampling.mirostat_tau": "mirostat_tau",
    "general.sampling.mirostat_eta": "mirostat_eta",
}


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """Stands for a value too long to keep: its element type ("string", "float32", … "byte" for a text) and length."""

    type: str
    length: int


Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...] | ArrayInfo


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` as in the file, fastest dimension first; `offset` is its first byte in the file."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself, checked for consistency. Counts that the file does not state are 0."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    file_size_bytes: int
    data_offset: int
    vocabulary: Vocabulary = _NO_VOCABULARY

    def text(self, key: str) -> str | None:
        """The metadata value under `key` if it is a text."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """The metadata value under `key` if it is an integer."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def architecture_integer(self, suffix: str) -> int:
        """`<architecture>.<suffix>`, or 0 when the file does not say."""
        return max(self.integer(f"{self.architecture}.{suffix}") or 0, 0)

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or ""

    @property
    def name(self) -> str | None:
        return self.text("general.name")

    @property
    def size_label(self) -> str | None:
        return self.text("general.size_label")

    @property
    def file_type(self) -> str:
        """The quantisation's name, "Q4_K_M"; the type most bytes have when the file does not say."""
        said = self.integer("general.file_type")
        # llama.cpp adds 1024 to a type it guessed.
        if said is not None and (name := FILE_TYPE_NAMES.get(said & ~1024)):
            return name
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type_name] += tensor.size_bytes
        return sizes.most_common(1)[0][0] if sizes else "unknown"

    @property
    def parameter_count(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def context_length(self) -> int:
        """Tokens the model was trained on at once."""
        return self.architecture_integer("context_length")

    @property
    def embedding_length(self) -> int:
        return self.architecture_integer("embedding_length")

    @property
    def block_count(self) -> int:
        return self.architecture_integer("block_count")

    @property
    def chat_template(self) -> str | None:
        return self.text("tokenizer.chat_template")

    @property
    def tokenizer_model(self) -> str | None:
        return self.text("tokenizer.ggml.model")

    @property
    def is_embedding_model(self) -> bool:
        """It makes vectors, not text: it states how to pool, or its architecture has no decoder."""
        pooling = self.metadata.get(f"{self.architecture}.pooling_type", _UNPOOLED[0])
        return pooling not in _UNPOOLED or self.architecture in _ENCODERS

    @property
    def can_fill_in_the_middle(self) -> bool:
        """It has the tokens that mark the text before and after a gap, under their present or former names."""
        return any(
            f"tokenizer.ggml.{before}" in self.metadata and f"tokenizer.ggml.{after}" in self.metadata
            for before, after in (("fim_pre_token_id", "fim_suf_token_id"), ("prefix_token_id", "suffix_token_id"))
        )

    @property
    def sampling(self) -> Options:
        """The maker's `general.sampling.*`. Raises ModelFileError for a value no sampler can take."""
        values: dict[str, object] = {}
        for key, option in _SAMPLING_KEYS.items():
            value = self.metadata.get(key)
            if isinstance(value, float):
                value = float(f"{value:.7g}")  # a float32 0.6 reads as 0.6000000238418579
            if option == "top_k" and isinstance(value, int):
                value = max(value, 0)  # llama.cpp: 0 or less is "all tokens"
            values[option] = value
        try:
            return parse_options(values)[0]
        except InvalidOptionError as error:
            raise ModelFileError(f"the file's general.sampling values cannot be used: {error}") from error


def read_header(path: Path) -> Header:
    """Read and check the header of the GGUF file at `path`.

    Raises ModelFileError, naming the path and the numbers that do not fit, for whatever is not a whole, consistent GGUF
    version 2 or 3 in a regular file that can be read.
    """
    with open_regular(path) as file:
        source = Source(file, path)
        try:
            return _Reader(source).header()
        except OSError as error:  # a disk or network file system that fails half-way
            raise source.wrong(f"it cannot be read: {error}") from error


def header_from(source: Source) -> Header:
    """The header at the beginning of `source`, whose `size` may say more than is there yet. Raises ModelFileError."""
    return _Reader(source).header()


class _Reader:
    """The layout of a GGUF header, read once from one source, and what it has cost so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.kept_bytes = 0
        self.walked_strings = 0
        self.vocabulary = Vocabulary()

    def header(self) -> Header:
        version, tensor_count, pair_count = self._preamble()
        metadata: dict[str, Value] = {}
        for index in range(pair_count):
            key, value = self._pair(index)
            if key in metadata:
                raise self.source.wrong(f"the key '{key}' is there twice")
            metadata[key] = value
        tensors, data_offset = self._tensors(tensor_count, _alignment(self.source, metadata))
        return Header(version, MappingProxyType(metadata), tensors, self.source.size, data_offset, self.vocabulary)

    def _preamble(self) -> tuple[int, int, int]:
        if self.source.size == 0:
            raise ModelFileError(f"{self.source.path} is empty", hint="download it again")
        magic = self.source.take(min(4, self.source.size), "the magic")
        if magic != b"GGUF":
            shown = ascii(magic)[1:]
            raise ModelFileError(
                f"{self.source.path} is not a GGUF file: it starts with {shown}",
                hint="a GGUF file starts with 'GGUF'; was a web page or an archive saved instead?",
            )
        version = self.source.u32("the version")
        if version & 0xFFFF == 0 and version:
            raise self.source.wrong("big-endian, which is not supported", hint="convert it to little-endian")
        if version not in (2, 3):
            hint = "convert the model again with a current llama.cpp" if version < 2 else "update localllm"
            raise self.source.wrong(f"GGUF version {version}, and only 2 and 3 are supported", hint=hint)
        tensor_count = self._count("tensors", MAX_TENSORS, _MIN_TENSOR_BYTES)
        return version, tensor_count, self._count("metadata pairs", MAX_PAIRS, _MIN_PAIR_BYTES)

    def _count(self, what: str, limit: int, least_bytes: int) -> int:
        count = self.source.u64(f"the number of {what}")
        if count > limit:
            raise self.source.wrong(f"it says it has {count} {what}, and {limit} is the limit")
        if count * least_bytes > self.source.size - self.source.position:
            raise self.source.wrong(
                f"truncated or false: it says it has {count} {what}, the file has {self.source.size} bytes"
            )
        return count

    def _pair(self, index: int) -> tuple[str, Value]:
        key = self._name(f"metadata key {index}", MAX_KEY_BYTES)
        what = f"'{key}'"
        type_id = self.source.u32(what)
        wanted = _FIXED_TYPES.get(key, type_id)
        if type_id != wanted and type_id in VALUE_TYPE_NAMES:
            raise self.source.wrong(f"{what} must be a {VALUE_TYPE_NAMES[wanted]}, not {VALUE_TYPE_NAMES[type_id]}")
        if type_id == _ARRAY:
            return key, self._array(what)
        if type_id == _STRING:
            return key, self._string(what)
        number = self._format(type_id, what)
        (value,) = number.unpack(self.source.take(number.size, what))
        return key, value

    def _format(self, type_id: int, what: str) -> struct.Struct:
        found = NUMBER_FORMATS.get(type_id)
        if found is None:
            raise self.source.wrong(f"{what} has the unknown type {type_id}")
        return found

    def _string(self, what: str) -> str | ArrayInfo:
        length = self.source.u64(what)
        if length > MAX_TEXT_BYTES:
            self.source.skip(length, what)
            return ArrayInfo("byte", length)
        return self._keep(length, what)

    def _keep(self, length: int, what: str) -> str:
        text = self.source.take(length, what)
        self.kept_bytes += length
        if self.kept_bytes > MAX_KEPT_BYTES:
            raise self.source.wrong(f"its metadata holds more than {MAX_KEPT_BYTES} bytes of text")
        return text.decode("utf-8", "replace")

    def _array(self, what: str) -> tuple[Scalar, ...] | ArrayInfo:
        type_id = self.source.u32(what)
        length = self.source.u64(what)
        if type_id == _ARRAY:
            raise self.source.wrong(f"{what} is an array of arrays, which llama.cpp cannot load")
        if type_id == _STRING:
            return self._strings(length, what)
        number = self._format(type_id, what)
        if length > MAX_KEPT_NUMBERS:
            self.source.skip(length * number.size, what)
            return ArrayInfo(VALUE_TYPE_NAMES[type_id], length)
        data = self.source.take(length * number.size, what)
        return tuple(value for (value,) in number.iter_unpack(data))

    def _strings(self, length: int, what: str) -> tuple[Scalar, ...] | ArrayInfo:
        self.walked_strings += length
        if self.walked_strings > MAX_STRINGS:
            raise self.source.wrong(f"{what} has {length} strings, and {MAX_STRINGS} in all is the limit")
        self.source.check(length * 8, what)
        start = self.source.position
        if what == _TOKENS:
            self.vocabulary = read_vocabulary(self.source, length, what)
        elif length > MAX_KEPT_ARRAY:
            self.source.walk_strings(length, what)
        if length > MAX_KEPT_ARRAY:
            return ArrayInfo("string", length)
        self.source.rewind(start)
        return tuple(self._keep(self.source.u64(what), what) for _ in range(length))

    def _tensors(self, count: int, alignment: int) -> tuple[tuple[TensorInfo, ...], int]:
        described = [self._tensor(index) for index in range(count)]
        seen: set[str] = set()
        data_offset = _padded(self.source.position, alignment)
        expected = 0
        tensors = []
        for tensor in described:
            if tensor.name in seen:
                raise self.source.wrong(f"the tensor '{tensor.name}' is there twice")
            seen.add(tensor.name)
            if tensor.offset != expected:
                raise self.source.wrong(
                    f"tensor '{tensor.name}' starts at {tensor.offset} of the data, expected {expected}"
                )
            start = data_offset + tensor.offset
            if start + tensor.size_bytes > self.source.size:
                raise self.source.short(start + tensor.size_bytes, f"tensor '{tensor.name}'")
            expected += _padded(tensor.size_bytes, alignment)
            tensors.append(TensorInfo(tensor.name, tensor.shape, tensor.type_name, start, tensor.size_bytes))
        return tuple(tensors), data_offset

    def _tensor(self, index: int) -> TensorInfo:
        name = self._name(f"the name of tensor {index}", MAX_TENSOR_NAME_BYTES)
        what = f"tensor '{name}'"
        dimensions = self.source.u32(what)
        if dimensions > MAX_DIMENSIONS:
            raise self.source.wrong(f"{what} has {dimensions} dimensions, and {MAX_DIMENSIONS} is the limit")
        shape = tuple(self.source.u64(what) for _ in range(dimensions))
        if 0 in shape or math.prod(shape) >= 2**63:
            raise self.source.wrong(f"{what} has the impossible shape {list(shape)}")
        type_id = self.source.u32(what)
        found = TENSOR_TYPES.get(type_id)
        if found is None:
            raise self.source.wrong(
                f"{what} has the unknown type {type_id}", hint="update localllm, or convert the model again"
            )
        type_name, block_elements, block_bytes = found
        row = shape[0] if shape else 1
        if row % block_elements:
            raise self.source.wrong(
                f"{what} has rows of {row}, not a multiple of {type_name}'s block of {block_elements}"
            )
        size_bytes = math.prod(shape) // block_elements * block_bytes
        return TensorInfo(name, shape, type_name, self.source.u64(what), size_bytes)

    def _name(self, what: str, limit: int) -> str:
        length = self.source.u64(what)
        if not 0 < length <= limit:
            raise self.source.wrong(f"{what} has {length} bytes, but must have 1 to {limit}")
        try:
            return self.source.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.source.wrong(f"{what} is not UTF-8") from None


def _alignment(source: Source, metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment & (alignment - 1) or not 8 <= alignment <= 2**20:
        raise source.wrong(f"its alignment is {alignment}, but must be a power of two from 8 to {2**20}")
    return alignment


def _padded(length: int, alignment: int) -> int:
    return (length + alignment - 1) // alignment * alignment
