"""The routes that tell about models, and what the application answers where nothing is."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from live_server import LiveServer, live_server

from localllm.server.app import ROUTES
from localllm.version import __version__

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "6.1M",
    "quantization_level": "Q4_K_M",
    "context_length": 2048,
    "embedding_length": 256,
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """One for all: these tests change nothing in it."""
    with live_server() as running:
        yield running


def test_the_root_says_what_clients_look_for(server):
    answer = httpx.get(server.url, headers={"accept": "*/*"})
    assert (200, "Ollama is running") == (answer.status_code, answer.text)
    head = httpx.head(server.url)
    assert (200, "", "17") == (head.status_code, head.text, head.headers["content-length"])


def test_a_browser_gets_a_page_that_may_only_talk_to_its_own_server(server):
    answer = httpx.get(server.url, headers={"accept": "text/html,application/xhtml+xml"})
    assert "text/html; charset=utf-8" == answer.headers["content-type"]
    assert "<title>localllm</title>" in answer.text
    assert "default-src 'none'; connect-src 'self'" in answer.headers["content-security-policy"]


def test_the_version_is_one_that_editors_accept_and_names_localllm(server):
    answer = httpx.get(f"{server.url}/api/version")
    assert {"version": "0.32.0", "localllm": __version__} == answer.json()
    assert f"localllm/{__version__}" == answer.headers["server"]
    assert 200 == httpx.head(f"{server.url}/api/version").status_code


def test_tags_are_complete_since_one_that_is_not_breaks_the_whole_list(server):
    models = httpx.get(f"{server.url}/api/tags").json()["models"]
    assert ["guide:latest", "slow:latest", "embed:latest"] == [model["name"] for model in models]
    assert {
        "name": "guide:latest",
        "model": "guide:latest",
        "modified_at": "2026-01-01T00:00:00.000000Z",
        "size": 1000,
        "digest": "ab" * 32,
        "details": DETAILS,
        "capabilities": ["completion", "tools"],
    } == models[0]


def test_ps_shows_what_is_allocated_and_the_latest_to_expire_first(server):
    slow, guide = httpx.get(f"{server.url}/api/ps").json()["models"]
    assert {
        "name": "guide:latest",
        "model": "guide:latest",
        "size": 1500,
        "digest": "ab" * 32,
        "details": DETAILS,
        "expires_at": "2026-01-02T03:04:05.000000Z",
        "size_vram": 300,
        "context_length": 1024,
        "state": "ready",
        "active": 1,
        "waiting": 2,
    } == guide
    assert ("2318-01-01T00:00:00.000000Z", 1000, 0, "loading") == tuple(
        slow[name] for name in ("expires_at", "size", "size_vram", "state")
    )


def test_show_tells_everything_with_the_context_that_is_served(server):
    answer = httpx.post(f"{server.url}/api/show", json={"name": "guide"}).json()
    assert {
        "license": "MIT",
        "modelfile": "FROM guide:latest\n",
        "parameters": "temperature                    0.5\n"
        'stop                           "<\\"end\\">"\n'
        'stop                           "b"',
        "template": "{{ messages }}",
        "system": "Be brief.",
        "details": DETAILS,
        "messages": [{"role": "user", "content": "before"}, {"role": "assistant", "content": "yes"}],
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": 262144 * 4,
            "llama.context_length": 1024,
            "llama.rope.freq_base": 10000.0,
            "tokenizer.ggml.tokens": [],
            "some.short": [1, 2],
            "some.long": [],
        },
        "tensors": [{"name": "token_embd.weight", "type": "Q4_K", "shape": [256, 4096]}],
        "capabilities": ["completion", "tools"],
        "modified_at": "2026-01-01T00:00:00.000000Z",
    } == answer


def test_show_is_verbose_when_asked_and_names_the_model_for_copilot(server):
    answer = httpx.post(
        f"{server.url}/api/show",
        json={"model": "guide", "verbose": True},
        headers={"user-agent": "GitHubCopilotChat/0.40"},
    ).json()["model_info"]
    assert ([1, 2, 3, 4, 5, 6], "guide") == (answer["some.long"], answer["general.basename"])


def test_a_configured_context_is_the_one_that_is_told():
    with live_server(context_length=512) as server:
        answer = httpx.post(f"{server.url}/api/show", json={"model": "embed"}).json()
        assert 512 == answer["model_info"]["llama.context_length"]


def test_delete_ends_the_runner_and_forgets_the_model():
    with live_server() as server:
        answer = httpx.request("DELETE", f"{server.url}/api/delete", json={"model": "slow"})
        assert (200, b"") == (answer.status_code, answer.content)
        assert (["slow:latest"], False) == (server.scheduler.unloaded, "slow" in server.store.models)
        again = httpx.request("DELETE", f"{server.url}/api/delete", json={"name": "slow"})
        assert (404, "model 'slow' not found") == (again.status_code, again.json()["error"])
        bundled = httpx.request("DELETE", f"{server.url}/api/delete", json={"model": "guide"})
        assert (400, ["slow:latest"]) == (bundled.status_code, server.scheduler.unloaded)


def test_to_delete_a_copy_leaves_the_model_loaded_under_its_other_name():
    with live_server() as server:
        server.store.copy("slow", "copied")
        for name, unloaded in (("copied", []), ("slow", ["slow:latest"])):
            answer = httpx.request("DELETE", f"{server.url}/api/delete", json={"model": name})
            assert (200, unloaded) == (answer.status_code, server.scheduler.unloaded)


def test_openais_lists_name_the_same_models(server):
    listed = httpx.get(f"{server.url}/v1/models").json()
    assert {"id": "guide:latest", "object": "model", "created": 1767225600, "owned_by": "library"} == listed["data"][0]
    assert ("list", 3) == (listed["object"], len(listed["data"]))
    assert "guide" == httpx.get(f"{server.url}/v1/models/guide").json()["id"]


def test_a_name_with_slashes_can_be_asked_for(server):
    answer = httpx.get(f"{server.url}/v1/models/hf.co/owner/repo:Q4")
    assert 404 == answer.status_code
    assert {
        "error": {
            "message": "model 'hf.co/owner/repo:Q4' not found",
            "type": "not_found_error",
            "param": None,
            "code": "model_not_found",
            "hint": "`localllm list` shows the models there are",
        }
    } == answer.json()


def test_what_is_not_there_is_said_in_plain_text(server):
    for path in ("/nothing", "/api/tags/", "/v1", "/%2e%2e/etc/passwd"):
        answer = httpx.get(server.url + path)
        assert (404, "404 page not found") == (answer.status_code, answer.text)
    wrong = httpx.get(f"{server.url}/api/chat")
    assert (405, "POST") == (wrong.status_code, wrong.headers["allow"])
    assert "405 method not allowed" == wrong.text
    assert 405 == httpx.post(f"{server.url}/api/tags").status_code


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/nothing", {"error": {"message", "type", "param", "code", "hint"}}),
        ("/v1/responses/a/b", {"error": {"message", "type", "param", "code", "hint"}}),
        ("/v1/messages/batches", {"type": (), "error": {"type", "message", "hint"}, "request_id": ()}),
    ],
)
def test_a_route_that_is_not_there_is_told_as_the_dialect_tells_errors(server, path, shape):
    answer = httpx.post(server.url + path)
    body = answer.json()
    assert (404, shape.keys(), shape["error"]) == (answer.status_code, body.keys(), body["error"].keys())
    assert ("404 page not found", "not_found_error") == (body["error"]["message"], body["error"]["type"])


@pytest.mark.parametrize("path", ["/v1/v1/messages", "/v1/v1/chat/completions"])
def test_a_base_url_that_has_what_the_client_adds_is_told(server, path):
    answer = httpx.post(server.url + path, json={})
    assert (404, True) == (answer.status_code, "without it" in answer.json()["error"]["hint"])


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat/completions", "POST"),
        ("/v1/messages", "POST"),
        ("/v1/responses/x", "DELETE, GET, HEAD"),
        ("/v1/models/a/b", "GET, HEAD"),
        ("/completion", "POST"),
        ("/v1/rerank", "POST"),
        ("/props", "GET, HEAD"),
    ],
)
def test_another_method_is_told_as_the_dialect_tells_errors(server, path, allowed):
    answer = httpx.put(server.url + path)
    error = answer.json()["error"]
    assert (405, allowed) == (answer.status_code, answer.headers["allow"])
    assert ("invalid_request_error", f"it takes {allowed}") == (error["type"], error["hint"])
    assert b"" == httpx.head(server.url + path).content


@pytest.mark.parametrize("entry", ROUTES, ids=lambda entry: entry.path)
def test_every_route_of_the_table_answers_each_of_its_methods(server, entry):
    for method in entry.method.split("|"):
        answer = httpx.request(method, server.url + entry.path.replace("{id:path}", "guide"))
        assert answer.status_code in (200, 400, 404)
        assert "404 page not found" != answer.text
