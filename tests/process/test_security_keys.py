"""Keys and secrets on the real daemon: no way around a scope, no clock that tells a key, no word about the machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cli_process import run_cli
from daemon_process import running_daemon

from localllm.keys import add_key, find_key, new_key
from localllm.server.keyring import Keyring

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
SECRET_ENVIRONMENT = "a-secret-of-the-environment"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    home = tmp_path_factory.mktemp("keys") / "home of somebody"
    with running_daemon(home, LOCALLLM_REQUIRE_KEY="1", SOME_TOKEN=SECRET_ENVIRONMENT) as running:
        yield running


@pytest.fixture(scope="module")
def keys(daemon):
    """A header for each scope."""
    made = {}
    for name, scopes in (("infer", ["infer"]), ("manage", ["manage"]), ("all", ["infer", "manage"])):
        key, text = new_key(name, scopes, datetime.now(UTC))
        add_key(daemon.home / "keys.json", key)
        made[name] = {"authorization": f"Bearer {text}"}
    return made


@pytest.mark.parametrize(
    "path",
    [
        "/api/pull", "/api/%70ull", "/api/pull/", "//api/pull", "/./api/pull", "/api/../api/pull", "/api/x/../pull",
        "/API/PULL", "/api/pull%20", "/api/pull%00", "/api%2fpull", "/api/pull;x=1", "/api/pull?key=1", "/api//pull",
        "/v1/models/../../api/pull", "/api/blobs/sha256:" + "0" * 64, "/api/blobs/../pull", "/api/bl%6fbs/x",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_escapes_a_scope(daemon, keys, path):
    url = httpx.URL(daemon.url).copy_with(raw_path=path.encode())
    for headers in (
        keys["infer"],
        {**keys["infer"], "x-http-method-override": "GET", "x-original-url": "/api/version"},
    ):
        answer = daemon.http.post(url, json={"model": "nosuch"}, headers=headers)
        assert answer.status_code in (403, 404), answer.text
        assert b"status" not in answer.content
    assert daemon.http.post(url, json={"model": "nosuch"}).status_code == 401


def test_a_key_in_the_wrong_place_is_no_key(daemon, keys):
    text = keys["all"]["authorization"].removeprefix("Bearer ")
    for sent in (
        {"params": {"key": text, "api_key": text, "authorization": f"Bearer {text}"}},
        {"cookies": {"authorization": f"Bearer {text}"}},
        {"headers": {"authorization": f"Basic {text}"}},
        {"headers": {"authorization": text}},
        {"headers": {"x-api-key": text[:-1]}},
        {"headers": {"x-api-key": text.upper()}},
        {"headers": {"x-api-key": f"{text}\u00e9".encode("latin-1")}},
    ):
        assert 401 == httpx.get(f"{daemon.url}/api/tags", trust_env=False, **sent).status_code
    assert 200 == httpx.get(f"{daemon.url}/api/tags", headers=keys["infer"], trust_env=False).status_code


def test_what_a_key_may_not_do_it_may_not_do_by_any_method(daemon, keys):
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "POST", "TRACE"):
        for path in ("/api/delete", "/api/copy", "/api/create"):
            body = {"model": "guide", "source": "guide", "destination": "mine", "from": "guide"}
            answer = daemon.http.request(method, path, json=body, headers=keys["infer"])
            assert answer.status_code in (403, 405)
    listed = daemon.http.get("/api/tags", headers=keys["infer"]).json()["models"]
    assert ["guide:latest"] == [model["name"] for model in listed]
    asked = daemon.http.post("/api/generate", json={"model": "guide", "prompt": "x"}, headers=keys["manage"])
    assert 403 == asked.status_code


def median_seconds(call, *arguments: object) -> float:
    times = []
    for _ in range(400):
        began = time.perf_counter()
        call(*arguments)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def test_a_wrong_key_takes_as_long_as_a_right_one_however_much_of_it_is_right(tmp_path):
    made = [new_key(f"key {number}", ["infer"], datetime.now(UTC)) for number in range(3)]
    keys = [key for key, _ in made]
    right = made[1][1]
    nearly, unknown = right[:-1] + ("A" if right[-1] != "A" else "B"), "localllm_00000000_" + right.split("_", 2)[2]
    shared = Keyring("s" * 60, tmp_path / "none.json")
    pairs = (
        (lambda text: find_key(text, keys), (right, nearly, unknown, right[:20] + "A" * (len(right) - 20))),
        (
            lambda text: shared.holder({"authorization": f"Bearer {text}"}),
            ("s" * 59 + "t", "t" * 60, "s" * 30 + "t" * 30),
        ),
    )
    for look_up, texts in pairs:
        assert look_up(texts[0]) is not None or texts[0] != right
        for _ in range(5):  # a busy machine may disturb a round, not five
            times = [median_seconds(look_up, text) for text in texts]
            if max(times) < 1.3 * min(times):
                break
        else:
            raise AssertionError(f"times of {texts} differ: {times}")


def test_no_answer_tells_of_a_folder_a_variable_or_what_a_process_printed(daemon, keys, tmp_path):
    """Broken models, broken manifests, a full store that cannot be written: every way an error may know a path."""
    as_owner = {**daemon.environment, "LOCALLLM_API_KEY": keys["all"]["authorization"].removeprefix("Bearer ")}
    file = tmp_path / "folder with blanks" / "mine.gguf"
    file.parent.mkdir()
    for name in ("gone", "cut", "damaged", "whole"):
        shutil.copy(GUIDE, file.with_name(f"{name}.gguf"))
        made = run_cli("create", name, "--from", str(file.with_name(f"{name}.gguf")), environment=as_owner)
        assert 0 == made.returncode, made.stderr
    file.with_name("gone.gguf").unlink()
    os.truncate(file.with_name("cut.gguf"), 500_000)
    manifests = daemon.home / "models" / "localllm" / "manifests"
    (manifests / "damaged" / "latest.json").write_text("{")
    answers = []
    with httpx.Client(base_url=daemon.url, headers=keys["all"], trust_env=False, timeout=60) as http:
        for model in ("gone", "cut", "damaged", "whole", "guide", "nosuch", "../x"):
            chat = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False, "max_tokens": 1}
            answers += [
                http.post("/api/show", json={"model": model, "verbose": False}),
                http.post("/api/chat", json={**chat, "options": {"num_predict": 1}}),
                http.post("/api/generate", json={"model": model, "prompt": "x", "options": {"num_predict": 1}}),
                http.post("/v1/chat/completions", json=chat),
                http.post("/v1/messages", json=chat),
                http.post("/completion", json={"model": model, "prompt": "x", "n_predict": 1}),
                http.post("/api/copy", json={"source": model, "destination": "copied"}),
                http.post("/api/create", json={"model": "made", "from": model, "stream": False}),
                http.get(f"/v1/models/{model}"),
            ]
        answers += [http.get(path) for path in ("/api/tags", "/api/ps", "/v1/models", "/props", "/slots", "/metrics")]
        answers += [http.get(path) for path in ("/openapi.json", "/docs", "/", "/health", "/api/version")]
        answers.append(http.post("/api/create", json={"model": "m", "files": {"a.gguf": f"sha256:{'0' * 64}"}}))
        answers.append(http.post("/v1/embeddings", json={"model": "guide", "input": "x"}))
    assert {200, 400, 404} <= {answer.status_code for answer in answers}
    home = str(daemon.home)
    folders = (home, home.replace("/", "\\/"), str(tmp_path), str(GUIDE.parent), f"{Path.home()}/", "/proc/")
    secrets = (*folders, SECRET_ENVIRONMENT, "site-packages", "Traceback", "gguf_init", "llama_model_load")
    leaks = [
        (answer.request.method, answer.request.url.path, secret, answer.text[:300])
        for answer in answers
        for secret in secrets
        if secret in answer.text or secret in json.dumps(dict(answer.headers))
    ]
    assert [] == leaks
