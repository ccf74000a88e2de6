"""The document of the API: every route is in it, bodies are read as it says, and answers look as it says."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from answer_shapes import fields_beside
from live_server import live_server

from localllm.server.app import ROUTES
from localllm.server.openapi import BODIES, document
from localllm.server.operations import OPERATIONS, error_of

WRONG = {"string": [], "boolean": "no", "integer": {}, "number": {}, "array": 5, "object": 5}
ASK = "echo one two"
# What is sent for a whole answer of each route; nothing that the fake model would take for a trick.
ASKED = {
    "/api/generate": {"model": "guide", "prompt": ASK, "stream": False},
    "/api/chat": {"model": "guide", "messages": [{"role": "user", "content": ASK}], "stream": False},
    "/api/show": {"model": "guide"},
    "/api/embed": {"model": "embed", "input": ["a", "b"]},
    "/api/embeddings": {"model": "embed", "prompt": "a"},
    "/api/pull": {"model": "guide", "stream": False},
    "/v1/chat/completions": {"model": "guide", "messages": [{"role": "user", "content": ASK}]},
    "/chat/completions": {"model": "guide", "messages": [{"role": "user", "content": ASK}]},
    "/v1/completions": {"model": "guide", "prompt": ASK},
    "/v1/responses": {"model": "guide", "input": ASK},
    "/v1/responses/input_tokens": {"model": "guide", "input": ASK},
    "/v1/messages": {"model": "guide", "max_tokens": 9, "messages": [{"role": "user", "content": ASK}]},
    "/v1/messages/count_tokens": {"model": "guide", "messages": [{"role": "user", "content": ASK}]},
    "/v1/embeddings": {"model": "embed", "input": "a", "encoding_format": "base64"},
    "/completion": {"model": "guide", "prompt": ASK},
    "/completions": {"model": "guide", "prompt": [ASK, ASK]},
    "/infill": {"model": "guide", "input_prefix": ASK, "input_suffix": "b"},
    "/tokenize": {"model": "guide", "content": "a"},
    "/detokenize": {"model": "guide", "tokens": [97]},
    "/apply-template": {"model": "guide", "messages": [{"role": "user", "content": ASK}]},
    "/embedding": {"model": "embed", "content": ["a", "b"]},
    "/embeddings": {"model": "embed", "content": "a"},
    "/rerank": {"model": "embed", "query": "a", "documents": ["b", "c"], "return_documents": True},
    "/v1/rerank": {"model": "embed", "query": "a", "texts": ["b", "c"], "return_text": True},
    "/reranking": {"model": "embed", "query": "a", "documents": ["b", "c"]},
    "/v1/reranking": {"model": "embed", "query": "a", "documents": ["b", "c"]},
}
LOOKED_AT = ("/api/version", "/api/tags", "/api/ps", "/v1/models", "/v1/models/guide", "/props?model=guide",
             "/slots?model=guide", "/health", "/v1/health", "/models", "/openapi.json")  # fmt: skip


@pytest.fixture(scope="module")
def http():
    with live_server() as running, httpx.Client(base_url=running.url, trust_env=False) as client:
        yield client


def operation_of(path: str):
    return OPERATIONS.get(path) or OPERATIONS["/v1/models/{id:path}"]


def test_every_route_has_its_operation_and_every_operation_a_route():
    rows = {f"{method} {row.path}" for row in ROUTES for method in row.method.split("|")}
    described = {row.path for row in ROUTES} | {key for key in OPERATIONS if " " in key}
    assert described == set(OPERATIONS)
    assert rows >= {key for key in OPERATIONS if " " in key}
    assert {row.path for row in ROUTES} >= set(BODIES)


def test_the_document_is_served_without_a_key_and_has_every_route():
    with live_server(api_key="secret") as server:
        answer = httpx.get(f"{server.url}/openapi.json")
        assert (200, "application/json; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
        said = answer.json()
        assert {row.path.replace(":path", "") for row in ROUTES} == set(said["paths"])
        assert said == json.loads(json.dumps(document(ROUTES)))
        references = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
        assert references <= set(said["components"]["schemas"])
        ids = [method["operationId"] for path in said["paths"].values() for method in path.values()]
        assert len(ids) == len(set(ids))


def test_the_reference_is_a_page_that_loads_nothing_from_elsewhere(http):
    page = http.get("/docs")
    assert (200, True) == (page.status_code, page.headers["content-type"].startswith("text/html"))
    assert [] == re.findall(r"""(?:src|href)=["'](?!/openapi\.json|data:)""", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "innerHTML" not in page.text


def kinds_of(schema: dict) -> set[str]:
    """What JSON types a schema takes; empty for anything."""
    parts = schema.get("anyOf", [schema])
    if any(part == {} or "$ref" in part or "enum" in part or "const" in part for part in parts):
        return set()
    return {part["type"] for part in parts if "type" in part} - {"null"}


@pytest.mark.parametrize("path", sorted(BODIES))
def test_a_body_is_read_as_the_document_says(http, path):
    said = http.get("/openapi.json").json()
    method = "delete" if path == "/api/delete" else "post"
    schema = said["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    name = (schema.get("allOf") or [schema])[0]["$ref"].rpartition("/")[2]
    unread = []
    for field, one in said["components"]["schemas"][name]["properties"].items():
        kinds = kinds_of(one)
        if len(kinds) != 1:
            continue
        body = {**ASKED.get(path, {"model": "guide", "from": "guide"}), field: WRONG[kinds.pop()]}
        answer = http.request(method.upper(), path, json=body)
        # A pull's and a create's errors may come in the stream.
        if answer.status_code not in (400, 404) or field not in answer.text:
            unread.append((field, answer.status_code, answer.text[:120]))
    assert [] == unread


@pytest.mark.parametrize("path", ASKED)
def test_an_answer_looks_as_the_document_says(http, path):
    answer = http.post(path, json=ASKED[path])
    assert 200 == answer.status_code, answer.text
    assert [] == fields_beside(answer.content, OPERATIONS[path].answer)


@pytest.mark.parametrize("path", [path for path in ASKED if OPERATIONS[path].stream])
def test_the_pieces_of_a_stream_look_as_the_document_says(http, path):
    answer = http.post(path, json={**ASKED[path], "stream": True})
    media_type, shape = OPERATIONS[path].stream
    assert (200, True) == (answer.status_code, answer.headers["content-type"].startswith(media_type))
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith(("{", "data: {"))]
    assert lines
    assert [] == [field for line in lines for field in fields_beside(line, shape)]


@pytest.mark.parametrize("path", LOOKED_AT)
@pytest.mark.parametrize("headers", [{}, {"anthropic-version": "2023-06-01"}], ids=["anyone", "Anthropic's"])
def test_what_is_looked_at_looks_as_the_document_says(http, path, headers):
    answer = http.get(path, headers=headers)
    assert 200 == answer.status_code
    assert [] == fields_beside(answer.content, operation_of(path.partition("?")[0]).answer)


@pytest.mark.parametrize("path", sorted({row.path for row in ROUTES if "POST" in row.method and "{" not in row.path}))
def test_an_error_looks_as_the_document_says_and_has_a_status_of_its_route(http, path):
    answer = http.post(path, content=b"{")
    assert 400 == answer.status_code
    assert 400 in OPERATIONS[path].bad
    assert [] == fields_beside(answer.content, error_of(path))
