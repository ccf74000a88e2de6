"""Model names: the grammar, and that no text leads out of the manifests' folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from localllm.errors import InvalidNameError
from localllm.store.names import Name, manifest_path, name_from_file, parse_name

FOLDER = Path("/models/localllm/manifests")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("guide", Name("guide")),
        ("llama3.2:3b", Name("llama3.2", "3b")),
        ("Guide:Latest", Name("Guide", "Latest")),
        ("_x-y.z", Name("_x-y.z")),
        ("library/guide", Name("guide")),
        ("registry.ollama.ai/library/guide:x", Name("guide", "x", "library", "ollama.com")),
        ("https://ollama.com/library/llama3.2:3b", Name("llama3.2", "3b", "library", "ollama.com")),
        ("Ollama.com/someone/Model", Name("Model", namespace="someone", host="ollama.com")),
        ("ollama.com/llama3.2", Name("llama3.2", namespace="library", host="ollama.com")),
        ("someone/guide", Name("guide", namespace="someone")),
        ("hf.co/owner/Repo-GGUF:Q4_K_M", Name("Repo-GGUF", "Q4_K_M", "owner", "hf.co")),
        ("https://huggingface.co/owner/repo:a.gguf", Name("repo", "a.gguf", "owner", "hf.co")),
        ("hf.co/owner/" + "a" * 96, Name("a" * 96, namespace="owner", host="hf.co")),
        ("localhost:5000/owner/repo", Name("repo", host="localhost:5000", namespace="owner")),
        ("a" * 80, Name("a" * 80)),
    ],
)
def test_a_name_is_read_into_its_parts(text, expected):
    assert expected == parse_name(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the model is empty"),
        (":tag", "the model is empty"),
        ("guide:", "the tag is empty"),
        ("a" * 81, "the model has 81 characters, and 80 is the limit"),
        ("guide:" + "t" * 81, "the tag has 81 characters, and 80 is the limit"),
        (".hidden", "the model '.hidden' has a character that may not be there"),
        ("..", "the model '..' has a character"),
        ("../../etc/passwd", "it has more than three parts"),
        ("a b", "the model 'a b' has a character"),
        ("guide\n", "the model 'guide\\n' has a character"),
        ("gu\0ide", "the model 'gu\\x00ide' has a character"),
        ("modèle", "the model 'modèle' has a character"),
        ("a:b:c", "the tag 'b:c' has a character"),
        ("guide@sha256", "the model 'guide@sha256' has a character"),
        ("a\\b", "the model 'a\\\\b' has a character"),
        ("guide.", "the model ends with a dot"),
        ("guide:..", "the tag '..' has a character"),
        ("own.er/model", "the namespace 'own.er' has a character"),
        ("a/b/c/d", "it has more than three parts"),
        ("/model", "it starts with a slash"),
        ("host//model", "it has an empty namespace"),
        ("ollama.com/../x", "the namespace '..' has a character"),
        ("ollama.com/library/..", "the model '..' has a character"),
        ("evil.example/ollama.com/x", "the namespace 'ollama.com' has a character"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text, why):
    with pytest.raises(InvalidNameError) as caught:
        parse_name(text)
    assert caught.value.message.startswith("invalid model name")
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("-x", "'-' and '.' do not come first"),
        ("./x y.gguf", "to use a file: localllm create NAME --from ./x y.gguf"),
        ("hf.co/repo", "models of Hugging Face are called hf.co/OWNER/REPO"),
        ("hf.co/../../etc/passwd", "models of Hugging Face are called hf.co/OWNER/REPO"),
        ("https://huggingface.co/a/b/tree/main", "the name of that is hf.co/a/b"),
        ("http://huggingface.co/a/b/", "the name of that is hf.co/a/b"),
        ("hf.co/a/b/c-Q8_0.gguf", "the name of that is hf.co/a/b:c-Q8_0.gguf"),
        ("hf.co/a/b:My Model (v2)+x Q8_0.gguf", "the name of that is hf.co/a/b:My-Model-v2-x-Q8_0.gguf"),
        ("hf.co/a/b:7B/m-q4_0.gguf", "the name of that is hf.co/a/b:7B-m-q4_0.gguf"),
        ("https://hf.co/a/b/blob/main/x/My%20Model.gguf", "the name of that is hf.co/a/b:My-Model.gguf"),
        ("https://hf.co/a/b/resolve/main/q/c.gguf?download=true", "the name of that is hf.co/a/b:c.gguf"),
    ],
)
def test_what_is_no_name_is_refused_with_what_is_one(text, hint):
    with pytest.raises(InvalidNameError) as caught:
        parse_name(text)
    assert hint in (caught.value.hint or "")


def test_a_path_given_as_a_name_leads_to_the_command_that_registers_it():
    with pytest.raises(InvalidNameError) as caught:
        parse_name("./Model.gguf")
    assert "to use a file: localllm create NAME --from ./Model.gguf" == caught.value.hint


def test_a_name_is_shown_with_its_tag_and_compared_without_case():
    assert "guide:latest" == str(parse_name("guide"))
    assert "hf.co/owner/repo:latest" == str(parse_name("hf.co/owner/repo"))
    assert parse_name("GUIDE:Q4").folded == parse_name("guide:q4").folded
    assert FOLDER / "guide" / "q4.json" == manifest_path(FOLDER, parse_name("Guide:Q4"))


@given(st.text(st.sampled_from("a.:/-_\\\0 \n~%Aé"), max_size=12) | st.text(max_size=20))
@example("..")
@example("../x")
@example("x:../../y")
def test_no_name_leads_out_of_the_folder(text):
    try:
        name = parse_name(text)
    except InvalidNameError:
        return
    assume(name.is_local)
    path = manifest_path(FOLDER, name)
    assert FOLDER == path.resolve().parent.parent
    assert ".json" == path.suffix


@pytest.mark.parametrize(("host", "folder"), [("hf.co", "hub"), ("ollama.com", "registry")])
@given(st.lists(st.text(st.sampled_from("a.:/-_\\\0 \n~%Aé"), min_size=1, max_size=6), min_size=2, max_size=4))
@example(["..", "..", "x"])
def test_no_name_of_the_hub_or_the_registry_leads_out_of_its_folder(host, folder, parts):
    try:
        name = parse_name("/".join((host, *parts)))
    except InvalidNameError:
        return
    path = manifest_path(FOLDER, name)
    assert FOLDER.parent / folder == path.resolve().parent.parent.parent
    assert ".json" == path.suffix


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("./My Model.Q4_K_M.gguf", "my-model.q4_k_m"),
        ("/models/Llama-3.2-3B-Instruct-Q4_K_M.gguf", "llama-3.2-3b-instruct-q4_k_m"),
        ("x.GGUF", "x"),
        (".gguf", "model"),
        ("...", "model"),
        ("---.gguf", "model"),
        ("日本語.gguf", "model"),
        ("modèle.gguf", "mod-le"),
        ("a" * 200 + ".gguf", "a" * 80),
    ],
)
def test_a_file_gives_its_model_a_name(file, name):
    assert name == name_from_file(Path(file))


@given(st.text(max_size=120))
def test_any_file_name_gives_a_valid_lower_case_name(text):
    name = name_from_file(Path(text))
    assert Name(name) == parse_name(name)
    assert name == name.lower()
