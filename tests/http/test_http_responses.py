"""OpenAI's Responses over HTTP: made, streamed, kept, gone on from, cancelled, and each its owner's only."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

import httpx
import pytest
from live_server import live_server, wait_until

from localllm.keys import add_key, new_key

PATH = "/v1/responses"


def ask(server, text, headers=None, **fields):
    body = {"model": "guide", "input": text, **fields}
    return httpx.post(server.url + PATH, json=body, headers=headers, timeout=20)


def made(server, text="echo a b", headers=None, **fields) -> str:
    answer = ask(server, text, headers, **fields)
    assert 200 == answer.status_code
    return answer.json()["id"]


def get(server, path, headers=None, **parameters):
    return httpx.get(f"{server.url}{PATH}/{path}", headers=headers, params=parameters, timeout=20)


def events_of(text):
    return [json.loads(block.split("\ndata: ")[1]) for block in text.split("\n\n") if "\ndata: " in block]


def error_of(answer):
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def said_to(server) -> list[str]:
    return [f"{message.role}: {message.content}" for message in server.scheduler.requests[-1].messages[3:]]


def test_a_response_is_answered_whole_or_in_events(server):
    answer = ask(server, "echo a b").json()
    events = events_of(ask(server, "echo a b", stream=True).text)
    assert ("completed", "a b") == (answer["status"], answer["output"][0]["content"][0]["text"])
    assert ["response.created", "response.in_progress"] == [event["type"] for event in events[:2]]
    last = events[-1]
    assert ("response.completed", "completed") == (last["type"], last["response"]["status"])
    same = ("object", "usage", "model")
    assert [answer[name] for name in same] == [last["response"][name] for name in same]
    assert answer["id"] != last["response"]["id"]


def test_a_response_is_kept_and_given_again_as_it_was(server):
    answer = ask(server, "echo a b")
    assert answer.json() == get(server, answer.json()["id"]).json()
    events = events_of(ask(server, "echo a b", stream=True).text)
    assert events[-1]["response"] == get(server, events[-1]["response"]["id"]).json()


def test_the_next_response_goes_on_from_the_one_before(server):
    first = made(server, "echo a b", instructions="old")
    second = ask(server, "echo c", previous_response_id=first).json()
    assert ["user: echo a b", "assistant: a b", "user: echo c"] == said_to(server)
    assert first == second["previous_response_id"]
    made(server, "echo d", previous_response_id=second["id"])
    assert ["user: echo c", "assistant: c", "user: echo d"] == said_to(server)[2:]


def test_a_stream_can_be_gone_on_from_as_soon_as_its_last_event_is_there(server):
    for _ in range(5):
        with httpx.stream("POST", server.url + PATH, timeout=20,
                          json={"model": "guide", "input": "echo a", "stream": True}) as stream:  # fmt: skip
            for line in stream.iter_lines():
                if line.startswith('data: {"type":"response.completed"'):
                    response_id = json.loads(line.removeprefix("data: "))["response"]["id"]
                    assert 200 == ask(server, "echo b", previous_response_id=response_id).status_code


def test_a_tools_result_goes_on_from_the_response_that_called_it(server):
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}}
    answer = ask(server, "tool", tools=[tool]).json()
    (call,) = answer["output"]
    assert ("function_call", "call_1", "add") == (call["type"], call["call_id"], call["name"])
    result = {"type": "function_call_output", "call_id": "call_1", "output": "echo 3"}
    told = ask(server, [result], tools=[tool], previous_response_id=answer["id"])
    assert "3" == told.json()["output"][0]["content"][0]["text"]
    assert ("add", "call_1") == tuple(
        getattr(server.scheduler.requests[-1].messages[-1], name) for name in ("tool_name", "tool_call_id")
    )


def test_items_of_a_kept_response_are_referred_to_by_id(server):
    answer = ask(server, "echo a b").json()
    reference = {"type": "item_reference", "id": answer["output"][0]["id"]}
    ask(server, [{"role": "user", "content": "x"}, reference, {"role": "user", "content": "echo y"}])
    assert ["user: x", "assistant: a b", "user: echo y"] == said_to(server)


def test_what_the_model_was_given_is_listed_in_pages(server):
    first = made(server, "echo a")
    second = made(server, "echo b", previous_response_id=first)
    whole = get(server, f"{second}/input_items", order="asc").json()
    texts = [item["content"][0]["text"] for item in whole["data"]]
    assert (["echo a", "a", "echo b"], False) == (texts, whole["has_more"])
    newest = get(server, f"{second}/input_items", limit=1).json()
    assert (["echo b"], True) == ([item["content"][0]["text"] for item in newest["data"]], newest["has_more"])
    rest = get(server, f"{second}/input_items", after=newest["last_id"]).json()
    assert ["a", "echo a"] == [item["content"][0]["text"] for item in rest["data"]]
    for bad in ({"limit": "0"}, {"limit": "x"}, {"limit": "0100999"}, {"order": "up"}, {"after": "msg_nowhere"}):
        assert 400 == get(server, f"{second}/input_items", **bad).status_code


def test_a_deleted_response_is_gone(server):
    response_id = made(server)
    answer = httpx.delete(f"{server.url}{PATH}/{response_id}")
    assert {"id": response_id, "object": "response", "deleted": True} == answer.json()
    assert (404, "response_not_found", None) == error_of(get(server, response_id))
    gone_on = ask(server, "echo a", previous_response_id=response_id)
    assert (400, "previous_response_not_found", "previous_response_id") == error_of(gone_on)


def test_a_response_that_is_not_to_be_stored_is_not(server):
    answer = ask(server, "echo a", store=False).json()
    assert (False, 404) == (answer["store"], get(server, answer["id"]).status_code)


def test_a_daemon_may_be_told_to_keep_no_responses_or_few():
    with live_server(responses_keep_seconds=0.0) as server:
        answer = ask(server, "echo a").json()
        assert (False, 404) == (answer["store"], get(server, answer["id"]).status_code)
    with live_server(responses_most_bytes=10_000) as server:
        ids = [made(server, f"echo {one}") for one in range(20)]
        statuses = [get(server, one).status_code for one in ids]
        assert (404, 200) == (statuses[0], statuses[-1])


def test_an_error_instead_of_an_answer_leaves_no_response(server):
    assert (400, "template_error", None) == error_of(ask(server, "fail"))
    assert (404, "model_not_found", None) == error_of(ask(server, "echo a", model="nosuch"))
    assert (503, "queue_full", None) == error_of(ask(server, "echo a", keep_alive=503))


def test_a_stream_that_fails_ends_with_why_and_is_kept_as_failed(server):
    last = events_of(ask(server, "fail later", stream=True).text)[-1]
    assert ("response.failed", "failed") == (last["type"], last["response"]["status"])
    assert last["response"] == get(server, last["response"]["id"]).json()


def running(server, stream):
    """The id of a response that is in progress, its stream's lines still to come."""
    lines = stream.iter_lines()
    data = next(line for line in lines if line.startswith("data: "))
    return json.loads(data.removeprefix("data: "))["response"]["id"], lines


def test_a_response_in_progress_is_seen_and_cancelled_from_elsewhere(server):
    body = {"model": "guide", "input": "wait", "stream": True}
    with httpx.stream("POST", server.url + PATH, json=body, timeout=20) as stream:
        response_id, lines = running(server, stream)
        assert "in_progress" == get(server, response_id).json()["status"]
        assert "still in progress" in ask(server, "echo a", previous_response_id=response_id).text
        cancelled = httpx.post(f"{server.url}{PATH}/{response_id}/cancel")
        assert (200, "cancelled") == (cancelled.status_code, cancelled.json()["status"])
        last = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")][-1]
    assert ("response.incomplete", "cancelled") == (last["type"], last["response"]["status"])
    assert "once" == last["response"]["output"][0]["content"][0]["text"]
    wait_until(lambda: server.scheduler.leased == 0)
    assert last["response"] == get(server, response_id).json()
    assert last["response"] == httpx.post(f"{server.url}{PATH}/{response_id}/cancel").json()


def test_a_client_that_leaves_leaves_a_cancelled_response(server):
    body = {"model": "guide", "input": "wait", "stream": True}
    with httpx.stream("POST", server.url + PATH, json=body, timeout=20) as stream:
        response_id, _lines = running(server, stream)
    wait_until(lambda: server.scheduler.leased == 0)
    assert "cancelled" == get(server, response_id).json()["status"]


def test_deleting_a_response_in_progress_ends_it(server):
    body = {"model": "guide", "input": "wait", "stream": True}
    with httpx.stream("POST", server.url + PATH, json=body, timeout=20) as stream:
        response_id, lines = running(server, stream)
        assert httpx.delete(f"{server.url}{PATH}/{response_id}").json()["deleted"]
        assert any("response.incomplete" in line for line in lines)
    assert 404 == get(server, response_id).status_code


def test_what_is_ignored_is_told_and_what_is_not_done_is_refused(server):
    answer = ask(server, "echo a", tools=[{"type": "web_search"}], max_tool_calls=1)
    assert "max_tool_calls, tools[0]" == answer.headers["x-localllm-ignored"]
    assert (400, "unsupported", None) == error_of(ask(server, "echo a", background=True))
    assert (400, "unsupported", None) == error_of(get(server, made(server), stream="true"))


def test_the_tokens_of_a_conversation_are_counted(server):
    body = {"model": "guide", "input": "hi", "instructions": "s"}
    answer = httpx.post(f"{server.url}{PATH}/input_tokens", json=body)
    expected = "<user>before<assistant>yes<system>s<user>hi"
    assert {"object": "response.input_tokens", "input_tokens": 1 + len(expected)} == answer.json()


def test_who_waits_in_the_queue_knows_its_response_is_kept_awake_and_may_cancel_it():
    with live_server(early_headers_seconds=0.01, ping_seconds=0.01) as server:
        body = {"model": "slow", "input": "echo a", "stream": True}
        with httpx.stream("POST", server.url + PATH, json=body, timeout=20) as stream:
            response_id, lines = running(server, stream)
            assert ": keep-alive" in (next(lines) for _ in range(9))
            assert "cancelled" == httpx.post(f"{server.url}{PATH}/{response_id}/cancel").json()["status"]
            assert any("response.incomplete" in line for line in lines)


@pytest.fixture
def keys(tmp_path):
    """A server that needs keys, and the headers of two of them."""
    found = []
    for name in ("ann", "bob"):
        key, text = new_key(name, ("infer",), datetime.now(UTC))
        add_key(tmp_path / "keys.json", key)
        found.append({"authorization": f"Bearer {text}"})
    with live_server(config_file=tmp_path / "config.toml", require_key=True, api_key="shared") as server:
        yield server, *found, {"authorization": "Bearer shared"}


def test_a_key_sees_its_own_responses_only(keys):
    server, ann, bob, shared = keys
    response_id = made(server, headers=ann)
    item = get(server, response_id, ann).json()["output"][0]["id"]
    for other in (bob, shared):
        assert (404, "response_not_found", None) == error_of(get(server, response_id, other))
        assert 404 == get(server, f"{response_id}/input_items", other).status_code
        assert 404 == httpx.post(f"{server.url}{PATH}/{response_id}/cancel", headers=other).status_code
        assert 404 == httpx.delete(f"{server.url}{PATH}/{response_id}", headers=other).status_code
        assert 400 == ask(server, "echo a", other, previous_response_id=response_id).status_code
        assert 400 == ask(server, [{"type": "item_reference", "id": item}], other).status_code
    assert 401 == get(server, response_id).status_code
    assert 200 == ask(server, "echo a", ann, previous_response_id=response_id).status_code


def test_many_answers_at_once_are_each_kept_as_their_own(server):
    ids: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda word=str(one): ids.setdefault(word, made(server, f"echo {word}")))
        for one in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 12 == len(set(ids.values()))
    for word, response_id in ids.items():
        assert word == get(server, response_id).json()["output"][0]["content"][0]["text"]
