"""The header reader believes nothing that the file's size does not bear out."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import pytest
from gguf_files import MODEL_METADATA, Tensor, Typed, gguf_bytes, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.errors import ModelFileError
from localllm.generation import Options
from localllm.gguf import MAX_STRINGS, MAX_TEXT_BYTES, ArrayInfo, Header, read_header
from localllm.gguf_types import FILE_TYPE_NAMES, TENSOR_TYPES

U64 = struct.Struct("<Q").pack
ARCHITECTURE = {"general.architecture": "llama"}


@pytest.fixture
def read(tmp_path):
    """Write the bytes to a file and read its header."""

    def read_bytes(data: bytes) -> Header:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return read_header(path)

    return read_bytes


def test_a_header_tells_architecture_name_type_counts_and_lengths(read):
    header = read(gguf_bytes())
    assert (3, "llama", "Tiny", "Q4_K_M") == (header.version, header.architecture, header.name, header.file_type)
    assert (2048, 256, 1) == (header.context_length, header.embedding_length, header.block_count)
    assert 256 * 4 + 256 == header.parameter_count
    assert "gpt2" == header.tokenizer_model


def test_tensors_have_their_shape_type_place_and_size(read):
    data = gguf_bytes()
    header = read(data)
    first, second = header.tensors
    assert ("token_embd.weight", (256, 4), "Q4_K", 576) == (first.name, first.shape, first.type_name, first.size_bytes)
    assert ("output_norm.weight", (256,), "F32", 1024) == (
        second.name,
        second.shape,
        second.type_name,
        second.size_bytes,
    )
    assert first.offset == header.data_offset
    assert len(data) == second.offset + second.size_bytes == header.file_size_bytes


def test_version_2_reads_as_version_3_does(read):
    assert 2 == read(gguf_bytes(version=2)).version


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("text", "text"),
        ("joined \u200d emoji", "joined \u200d emoji"),
        (True, True),
        (7, 7),
        (-3, -3),
        (0.5, 0.5),
        ([1, 2, 3], (1, 2, 3)),
        (["a", "b"], ("a", "b")),
        ([], ()),
        ([True, False], (True, False)),
        (Typed(0, b"\xff"), 255),
        (Typed(1, b"\xff"), -1),
        (Typed(2, b"\xff\xff"), 65535),
        (Typed(3, b"\xff\xff"), -1),
        (Typed(10, b"\xff" * 8), 2**64 - 1),
        (Typed(12, struct.pack("<d", 0.1)), 0.1),
        (list(range(512)), tuple(range(512))),
        (list(range(513)), ArrayInfo("uint32", 513)),
        (["token"] * 65, ArrayInfo("string", 65)),
        ("x" * (MAX_TEXT_BYTES + 1), ArrayInfo("byte", MAX_TEXT_BYTES + 1)),
        (Typed(8, text(b"\xff\xfe")), "\ufffd\ufffd"),
    ],
)
def test_metadata_values_are_decoded_and_long_ones_described(read, written, expected):
    assert expected == read(gguf_bytes({"key": written, "after": 1})).metadata["key"]
    assert 1 == read(gguf_bytes({"key": written, "after": 1})).metadata["after"]


def test_strings_longer_than_the_reading_window_are_stepped_over(read):
    tokens = ["a" * 2_000_000, *["b"] * 80, "c" * 1_048_570, "d" * 1_048_576, *["é" * 700_000] * 3]
    metadata = read(gguf_bytes({"tokens": tokens, "after": "still in step"})).metadata
    assert {"tokens": ArrayInfo("string", 86), "after": "still in step"} == dict(metadata)


def test_metadata_cannot_be_changed(read):
    assert isinstance(read(gguf_bytes()).metadata, MappingProxyType)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04rest", "is not a GGUF file: it starts with 'PK\\x03\\x04'"),
        (b"<!DO", "it starts with '<!DO'"),
        (b"GG", "it starts with 'GG'"),
        (b"GGUF", "truncated: the version ends at byte 8, the file has 4"),
        (b"GGUF\x01\0\0\0" + bytes(40), "GGUF version 1, and only 2 and 3 are supported"),
        (b"GGUF\x09\0\0\0" + bytes(40), "GGUF version 9, and only 2 and 3 are supported"),
        (b"GGUF\0\0\0\x03" + bytes(40), "big-endian, which is not supported"),
        (gguf_bytes(counts=(2**63, 1)), "it says it has 9223372036854775808 tensors, and 65536 is the limit"),
        (gguf_bytes(counts=(2, 60_000)), "truncated or false: it says it has 60000 metadata pairs, the file has"),
        (gguf_bytes([("a", 1), ("a", 2)]), "the key 'a' is there twice"),
        (gguf_bytes({"": 1}), "metadata key 0 has 0 bytes, but must have 1 to 65535"),
        (gguf_bytes({"k": Typed(8, U64(2**62))}), f"truncated: 'k' ends at byte {2**62 + 45}"),
        (gguf_bytes({"k": Typed(99, b"")}), "'k' has the unknown type 99"),
        (gguf_bytes({"k": Typed(9, struct.pack("<IQ", 9, 1))}), "'k' is an array of arrays"),
        (gguf_bytes({"k": Typed(9, struct.pack("<IQ", 77, 1))}), "'k' has the unknown type 77"),
        (gguf_bytes({"k": Typed(9, struct.pack("<IQ", 4, 2**61))}), "truncated: 'k' ends at byte"),
        (gguf_bytes({"k": Typed(9, struct.pack("<IQ", 8, 2**61))}), f"and {MAX_STRINGS} in all is the limit"),
        (gguf_bytes({"k": Typed(9, struct.pack("<IQ", 8, 1000))}), "truncated: 'k' ends at byte"),
        (gguf_bytes({"k": [*["t"] * 99, "x"]}, ())[:-2] + b"\xff", "truncated: 'k' ends at byte"),
        (gguf_bytes({"general.alignment": 24}), "its alignment is 24, but must be a power of two from 8"),
        (gguf_bytes({"general.alignment": 0}), "its alignment is 0"),
        (gguf_bytes({"general.alignment": -8}), "'general.alignment' must be a uint32, not int64"),
        (gguf_bytes({}, [Tensor("t", (4,)), Tensor("t", (4,))]), "the tensor 't' is there twice"),
        (gguf_bytes({}, [Tensor("t" * 64, (4,))]), "the name of tensor 0 has 64 bytes, but must have 1 to 63"),
        (gguf_bytes({}, [Tensor("t", (1, 1, 1, 1, 1))]), "tensor 't' has 5 dimensions, and 4 is the limit"),
        (gguf_bytes({}, [Tensor("t", (0, 4))]), "tensor 't' has the impossible shape [0, 4]"),
        (gguf_bytes({}, [Tensor("t", (4,), type_id=4)]), "tensor 't' has the unknown type 4"),
        (gguf_bytes({}, [Tensor("t", (100,), "Q4_K")]), "tensor 't' has rows of 100, not a multiple of Q4_K's block"),
        (gguf_bytes({}, [Tensor("t", (4,), offset=64)]), "tensor 't' starts at 64 of the data, expected 0"),
        (gguf_bytes()[:-1], "truncated: tensor 'output_norm.weight' ends at byte"),
    ],
)
def test_a_file_that_lies_or_is_cut_short_is_refused_with_the_numbers(read, data, words):
    with pytest.raises(ModelFileError) as caught:
        read(data)
    assert words in caught.value.message
    assert "model.gguf" in caught.value.message


def test_an_impossible_shape_is_refused_before_it_is_multiplied_out(read):
    data = bytearray(gguf_bytes({}, [Tensor("t", (1, 1, 1, 1))]))
    at = data.index(b"t" + struct.pack("<I", 4)) + 5
    data[at : at + 32] = U64(2**63) * 4
    with pytest.raises(ModelFileError, match="impossible shape"):
        read(bytes(data))


def test_truncation_names_the_tensor_its_end_and_the_length_of_the_file(read):
    data = gguf_bytes()
    with pytest.raises(ModelFileError) as caught:
        read(data[:-100])
    said = f"truncated: tensor 'output_norm.weight' ends at byte {len(data)}, the file has {len(data) - 100}"
    assert caught.value.message.endswith(said)
    assert "fetch the file again" in (caught.value.hint or "")


def test_what_is_not_a_readable_regular_file_is_named_for_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a directory, not a GGUF file"),
        (tmp_path / "pipe", "is a pipe, not a regular file"),
        (Path("/dev/zero"), "is a device, not a regular file"),
        (tmp_path / "none.gguf", "does not exist"),
        (tmp_path / "none" / "none.gguf", "does not exist"),
        (tmp_path / ("n" * 300), "cannot be read"),
        (Path("nul\0byte"), "cannot be read"),
    ):
        with pytest.raises(ModelFileError) as caught:
            read_header(path)
        assert words in caught.value.message


def test_a_file_without_permission_says_so(tmp_path):
    """In a child that is nobody, since root may read everything."""
    path = tmp_path / "secret.gguf"
    path.write_bytes(gguf_bytes())
    path.chmod(0)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from localllm.gguf import read_header; from localllm.errors import ModelFileError\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: read_header(Path(sys.argv[1]))\n"
        "except ModelFileError as error: print(error, '|', error.hint)"
    )
    answer = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=True, text=True)
    assert f"{path} cannot be read: permission denied | chmod u+r '{path}'\n" == answer.stdout


@pytest.mark.parametrize("suffix", ["pooling_type", None])
def test_embedding_models_are_known_by_pooling_or_architecture(read, suffix):
    architecture = {"general.architecture": "llama" if suffix else "nomic-bert"}
    pooling = {f"llama.{suffix}": 1} if suffix else {}
    assert read(gguf_bytes({**architecture, **pooling})).is_embedding_model
    assert not read(gguf_bytes()).is_embedding_model


@pytest.mark.parametrize("unpooled", [0, -1, 2**32 - 1])
def test_a_pooling_type_that_says_none_makes_no_embedding_model(read, unpooled):
    assert not read(gguf_bytes({**ARCHITECTURE, "llama.pooling_type": unpooled})).is_embedding_model


def test_sampling_defaults_come_from_the_file_under_our_names(read):
    metadata = {
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": -1,
        "general.sampling.top_p": 0.95,
        "general.sampling.min_p": 0.05,
        "general.sampling.penalty_repeat": 1.1,
        "general.sampling.penalty_last_n": 128,
        "general.sampling.xtc_probability": 0.5,
        "general.sampling.xtc_threshold": 0.2,
        "general.sampling.mirostat": 2,
        "general.sampling.mirostat_tau": 4.0,
        "general.sampling.mirostat_eta": 0.3,
    }
    expected = Options(
        temperature=0.6, top_k=0, top_p=0.95, min_p=0.05, repeat_penalty=1.1, repeat_last_n=128, xtc_probability=0.5,
        xtc_threshold=0.2, mirostat=2, mirostat_tau=4.0, mirostat_eta=0.3,
    )  # fmt: skip
    assert expected == read(gguf_bytes(metadata)).sampling
    assert Options() == read(gguf_bytes()).sampling


def test_a_sampling_default_no_sampler_can_take_is_refused(read):
    with pytest.raises(ModelFileError, match="temperature"):
        assert read(gguf_bytes({"general.sampling.temp": float("nan")})).sampling


def test_without_a_stated_file_type_the_largest_tensor_type_stands_in(read):
    assert "F32" == read(gguf_bytes(ARCHITECTURE)).file_type
    assert "unknown" == read(gguf_bytes(ARCHITECTURE, ())).file_type
    assert "Q4_K_M" == read(gguf_bytes({"general.file_type": 15 + 1024})).file_type


def test_values_of_the_wrong_type_count_as_unsaid(read):
    metadata = {"general.architecture": "llama", "llama.context_length": "many", "llama.block_count": True}
    header = read(gguf_bytes({**metadata, "general.name": 5, "llama.embedding_length": -1}))
    assert (0, 0, 0, None) == (header.context_length, header.block_count, header.embedding_length, header.name)


def test_the_tables_of_types_equal_those_of_the_gguf_package():
    """In a child, since the package loads numpy. Its Q8_1 is the size ggml gave up; no file holds that type."""
    script = "import gguf, json; print(json.dumps([{t.name: [t.value, *gguf.GGML_QUANT_SIZES[t]] for t in"
    script += " gguf.GGML_QUANT_SIZES}, {t.value: t.name for t in gguf.LlamaFileType}]))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    tensor_types, file_types = json.loads(answer.stdout)
    ours = {name: [number, elements, size] for number, (name, elements, size) in TENSOR_TYPES.items()}
    assert {"Q8_1"} == {name for name, facts in tensor_types.items() if ours.get(name) != facts}
    theirs = {int(number): name.removeprefix("MOSTLY_").removeprefix("ALL_") for number, name in file_types.items()}
    del theirs[1024]
    assert theirs == {number: name for number, name in FILE_TYPE_NAMES.items() if number in theirs}


def test_the_files_own_writer_writes_what_the_gguf_package_reads(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes({**MODEL_METADATA, "list": ["a", "b"]}))
    script = "import gguf, sys; r = gguf.GGUFReader(sys.argv[1]); print(len(r.tensors), r.fields['list'].contents())"
    answer = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, check=True, text=True)
    assert "2 ['a', 'b']\n" == answer.stdout


# Reading a header beside the barest loop over the same lengths: machines differ fivefold, their ratio hardly.
WALKED = """
import resource, sys, time
from pathlib import Path
from struct import Struct
from localllm.gguf import read_header

path, length = Path(sys.argv[1]), Struct("<Q")

def bare_walk():
    data = path.read_bytes()
    for name in (b"tokenizer.ggml.tokens", b"tokenizer.ggml.merges"):
        at = data.index(name) + len(name) + 4 + 4 + 8
        for _ in range(150_000):
            at += 8 + length.unpack_from(data, at)[0]

def least_seconds(work):
    spent = []
    for _ in range(5):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return min(spent)

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = least_seconds(lambda: read_header(path))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(seconds, least_seconds(bare_walk), peak * 1024)
"""


def test_a_vocabulary_of_150_000_tokens_is_walked_in_a_moment_and_little_memory(tmp_path):
    path = tmp_path / "model.gguf"
    words = [f"token{number}" for number in range(150_000)]
    path.write_bytes(gguf_bytes({"tokenizer.ggml.tokens": words, "tokenizer.ggml.merges": words}))
    answer = subprocess.run([sys.executable, "-c", WALKED, str(path)], capture_output=True, check=True, text=True)
    seconds, bare_seconds, peak_bytes = map(float, answer.stdout.split())
    assert seconds < 5 * bare_seconds
    assert peak_bytes < 20 * 2**20


def _read_or_refused(path: Path, data: bytes) -> Header | None:
    """The header of a file of these bytes, or None where it is refused as no model file; soon, either way.

    A collection of the garbage of all tests may fall into one reading: of three the quickest counts.
    """
    path.write_bytes(data)
    for _ in range(3):
        started = time.thread_time()
        header = _header_or_none(path)
        if time.thread_time() - started < 0.5:
            return header
    raise AssertionError("a header takes half a second to read or to refuse")


def _header_or_none(path: Path) -> Header | None:
    try:
        return read_header(path)
    except ModelFileError:
        return None


def _is_sound(header: Header, size: int) -> bool:
    """Whether what a header says can be believed of a file of `size` bytes."""
    fits = all(tensor.offset + tensor.size_bytes <= size for tensor in header.tensors)
    return fits and header.parameter_count >= 0 and isinstance(header.file_type, str)


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEED = gguf_bytes(
    {
        **MODEL_METADATA,
        "general.alignment": 64,
        "tokens": ["a"] * 70,
        "short": [1, 2],
        "f": 0.5,
        "tokenizer.chat_template": "x",
    }
)


@FUZZ
@given(data=st.binary(max_size=300))
def test_random_bytes_never_raise_anything_but_a_model_file_error(tmp_path, data):
    header = _read_or_refused(tmp_path / "fuzz.gguf", b"GGUF\x03\0\0\0" + data)
    assert header is None or _is_sound(header, 8 + len(data))


@FUZZ
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, len(SEED) - 1),
            st.sampled_from([b"\xff" * 8, bytes(8), U64(2**63), U64(2**32 - 1), b"\x09", b"\x08", b"\x01", b"\x7f"])
            | st.binary(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=4,
    ),
    cut=st.integers(0, len(SEED)) | st.just(len(SEED)),
)
def test_a_damaged_file_never_raises_anything_but_a_model_file_error(tmp_path, changes, cut):
    data = bytearray(SEED)
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    header = _read_or_refused(tmp_path / "fuzz.gguf", bytes(data[:cut]))
    assert header is None or _is_sound(header, cut)
