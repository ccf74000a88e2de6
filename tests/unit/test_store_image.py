"""What a manifest of Ollama's registry says of a model, layer by layer."""

from __future__ import annotations

import json

import pytest

from localllm.errors import HubError, NotOnHubError
from localllm.generation import Message, Options
from localllm.pulling import PulledSettings
from localllm.store.image import Image, image_of, license_name, settings_of

PREFIX = "application/vnd.ollama.image."


def image(*layers: tuple[str, int], prefix: str = PREFIX) -> Image:
    """An image whose n-th layer has the digest nnn…"""
    described = [
        {"mediaType": f"{prefix}{kind}", "digest": f"sha256:{number:064x}", "size": size}
        for number, (kind, size) in enumerate(layers, 1)
    ]
    return image_of("library/tiny", "3b", "c" * 64, json.dumps({"schemaVersion": 2, "layers": described}).encode())


def test_the_model_its_projector_and_its_texts_are_told_apart():
    found = image(("license", 5), ("model", 100), ("template", 7), ("projector", 50), ("params", 9))
    assert [("tiny:3b", 100, f"{2:064x}")] == [(file.name, file.size_bytes, file.oid) for file in found.files]
    assert ("tiny:3b projector", 50) == (found.projector.name, found.projector.size_bytes)
    assert ["license", "template", "params"] == [text.kind for text in found.texts]
    assert "library/tiny" == found.repository.id


def test_a_model_in_parts_has_them_in_order_with_names_that_tell_them_apart():
    assert [("tiny:3b 1 of 2", 10), ("tiny:3b 2 of 2", 20)] == [
        (file.name, file.size_bytes) for file in image(("model", 10), ("model", 20)).files
    ]


def test_what_is_left_out_is_said():
    assert ("left out: a layer that this version does not know ('draft')",) == image(("model", 1), ("draft", 2)).remarks
    assert ("with its projector, which is kept: this version reads no images yet",) == (
        image(("model", 1), ("projector", 2)).remarks
    )


def test_of_several_projectors_the_first_is_kept_and_the_others_are_said_to_be_left_out():
    found = image(("model", 1), ("projector", 2), ("projector", 3))
    assert ("tiny:3b projector 1 of 2", 2) == (found.projector.name, found.projector.size_bytes)
    assert "left out: tiny:3b projector 2 of 2" == found.remarks[-1]


def test_adapters_are_files_of_the_model_in_their_order():
    found = image(("model", 1), ("adapter", 2), ("adapter", 3))
    names = [("tiny:3b adapter 1 of 2", 2), ("tiny:3b adapter 2 of 2", 3)]
    assert names == [(file.name, file.size_bytes) for file in found.adapters]
    assert (("tiny:3b",), ()) == (tuple(file.name for file in found.files), found.remarks)


def test_an_empty_text_is_a_text():
    assert [("system", 0)] == [(text.kind, text.file.size_bytes) for text in image(("model", 1), ("system", 0)).texts]


@pytest.mark.parametrize(
    ("layers", "error", "words"),
    [
        ([("tensor", 1), ("json", 1)], NotOnHubError, "is not a GGUF model"),
        ([("license", 1)], NotOnHubError, "holds no model"),
        ([], NotOnHubError, "holds no model"),
        ([("adapter", 1)], NotOnHubError, "is an adapter alone"),
        ([("model", 0)], HubError, "has a layer that cannot be"),
        ([("model", -1)], HubError, "has a layer that cannot be"),
        ([("model", 2**60)], HubError, "has a layer that cannot be"),
        ([("model", 1), ("system", 2**19), ("template", 2**19 + 1)], HubError, "have 1048577 bytes together"),
        ([("model", 1)] * 1001, HubError, "has 1001 layers, and 1000 is the limit"),
    ],
)
def test_what_makes_no_model_is_refused_with_the_reason(layers, error, words):
    with pytest.raises(error, match=words):
        image(*layers)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"layers": 5}', b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises((HubError, NotOnHubError)):
        image_of("library/tiny", "3b", "c" * 64, data)


def test_the_texts_become_settings_the_last_of_a_kind_counts_and_licences_add_up():
    texts = [
        ("prompt", b"old"),
        ("template", b"{{ .Prompt }}"),
        ("system", "Sei höflich.".encode()),
        ("license", b"MIT"),
        ("license", b"BSD"),
        ("params", b'{"temperature": 0.5, "stop": ["a", "b"], "unheard_of": 1}'),
        ("messages", b'[{"role": "user", "content": "hi"}]'),
    ]
    settings, remarks = settings_of(texts)
    assert settings == PulledSettings(
        options=Options(temperature=0.5, stop=("a", "b")),
        template="{{ .Prompt }}",
        system="Sei höflich.",
        license="MIT\n\nBSD",
        messages=(Message(role="user", content="hi"),),
    )
    assert ("the parameter unheard_of has no effect here",) == remarks
    assert (PulledSettings(), ()) == settings_of([])


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("params", b"[]", "the parameters of the model cannot be used"),
        ("params", b'{"top_k": "many"}', 'option "top_k" must be'),
        ("messages", b'{"role": "user"}', "the messages of the model cannot be used"),
        ("messages", b'[{"role": "emperor", "content": "x"}]', "the messages of the model cannot be used"),
        ("template", b"\xff", "the template of the model is not UTF-8 text"),
    ],
)
def test_texts_that_say_nothing_usable_are_refused(kind, data, words):
    with pytest.raises(HubError, match=words):
        settings_of([(kind, data)])


def test_a_licence_is_told_by_its_first_line_with_words():
    assert "Apache License" == license_name("\n\n   Apache License\n  Version 2.0\n")
    assert 80 == len(license_name("x" * 500) or "")
    assert (None, None) == (license_name(None), license_name(" \n"))
