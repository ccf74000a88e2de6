"""OpenAI's Responses with the official client against the real daemon and the real model."""

from __future__ import annotations

import json
from typing import Literal

import httpx
import openai
import pydantic
import pytest
from daemon_process import running_daemon

QUESTION = "How do I pull a model?"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The name of the city"}},
        "required": ["city"],
    },
    "strict": False,
}
ASK_WEATHER = "What is the weather in Paris?"
EXACT = {"model": "guide", "temperature": 0}


class Step(pydantic.BaseModel):
    command: Literal["pull", "run"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running_daemon(tmp_path_factory.mktemp("responses")) as running:
        yield running


@pytest.fixture(scope="module")
def client(daemon):
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_a_response_is_the_same_whole_and_streamed(client):
    whole = client.responses.create(input=QUESTION, **EXACT)
    with client.responses.stream(input=QUESTION, **EXACT) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert "localllm pull" in whole.output_text
    assert whole.output_text == deltas == final.output_text
    assert ("completed", "completed") == (whole.status, final.status)
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
    assert whole.usage.output_tokens == final.usage.output_tokens


def test_every_event_of_a_stream_has_the_next_number(client):
    events = list(client.responses.create(input=QUESTION, stream=True, **EXACT))
    assert list(range(len(events))) == [event.sequence_number for event in events]
    assert ("response.created", "response.completed") == (events[0].type, events[-1].type)


def test_an_answer_has_the_shape_of_a_pydantic_model(client):
    answer = client.responses.parse(input=QUESTION, text_format=Step, **EXACT)
    assert answer.output_parsed.command in ("pull", "run")
    with client.responses.stream(input=QUESTION, text_format=Step, **EXACT) as stream:
        assert answer.output_parsed == stream.get_final_response().output_parsed


def test_a_round_trip_with_a_tool_goes_on_from_the_response_or_from_its_items(client):
    with client.responses.stream(input=ASK_WEATHER, tools=[WEATHER], **EXACT) as stream:
        asked = stream.get_final_response()
    call = asked.output[-1]
    assert ("function_call", "get_weather", {"city": "Paris"}) == (call.type, call.name, json.loads(call.arguments))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 21 degrees"}
    kept = client.responses.create(input=[result], previous_response_id=asked.id, tools=[WEATHER], **EXACT)
    items = [{"role": "user", "content": ASK_WEATHER}, *asked.output, result]
    sent = client.responses.create(input=items, store=False, tools=[WEATHER], **EXACT)
    assert "sunny" in kept.output_text
    assert kept.output_text == sent.output_text
    assert kept.usage.input_tokens == sent.usage.input_tokens
    # What was generated is computed already, and the second of the two finds all of its prompt there.
    assert kept.usage.input_tokens_details.cached_tokens >= asked.usage.input_tokens
    assert sent.usage.input_tokens - 1 == sent.usage.input_tokens_details.cached_tokens


def test_a_custom_tool_gets_plain_text(client):
    tool = {"type": "custom", "name": "get_weather", "description": WEATHER["description"]}
    answer = client.responses.create(input=ASK_WEATHER, tools=[tool], **EXACT)
    call = answer.output[-1]
    assert ("custom_tool_call", "get_weather", "Paris") == (call.type, call.name, call.input)
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "sunny, 21 degrees"}
    told = client.responses.create(input=[result], previous_response_id=answer.id, tools=[tool], **EXACT)
    assert "completed" == told.status
    assert told.output_text


def test_thinking_is_told_as_text_or_as_a_summary(client):
    plain = client.responses.create(input=QUESTION, reasoning={"effort": "high"}, **EXACT)
    summed = client.responses.create(input=QUESTION, reasoning={"effort": "high", "summary": "auto"}, **EXACT)
    assert ["reasoning", "message"] == [item.type for item in plain.output]
    assert plain.output[0].content[0].text == summed.output[0].summary[0].text
    assert "think>" not in plain.output_text + plain.output[0].content[0].text


def test_a_response_is_looked_at_and_deleted(client):
    answer = client.responses.create(input=QUESTION, metadata={"topic": "pull"}, **EXACT)
    again = client.responses.retrieve(answer.id)
    assert (answer.output_text, {"topic": "pull"}) == (again.output_text, again.metadata)
    assert [QUESTION] == [item.content[0].text for item in client.responses.input_items.list(answer.id)]
    assert "completed" == client.responses.cancel(answer.id).status
    client.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="x", previous_response_id=answer.id, **EXACT)
    assert ("previous_response_not_found", "previous_response_id") == (caught.value.code, caught.value.param)


def test_a_stream_is_cancelled_from_elsewhere(client, daemon):
    endless = {"stop": ["no such text"], "logit_bias": daemon.no_end()}
    with client.responses.create(input=QUESTION, stream=True, extra_body=endless, **EXACT) as stream:
        events = iter(stream)
        response_id = next(events).response.id
        assert "cancelled" == client.responses.cancel(response_id).status
        last = list(events)[-1]
    assert ("response.incomplete", "cancelled") == (last.type, last.response.status)
    assert "cancelled" == client.responses.retrieve(response_id).status


def test_a_limit_makes_an_answer_incomplete_and_a_probe_is_answered(client):
    answer = client.responses.create(input="", max_output_tokens=1, **EXACT)
    assert ("incomplete", "max_output_tokens") == (answer.status, answer.incomplete_details.reason)
    assert 1 == answer.usage.output_tokens


def test_tokens_are_counted_as_an_answer_then_has_them(client):
    asked = {"model": "guide", "input": QUESTION, "instructions": "Be brief.", "tools": [WEATHER]}
    counted = client.responses.input_tokens.count(**asked).input_tokens
    assert counted == client.responses.create(max_output_tokens=1, **asked).usage.input_tokens


def test_what_is_not_done_and_what_is_too_long_is_said(client, daemon):
    image = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}
    with pytest.raises(openai.BadRequestError, match="this version reads only text"):
        client.responses.create(input=[{"role": "user", "content": [image]}], **EXACT)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="word " * 5000, **EXACT)
    assert "context_length_exceeded" == caught.value.code
    fits = {"input": [{"role": "user", "content": "word " * 1500}, {"role": "user", "content": QUESTION}] * 2}
    assert client.responses.create(truncation="auto", max_output_tokens=1, **fits, **EXACT).usage.output_tokens == 1
    assert 404 == httpx.get(f"{daemon.url}/v1/responses/resp_nowhere").status_code
