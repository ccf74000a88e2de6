"""The official ollama and openai Python clients against the real daemon and the real model."""

import json
import math
from pathlib import Path

import ollama
import openai
import pytest
from cli_process import run_cli
from daemon_process import running_daemon
from synthetic_models import build

QUESTION = [{"role": "user", "content": "How do I pull a model?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city"}},
            "required": ["city"],
        },
    },
}
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]


GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running_daemon(tmp_path_factory.mktemp("clients")) as running:
        file = build("bert-tiny", GUIDE, running.home / "bert-tiny.gguf")
        assert 0 == run_cli("create", "bert-tiny", "--from", str(file), environment=running.environment).returncode
        yield running


@pytest.fixture(scope="module")
def ollama_client(daemon):
    client = ollama.Client(host=daemon.url, trust_env=False)
    yield client
    client._client.close()


@pytest.fixture(scope="module")
def openai_client(daemon):
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_ollama_chats(ollama_client):
    answer = ollama_client.chat("guide", QUESTION)
    assert "localllm pull" in answer.message.content
    assert ("assistant", True, "stop") == (answer.message.role, answer.done, answer.done_reason)
    assert min(answer.total_duration, answer.eval_duration, answer.prompt_eval_count, answer.eval_count) > 0


def test_ollama_streams_a_chat(ollama_client):
    *parts, last = ollama_client.chat("guide", QUESTION, stream=True)
    assert "localllm pull" in "".join(part.message.content for part in parts)
    assert ({False}, True, "stop") == ({part.done for part in parts}, last.done, last.done_reason)


def test_ollama_generates(ollama_client):
    answer = ollama_client.generate("guide", "How do I pull a model?")
    streamed = "".join(part.response for part in ollama_client.generate("guide", "How do I pull a model?", stream=True))
    assert "localllm pull" in answer.response
    assert answer.response == streamed


def test_ollamas_context_goes_on_from_an_answer_as_a_chat_does(ollama_client):
    exact = {"options": {"temperature": 0}}
    first = ollama_client.generate("guide", QUESTION[0]["content"], **exact)
    second = ollama_client.generate("guide", "How do I stop a model?", context=first.context, **exact)
    said = {"role": "assistant", "content": first.response}
    chat = ollama_client.chat(
        "guide", [*QUESTION, said, {"role": "user", "content": "How do I stop a model?"}], **exact
    )
    assert first.prompt_eval_count + first.eval_count - 1 == len(first.context)
    assert (chat.message.content, chat.prompt_eval_count) == (second.response, second.prompt_eval_count)
    *_, last = ollama_client.generate("guide", "Thanks!", context=second.context, stream=True, **exact)
    assert list(second.context) == list(last.context)[: len(second.context)]


def test_ollama_thinks_apart_from_the_answer(ollama_client):
    answer = ollama_client.chat("guide", QUESTION, think=True)
    assert answer.message.thinking
    assert "localllm pull" in answer.message.content
    assert "think>" not in answer.message.content + answer.message.thinking


def test_ollama_gets_a_tool_call(ollama_client):
    answer = ollama_client.chat("guide", ASK_WEATHER, tools=[WEATHER])
    (call,) = answer.message.tool_calls
    assert ("get_weather", {"city": "Paris"}) == (call.function.name, dict(call.function.arguments))


def test_ollama_gets_the_json_it_asked_for(ollama_client):
    schema = {
        "type": "object",
        "properties": {"command": {"enum": ["pull", "run"]}},
        "required": ["command"],
        "additionalProperties": False,
    }
    answer = ollama_client.chat("guide", QUESTION, format=schema)
    assert json.loads(answer.message.content)["command"] in ("pull", "run")


def test_ollama_lists_shows_and_watches(ollama_client):
    ollama_client.chat("guide", [], keep_alive="10m")
    assert ["bert-tiny:latest", "guide:latest"] == [model.model for model in ollama_client.list().models]
    shown = ollama_client.show("guide")
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities)
    assert "llama" == shown.modelinfo["general.architecture"]
    (running,) = ollama_client.ps().models
    assert ("guide:latest", True) == (running.model, running.size > 1_000_000)


def test_ollama_is_told_of_an_unknown_model(ollama_client):
    with pytest.raises(ollama.ResponseError) as refused:
        ollama_client.chat("nosuch", QUESTION)
    assert (404, "model 'nosuch' not found") == (refused.value.status_code, refused.value.error.split(":")[0])


def test_openai_chats(openai_client):
    answer = openai_client.chat.completions.create(model="guide", messages=QUESTION)
    (choice,) = answer.choices
    assert "localllm pull" in choice.message.content
    assert ("assistant", "stop") == (choice.message.role, choice.finish_reason)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_openai_streams(openai_client):
    stream = openai_client.chat.completions.create(
        model="guide", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    *chunks, usage = stream
    assert "localllm pull" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert ["stop"] == [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason]
    assert ([], True) == (usage.choices, usage.usage.completion_tokens > 0)
    assert 1 == len({chunk.id for chunk in chunks})


def test_openai_streams_a_tool_call(openai_client):
    chunks = list(
        openai_client.chat.completions.create(model="guide", messages=ASK_WEATHER, tools=[WEATHER], stream=True)
    )
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert ["get_weather"] == [call.function.name for call in deltas if call.function.name]
    assert {"city": "Paris"} == json.loads("".join(call.function.arguments or "" for call in deltas))
    assert "tool_calls" == chunks[-1].choices[0].finish_reason


def test_openai_gets_the_json_it_asked_for(openai_client):
    answer = openai_client.chat.completions.create(
        model="guide", messages=QUESTION, response_format={"type": "json_object"}, max_tokens=200
    )
    content = answer.choices[0].message.content
    assert content.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_openai_lists_models_and_is_told_of_an_unknown_one(openai_client):
    assert ["bert-tiny:latest", "guide:latest"] == [model.id for model in openai_client.models.list()]
    with pytest.raises(openai.NotFoundError, match="model 'nosuch' not found"):
        openai_client.chat.completions.create(model="nosuch", messages=QUESTION)


def test_ollama_embeds(ollama_client):
    answer = ollama_client.embed("bert-tiny", ["why is the sky blue?", "hello"], dimensions=64)
    assert [64, 64] == [len(vector) for vector in answer.embeddings]
    assert all(math.isclose(1.0, math.hypot(*vector), abs_tol=1e-5) for vector in answer.embeddings)
    assert min(answer.total_duration, answer.prompt_eval_count) > 0
    assert 256 == len(ollama_client.embeddings("bert-tiny", "hello").embedding)


def test_ollama_says_that_a_text_is_too_long_to_embed(ollama_client):
    with pytest.raises(ollama.ResponseError, match="input length exceeds the context length") as caught:
        ollama_client.embed("bert-tiny", "word " * 1000, truncate=False)
    assert 400 == caught.value.status_code


def test_openai_embeds_the_same_as_ollama(openai_client, ollama_client):
    answer = openai_client.embeddings.create(model="bert-tiny", input=["hello", "bye"])  # asks for base64
    numbers = openai_client.embeddings.create(model="bert-tiny", input=["hello", "bye"], encoding_format="float")
    expected = ollama_client.embed("bert-tiny", ["hello", "bye"]).embeddings
    for found in (answer, numbers):
        assert [0, 1] == [one.index for one in found.data]
        for one, other in zip(found.data, expected, strict=True):
            assert all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(one.embedding, other, strict=True))


def test_openai_gets_logprobs(openai_client):
    answer = openai_client.chat.completions.create(
        model="guide", messages=QUESTION, logprobs=True, top_logprobs=2, max_tokens=5, temperature=0
    )
    content = answer.choices[0].logprobs.content
    assert [2] * 5 == [len(token.top_logprobs) for token in content]
    assert answer.choices[0].message.content == "".join(token.token for token in content)


def test_ollama_gets_logprobs(ollama_client):
    answer = ollama_client.chat("guide", QUESTION, logprobs=True, top_logprobs=2, options={"num_predict": 5})
    assert [2] * 5 == [len(token.top_logprobs) for token in answer.logprobs]
