"""OpenAI's older completions and Anthropic's messages: their official clients against the real daemon and models."""

from __future__ import annotations

from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from cli_process import run_cli
from daemon_process import running_daemon
from synthetic_models import build

GUIDE = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
QUESTION = [{"role": "user", "content": "How do I pull a model?"}]
RAW_QUESTION = "<|im_start|>user\nHow do I pull a model?<|im_end|>\n<|im_start|>assistant\n"
WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather for a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The name of the city"}},
        "required": ["city"],
    },
}
ASK_WEATHER = {"role": "user", "content": "What is the weather in Paris?"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with running_daemon(tmp_path_factory.mktemp("dialects")) as running:
        file = build("infill-tiny", GUIDE, running.home / "infill-tiny.gguf")
        assert 0 == run_cli("create", "infill-tiny", "--from", str(file), environment=running.environment).returncode
        yield running


@pytest.fixture(scope="module")
def openai_client(daemon):
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(daemon):
    with anthropic.Anthropic(base_url=daemon.url, api_key="unused", max_retries=0) as client:
        yield client


def test_openai_completes_texts_and_token_ids_alike(openai_client, daemon):
    wanted = {"model": "guide", "max_tokens": 40, "temperature": 0}
    answer = openai_client.completions.create(prompt=RAW_QUESTION, **wanted)
    assert "localllm pull" in answer.choices[0].text
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    both = openai_client.completions.create(prompt=[RAW_QUESTION, RAW_QUESTION], n=2, **wanted)
    assert [(index, answer.choices[0].text) for index in range(4)] == [(one.index, one.text) for one in both.choices]


def test_openai_streams_a_completion_that_begins_with_its_prompt(openai_client):
    *chunks, usage = openai_client.completions.create(
        model="guide",
        prompt="Hello",
        echo=True,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert "".join(chunk.choices[0].text for chunk in chunks).startswith("Hello")
    assert (["length"], 5) == (
        [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason],
        usage.usage.completion_tokens,
    )


def test_openai_gets_the_likeliest_of_several_with_its_logprobs(openai_client):
    answer = openai_client.completions.create(
        model="guide", prompt=RAW_QUESTION, max_tokens=5, best_of=3, logprobs=2, seed=1
    )
    (choice,) = answer.choices
    assert choice.text == "".join(choice.logprobs.tokens)
    assert [2] * 5 == [len(top) for top in choice.logprobs.top_logprobs]
    assert 3 * 5 == answer.usage.completion_tokens


def test_openai_chats_get_several_answers(openai_client):
    answer = openai_client.chat.completions.create(model="guide", messages=QUESTION, n=2, temperature=0)
    assert [0, 1] == [choice.index for choice in answer.choices]
    assert 1 == len({choice.message.content for choice in answer.choices})


def test_a_gap_is_filled_by_a_model_that_has_the_marks_and_refused_by_another(openai_client, daemon):
    wanted = {"prompt": "def add(a, b):\n    return ", "suffix": "\n", "max_tokens": 4}
    answer = openai_client.completions.create(model="infill-tiny", **wanted)
    assert 4 == answer.usage.completion_tokens
    with pytest.raises(openai.BadRequestError, match='"guide" does not support insert'):
        openai_client.completions.create(model="guide", **wanted)
    body = {"model": "infill-tiny", "prompt": "a", "suffix": "b", "stream": False, "options": {"num_predict": 3}}
    assert 3 == daemon.http.post("/api/generate", json=body).json()["eval_count"]


def test_claude_answers(claude):
    answer = claude.messages.create(model="guide", max_tokens=100, messages=QUESTION)
    (block,) = answer.content
    assert "localllm pull" in block.text
    assert ("message", "assistant", "end_turn") == (answer.type, answer.role, answer.stop_reason)
    assert min(answer.usage.input_tokens + answer.usage.cache_read_input_tokens, answer.usage.output_tokens) > 0


def test_claude_streams_the_same_answer(claude):
    wanted = {"model": "guide", "max_tokens": 100, "messages": QUESTION, "extra_body": {"temperature": 0}}
    whole = claude.messages.create(**wanted)
    with claude.messages.stream(**wanted) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].text == text == final.content[0].text
    assert ("end_turn", whole.usage.output_tokens) == (final.stop_reason, final.usage.output_tokens)


def test_claude_thinks_apart_from_the_answer(claude):
    answer = claude.messages.create(
        model="guide",
        max_tokens=2000,
        messages=QUESTION,
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    thinking, text = answer.content
    assert ("thinking", "text") == (thinking.type, text.type)
    assert thinking.thinking
    assert "localllm pull" in text.text


def test_claude_makes_a_round_trip_with_a_tool(claude):
    wanted = {"model": "guide", "max_tokens": 200, "tools": [WEATHER], "extra_body": {"temperature": 0}}
    with claude.messages.stream(messages=[ASK_WEATHER], **wanted) as stream:
        answer = stream.get_final_message()
    call = answer.content[-1]
    assert ("tool_use", "get_weather", {"city": "Paris"}) == (call.type, call.name, call.input)
    assert "tool_use" == answer.stop_reason
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny, 21 degrees"}
    conversation = [ASK_WEATHER, answer.to_param(), {"role": "user", "content": [result]}]
    told = claude.messages.create(messages=conversation, **wanted)
    assert ("end_turn", "text") == (told.stop_reason, told.content[0].type)


def test_claude_counts_the_tokens_that_an_answer_then_has(claude):
    wanted = {"model": "guide", "messages": QUESTION, "system": "Be brief.", "tools": [WEATHER]}
    counted = claude.messages.count_tokens(**wanted).input_tokens
    usage = claude.messages.create(max_tokens=1, **wanted).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_a_billing_line_that_changes_does_not_undo_the_prefix_cache(claude):
    def ask(nonce):
        line = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={nonce};"}
        rules = {
            "type": "text",
            "text": "You answer questions about localllm. " * 20,
            "cache_control": {"type": "ephemeral"},
        }
        return claude.messages.create(model="guide", max_tokens=1, system=[line, rules], messages=QUESTION).usage

    first, second = ask("aaaaa"), ask("bbbbb")
    prompt_tokens = first.input_tokens + first.cache_read_input_tokens
    assert prompt_tokens == second.input_tokens + second.cache_read_input_tokens
    assert second.cache_read_input_tokens >= prompt_tokens - 1


def test_claude_is_told_which_stop_sequence_ended_the_answer(claude):
    answer = claude.messages.create(model="guide", max_tokens=100, messages=QUESTION, stop_sequences=["pull"])
    assert ("stop_sequence", "pull") == (answer.stop_reason, answer.stop_sequence)
    assert "pull" not in answer.content[0].text


def test_claude_lists_models_and_is_told_of_an_unknown_one(claude):
    assert ["guide:latest", "infill-tiny:latest"] == sorted(model.id for model in claude.models.list())
    with pytest.raises(anthropic.NotFoundError, match="model 'nosuch' not found"):
        claude.messages.create(model="nosuch", max_tokens=1, messages=QUESTION)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    with pytest.raises(anthropic.BadRequestError, match="this version reads only text"):
        claude.messages.create(model="guide", max_tokens=1, messages=[{"role": "user", "content": [image]}])


def test_a_key_is_taken_as_anthropics_clients_send_it(tmp_path):
    with running_daemon(tmp_path, LOCALLLM_API_KEY="secret") as running:
        with anthropic.Anthropic(base_url=running.url, api_key="secret", max_retries=0) as client:
            assert ["guide:latest"] == [model.id for model in client.models.list()]
        with anthropic.Anthropic(base_url=running.url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(anthropic.AuthenticationError):
                client.messages.create(model="guide", max_tokens=1, messages=QUESTION)
            assert 401 == httpx.post(f"{running.url}/v1/messages", json={}).status_code
