"""llama.cpp's samplers as the engine builds them: a shortlist chooses as the whole chain does, each filter acts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODEL = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHILD = Path(__file__).with_name("sampling_child.py")
BROKEN = "the model computed non-finite logits; the file may be damaged"


@pytest.fixture(scope="module")
def chosen() -> dict[str, Any]:
    """All choices of one child process, by name."""
    done = subprocess.run([sys.executable, str(CHILD), str(MODEL)], capture_output=True, timeout=90, check=False)
    assert 0 == done.returncode, done.stderr[-2000:].decode(errors="replace")
    choices: dict[str, Any] = json.loads(done.stdout)
    return choices


@pytest.mark.parametrize(
    "parameters",
    ["defaults", "few", "many", "bias", "penalties", "bias and penalties", "every filter", "few allowed"],
)
def test_a_shortlist_chooses_what_the_whole_chain_chooses(parameters: str, chosen: dict[str, Any]) -> None:
    assert "ShortlistSampler" == chosen[parameters]["kind"]
    assert chosen[parameters]["whole"] == chosen[parameters]["shortlisted"]


@pytest.mark.parametrize("parameters", ["greedy bias", "greedy penalties", "greedy of one"])
def test_the_likeliest_after_biases_and_penalties_is_what_the_whole_chain_chooses(
    parameters: str, chosen: dict[str, Any]
) -> None:
    assert "GreedySampler" == chosen[parameters]["kind"]
    assert chosen[parameters]["whole"] == chosen[parameters]["shortlisted"]
    assert len(set(chosen[parameters]["whole"])) > 1


def test_the_rows_do_not_all_give_one_choice(chosen: dict[str, Any]) -> None:
    assert len(set(chosen["defaults"]["whole"])) > 10


@pytest.mark.parametrize("value", ["nan", "infinity"])
def test_a_row_that_is_not_finite_is_an_error(value: str, chosen: dict[str, Any]) -> None:
    assert BROKEN == chosen[value]


def test_dry_keeps_a_repetition_from_going_on(chosen: dict[str, Any]) -> None:
    assert chosen["ranked"][1:2] == chosen["dry"]


def test_a_breaker_ends_what_dry_sees_of_the_past(chosen: dict[str, Any]) -> None:
    assert chosen["ranked"][:1] == chosen["dry with a breaker"]


def test_dry_over_no_tokens_is_off(chosen: dict[str, Any]) -> None:
    assert chosen["ranked"][:1] == chosen["dry over no tokens"]


def test_xtc_leaves_only_the_least_likely_of_the_likely(chosen: dict[str, Any]) -> None:
    assert {chosen["ranked"][2]} == set(chosen["xtc"])


def test_a_narrow_sigma_leaves_only_the_likeliest(chosen: dict[str, Any]) -> None:
    assert {chosen["ranked"][0]} == set(chosen["narrow sigma"])


def test_mirostat_without_surprise_takes_the_likeliest(chosen: dict[str, Any]) -> None:
    assert chosen["ranked"][:1] == chosen["mirostat 2 without surprise"]


@pytest.mark.parametrize("version", ["mirostat 1", "mirostat 2"])
def test_mirostat_repeats_itself_with_a_seed_and_not_without(version: str, chosen: dict[str, Any]) -> None:
    first, same, other = chosen[version]
    assert first == same
    assert first != other
