"""What ends the converter, in words for a person."""

from __future__ import annotations

import errno

import pytest

from localllm.convert.reasons import of_exception, of_exit, of_refusal
from localllm.errors import DiskFullError, ModelFileError, UnsupportedError
from localllm.failures import error_from


@pytest.mark.parametrize(
    ("failed", "kind", "message"),
    [
        (
            of_exit(1, ["first", "Model NopeForCausalLM is not supported"]),
            UnsupportedError,
            "llama.cpp's converter knows no models of the architecture NopeForCausalLM",
        ),
        (
            of_exception(RuntimeError("Architecture 'Nope' not supported!"), ""),
            UnsupportedError,
            "llama.cpp's converter knows no models of the architecture Nope",
        ),
        (
            of_exception(RuntimeError("BPE pre-tokenizer was not recognized - update it"), "base.py:1953"),
            UnsupportedError,
            "llama.cpp's converter does not recognize how the model's tokenizer splits text",
        ),
        (
            of_exception(RuntimeError("Quant method is not yet supported: 'awq'"), "base.py:580"),
            UnsupportedError,
            "llama.cpp's converter does not read these weights: Quant method is not yet supported: 'awq'",
        ),
        (
            of_exception(KeyError("num_attention_heads"), "base.py:217"),
            ModelFileError,
            "llama.cpp's converter cannot read the model: 'num_attention_heads' is missing, or not among what it knows "
            "(base.py:217)",
        ),
        (
            of_exception(OSError(errno.ENOSPC, "No space left on device"), "x.py:1"),
            DiskFullError,
            "the disk is full: the converted model does not fit",
        ),
        (
            of_exception(ImportError("No module named 'mistral_common'"), ""),
            UnsupportedError,
            "the converter misses a library: No module named 'mistral_common'",
        ),
        (of_exit(3, []), ModelFileError, "llama.cpp's converter cannot read the model: it ended with 3"),
        (
            of_refusal(["to run theirs.py", "to read a pickle"]),
            UnsupportedError,
            "the model cannot be converted without what localllm forbids there: to run theirs.py, to read a pickle",
        ),
    ],
)
def test_every_end_is_told_with_what_to_do(failed, kind, message):
    error = error_from(failed)
    assert (kind, message) == (type(error), error.message)
    assert error.hint


@pytest.mark.parametrize(
    "text", ["Not enough free space to write 33554432 bytes after offset 191248000", "8192 requested and 0 written"]
)
def test_a_full_disk_is_known_by_what_numpy_says_of_it(text):
    assert isinstance(error_from(of_exception(OSError(text), "lazy.py:226: return eager.tofile()")), DiskFullError)


def test_a_long_text_is_cut_and_lines_are_joined():
    failed = of_exception(ValueError("a\n  b" + "c" * 1000), "")
    assert failed.message.startswith("llama.cpp's converter cannot read the model: a bccc")
    assert len(failed.message) < 500
