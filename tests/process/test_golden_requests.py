"""What editors and agents send, as recorded in tests/golden/requests from their sources, against the real daemon.

A fixture is our own: the shape of a client's requests, and of each answer what that client reads and cannot do without.
A path leads through an answer by `/` (`~1` is a slash in a name); a stream's `first` and `last` objects, its `text` and
its `calls` (the first delta of each) stand for themselves. "*" is anything but nothing, "~word" a text with that word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_process import run_cli
from daemon_process import running_daemon
from synthetic_models import build

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "modelfiles" / "guide" / "guide.gguf"
FIXTURES = sorted((ROOT / "tests" / "golden" / "requests").glob("*.json"))
CLIENTS = {"zed", "continue", "copilot", "cline", "jetbrains", "codex", "claude_code", "opencode", "aider",
           "open_webui", "llama_vim", "llama_vscode", "qwen_code", "pi"}  # fmt: skip
MISSING = object()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running_daemon(tmp_path_factory.mktemp("golden")) as running:
        for name in ("infill-tiny", "bert-tiny"):
            file = build(name, GUIDE, running.home / f"{name}.gguf")
            assert 0 == run_cli("create", name, "--from", str(file), environment=running.environment).returncode
        yield running


def test_there_is_a_fixture_of_every_client_that_has_no_test_of_its_own():
    assert CLIENTS == {path.stem for path in FIXTURES}


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_a_client_gets_what_it_reads(daemon, fixture):
    wrong = []
    for number, exchange in enumerate(json.loads(fixture.read_text(encoding="utf-8"))["exchanges"]):
        answer = daemon.http.request(
            exchange["method"], exchange["path"], json=exchange.get("body"), headers=exchange.get("headers")
        )
        said = f"{number}: {exchange['method']} {exchange['path']}"
        if answer.status_code != exchange["status"]:
            wrong.append(f"{said}: {answer.status_code} {answer.text[:300]}")
            continue
        seen = view_of(answer)
        wrong += [
            f"{said}: {path} is {at(seen, path)!r:.200}, not {wanted!r}"
            for path, wanted in exchange["expect"].items()
            if not fits(at(seen, path), wanted)
        ]
    assert [] == wrong


def view_of(answer: httpx.Response) -> dict[str, Any]:
    """An answer as the fixtures' paths see it."""
    kind = answer.headers.get("content-type", "")
    if kind.startswith("application/json"):
        body = json.loads(answer.text or "null")  # nothing, of HEAD
        view = dict(body) if isinstance(body, dict) else {"items": body}
        return {"headers": dict(answer.headers), "text": text_in(body), **view}
    if kind.startswith("text/plain"):
        return {"text": answer.text}
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith(("{", "data: "))]
    pieces = [json.loads(line) for line in lines if line != "[DONE]"]
    calls = [call for piece in pieces for call in calls_in(piece) if call.get("id")]
    return {
        "headers": dict(answer.headers),
        "first": pieces[0],
        "last": pieces[-1],
        "text": "".join(map(text_in, pieces)),
        "calls": calls,
        "done": lines[-1] == "[DONE]" or bool(pieces[-1].get("done")),
    }


def text_in(piece: Any) -> str:
    """What a piece adds to the answer's text, in any dialect."""
    if not isinstance(piece, dict):
        return ""
    choice = (piece.get("choices") or [{}])[0]
    delta = piece["delta"] if isinstance(piece.get("delta"), dict) else {}
    message = piece.get("message") or choice.get("delta") or choice.get("message") or {}
    texts = (message.get("content"), piece.get("response"), delta.get("text"))
    return next((text for text in texts if isinstance(text, str) and text), "")


def calls_in(piece: dict[str, Any]) -> list[dict[str, Any]]:
    return [call for choice in piece.get("choices") or () for call in choice.get("delta", {}).get("tool_calls") or ()]


def at(view: Any, path: str) -> Any:
    for name in path.split("/"):
        name = name.replace("~1", "/")
        if isinstance(view, list) and name.isdigit() and int(name) < len(view):
            view = view[int(name)]
        elif isinstance(view, dict) and name in view:
            view = view[name]
        else:
            return MISSING
    return view


def fits(found: Any, wanted: Any) -> bool:
    if wanted == "*":
        return found is not MISSING and found is not None
    if isinstance(wanted, str) and isinstance(found, str):
        return wanted.removeprefix("~") in found
    return found == wanted


def test_a_path_leads_to_what_it_names_and_to_nothing_else():
    view = {"a": [{"b/c": 1}], "d": None}
    assert (1, MISSING, MISSING) == (at(view, "a/0/b~1c"), at(view, "a/1"), at(view, "a/x"))
    assert [True, False, False, True, False] == [
        fits("", "*"), fits(None, "*"), fits(MISSING, "*"), fits("xay", "a"), fits("b", "a"),
    ]  # fmt: skip
