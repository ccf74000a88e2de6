"""OpenAI's Responses: events as its server-sent events, and as the object that these build up."""

from __future__ import annotations

import json
from typing import Any

from localllm.dialects import openai_responses
from localllm.dialects.framing import merged
from localllm.dialects.openai_responses_encode import ResponsesEncoder
from localllm.dialects.openai_responses_items import unsealed
from localllm.generation import (
    ContentDelta,
    Failed,
    Finished,
    PromptProgress,
    ThinkingDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

SECOND = 1_000_000_000
DONE = Finished("stop", Usage(5, 2, 3, 1))
PATCH = {"type": "custom", "name": "patch"}
NAMESPACE = {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "read"}]}


def encoder(**fields) -> ResponsesEncoder:
    text = json.dumps({"model": "m", "input": "hi", **fields}).encode()
    decoded = openai_responses.decode(openai_responses.read_body(text), text, (), lambda _: None)
    return ResponsesEncoder("resp_ab", decoded, 7 * SECOND, stores=True)


def stream(*events, **fields) -> list[dict[str, Any]]:
    """The data of all events, after seeing that their names and numbers are right."""
    one = encoder(**fields)
    blocks = b"".join(one.chunk(event, 9 * SECOND) for event in events).decode().split("\n\n")
    assert "" == blocks.pop()
    found = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert (f"event: {value['type']}", number) == (name, value["sequence_number"])
        found.append(value)
    return found


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def whole(*events, **fields) -> dict[str, Any]:
    return json.loads(encoder(**fields).whole(events, 9 * SECOND))


def test_a_text_comes_with_every_event_in_openais_order():
    events = stream(PromptProgress(0, 5), ContentDelta("Hel"), ContentDelta("lo"), DONE)
    assert [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ] == kinds(events)  # fmt: skip
    assert ("in_progress", []) == (events[0]["response"]["status"], events[0]["response"]["output"])
    item = {"id": "msg_ab00", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    assert (0, item) == (events[2]["output_index"], events[2]["item"])
    place = {"item_id": "msg_ab00", "output_index": 0, "content_index": 0}
    assert {"type": "response.output_text.delta", **place, "delta": "Hel", "logprobs": [], "sequence_number": 4} == (
        events[4]
    )
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    assert ("Hello", part) == (events[6]["text"], events[7]["part"])
    assert {**item, "status": "completed", "content": [part]} == events[8]["item"]
    assert [events[8]["item"]] == events[9]["response"]["output"]


def test_the_last_event_of_a_stream_holds_what_an_answer_without_one_is():
    events = (ThinkingDelta("hm"), ContentDelta("a"), ToolCallDelta(0, "c1", "f", "{}"), DONE)
    assert whole(*events) == stream(*events)[-1]["response"]


def test_an_answer_is_the_same_in_however_many_pieces_it_came():
    token = TokenLogprob(b"a", -0.5, (TokenLogprob(b"a", -0.5),))
    pieces = (
        PromptProgress(0, 5), ThinkingDelta("h"), ThinkingDelta("m"), ContentDelta("a", (token,)), ContentDelta("b"),
        ContentDelta("", (token,)), ToolCallDelta(0, "c1", "f", '{"a"'), ToolCallDelta(0, arguments=": 1"),
        ToolCallDelta(0, arguments="}"), ToolCallDelta(1, "c2", "f"), ToolCallDelta(1, arguments="{}"), DONE,
    )  # fmt: skip
    fewer = (
        PromptProgress(0, 5), ThinkingDelta("hm"), ContentDelta("ab", (token, token)),
        ToolCallDelta(0, "c1", "f", '{"a": 1}'), ToolCallDelta(1, "c2", "f", "{}"), DONE,
    )  # fmt: skip
    assert fewer == tuple(merged(pieces))
    assert whole(*fewer) == whole(*pieces) == stream(*pieces)[-1]["response"]


def test_the_object_tells_when_how_much_and_what_was_asked():
    found = whole(ContentDelta("a"), DONE, temperature=0.5, metadata={"k": "v"})
    assert {
        "id": "resp_ab",
        "object": "response",
        "created_at": 7,
        "completed_at": 9,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "m",
        "temperature": 0.5,
        "metadata": {"k": "v"},
        "store": True,
        "background": False,
    }.items() <= found.items()
    assert {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 8,
    } == found["usage"]


def test_what_was_dropped_to_fit_is_told():
    dropped = Finished("stop", Usage(5, 2, 3), dropped_messages=4)
    assert {"dropped_messages": 4} == whole(ContentDelta("a"), dropped)["localllm"]
    assert "localllm" not in whole(ContentDelta("a"), DONE)


def test_thinking_is_an_item_of_its_own_before_the_text():
    events = stream(ThinkingDelta("h"), ThinkingDelta("m"), ContentDelta("a"), DONE)
    assert [
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done", "output_item.added",
    ] == kinds(events)[2:10]  # fmt: skip
    thought, said = events[-1]["response"]["output"]
    assert {
        "id": "rs_ab00",
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
        "encrypted_content": None,
    } == thought
    assert ("msg_ab01", "a") == (said["id"], said["content"][0]["text"])


def test_thinking_is_told_as_a_summary_to_who_asks_for_one():
    asked = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    events = stream(ThinkingDelta("hm"), ContentDelta("a"), DONE, **asked)
    assert [
        "reasoning_summary_part.added", "reasoning_summary_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ] == kinds(events)[3:7]  # fmt: skip
    assert [0] * 4 == [event["summary_index"] for event in events[3:7]]
    thought = events[-1]["response"]["output"][0]
    assert [{"type": "summary_text", "text": "hm"}] == thought["summary"]
    assert ("hm", False) == (unsealed(thought["encrypted_content"]), "content" in thought)


def test_calls_are_items_with_their_arguments_piece_by_piece():
    events = stream(ToolCallDelta(0, "c1", "f", '{"a"'), ToolCallDelta(0, None, None, ": 1}"),
                    ToolCallDelta(1, "c2", "g", "{}"), DONE)  # fmt: skip
    assert [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done", "output_item.added",
    ] == kinds(events)[2:8]  # fmt: skip
    one, other = events[-1]["response"]["output"]
    assert {
        "id": "fc_ab00",
        "type": "function_call",
        "status": "completed",
        "call_id": "c1",
        "name": "f",
        "arguments": '{"a": 1}',
    } == one
    assert ("c2", "g", "{}") == (other["call_id"], other["name"], other["arguments"])
    assert ("", '{"a": 1}') == (events[2]["item"]["arguments"], events[5]["arguments"])


def test_a_call_of_a_custom_tool_has_its_input_as_plain_text():
    events = stream(ToolCallDelta(0, "c1", "patch", '{"input": "a\\n\\"b\\""}'), DONE, tools=[PATCH])
    assert [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done",
    ] == kinds(events)[2:6]  # fmt: skip
    assert ('a\n"b"', 'a\n"b"') == (events[3]["delta"], events[4]["input"])
    assert {
        "id": "ctc_ab00",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "c1",
        "name": "patch",
        "input": 'a\n"b"',
    } == events[5]["item"]


def test_an_input_that_the_model_named_otherwise_is_found_and_anything_else_is_shown():
    def told(arguments: str) -> str:
        return whole(ToolCallDelta(0, "c1", "patch", arguments), DONE, tools=[PATCH])["output"][0]["input"]

    assert "x" == told('{"text": "x"}')
    for odd in ('{"a": "x", "b": "y"}', '{"input": 3}', "[1]", "{"):
        assert odd == told(odd)


def test_a_call_of_a_namespaces_tool_names_both():
    (call,) = whole(ToolCallDelta(0, "c1", "files__read", "{}"), DONE, tools=[NAMESPACE])["output"]
    assert ("read", "files") == (call["name"], call["namespace"])


def test_logprobs_stand_beside_their_text():
    token = TokenLogprob(b"a", -0.5, (TokenLogprob(b"a", -0.5), TokenLogprob(b"b", -1.5)))
    events = stream(ContentDelta("a", (token,)), DONE, top_logprobs=2)
    (found,) = events[4]["logprobs"]
    assert ("a", -0.5, [97], 2) == (found["token"], found["logprob"], found["bytes"], len(found["top_logprobs"]))
    assert [found] == events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    events = stream(ContentDelta("a", (token,)), ContentDelta("b"), ContentDelta("c", (token, token)), DONE)
    assert [[found], [], [found] * 2] == [one["logprobs"] for one in events[4:7]]
    assert [found] * 3 == events[-1]["response"]["output"][0]["content"][0]["logprobs"] == events[7]["logprobs"]


def test_an_answer_that_reached_a_limit_is_incomplete():
    events = stream(ContentDelta("a"), Finished("length", Usage(5, 0, 1)))
    last = events[-1]["response"]
    assert ("incomplete", "incomplete") == (kinds(events)[-1], last["status"])
    assert ({"reason": "max_output_tokens"}, None) == (last["incomplete_details"], last["completed_at"])
    assert "incomplete" == last["output"][0]["status"]


def test_an_answer_without_a_word_is_an_empty_message():
    for events in ((DONE,), (ThinkingDelta("hm"), DONE), (Finished("length"),)):
        last = whole(*events)["output"][-1]
        assert ("message", "") == (last["type"], last["content"][0]["text"])


def test_a_failed_answer_ends_with_what_there_is_and_why():
    crashed = Failed("runner_crashed", 500, "the process died", "ask again")
    events = stream(ContentDelta("a"), crashed)
    last = events[-1]["response"]
    assert ("failed", "failed") == (kinds(events)[-1], last["status"])
    assert {"code": "server_error", "message": "the process died; ask again"} == last["error"]
    assert ("a", "incomplete") == (last["output"][0]["content"][0]["text"], last["output"][0]["status"])


def test_a_failure_before_anything_else_has_a_beginning_too():
    events = stream(Failed("prompt_too_long", 400, "too long"))
    assert ["created", "in_progress", "failed"] == kinds(events)
    assert "context_length_exceeded" == events[-1]["response"]["error"]["code"]


def test_a_cancelled_answer_ends_as_incomplete_with_the_status_cancelled():
    events = stream(ContentDelta("a"), Failed("cancelled", 409, "cancelled"))
    last = events[-1]["response"]
    assert ("incomplete", "cancelled", None) == (kinds(events)[-1], last["status"], last["error"])


def test_an_abandoned_answer_keeps_what_there_was():
    one = encoder()
    assert not one.has_begun
    one.chunk(ContentDelta("a"), 0)
    one.abandon()
    found = json.loads(one.response())
    assert ("cancelled", "a") == (found["status"], found["output"][0]["content"][0]["text"])
    assert [item["id"] for item in found["output"]] == [item.id for item in one.output]


def test_a_long_silence_begins_with_the_beginning_and_goes_on_with_comments_and_now_and_then_an_event():
    one = encoder()
    first, *more = [one.ping() for _ in range(13)]
    assert first.startswith(b"event: response.created\n")
    assert [b": keep-alive\n\n"] * 5 == more[:5]
    assert more[5].startswith(b"event: response.in_progress\n")
    numbers = [json.loads(line.split(b"\ndata: ")[1])["sequence_number"] for line in (more[5], more[11])]
    assert [2, 3] == numbers
    said = one.chunk(ContentDelta("a"), 0)
    assert b"response.created" not in said
    assert {b": keep-alive\n\n"} == {one.ping() for _ in range(12)}
