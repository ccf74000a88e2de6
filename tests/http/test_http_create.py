"""POST /api/create, /api/copy and /api/blobs through the real application, with a real store on the disk."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gguf_files import gguf_bytes
from live_server import LiveServer, live_server, wait_until
from package_index import archive, package_index, release_of
from safetensors_files import MADE, folder_of

from localllm.store.store import Store

GGUF = gguf_bytes()
DIGEST = f"sha256:{hashlib.sha256(GGUF).hexdigest()}"


@pytest.fixture
def server(tmp_path) -> Iterator[LiveServer]:
    """A small limit on bodies shows that files are not under it."""
    with live_server(store=Store(tmp_path / "models", tmp_path / "bundled"), max_body_bytes=2000) as running:
        yield running


def post(server: LiveServer, path: str, **body: object) -> httpx.Response:
    return httpx.post(server.url + path, json=body)


def send(server: LiveServer, data: bytes = GGUF, digest: str = DIGEST) -> httpx.Response:
    return httpx.post(f"{server.url}/api/blobs/{digest}", content=data)


def statuses(answer: httpx.Response) -> list[str]:
    return [json.loads(line).get("status", json.loads(line)) for line in answer.text.splitlines()]


def show(server: LiveServer, name: str) -> dict:
    return post(server, "/api/show", model=name).raise_for_status().json()


def blobs(server: LiveServer) -> list[Path]:
    folder = server.store.blobs_dir
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("is_stream", [True, False])
def test_what_changes_nothing_is_told(server, is_stream):
    send(server)
    asked = {"model": "mine", "files": {"tiny.gguf": DIGEST}, "draft": "guide", "parser": "qwen3", "stream": is_stream}
    answer = post(server, "/api/create", **asked)
    assert (200, "draft, parser") == (answer.status_code, answer.headers["x-localllm-ignored"])
    pulled = post(server, "/api/pull", model="mine", insecure=True, username="me", stream=is_stream)
    assert (200, "username, insecure") == (pulled.status_code, pulled.headers["x-localllm-ignored"])


def test_a_model_is_made_of_a_file_that_was_sent(server):
    assert 404 == httpx.head(f"{server.url}/api/blobs/{DIGEST}").status_code
    assert 201 == send(server).status_code
    assert 200 == httpx.head(f"{server.url}/api/blobs/{DIGEST}").status_code
    assert 200 == send(server).status_code
    answer = post(server, "/api/create", model="mine", files={"tiny.gguf": DIGEST}, system="Be brief.")
    assert (200, "application/x-ndjson") == (answer.status_code, answer.headers["content-type"])
    assert ["parsing GGUF", "writing manifest", "success"] == statuses(answer)
    assert "Be brief." == show(server, "mine")["system"]


def test_a_model_is_converted_of_the_files_of_a_folder_that_were_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")  # for the process that fetches
    folder, data = folder_of(tmp_path / "m", stand_in="copy"), archive()
    (folder / "inner").mkdir()
    (folder / "inner" / "more.json").write_text("[]")
    sent = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    digests = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in sent.items()}
    store = Store(tmp_path / "models", tmp_path / "bundled")
    with (
        package_index(data) as index,
        live_server(
            store=store, converter=release_of(data), cache_dir=tmp_path / "cache", package_index=index.url
        ) as server,
    ):
        for name, content in sent.items():
            assert send(server, content, digests[name]).is_success
        answer = post(server, "/api/create", model="mine", files=digests, system="Be brief.")
        said = [line for line in statuses(answer) if not line.startswith("fetching")]
        assert "converting 3.1 KB of LlamaForCausalLM to BF16" in said
        last = ["parsing GGUF", "writing manifest", "what was sent stays until `localllm gc`, for other models of it"]
        assert (["reading safetensors"], [*last, "success"]) == (said[:1], said[-4:])
        assert "Be brief." == show(server, "mine")["system"]
        assert MADE == store.find("mine").file.read_bytes()
        for name in ("config.json", "model.safetensors"):
            assert store.find("mine").file != store.blobs_dir / digests[name].replace(":", "-")


def test_files_that_were_sent_and_cannot_be_converted_are_told_without_folders(tmp_path):
    folder = folder_of(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"short")
    store = Store(tmp_path / "models", tmp_path / "bundled")
    with live_server(store=store, cache_dir=tmp_path / "cache") as server:
        digests = {}
        for path in folder.iterdir():
            digests[path.name] = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
            send(server, path.read_bytes(), digests[path.name])
        answer = post(server, "/api/create", model="mine", files=digests, stream=False)
    assert 400 == answer.status_code
    assert "model.safetensors is cut short, or no safetensors: it has 5 bytes" == answer.json()["error"]


def test_a_model_is_made_of_another_and_everything_can_be_shown(server):
    send(server)
    post(server, "/api/create", model="base", files={"tiny.gguf": DIGEST}, license="MIT")
    answer = post(
        server,
        "/api/create",
        model="mine:v1",
        **{"from": "base"},
        template="{{ messages }} tools",
        system="Be brief.",
        license=["Apache-2.0"],
        parameters={"temperature": 0.5, "stop": ["a", "b"], "num_parallel": 2, "seed": None},
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        requires="0.14.0",
        stream=False,
    )
    assert (200, {"status": "success"}) == (answer.status_code, answer.json())
    told = show(server, "mine:v1")
    expected = {
        "system": "Be brief.",
        "template": "{{ messages }} tools",
        "license": "MIT\n\nApache-2.0",
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        "capabilities": ["completion", "tools"],
        "requires": "0.14.0",
    }
    assert expected == {key: told[key] for key in expected}
    assert "base" == told["details"]["parent_model"]
    assert ["temperature 0.5", 'stop "a"', 'stop "b"', "num_parallel 2"] == [
        " ".join(line.split()) for line in told["parameters"].splitlines()
    ]
    for line in ("PARAMETER num_parallel 2", "MESSAGE user hi", "REQUIRES 0.14.0", "SYSTEM Be brief."):
        assert line in told["modelfile"].splitlines()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "invalid model name"),
        (
            {"model": "../x", "from": "base"},
            "invalid model name '../x': the namespace '..' has a character that may not be there",
        ),
        ({"model": "x"}, "neither 'from' or 'files' was specified"),
        ({"model": "x", "from": "base", "files": {"a.gguf": DIGEST}}, "say either 'from' or 'files', not both"),
        ({"model": "x", "files": {"../a.gguf": DIGEST}}, "file path must be relative"),
        ({"model": "x", "files": {"/etc/a.gguf": DIGEST}}, "file path must be relative"),
        ({"model": "x", "files": {"a.gguf": "sha256:12"}}, "invalid digest format"),
        ({"model": "x", "files": {"a.gguf": DIGEST}}, f'blob "{DIGEST}" not found'),
        ({"model": "x", "files": {"m.safetensors": DIGEST}}, f'blob "{DIGEST}" not found'),
        (
            {"model": "x", "files": {"config.json": DIGEST}},
            "files: config.json is no GGUF, and there are no safetensors beside it",
        ),
        (
            {"model": "x", "files": {"m.safetensors": DIGEST, "m.bin": DIGEST}},
            "files: m.bin is a pickle, which may run code when it is read",
        ),
        ({"model": "x", "files": {"m.safetensors": DIGEST, "../m.json": DIGEST}}, "file path must be relative"),
        (
            {"model": "x", "files": {"m.safetensors": DIGEST, "a//m.json": DIGEST}},
            "files: 'a//m.json' is no name that a model's file may have",
        ),
        ({"model": "x", "from": "base", "adapters": {"a": DIGEST}}, f'blob "{DIGEST}" not found'),
        ({"model": "x", "from": "base", "adapters": {"../a.gguf": DIGEST}}, "file path must be relative"),
        (
            {"model": "x", "from": "base", "adapters": {"adapter_model.safetensors": DIGEST}},
            f'blob "{DIGEST}" not found',
        ),
        (
            {"model": "x", "from": "base", "adapters": {"adapter_model.bin": DIGEST}},
            "adapters: adapter_model.bin is no GGUF, and there are no safetensors beside it",
        ),
        ({"model": "x", "from": "base", "parameters": {"speed": 1}}, "unknown parameter 'speed'"),
        (
            {"model": "x", "from": "base", "parameters": {"top_k": "many"}},
            'option "top_k" must be of type integer',
        ),
        (
            {"model": "x", "from": "base", "parameters": {"lora_scale": 0.5}},
            "parameter 'lora_scale' (the strength of an adapter) is not supported yet",
        ),
        (
            {"model": "hf.co/a/b", "from": "base"},
            "invalid model name 'hf.co/a/b': a model made here has no host or namespace",
        ),
        ({"model": "x", "from": "base", "quantize": "q9"}, "unknown quantization type 'q9'"),
        ({"model": "x", "from": "base", "requires": "soon"}, "requires must be a valid semver (e.g. 0.14.0)"),
        ({"model": "x", "from": 5}, "from must be a string, not an integer"),
        (
            {"model": "x", "from": "base", "messages": [{"role": "robot", "content": "x"}]},
            'messages[0].role is "robot", but must be one of "system", "developer", "user", "assistant", "tool"',
        ),
    ],
)
def test_what_cannot_be_made_is_a_400_before_anything_is_written(server, body, message):
    answer = httpx.post(f"{server.url}/api/create", json=body)
    assert (400, message) == (answer.status_code, answer.json()["error"])
    assert 404 == post(server, "/api/show", model="x").status_code
    assert () == server.store.list()


def test_what_has_no_effect_is_told(server):
    send(server)
    answer = post(server, "/api/create", model="x", files={"a.gguf": DIGEST}, renderer="qwen3-coder")
    assert "renderer has no effect: the chat template is used" == statuses(answer)[0]


def test_an_unknown_base_and_a_file_that_is_no_model_end_the_stream_with_an_error(server):
    answer = post(server, "/api/create", model="x", **{"from": "absent"})
    assert ["model 'absent' not found"] == [json.loads(line)["error"] for line in answer.text.splitlines()]
    text = b"hello, I am no model"
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    send(server, text, digest)
    *_, last = statuses(post(server, "/api/create", model="x", files={"a.gguf": digest}))
    assert "GGUF" in last["error"]
    whole = post(server, "/api/create", model="x", files={"a.gguf": digest}, stream=False)
    assert (400, last["error"]) == (whole.status_code, whole.json()["error"])


def test_a_file_with_another_hash_is_refused_and_not_kept(server):
    wrong = f"sha256:{'0' * 64}"
    answer = send(server, digest=wrong)
    assert (400, f'digest mismatch, expected "{wrong}", got "{DIGEST}"') == (
        answer.status_code,
        answer.json()["error"],
    )
    assert [] == blobs(server)
    for method in ("HEAD", "POST"):
        assert 400 == httpx.request(method, f"{server.url}/api/blobs/sha256:12").status_code


def test_a_file_larger_than_every_body_is_taken_in_pieces(server):
    def pieces() -> Iterator[bytes]:
        yield from (b"x" * 100_000 for _ in range(100))

    digest = f"sha256:{hashlib.sha256(b'x' * 10_000_000).hexdigest()}"
    answer = httpx.post(f"{server.url}/api/blobs/{digest}", content=pieces(), timeout=60)
    assert 201 == answer.status_code
    assert [10_000_000] == [path.stat().st_size for path in blobs(server)]


def test_a_client_that_leaves_while_it_sends_leaves_nothing(server):
    started, go_on = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield GGUF[:1000]
        started.set()
        go_on.wait(10)
        raise ConnectionAbortedError

    def talk() -> None:
        with pytest.raises(ConnectionAbortedError):
            httpx.post(f"{server.url}/api/blobs/{DIGEST}", content=pieces())

    thread = threading.Thread(target=talk)
    thread.start()
    started.wait(10)
    wait_until(lambda: len(blobs(server)) == 1)
    go_on.set()
    thread.join()
    wait_until(lambda: blobs(server) == [])


def test_a_file_that_announces_more_than_the_disk_has_is_refused_unread(server):
    head = f"POST /api/blobs/{DIGEST} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**60}\r\n\r\n"
    answer = server.ask(head.encode())
    assert answer.startswith(b"HTTP/1.1 507 ")
    assert b"do not fit" in answer
    assert [] == blobs(server)


def test_a_copy_is_a_second_name(server):
    send(server)
    post(server, "/api/create", model="a", files={"tiny.gguf": DIGEST})
    assert (200, b"") == (
        (answer := post(server, "/api/copy", source="a", destination="b")).status_code,
        answer.content,
    )
    assert show(server, "a")["details"] == show(server, "b")["details"]
    missing = post(server, "/api/copy", source="absent", destination="c")
    assert (404, "model 'absent' not found") == (missing.status_code, missing.json()["error"])
    for body in ({"source": "a"}, {"destination": "b"}, {"source": "a", "destination": "../b"}):
        assert 400 == post(server, "/api/copy", **body).status_code


def test_the_file_goes_with_its_last_name(server):
    send(server)
    post(server, "/api/create", model="a", files={"tiny.gguf": DIGEST})
    httpx.request("DELETE", f"{server.url}/api/delete", json={"model": "a"}).raise_for_status()
    assert [] == blobs(server)


def test_a_foreign_page_may_neither_send_nor_make_anything(server):
    for path in (f"/api/blobs/{DIGEST}", "/api/create", "/api/copy"):
        answer = httpx.post(server.url + path, content=b"{}", headers={"origin": "https://evil.example"})
        assert 403 == answer.status_code
