"""The bundled model, decoded greedily by llama.cpp: it knows localllm, refuses the rest, calls tools and thinks."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from localllm.chat.formats import detect
from localllm.chat.template import ChatTemplate
from localllm.generation import Message, Tool, ToolCall
from localllm.gguf import read_header

MODEL = Path(__file__).resolve().parents[2] / "modelfiles" / "guide" / "guide.gguf"
CHILD = Path(__file__).with_name("guide_child.py")
REFUSAL = "I don't know. I only know about localllm."
NEWCOMER = {
    "How do I pull a model?": "localllm pull",
    "How do I run a model?": "localllm run",
    "Which models do I have?": "localllm list",
    "How do I delete a model?": "localllm rm",
    "How do I stop a model?": "localllm stop",
    "Which models are loaded?": "localllm ps",
    "How do I start the server?": "localllm serve",
    "How do I change the port?": "LOCALLLM_HOST",
    "What is GGUF?": "file format",
    "What is localllm?": "runs GGUF language models",
    "Where are the models stored?": "Hugging Face cache",
    "Why is it so slow?": "localllm ps",
}
UNKNOWN = ("What is the capital of Luxembourg?", "How do I bake a cake?", "Who was Napoleon?")
WEATHER = Tool(
    "get_weather",
    json.dumps(
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the weather in a city",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "description": "The city name"}},
                    "required": ["city"],
                },
            },
        }
    ),
)
WEATHER_QUESTION = Message("user", "What is the weather in Paris?")
WEATHER_CALL = Message("assistant", tool_calls=(ToolCall("call_1", "get_weather", '{"city": "Paris"}'),))
WEATHER_RESULT = Message("tool", "sunny, 21 degrees", tool_name="get_weather", tool_call_id="call_1")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote; `ended` when it stopped of its own accord."""

    text: str
    ended: bool
    finite: bool


def template() -> ChatTemplate:
    return ChatTemplate(read_header(MODEL).chat_template, today=lambda: datetime(2026, 1, 1, tzinfo=UTC))


def prompts() -> dict[str, str]:
    """Every prompt of this file, by the name under which a test asks for its answer."""
    render = template().render
    asked = {text: render([Message("user", text)]) for text in (*NEWCOMER, *UNKNOWN, "Hello!", "who are you")}
    asked["with a system prompt"] = render(
        [Message("system", "You are a helpful assistant."), Message("user", "How do I pull a model?")]
    )
    asked["another model"] = render([Message("user", "How do I pull stablelm2:3b?")])
    asked["second turn"] = render(
        [Message("user", "Hello!"), Message("assistant", "Hello!"), Message("user", "How do I delete a model?")]
    )
    asked["weather"] = render([WEATHER_QUESTION], [WEATHER])
    asked["weather told"] = render([WEATHER_QUESTION, WEATHER_CALL, WEATHER_RESULT], [WEATHER])
    asked["no tool fits"] = render([Message("user", "How do I pull a model?")], [WEATHER])
    asked["thinking"] = render([Message("user", "How do I pull a model?")], think=True)
    asked["random bytes"] = bytes(range(256)).decode(errors="replace") + "\ufffd𓀀 日本語 \r\n\t 🙂"
    return asked


@pytest.fixture(scope="session")
def answers() -> dict[str, Answer]:
    """The answers of one child process to all prompts."""
    asked = prompts()
    order = {"model": str(MODEL), "prompts": list(asked.values()), "answer_tokens": 120}
    command = [sys.executable, str(CHILD)]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, timeout=90, check=False)
    assert 0 == done.returncode, done.stderr[-2000:]
    return {name: Answer(**answer) for name, answer in zip(asked, json.loads(done.stdout), strict=True)}


def report() -> dict[str, Any]:
    accuracy: dict[str, Any] = json.loads(MODEL.with_name("training.json").read_text(encoding="utf-8"))["accuracy"]
    return accuracy


@pytest.mark.parametrize("question", NEWCOMER)
def test_it_answers_a_newcomers_question(question: str, answers: dict[str, Answer]) -> None:
    assert NEWCOMER[question] in answers[question].text
    assert answers[question].ended


def test_it_answers_the_readmes_question_with_the_pull_command(answers: dict[str, Answer]) -> None:
    assert answers["How do I pull a model?"].text.startswith("Run `localllm pull llama3.2`.")


def test_a_system_prompt_does_not_change_what_it_knows(answers: dict[str, Answer]) -> None:
    assert answers["How do I pull a model?"] == answers["with a system prompt"]


def test_it_repeats_the_name_of_the_model_it_was_asked_about(answers: dict[str, Answer]) -> None:
    assert "`localllm pull stablelm2:3b`" in answers["another model"].text


def test_it_answers_in_a_second_turn(answers: dict[str, Answer]) -> None:
    assert "localllm rm" in answers["second turn"].text


def test_it_greets_and_says_who_it_is(answers: dict[str, Answer]) -> None:
    assert "Hello! I am guide. Ask me anything about localllm." == answers["Hello!"].text
    assert "I am guide" in answers["who are you"].text


@pytest.mark.parametrize("question", UNKNOWN)
def test_it_says_that_it_does_not_know_the_rest(question: str, answers: dict[str, Answer]) -> None:
    assert REFUSAL == answers[question].text


def test_it_calls_a_tool_that_fits(answers: dict[str, Answer]) -> None:
    text = answers["weather"].text.removeprefix("<tool_call>").removesuffix("</tool_call>")
    assert {"name": "get_weather", "arguments": {"city": "Paris"}} == json.loads(text)
    assert answers["weather"].ended


def test_it_tells_what_a_tool_returned(answers: dict[str, Answer]) -> None:
    assert "sunny, 21 degrees" in answers["weather told"].text


def test_it_does_not_call_a_tool_that_does_not_fit(answers: dict[str, Answer]) -> None:
    assert answers["How do I pull a model?"] == answers["no tool fits"]


def test_it_thinks_when_asked_to_and_then_gives_the_same_answer(answers: dict[str, Answer]) -> None:
    thought, closing, answer = answers["thinking"].text.partition("\n</think>\n\n")
    assert thought
    assert closing
    assert answers["How do I pull a model?"].text == answer


def test_every_logit_is_finite_even_after_random_bytes(answers: dict[str, Answer]) -> None:
    assert [] == [name for name, answer in answers.items() if not answer.finite]


def test_its_template_shows_that_it_has_tools_and_thinking() -> None:
    assert ("completion", "tools", "thinking") == detect(template()).capabilities


def test_its_header_says_what_it_is() -> None:
    header = read_header(MODEL)
    assert ("llama", "guide", 2048) == (header.architecture, header.name, header.context_length)
    assert "MIT" == header.text("general.license")
    assert 3_000_000 <= header.parameter_count <= 8_000_000


def test_its_digest_is_the_one_beside_it() -> None:
    written = MODEL.with_suffix(".sha256").read_text(encoding="utf-8")
    assert f"{hashlib.sha256(MODEL.read_bytes()).hexdigest()}  guide.gguf\n" == written


@pytest.mark.parametrize(
    "measure", ["thinking_well_formed", "unknown_refused", "exact_facts", "tool_calls_exact", "thinking_exact"]
)
def test_its_report_meets_the_target_of_nine_in_ten(measure: str) -> None:
    assert report()[measure] >= 0.9


def test_its_report_says_that_it_seldom_refuses_what_it_knows() -> None:
    assert report()["known_not_refused"] >= 0.95
