"""Draft models through the real commands and the real daemon: nothing of an answer changes, and all of it is told."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_process import run_cli
from daemon_process import Daemon, running_daemon
from gguf_files import gguf_bytes
from synthetic_models import build

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
QUESTION = "How do I list the models?"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("drafts")) as running:
        yield running


def create(daemon: Daemon, name: str, text: str) -> Any:
    file = daemon.home / f"{name}.Modelfile"
    file.write_text(text)
    return run_cli("create", name, "-f", str(file), environment=daemon.environment)


def ask(daemon: Daemon, name: str, text: str = QUESTION) -> dict[str, Any]:
    body = {"model": name, "messages": [{"role": "user", "content": text}], "stream": False}
    answer = daemon.http.post("/api/chat", json=body | {"options": {"temperature": 0}})
    assert 200 == answer.status_code, answer.text
    told: dict[str, Any] = answer.json()
    return told


def ask_anew(daemon: Daemon, name: str) -> dict[str, Any]:
    """Of a runner that has not found out yet that its draft model, as large as the model, does not pay."""
    daemon.http.post("/api/generate", json={"model": name, "keep_alive": 0}).raise_for_status()
    return ask(daemon, name)


def running(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in daemon.http.get("/api/ps").json()["models"] if one["name"] == f"{name}:latest"
    )
    return found


def test_an_answer_is_the_same_and_tells_what_was_guessed(daemon: Daemon) -> None:
    made = create(daemon, "drafted", "FROM guide\nDRAFT guide\nPARAMETER draft_p_min 0\n")
    assert 0 == made.returncode, made.stderr
    plain, drafted = ask(daemon, "guide"), ask_anew(daemon, "drafted")
    assert plain["message"] == drafted["message"]
    assert 0 < drafted["accepted_count"] <= drafted["drafted_count"]


def test_what_both_take_is_planned_and_told(daemon: Daemon) -> None:
    create(daemon, "weighed", "FROM guide\nDRAFT guide\n")
    ask(daemon, "guide"), ask(daemon, "weighed")
    alone, both = (running(daemon, name)["placement"] for name in ("guide", "weighed"))
    (host,), (host_alone,) = both["devices"], alone["devices"]
    assert host["weights"] > host_alone["weights"] + GUIDE.stat().st_size // 2
    assert host["cache"] > host_alone["cache"]
    assert host["measured"]["weights"] == pytest.approx(2 * host_alone["measured"]["weights"], rel=0.3)
    assert host["measured"]["cache"] == host["cache"]
    (note,) = [note for note in both["notes"] if "draft" in note]
    assert note.startswith("the draft model on CPU, ")
    planned = daemon.http.post("/api/plan", json={"model": "weighed"}).json()["plan"]
    assert [note] == [note for note in planned["notes"] if "draft" in note]


def test_show_tells_the_draft_model_and_its_modelfile_makes_the_same_again(daemon: Daemon) -> None:
    create(daemon, "shown", "FROM guide\nDRAFT guide\nPARAMETER draft_p_min 0\n")
    shown = run_cli("show", "shown", environment=daemon.environment).stdout
    assert ["draft", "guide.gguf,", "2.6", "MB"] in [line.split() for line in shown.splitlines()]
    written = run_cli("show", "shown", "--modelfile", environment=daemon.environment).stdout
    assert "(comes with FROM)" in written
    assert 0 == create(daemon, "again", written).returncode
    assert 0 < ask_anew(daemon, "again")["drafted_count"]


@pytest.mark.parametrize("first", ["", "DRAFT guide\n"])
def test_lines_of_a_text_that_begin_as_statements_do_stay_as_they_are(daemon: Daemon, first: str) -> None:
    text = "You write letters.\nDRAFT them first.\nADAPTER plugs are none of yours.\nFROM now on."
    create(daemon, "writer", f'FROM guide\n{first}SYSTEM """{text}"""\n')
    written = run_cli("show", "writer", "--modelfile", environment=daemon.environment).stdout
    assert 0 == create(daemon, "again", written).returncode
    assert [text] * 2 == [
        daemon.http.post("/api/show", json={"model": name}).json()["system"] for name in ("writer", "again")
    ]


def test_a_draft_model_comes_with_from_and_another_takes_its_place(daemon: Daemon, tmp_path: Path) -> None:
    small = shutil.copy(GUIDE, tmp_path / "small.gguf")
    create(daemon, "first", "FROM guide\nDRAFT guide\n")
    assert 0 == create(daemon, "second", "FROM first\nSYSTEM Be brief.\n").returncode
    assert 0 == create(daemon, "third", f"FROM first\nDRAFT {small}\n").returncode
    files = {name: daemon.http.post("/api/show", json={"model": name}).json()["draft"]["file"]
             for name in ("second", "third")}  # fmt: skip
    assert {"second": "guide.gguf", "third": "small.gguf"} == files
    used = run_cli("du", "--json", environment=daemon.environment)
    assert str(small) in used.stdout or str(small) in run_cli("du", "-v", environment=daemon.environment).stdout


def test_guessing_can_be_turned_off(daemon: Daemon) -> None:
    create(daemon, "off", "FROM guide\nDRAFT guide\nPARAMETER draft_max 0\n")
    assert "draft" not in json.dumps(running_after_ask(daemon, "off")["placement"]["notes"])


def running_after_ask(daemon: Daemon, name: str) -> dict[str, Any]:
    ask(daemon, name)
    return running(daemon, name)


def test_a_draft_model_can_be_sent(daemon: Daemon) -> None:
    data = GUIDE.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert daemon.http.post(f"/api/blobs/{digest}", content=data).status_code in (200, 201)
    body = {"model": "sent", "from": "guide", "draft_files": {"small.gguf": digest}, "parameters": {"draft_p_min": 0}}
    answer = daemon.http.post("/api/create", json=body | {"stream": False})
    assert (200, "success") == (answer.status_code, answer.json()["status"])
    assert 0 < ask_anew(daemon, "sent")["accepted_count"]


def test_a_file_that_is_gone_is_told(daemon: Daemon, tmp_path: Path) -> None:
    small = Path(shutil.copy(GUIDE, tmp_path / "small.gguf"))
    create(daemon, "orphan", f"FROM guide\nDRAFT {small}\n")
    small.unlink()
    answer = daemon.http.post("/api/chat", json={"model": "orphan", "messages": [{"role": "user", "content": "Hi"}]})
    assert "the draft model of model 'orphan:latest' is gone: small.gguf does not exist" in answer.json()["error"]


def test_what_cannot_guess_is_refused_with_its_line_and_the_name_is_not_made(daemon: Daemon, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(gguf_bytes())
    recurrent = build("mamba-tiny", GUIDE, tmp_path / "mamba.gguf")
    vectors = build("bert-tiny", GUIDE, tmp_path / "bert.gguf")
    encoder = build("t5", GUIDE, tmp_path / "t5.gguf")
    for said, message in (
        ("./missing.gguf", f"(line 2): the draft model: {daemon.home / 'missing.gguf'} does not exist"),
        ("nobody-knows-this", "(line 2): the draft model: model 'nobody-knows-this' not found"),
        (str(tmp_path / "empty"), "empty does not exist"),
        (str(other), "other.gguf cannot guess for this model: "),
        (str(recurrent), "mamba.gguf cannot guess for this model: it takes no token back"),
        (str(encoder), "t5.gguf cannot guess for this model: only decoder models can guess"),
        (str(vectors), "bert.gguf is an embedding model, which guesses nothing"),
    ):
        made = create(daemon, "refused", f"FROM guide\nDRAFT {said}\n")
        assert 0 != made.returncode
        assert message in made.stderr, made.stderr
    assert "refused" not in run_cli("list", environment=daemon.environment).stdout


def test_a_model_that_takes_no_token_back_gets_no_draft_model(daemon: Daemon, tmp_path: Path) -> None:
    for recipe in ("mamba-tiny", "qwen35-tiny"):
        model = build(recipe, GUIDE, tmp_path / f"{recipe}.gguf")
        made = create(daemon, "refused", f"FROM {model}\nDRAFT guide\n")
        assert 0 != made.returncode
        assert "guide.gguf cannot guess for this model: the model itself takes no token back" in made.stderr
    assert "refused" not in run_cli("list", environment=daemon.environment).stdout


def test_another_vocabulary_is_refused_with_the_number_of_tokens_that_differ(daemon: Daemon, tmp_path: Path) -> None:
    data = GUIDE.read_bytes()
    other = tmp_path / "other.gguf"
    # Every token that begins with a blank begins with another letter: of the same length, and none twice.
    other.write_bytes(data.replace("\u0120".encode(), "\u0370".encode()))
    made = create(daemon, "refused", f"FROM guide\nDRAFT {other}\n")
    assert 0 != made.returncode
    assert "other.gguf cannot guess for this model: its vocabulary is another one: " in made.stderr
