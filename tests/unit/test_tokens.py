"""Token arrays and how far two agree, against plain Python lists."""

import itertools

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from localllm.engine.tokens import TokenArray, common_prefix

few_tokens = st.lists(st.integers(0, 2), max_size=12)
appends = st.tuples(st.just("append"), st.integers(0, 2**31 - 1), st.integers(1, 400))
cuts = st.tuples(st.just("cut"), st.floats(0, 1), st.floats(0, 1))


def array(tokens):
    return np.array(tokens, dtype=np.int32)


def plain_common_prefix(one, other):
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


@given(st.lists(st.integers(0, 2**31 - 1), max_size=300), st.lists(st.one_of(appends, cuts), max_size=12))
def test_an_array_does_what_a_list_does(tokens, changes):
    grown, plain = TokenArray(tokens), list(tokens)
    for what, first, second in changes:
        if what == "append":
            for token in range(second):
                grown.append(first - token % 2 if first else token)
                plain.append(first - token % 2 if first else token)
        else:
            start, stop = sorted(round(part * len(plain)) for part in (first, second))
            grown.cut(start, stop)
            del plain[start:stop]
        assert plain == grown.view().tolist()
        assert len(plain) == len(grown)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20), st.data())
def test_a_view_is_a_slice_within_the_array(tokens, data):
    start = data.draw(st.integers(0, len(tokens)))
    stop = data.draw(st.integers(start, len(tokens) + 300))
    assert tokens[start:stop] == TokenArray(tokens).view(start, stop).tolist()
    assert tokens[start:] == TokenArray(tokens).view(start).tolist()


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20), st.data())
def test_an_index_is_that_of_a_list_and_gives_a_plain_int(tokens, data):
    index = data.draw(st.integers(-len(tokens), len(tokens) - 1))
    assert (tokens[index], int) == (TokenArray(tokens)[index], type(TokenArray(tokens)[index]))


def test_a_view_is_not_a_copy():
    tokens = TokenArray([1, 2, 3])
    assert np.shares_memory(tokens.view(), tokens.view(1, 2))


@given(few_tokens, few_tokens)
@example([1, 2, 3], [1, 2, 3])
@example([1, 2, 3], [1, 2])
@example([], [1])
def test_the_common_prefix_is_counted_as_plain_python_would(one, other):
    assert plain_common_prefix(one, other) == common_prefix(array(one), array(other))


@given(st.sampled_from([0, 1, 4095, 4096, 4097, 8191, 8192, 9999, 10_000]))
def test_the_common_prefix_of_long_arrays_ends_at_their_first_difference(at):
    one, other = np.zeros(10_000, dtype=np.int32), np.zeros(10_000, dtype=np.int32)
    other[at:] = 1
    assert at == common_prefix(one, other)
