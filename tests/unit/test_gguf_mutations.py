"""What breaks files: one number makes one file, an unchanged document is the file it came from, and nothing is idle."""

from __future__ import annotations

from collections import Counter
from random import Random

from gguf_files import MODEL_METADATA, Tensor, gguf_bytes
from gguf_fuzz.campaign import Campaign
from gguf_fuzz.document import parse, render
from gguf_fuzz.mutations import CHANGES, RAW, mutated
from gguf_fuzz.seeds import split
from gguf_fuzz.vocabularies import bpe

from localllm.gguf import read_header

NAMES = ["token_embd.weight", "output_norm.weight", *(f"blk.0.{name}.weight" for name in ("a", "b", "c", "d"))]
SEED = gguf_bytes(
    {**MODEL_METADATA, "f": 0.5, "flag": True, **bpe("qwen2")},
    [Tensor(name, (256,) if "norm" in name else (256, 4), "F32" if "norm" in name else "Q4_K") for name in NAMES],
)


def test_a_document_that_nobody_changed_is_the_file_it_came_from():
    assert SEED == render(parse(SEED))


def test_the_two_parts_of_a_split_model_hold_all_its_tensors(tmp_path):
    names = []
    for number, part in enumerate(split(parse(SEED))):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(render(part))
        header = read_header(path)
        assert (number, 2) == (header.integer("split.no"), header.integer("split.count"))
        names += [tensor.name for tensor in header.tensors]
    assert names == NAMES


def test_one_number_always_makes_the_same_file_and_another_number_another():
    def made(number: int) -> tuple[bytes, str]:
        return mutated(parse(SEED), SEED, Random(number))

    assert made(5) == made(5)
    assert 90 < len({made(number)[0] for number in range(100)})


def test_every_kind_of_change_happens_and_hardly_any_leaves_the_file_as_it_was():
    document = parse(SEED)
    done = [mutated(document, SEED, Random(number)) for number in range(800)]
    kinds = Counter(part.partition("(")[0] for _, said in done for part in said.split(" + "))
    assert {kind.__name__ for kind in (*CHANGES, *RAW)} <= set(kinds)
    assert 0.05 > sum(data == SEED for data, _ in done) / 800


def test_five_hundred_broken_headers_raise_nothing_but_our_error_and_take_no_time(tmp_path):
    seed = tmp_path / "seed.gguf"
    seed.write_bytes(SEED)
    campaign = Campaign([seed], tmp_path / "work", loads=False)
    campaign.folder.mkdir()
    found = campaign.run(range(500))
    assert [] == found.harm, found.summary()
    assert min(found.refused, found.accepted) > 100
