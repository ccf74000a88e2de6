"""scripts/check_catalogue against a hub on loopback: what it calls wrong, and what it says nothing about."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hub_server import HubRepo, HubServer, hub_server

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_catalogue"
DATA = b"GGUF"


def run(hub: HubServer, *arguments: str) -> tuple[int, list[str]]:
    environment = {"PATH": os.environ["PATH"], "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=100)
    assert "" == done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path):
    """A catalogue of four names: two of one repository, one of another, an alias."""
    texts = {
        "a/1b": "FROM hf.co/owner/A-GGUF:Q4_K_M\nLICENSE mit\n",
        "a/2b": "FROM hf.co/owner/A-GGUF:Q8_0\nLICENSE mit\n",
        "a/latest": "FROM a:1b\n",
        "b/3b": "FROM hf.co/owner/B-GGUF\nLICENSE other-name\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.Modelfile"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_catalogue_that_holds_is_called_ok_and_each_repository_is_asked_about_once(folder):
    repositories = {
        "owner/A-GGUF": HubRepo({"A-Q4_K_M.gguf": DATA, "A-Q8_0.gguf": DATA}, license="mit"),
        "owner/B-GGUF": HubRepo({"B-Q5_K_M.gguf": DATA}, license="other"),
    }
    with hub_server(repositories) as hub:
        code, lines = run(hub, str(folder))
        assert 2 == len(hub.requests)
    assert (0, ["ok", "ok", "ok", "ok"]) == (code, [line.split()[0] for line in lines])
    assert "ok       a:1b: hf.co/owner/A-GGUF:Q4_K_M" == lines[0]


def test_what_no_longer_holds_is_named_with_what_there_is(folder):
    repositories = {
        "owner/A-GGUF": HubRepo({"A-UD-Q4_K_M.gguf": DATA}, license="apache-2.0"),
        "owner/B-GGUF": HubRepo({"B-Q5_K_M.gguf": DATA}, is_gated=True, license="other"),
    }
    with hub_server(repositories) as hub:
        code, lines = run(hub, str(folder))
    assert 1 == code
    assert [
        "WRONG    a:1b: hf.co/owner/A-GGUF:Q4_K_M: Q4_K_M stands for UD-Q4_K_M (4 B): say that in its Modelfile",
        "WRONG    a:1b: hf.co/owner/A-GGUF:Q4_K_M: its licence is apache-2.0, and the Modelfile says mit",
        "WRONG    a:2b: hf.co/owner/A-GGUF:Q8_0: owner/A-GGUF has no Q8_0 (it has UD-Q4_K_M (4 B))",
    ] == lines[:3]
    assert (
        "WRONG    b:3b: hf.co/owner/B-GGUF:latest: it asks for its terms to be accepted first: a short name should not"
        in lines
    )


def test_a_repository_that_is_gone_is_wrong_and_a_hub_that_is_busy_says_nothing(folder):
    gone = {"owner/A-GGUF": HubRepo({"A-Q4_K_M.gguf": DATA, "A-Q8_0.gguf": DATA}, license="mit")}
    with hub_server(gone) as hub:
        code, lines = run(hub, str(folder))
        assert 1 == code
        assert lines[-1].startswith("WRONG    b:3b: owner/B-GGUF is not on ")
    busy = {**gone, "owner/B-GGUF": HubRepo({"B-Q8_0.gguf": DATA}, api_faults=[403])}
    with hub_server(busy) as hub:
        code, lines = run(hub, str(folder))
        assert 2 == code
        assert lines[-1].startswith("unknown  b:3b: ")


def test_the_catalogue_that_comes_with_localllm_is_what_it_checks_unasked():
    with hub_server({}) as hub:
        code, lines = run(hub)
    assert 1 == code
    assert any(
        line.startswith("WRONG    llama3.2:3b: bartowski/Llama-3.2-3B-Instruct-GGUF is not on ") for line in lines
    )
