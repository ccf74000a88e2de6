"""What is pinned of the converter agrees with what else is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from localllm.errors import UnsupportedError
from localllm.store.converter import RELEASE, refuse_missing_libraries

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]


def test_the_converter_is_of_the_engines_release():
    engine = next(one for one in PROJECT["dependencies"] if one.startswith(RELEASE.project))
    version = engine.removeprefix(f"{RELEASE.project}==")
    assert f"{RELEASE.project.replace('-', '_')}-{version}.tar.gz" == RELEASE.archive
    assert f"{RELEASE.project.replace('-', '_')}-{version}/vendor/llama.cpp" == RELEASE.root


def test_the_extra_is_what_people_are_told_to_install():
    assert sorted(PROJECT["optional-dependencies"]["convert"]) == sorted(RELEASE.packages)


@pytest.mark.parametrize(
    ("name", "is_wanted"),
    [
        ("convert_hf_to_gguf.py", True),
        ("conversion/qwen3vl.py", True),
        ("gguf-py/gguf/constants.py", True),
        ("models/templates/llama-cpp-rwkv-world.jinja", True),
        ("LICENSE", True),
        ("gguf-py/gguf/scripts/gguf_dump.py", False),
        ("conversion/../../evil.py", False),
        ("models/templates/../x.jinja", False),
        ("/conversion/qwen.py", False),
        ("conversion/qwen.py\n", False),
        ("conversion/.py", False),
        ("src/llama.cpp", False),
    ],
)
def test_only_what_the_converter_is_made_of_is_unpacked(name, is_wanted):
    assert is_wanted == bool(re.compile(RELEASE.wanted, re.ASCII).fullmatch(name))


def test_libraries_that_are_there_are_not_complained_about():
    there = ("json", "importlib.util")
    with pytest.raises(UnsupportedError, match=r"not installed: no_such_library$"):
        refuse_missing_libraries(msgspec.structs.replace(RELEASE, libraries=(*there, "no_such_library")))
    assert refuse_missing_libraries(msgspec.structs.replace(RELEASE, libraries=there)) is None
