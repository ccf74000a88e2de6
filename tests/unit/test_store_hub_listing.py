"""What the hub's API says of a repository, and what mirrors and hostile hubs say in its place."""

from __future__ import annotations

import json

import pytest

from localllm.errors import HubError
from localllm.store.hub_listing import read_repository
from localllm.store.repository import HubFile

URL = "https://hub.test"
SHA, GIT = "ab" * 32, "cd" * 20


def read(*siblings: dict, **more):
    info = {"id": "owner/repo", "sha": "e" * 40, "siblings": siblings, **more}
    return read_repository(json.dumps(info).encode(), URL)


@pytest.mark.parametrize(
    ("said", "size", "oid"),
    [
        ({"size": 5, "blobId": GIT}, 5, GIT),
        ({"size": 5, "blobId": GIT, "lfs": {"sha256": SHA, "size": 5}}, 5, SHA),
        ({"size": 134, "blobId": GIT, "lfs": {"oid": f"sha256:{SHA}", "size": 5}}, 5, SHA),
        ({"size": 5, "lfs": {"sha256": SHA}}, 5, SHA),
        ({"size": 5, "blobId": GIT, "lfs": {"size": 5}}, 0, ""),
        ({"size": 5, "blobId": "../../x"}, 0, ""),
        ({"size": 0, "blobId": GIT}, 0, GIT),
        ({"blobId": GIT}, 0, ""),
        ({"size": None, "blobId": None, "lfs": None}, 0, ""),
        ({}, 0, ""),
    ],
)
def test_a_file_has_its_size_and_hash_or_neither(said, size, oid):
    assert (HubFile("a.gguf", size, oid),) == read({"rfilename": "a.gguf", **said}).files


@pytest.mark.parametrize(("said", "license_name"), [("mit", "mit"), (["mit", "other"], "mit, other"), (None, None)])
def test_a_licence_may_be_several_or_none(said, license_name):
    assert license_name == read(cardData={"license": said}).license
    assert None is read(cardData=None).license


@pytest.mark.parametrize(
    "path", ["../a.gguf", "/a.gguf", "a//b.gguf", "C:/a.gguf", "a\\b.gguf", "a\u202eb.gguf", "a\x00.GGUF"]
)
def test_a_model_with_a_path_that_cannot_be_is_refused_and_another_file_left_aside(path):
    with pytest.raises(HubError, match="a path that cannot be"):
        read({"rfilename": path})
    assert () == read({"rfilename": f"{path}.png"}).files


@pytest.mark.parametrize("sha", ["", "main", "../../..", "E" * 40])
def test_a_commit_is_a_hash(sha):
    with pytest.raises(HubError, match="does not say which commit"):
        read_repository(json.dumps({"id": "owner/repo", "sha": sha}).encode(), URL)
