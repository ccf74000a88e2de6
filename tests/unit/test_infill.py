"""Prompts around a gap, with one token per byte and marks below 32."""

import pytest

from localllm.engine.backend import InfillTokens
from localllm.engine.infill import InfillWriter
from localllm.generation import ContextFile

PLAIN = InfillTokens(before=1, after=2, middle=3)
WITH_FILES = InfillTokens(before=1, after=2, middle=3, repository=4, file=5)
FILES = (ContextFile("old.py", "x = 1\n"), ContextFile("new.py", "y = 2\n"))


def write(marks, *arguments, begin=()):
    prompt = InfillWriter(marks, lambda text: list(text.encode()), begin).write(*arguments)
    return bytes(prompt.tokens), prompt.dropped_tokens


def test_the_text_before_the_gap_comes_first_and_the_mark_of_the_middle_last():
    assert (b"\x01if x:\x02return\x03", 0) == write(PLAIN, "if x:", "return", None, None)


def test_what_the_vocabulary_begins_with_stands_before_everything():
    assert b"\x06\x04myproject\n\x05filename\n\x01a\x02b\x03" == write(WITH_FILES, "a", "b", (), None, begin=[6])[0]


def test_files_come_before_the_gap_each_with_its_name():
    expected = b"\x04myproject\n\x05old.py\nx = 1\n\x05new.py\ny = 2\n\x05filename\n\x01a\x02b\x03"
    assert (expected, 0) == write(WITH_FILES, "a", "b", FILES, None)


def test_a_model_without_marks_for_files_gets_them_as_text():
    expected = b"\n\n--- old.py ---\n\nx = 1\n\n\n--- new.py ---\n\ny = 2\n\x01a\x02b\x03"
    assert expected == write(PLAIN, "a", "b", FILES, None)[0]


def test_whole_files_go_the_oldest_first_where_the_room_does_not_suffice():
    one_file = b"\x04myproject\n\x05new.py\ny = 2\n\x05filename\n\x01a\x02b\x03"
    assert (one_file, len("\x05old.py\nx = 1\n")) == write(WITH_FILES, "a", "b", FILES, len(one_file))
    assert (b"\x04myproject\n\x05filename\n\x01a\x02b\x03", 28) == write(WITH_FILES, "a", "b", FILES, len(one_file) - 1)


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ("aaaaaaaaaaaa", "bbbbbbbb", b"\x01aaaaaa\x02bb\x03"),  # a quarter of eight is the suffix's
        ("aa", "bbbbbbbbbbb", b"\x01aa\x02bbbbbb\x03"),  # which gets what the prefix leaves
        ("aaaaaaaaaaa", "b", b"\x01aaaaaaa\x02b\x03"),
        ("aaa", "bbb", b"\x01aaa\x02bbb\x03"),
    ],
)
def test_the_text_nearest_to_the_gap_stays(prefix, suffix, expected):
    dropped = len(prefix) + len(suffix) - (len(expected) - 3)
    assert (expected, dropped) == write(PLAIN, prefix, suffix, None, 11)


def test_where_there_is_no_room_at_all_the_marks_are_left():
    assert (b"\x01\x02\x03", 4) == write(PLAIN, "aa", "bb", None, 1)
