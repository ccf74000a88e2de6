"""Hubs that are not quite Hugging Face's, and caches that are not quite as its library leaves them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_process import run_cli
from daemon_process import Daemon, running_daemon
from hub_server import HubRepo, HubServer, hub_server
from pulls import GUIDE, LARGE, SUCCESS, names, pull

NAME = "hf.co/owner/Tiny-GGUF"
Q4, Q8 = "Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf"
FILES = {Q4: GUIDE, Q8: LARGE}


@contextmanager
def daemon_and_hub(home: Path, repository: HubRepo, **variables: str) -> Iterator[tuple[Daemon, HubServer]]:
    with (
        hub_server({"owner/Tiny-GGUF": repository}) as hub,
        running_daemon(home, HF_ENDPOINT=hub.url, HF_HOME=str(home / "hf"), NO_PROXY="*", **variables) as daemon,
    ):
        yield daemon, hub


def test_a_file_whose_hash_the_list_does_not_tell_is_asked_for_it_and_verified(tmp_path):
    untold = HubRepo(FILES, untold=frozenset(FILES))
    with daemon_and_hub(tmp_path, untold) as (daemon, hub):
        assert SUCCESS == pull(daemon, NAME)[-1]
        head = f"HEAD /owner/Tiny-GGUF/resolve/{untold.commit}/{Q4}"
        assert 1 == hub.requests.count(head)
        untold.etags = {Q8: "ab" * 32}
        assert f"{Q8} was downloaded, but its hash is" in pull(daemon, f"{NAME}:Q8_0")[-1]["error"]
        missing = pull(daemon, f"{NAME}:Q5_0")[-1]
        assert "it has Q4_K_M (size unknown), Q8_0 (size unknown)" == missing["hint"]


def test_the_largest_that_fits_is_found_by_sizes_that_the_list_does_not_tell(tmp_path):
    with daemon_and_hub(tmp_path, HubRepo(FILES, untold=frozenset(FILES))) as (daemon, _):
        assert "taking Q8_0 (15 MB)" in pull(daemon, NAME, quant="auto")[1]["status"]


def test_the_largest_that_fits_is_of_the_model_that_is_meant_not_of_another_beside_it(tmp_path):
    files = {Q4: GUIDE, "Tiny-MTP-Q8_0.gguf": LARGE, "other/Large-Q8_0.gguf": LARGE}
    with daemon_and_hub(tmp_path, HubRepo(files)) as (daemon, _):
        said = pull(daemon, NAME, quant="auto")[1]["status"]
        assert said.startswith("taking Q4_K_M (2.6 MB), the largest that fits")


def test_a_file_that_nobody_could_verify_is_refused_by_name_and_others_are_not(tmp_path):
    nameless = HubRepo(FILES, untold=frozenset({Q8}), etags={Q8: ""})
    with daemon_and_hub(tmp_path, nameless) as (daemon, hub):
        last = pull(daemon, f"{NAME}:Q8_0")[-1]
        assert f"{hub.url} does not say of {Q8} what its sha256 or git hash is" in last["error"]
        assert "choose another file" in last["hint"]
        assert 0 == hub.served_bytes()
        assert SUCCESS == pull(daemon, NAME)[-1]


def test_a_small_file_outside_lfs_is_verified_by_its_git_hash(tmp_path):
    small = HubRepo({Q4: GUIDE}, plain=frozenset({Q4}))
    with daemon_and_hub(tmp_path, small) as (daemon, hub):
        digest = hashlib.sha1(b"blob %d\0" % len(GUIDE) + GUIDE).hexdigest()
        assert digest == hub.oid(small, Q4)
        small.files[Q4] = GUIDE[:-1] + b"x"
        assert f"and the hub says {digest}" in pull(daemon, NAME)[-1]["error"]
        small.files[Q4] = GUIDE
        lines = pull(daemon, NAME)
        assert SUCCESS == lines[-1]
        assert f"sha1:{digest}" in {line.get("digest") for line in lines}


def test_what_is_here_is_not_downloaded_again_whatever_a_mirror_calls_it_later(tmp_path):
    moody = HubRepo({Q4: GUIDE}, etags={Q4: "cd" * 32})
    with daemon_and_hub(tmp_path, moody) as (daemon, hub):
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert len(GUIDE) == hub.served_bytes()
        moody.commit = "d" * 40
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert len(GUIDE) == hub.served_bytes()
        assert 1 == len(list((tmp_path / "hf").rglob("blobs/*")))


def test_without_symbolic_links_a_file_is_there_once_all_the_same(tmp_path):
    with daemon_and_hub(tmp_path, HubRepo({Q4: GUIDE}), HF_HUB_DISABLE_SYMLINKS="1") as (daemon, hub):
        assert SUCCESS == pull(daemon, NAME)[-1]
        (named,), (blob,) = (list((tmp_path / "hf").rglob(where)) for where in (f"snapshots/*/{Q4}", "blobs/*"))
        assert not named.is_symlink()
        assert named.samefile(blob)
        assert SUCCESS == pull(daemon, NAME)[-1]
        assert len(GUIDE) == hub.served_bytes()


@pytest.mark.parametrize("page", [b"<html>Log in to the hotel's network</html>", b"[]", b'{"id": 1}', b"\xff{}"])
def test_a_page_in_place_of_a_list_is_said_to_be_none(tmp_path, page):
    with daemon_and_hub(tmp_path, HubRepo(FILES, page=page)) as (daemon, hub):
        last = pull(daemon, NAME)[-1]
        assert last["error"].startswith(f"{hub.url} answers with something else than the hub does: ")
        assert "no page asks for a login" in last["hint"]


def test_a_file_that_is_listed_and_not_there_is_named(tmp_path):
    with daemon_and_hub(tmp_path, HubRepo(FILES, lost=frozenset({Q4}))) as (daemon, hub):
        last = pull(daemon, NAME)[-1]
        assert f"{hub.url} lists {Q4} of owner/Tiny-GGUF, but does not have it" == last["error"]
        assert SUCCESS == pull(daemon, f"{NAME}:Q8_0")[-1]
        assert [f"{NAME}:Q8_0"] == names(daemon)


def test_variables_set_to_nothing_are_not_set_and_a_relative_cache_is_found_from_elsewhere(tmp_path):
    with (
        hub_server({"owner/Tiny-GGUF": HubRepo({Q4: GUIDE})}) as hub,
        running_daemon(tmp_path, HF_ENDPOINT=hub.url, HF_HOME="", HF_HUB_CACHE="", NO_PROXY="*") as daemon,
    ):
        assert SUCCESS == pull(daemon, NAME)[-1]
    (there,) = (tmp_path / ".cache" / "huggingface" / "hub").rglob(Q4)
    relative = os.path.relpath(tmp_path / ".cache" / "huggingface")
    with running_daemon(tmp_path, HF_ENDPOINT="", HF_HOME=relative, HF_HUB_OFFLINE="1") as daemon:
        assert SUCCESS == pull(daemon, f"{NAME}:q4_k_m")[-1]
        listed = run_cli("list", environment=daemon.environment, folder=tmp_path).stdout
        assert f"{NAME}:q4_k_m" in listed
    assert str(there) == json.loads(next(tmp_path.rglob("q4_k_m.json")).read_text())["file"]


def test_what_the_hub_says_of_a_refusal_is_passed_on(tmp_path):
    words = "Your request to access model owner/Tiny is awaiting a review from the repo authors."
    gated = HubRepo(FILES, is_gated=True, token="hf_x", refusal=words)
    with daemon_and_hub(tmp_path, gated, HF_TOKEN="hf_other") as (daemon, _):
        error = pull(daemon, NAME)[-1]
        assert f"owner/Tiny-GGUF asks everyone to accept its terms first; it says: {words}" == error["error"]
        assert error["error"] == pull(daemon, NAME, quant="auto")[-1]["error"]
        assert error["error"] in run_cli("plan", NAME, environment=daemon.environment).stderr


def test_a_repository_that_was_renamed_is_found_under_both_names(tmp_path):
    with daemon_and_hub(tmp_path, HubRepo(FILES)) as (daemon, hub):
        hub.renamed = {"someone/Old": "owner/Tiny-GGUF"}
        lines = pull(daemon, "hf.co/someone/Old")
        assert {"status": "someone/Old is called owner/Tiny-GGUF now"} in lines
        assert SUCCESS == lines[-1] == pull(daemon, NAME)[-1]
        assert {"hf.co/someone/Old:latest", f"{NAME}:latest"} == set(names(daemon))
        assert len(GUIDE) == hub.served_bytes()


def test_names_of_other_files_do_not_matter_and_spaces_of_all_kinds_may_be_in_a_models(tmp_path):
    strange = {
        "Tiny\u202fv2 (new)+Q4_K_M.gguf": GUIDE,
        "Screenshot 3.04.05\u202fPM\u200b.png": b"x",
        "a: b\x07.txt": b"x",
    }
    with daemon_and_hub(tmp_path, HubRepo(strange)) as (daemon, _):
        assert SUCCESS == pull(daemon, NAME)[-1]
