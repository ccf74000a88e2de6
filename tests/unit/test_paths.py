"""Texts for clients: a file's name stays, its folders go; URLs, names of models and routes stay whole."""

from __future__ import annotations

import pytest

from localllm.errors import DiskFullError, InvalidNameError, LoadError
from localllm.failures import failed_from
from localllm.paths import without_folders


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jo/models/x.gguf is empty", "x.gguf is empty"),
        ("cannot copy /a/b.bin to /c/d.bin", "cannot copy b.bin to d.bin"),
        ("the manifest '/home/jo/My Models/x y/latest.json' is damaged", "the manifest 'latest.json' is damaged"),
        ("~/models/x.gguf is gone", "x.gguf is gone"),
        ("error (/opt/lib/libggml.so:12): no such file", "error (libggml.so:12): no such file"),
        ("C:\\Users\\Jo\\models\\x.gguf is empty", "x.gguf is empty"),
        ("see https://huggingface.co/owner/repo/tree/main", "see https://huggingface.co/owner/repo/tree/main"),
        ("hf.co/owner/repo:Q4_K_M has 2 files", "hf.co/owner/repo:Q4_K_M has 2 files"),
        ("send it to /api/blobs/DIGEST or /v1/messages", "send it to /api/blobs/DIGEST or /v1/messages"),
        ("3/4 parts, 10 kB/s, and/or", "3/4 parts, 10 kB/s, and/or"),
    ],
)
def test_paths_are_cut_to_their_last_part_and_nothing_else_is(text, expected):
    assert expected == without_folders(text)


def test_what_is_said_of_an_error_names_no_folder_but_repeats_what_the_client_wrote():
    failed = failed_from(LoadError("/home/jo/x.gguf is cut", hint="see /var/log/x/y.log"))
    assert ("x.gguf is cut", "see y.log") == (failed.message, failed.hint)
    assert "the disk with blobs has 3 GB" == failed_from(DiskFullError("the disk with /data/blobs has 3 GB")).message
    assert "'/etc/passwd' is no name" == failed_from(InvalidNameError("'/etc/passwd' is no name")).message
