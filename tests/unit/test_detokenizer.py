"""Token bytes to text: whole characters only, nothing past a stop string, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.detokenizer import Detokenizer


def text_of(chunks, stop=()):
    detokenizer = Detokenizer(stop)
    text = ""
    for chunk in chunks:
        piece = detokenizer.feed(chunk)
        text += piece.text
        if piece.stop is not None:
            return text, piece.stop
    return text + detokenizer.flush().text, None


def test_a_character_split_over_tokens_comes_out_whole():
    detokenizer = Detokenizer()
    data = "🦙".encode()
    assert ["", "", "", "🦙"] == [detokenizer.feed(data[index : index + 1]).text for index in range(4)]


def test_an_unfinished_character_at_the_end_becomes_the_replacement_character():
    assert ("a\ufffd", None) == text_of([b"a", "🦙".encode()[:2]])


@pytest.mark.parametrize(
    ("chunks", "stop", "expected"),
    [
        ([b"one END two"], ["END"], ("one ", "END")),
        ([b"one E", b"N", b"D two"], ["END"], ("one ", "END")),
        ([b"one E", b"N", b"x"], ["END"], ("one ENx", None)),
        ([b"one EN"], ["END"], ("one EN", None)),
        ([b"ab", b"abc"], ["abc"], ("ab", "abc")),
        ([b"x</s", b">y"], ["</s>", "</"], ("x", "</")),
        ([b"first second"], ["second", "first"], ("", "first")),
        ([b"plain"], [""], ("plain", None)),
    ],
)
def test_stop_strings(chunks, stop, expected):
    assert expected == text_of(chunks, stop)


@given(st.text(max_size=60), st.lists(st.integers(1, 5), max_size=80), st.lists(st.text("ab", min_size=1), max_size=3))
def test_any_chunking_gives_the_same_text(text, sizes, stop):
    data = text.encode()
    chunks, start = [], 0
    for size in sizes:
        chunks.append(data[start : start + size])
        start += size
    chunks.append(data[start:])
    cuts = sorted((text.find(one) + len(one), text.find(one)) for one in stop if one in text)
    expected = text[: cuts[0][1]] if cuts else text
    assert expected == text_of(chunks, stop)[0]
