"""What of a repository is chosen, and how an amount of bytes is read and written."""

from __future__ import annotations

import dataclasses

import pytest

from localllm.errors import NotOnHubError
from localllm.sizes import parse_size, size_text
from localllm.store.quants import QUANTS, read_path
from localllm.store.repository import HubFile, Repository, choose, variants_of


def repository(*names: str) -> Repository:
    """Files of 1 GB, 2 GB …"""
    files = tuple(HubFile(name, number * 10**9, "ab" * 32) for number, name in enumerate(names, 1))
    return Repository("owner/repo", "c" * 40, files)


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["M-Q8_0.gguf", "M-Q4_K_M.gguf"], "", ["M-Q4_K_M.gguf"]),
        (["qwen2.5-instruct-q8_0.gguf", "qwen2.5-instruct-q4_k_m.gguf"], "q8_0", ["qwen2.5-instruct-q8_0.gguf"]),
        (["M-F16.gguf", "M-Q5_K_M.gguf", "M-Q4_K_S.gguf"], "", ["M-Q4_K_S.gguf"]),
        (["M-Q2_K.gguf", "M-Q8_0.gguf"], "", ["M-Q8_0.gguf"]),
        (["gpt-oss-20b-mxfp4.gguf"], "", ["gpt-oss-20b-mxfp4.gguf"]),
        (["M-UD-Q4_K_XL.gguf", "M-Q5_0.gguf"], "Q4_K_XL", ["M-UD-Q4_K_XL.gguf"]),
        (["model.gguf"], "", ["model.gguf"]),
        (["M.Q6_K.gguf", "M.IQ3_XXS.gguf"], "iq3_xxs", ["M.IQ3_XXS.gguf"]),
        (["M-Q4_K_M.gguf", "M-Q8_0.gguf"], "m-q8_0.GGUF", ["M-Q8_0.gguf"]),
        (["mmproj-Q4_K_M.gguf", "M-imatrix.gguf", "M-BF16.gguf"], "", ["M-BF16.gguf"]),
        (["old/M-Q4_K_M.gguf", "M-Q4_K_M.gguf"], "", ["M-Q4_K_M.gguf"]),
        (
            ["Q8_0/M-Q8_0-00002-of-00002.gguf", "Q8_0/M-Q8_0-00001-of-00002.gguf", "M-Q4_K_M.gguf"],
            "Q8_0",
            ["Q8_0/M-Q8_0-00001-of-00002.gguf", "Q8_0/M-Q8_0-00002-of-00002.gguf"],
        ),
        (["M-Q4_K_M-00001-of-00003.gguf", "M-Q8_0.gguf"], "", ["M-Q8_0.gguf"]),
        (["a-q4_k_m.gguf", "b-q4_k_m.gguf"], "b-q4_k_m", ["b-q4_k_m.gguf"]),
        (["M.imatrix.gguf", "M.imatrix.Q4_K_M.gguf", "imatrix_unsloth.gguf"], "", ["M.imatrix.Q4_K_M.gguf"]),
        (["M-MTP-Q4_K_M.gguf", "M-draft-Q4_K_M.gguf", "M-long-name-Q8_0.gguf"], "", ["M-long-name-Q8_0.gguf"]),
        (["MTP/M-Q4_K_M.gguf", "M-Q4_K_M.gguf", "M-Q8_0.gguf"], "Q8_0", ["M-Q8_0.gguf"]),
        (["M-assistant-Q8_0.gguf", "M-assistant-Q4_K_M.gguf"], "", ["M-assistant-Q4_K_M.gguf"]),
        (["My Model (v2) Q4_K_M.gguf", "My+Model+Q8_0.gguf", "模型-Q6_K.gguf"], "", ["My Model (v2) Q4_K_M.gguf"]),
        (["My Model (v2) Q4_K_M.gguf", "My+Model+Q8_0.gguf"], "my-model-q8_0.gguf", ["My+Model+Q8_0.gguf"]),
        (["M-q4km.gguf", "M-Q8_0.gguf"], "", ["M-q4km.gguf"]),
        (["M-Q4-K-M.gguf", "M-Q8_0.gguf"], "q4_k_m", ["M-Q4-K-M.gguf"]),
        (["M-Q4_K_M_imat.gguf", "M-Q8_0.gguf"], "", ["M-Q4_K_M_imat.gguf"]),
        (["M.i1-Q4_K_S.gguf", "M.i1-Q5_K_M.gguf", "imatrix.dat"], "i1-Q5_K_M", ["M.i1-Q5_K_M.gguf"]),
        (["M-fp16.gguf", "M-q4.gguf"], "F16", ["M-fp16.gguf"]),
        (["M-F16.gguf", "M-q4.gguf"], "fp16", ["M-F16.gguf"]),
        (["M-4bit.gguf", "M-8bit.gguf"], "8bit", ["M-8bit.gguf"]),
        (["M-Q4_K_M.GGUF", "M-Q8_0.Gguf"], "q8_0", ["M-Q8_0.Gguf"]),
        (["M-UD-TQ1_0.gguf", "M-Q4_K_M.gguf"], "tq1_0", ["M-UD-TQ1_0.gguf"]),
        (["M-Q5_K_S.gguf", "M-Q5_K_M.gguf", "M-Q4_K_M.gguf"], "q5", ["M-Q5_K_M.gguf"]),
        (["a-7b-q4_0.gguf", "b-13b-q4_0.gguf", "b-13b-q8_0.gguf"], "b-13b", ["b-13b-q4_0.gguf"]),
        (["7B/m-q4_0.gguf", "13B/m-q4_0.gguf"], "7B-m-q4_0.gguf", ["7B/m-q4_0.gguf"]),
        (
            ["Q8_0/M-Q8_0-00001-of-00002.gguf", "Q8_0/M-Q8_0-00002-of-00002.gguf", "M-Q4_K_M.gguf"],
            "M-Q8_0.gguf",
            ["Q8_0/M-Q8_0-00001-of-00002.gguf", "Q8_0/M-Q8_0-00002-of-00002.gguf"],
        ),
    ],
)  # fmt: skip
def test_the_quant_asked_for_or_the_usual_or_the_nearest_is_chosen_with_all_its_parts(names, wanted, chosen):
    assert chosen == [file.path for file in choose(repository(*names), wanted).variant.files]


def test_another_choice_than_the_usual_is_said_aloud_with_the_alternatives_and_what_is_left_out():
    said = choose(repository("M-Q8_0.gguf", "M-Q4_0.gguf", "mmproj-F16.gguf"), "").remarks
    assert (
        "owner/repo has no Q4_K_M: taking Q4_0 (2 GB); there is also Q8_0 (1 GB)",
        "with its projector mmproj-F16.gguf (3 GB), which is kept: this version reads no images yet",
    ) == said
    assert () == choose(repository("M-Q4_K_M.gguf", "M-Q8_0.gguf"), "").remarks


@pytest.mark.parametrize(
    ("names", "wanted", "said"),
    [
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "", "taking a-Q4_K_M.gguf (1 GB); there is also b-Q4_K_M.gguf (2 GB)"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "q8_0", "taking a-Q8_0.gguf (1 GB); there is also b-Q8_0.gguf (2 GB)"),
        (
            ["7B/m-q4_0.gguf", "13B/m-q4_0.gguf"],
            "m-q4_0.gguf",
            "taking 7B-m-q4_0.gguf (1 GB); there is also 13B-m-q4_0.gguf (2 GB)",
        ),
        (
            ["M-Q5_K_S.gguf", "M-Q5_K_M.gguf", "M-Q8_0.gguf"],
            "Q5",
            "owner/repo has no Q5: taking Q5_K_M (2 GB); there is also Q5_K_S (1 GB)",
        ),
        (["a-q8_0.gguf", "b-q4_0.gguf", "b-q8_0.gguf"], "b", "taking Q4_0 (2 GB); there is also b-q8_0.gguf (3 GB)"),
    ],
)
def test_a_choice_among_several_is_said_aloud_by_names_that_can_be_asked_for(names, wanted, said):
    assert said == choose(repository(*names), wanted).remarks[0]


def test_what_a_choice_is_called_asks_for_that_choice():
    names = [
        "x/M 1.Q4_0.gguf",
        "y/M 1.Q4_0.gguf",
        "M-2.Q4_0.gguf",
        "模-Q8_0.gguf",
        "y/N-Q8_0.gguf",
        "M-2.f16.gguf",
        "z.gguf",
    ]
    there = repository(*names)
    variants = variants_of(there.files)
    assert len(names) == len({variant.label for variant in variants})
    assert variants == tuple(choose(there, variant.label).variant for variant in variants)


def test_a_file_in_pieces_is_told_and_never_passed_over_in_silence():
    pieces = [f"M.Q4_K_M.gguf.part{n}of2" for n in (1, 2)]
    there = repository("M.Q2_K.gguf", *pieces, "M.Q8_0.gguf-split-a", "M.Q8_0.gguf-split-b")
    assert "left aside, since it comes in pieces that have to be joined: Q4_K_M, Q8_0" == choose(there, "").remarks[1]
    for wanted in ("q4_k_m", "M.Q4_K_M.gguf"):
        with pytest.raises(NotOnHubError, match=rf"{wanted} of owner/repo comes in 2 pieces .* M.Q4_K_M.gguf.part1of2"):
            choose(there, wanted)
    with pytest.raises(NotOnHubError, match="has its models in pieces"):
        choose(repository(*pieces), "")


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ("mmproj-F16.gguf", "mmproj-F16.gguf of owner/repo is a projector: it comes along with its model"),
        ("x-M-lora.gguf", "x/M-lora.gguf of owner/repo is no model"),
        ("M.imatrix.gguf", "M.imatrix.gguf of owner/repo is no model"),
        ("instruct", "owner/repo has no instruct"),
        ("F16", "owner/repo has no F16"),
    ],
)
def test_a_file_that_is_there_is_not_said_to_be_missing_and_no_word_that_all_share_chooses(wanted, error):
    names = ("M-instruct-Q4_K_M.gguf", "M-instruct-BF16.gguf", "mmproj-F16.gguf", "x/M-lora.gguf", "M.imatrix.gguf")
    with pytest.raises(NotOnHubError) as caught:
        choose(repository(*names), wanted)
    assert error == caught.value.message


@pytest.mark.parametrize(
    ("names", "wanted", "projector"),
    [
        (["M-Q4_K_M.gguf", "mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "", "mmproj-F16.gguf"),
        (["M-Q4_K_M.gguf", "mmproj-model-f32.gguf", "mmproj-model-bf16.gguf"], "", "mmproj-model-bf16.gguf"),
        (["M-Q4_K_M.gguf", "mmproj-Q8_0.gguf", "mmproj-F32.gguf"], "", "mmproj-F32.gguf"),
        (["M-Q4_K_M.gguf", "M.mmproj-Q8_0.gguf"], "", "M.mmproj-Q8_0.gguf"),
        (
            ["a-4b-Q4_K_M.gguf", "b-9b-Q4_K_M.gguf", "mmproj-a-4b-F16.gguf", "mmproj-b-9b-F32.gguf"],
            "b-9b-q4_k_m",
            "mmproj-b-9b-F32.gguf",
        ),
        (["x/M-Q4_K_M.gguf", "mmproj-F16.gguf", "x/mmproj-BF16.gguf"], "", "x/mmproj-BF16.gguf"),
        (["M-Q4_K_M-00001-of-00001.gguf", "M-mmproj-F16.gguf"], "", "M-mmproj-F16.gguf"),
        (["M-Q4_K_M.gguf", "mmproj.safetensors"], "", None),
        (["a-7b.Q4_K_M.gguf", "b-13b.Q4_K_M.gguf", "mmproj-b-13b-f16.gguf"], "", None),
        (["a-7b.Q4_K_M.gguf", "b-13b.Q4_K_M.gguf", "mmproj-b-13b-f16.gguf"], "b-13b", "mmproj-b-13b-f16.gguf"),
        (["g-Q4_K_M.gguf", "g-it-Q4_K_M.gguf", "g-it-mmproj-f16.gguf"], "g-Q4_K_M.gguf", None),
        (["g-Q4_K_M.gguf", "g-it-Q4_K_M.gguf", "g-it-mmproj-f16.gguf"], "g-it", "g-it-mmproj-f16.gguf"),
        (["a-7b.Q4_K_M.gguf", "b-13b.Q4_K_M.gguf", "mmproj-model-f16.gguf"], "", "mmproj-model-f16.gguf"),
    ],
)  # fmt: skip
def test_the_projector_of_the_model_comes_along_in_the_usual_precision(names, wanted, projector):
    choice = choose(repository(*names), wanted)
    assert projector == (choice.projector and choice.projector.path)
    assert [*choice.variant.files, *([choice.projector] if projector else [])] == list(choice.files)


@pytest.mark.parametrize(
    ("names", "wanted", "error", "hint"),
    [
        (["M-Q4_0.gguf"], "Q9", "owner/repo has no Q9", "it has Q4_0 (1 GB)"),
        (["README.md", "mmproj.gguf"], "", "owner/repo has no GGUF model", "GGUF"),
        (
            ["M-Q4_0-00001-of-00002.gguf"],
            "",
            "owner/repo has 1 of the 2 parts of Q4_0",
            "there is none in this repository",
        ),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(names, wanted, error, hint):
    with pytest.raises(NotOnHubError) as caught:
        choose(repository(*names), wanted)
    assert error == caught.value.message
    assert hint in caught.value.hint


def test_offline_what_is_missing_is_missing_from_the_cache_and_may_be_on_the_hub():
    files = tuple(HubFile(name, 10**9, "ab" * 32) for name in ("M-Q8_0.gguf", "M-Q5_0-00001-of-00002.gguf"))
    offline = Repository("owner/repo", "c" * 40, files, is_offline=True)
    assert "of owner/repo the cache has no Q4_K_M: taking Q8_0 (1 GB)" in choose(offline, "").remarks[0]
    with pytest.raises(NotOnHubError, match=r"^of owner/repo the cache has no Q6_K$") as caught:
        choose(offline, "Q6_K")
    assert (caught.value.hint or "").startswith("it has Q8_0 (1 GB), Q5_0 (1 GB, 1 of 2 parts); unset HF_HUB_OFFLINE")
    for wanted, repo in (("Q5_0", offline), ("", dataclasses.replace(offline, files=()))):
        with pytest.raises(NotOnHubError) as caught:
            choose(repo, wanted)
        assert (caught.value.hint or "").startswith("unset HF_HUB_OFFLINE")


def test_every_quant_has_one_place_in_the_order_and_is_read_from_a_file_name():
    assert len(QUANTS) == len(set(QUANTS))
    assert list(QUANTS) == [variants_of((HubFile(f"Model-7B-{quant}.gguf", 1, "0" * 40),))[0].quant for quant in QUANTS]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("5M", 5_000_000), ("500 kB", 500_000), ("1.5GB", 1_500_000_000), ("2MiB", 2**21), ("5M/s", 5_000_000), ("7", 7)],
)
def test_amounts_of_bytes_are_read_as_people_write_them(text, size_bytes):
    assert size_bytes == parse_size(text)


@pytest.mark.parametrize("text", ["", "fast", "-5M", "5X", "5i", "1e9", "M"])
def test_other_text_is_no_amount_of_bytes(text):
    with pytest.raises(ValueError):
        parse_size(text)


def test_sizes_are_written_in_decimal_units():
    assert ["999 B", "4.7 GB", "12 MB", "1 KB"] == [size_text(size) for size in (999, 4_683_087_332, 12_000_000, 1000)]


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("M-UD-Q4_K_XL.gguf", "M-UD-Q4_K_M.gguf", "M-Q8_0.gguf"), "M-UD-Q4_K_M.gguf"),
        (("M-Q2_K.gguf", "M-UD-IQ3_XXS.gguf", "M-UD-IQ1_S.gguf"), "M-UD-IQ3_XXS.gguf"),
    ],
)
def test_a_dynamic_quant_without_a_place_of_its_own_ranks_as_the_plain_one(names: tuple[str, ...], taken: str):
    assert taken == choose(repository(*names), "").variant.files[0].path


def test_a_quant_that_only_the_folder_names_is_read_from_it():
    parts = [f"{quant}/model-0000{part}-of-00002.gguf" for quant in ("BF16", "Q4_K_M", "Q8_0") for part in (1, 2)]
    there = repository(*parts)
    assert ("Q4_K_M", 2) == (choose(there, "").variant.quant, len(choose(there, "").files))
    assert "Q8_0/model-00001-of-00002.gguf" == choose(there, "q8_0").variant.files[0].path


@pytest.mark.parametrize(
    ("path", "model", "quant"),
    [
        ("M-UD_Q4_K_XL.gguf", "M", "UD-Q4_K_XL"),
        ("M-IQ4_KSS.gguf", "M", "IQ4_KSS"),
        ("M-IQ4_KS.gguf", "M", "IQ4_KS"),
        ("M-IQ2_KT_R4.gguf", "M", "IQ2_KT_R4"),
        ("M-Q4_0_4_8.gguf", "M", "Q4_0_4_8"),
        ("M Q6_K (v2).gguf", "M", "Q6_K"),
        ("M-Q4_K_Medium.gguf", "M", "Q4_K"),
        ("M-Q8-2.gguf", "M", "Q8"),
        ("Straße-Q3KL.gguf", "Straße", "Q3_K_L"),
        ("M-fp32.gguf", "M", "F32"),
        ("x/BF16/M-00001-of-00002.gguf", "M", "BF16"),
        ("M-x-Q8_0-Q4_K_M.gguf", "M-x-Q8_0", "Q4_K_M"),
        ("mxfp4_moe.gguf", "", "MXFP4_MOE"),
        ("Qwen3-4B.gguf", "Qwen3-4B", ""),
        ("M-Q4" + 200 * "KSS" + "Z.gguf", "M-Q4" + 200 * "KSS" + "Z", ""),
        ("M-Q4" + 200 * "_K_S" + "Z.gguf", "M", "Q4" + 199 * "_K_S" + "_K"),
    ],
)
def test_a_file_name_is_read_as_publishers_write_it_and_hostile_ones_in_a_moment(path, model, quant):
    assert (model, quant) == (read_path(path).model, read_path(path).quant)
