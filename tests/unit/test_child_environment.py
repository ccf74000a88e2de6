"""What the daemon's children are given: its environment, and how the C library is to take memory."""

from __future__ import annotations

import pytest

from localllm.runner.child import child_environment


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": ""}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}, "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
)
def test_a_child_asks_for_huge_pages_unless_the_user_has_said_something(said, expected):
    given = child_environment({"PATH": "/bin", **said})
    assert (expected, "/bin") == (given["GLIBC_TUNABLES"], given["PATH"])
