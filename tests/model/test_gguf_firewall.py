"""No file that may get a name makes llama.cpp die: broken files by the hundred, loaded in children that may.

The whole campaign runs with `scripts/test --all` or `pytest -m fuzz`; `scripts/fuzz_gguf` is the same from a shell.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import gguf_bytes
from gguf_fuzz.campaign import Campaign, Loader, accept
from gguf_fuzz.seeds import SEEDS, write_seeds

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
FEW = ("llama-spm", "qwen2-q8_0", "mamba", "bert")


@pytest.fixture(scope="module")
def few_seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_seeds(tmp_path_factory.mktemp("seeds"), FEW)


def test_the_seeds_are_accepted_and_llama_cpp_computes_with_them(few_seeds: list[Path]) -> None:
    with Loader() as loader:
        for path in (*few_seeds, GUIDE):
            accept([path])
            assert loader.load(path)["said"] in ("decoded", "embedded")


def test_a_child_that_dies_is_reported_with_its_signal_and_the_next_file_gets_a_new_one(
    few_seeds: list[Path], tmp_path: Path
) -> None:
    """The campaign is worth nothing if it cannot see a death: here is one that our reader keeps from llama.cpp."""
    harmful = tmp_path / "harmful.gguf"
    harmful.write_bytes(
        gguf_bytes({"general.architecture": "llama", "llama.context_length": 8, "llama.embedding_length": 8,
                    "llama.block_count": 0}, ())
    )  # fmt: skip
    with Loader() as loader:
        assert str(loader.load(harmful)["died"]).startswith("SIGABRT llama-model.cpp:")
        assert "decoded" == loader.load(few_seeds[0])["said"]


def test_a_few_hundred_broken_files_harm_nobody(few_seeds: list[Path], tmp_path: Path) -> None:
    report = Campaign([*few_seeds, GUIDE], tmp_path).run(range(300))
    assert [] == report.harm, report.summary()
    assert 300 == report.files == report.refused + report.accepted
    assert report.accepted == sum(report.answers.values())
    assert min(report.refused, report.answers["decode: decoded"], report.answers["load: refused"]) > 20


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_twelve_thousand_broken_files_of_every_kind_of_model_harm_nobody(tmp_path: Path) -> None:
    seeds = write_seeds(tmp_path / "seeds")
    assert len(SEEDS) == len(seeds)
    report = Campaign([*seeds, GUIDE], tmp_path).run(range(12_000))
    assert [] == report.harm, report.summary()
    assert min(report.refused, report.answers["decode: decoded"], report.answers["load: refused"]) > 2000
